"""What a user and a campaign are made of, and the one table that holds every embedding.

All fields share one table of R rows. A field owns a contiguous block of it, so an id in memory *is*
a table row. The pad id is R, one past the end: a gather with ``mode="fill"`` reads zeros there and
a scatter with ``mode="drop"`` ignores it, so no mask has to be carried around.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from metaheac_jax.errors import InputError


@dataclass(frozen=True)
class Field:
    """A categorical feature.

    A field with one slot is one-valued: a missing value is a value of its own. A field with several
    slots is many-valued: its first ``slots`` values are kept, and a missing list is empty.
    """

    name: str
    slots: int = 1

    def __post_init__(self) -> None:
        kinds = isinstance(self.name, str) and isinstance(self.slots, int)  # JSON may differ
        if not kinds or not self.name or self.slots < 1:
            raise InputError(f"schema: field {self.name!r} needs a name and at least one slot")


@dataclass(frozen=True)
class Schema:
    """The features in use: M user fields and N campaign fields, in the order the network sees.

    Raises:
      InputError: a field is named twice, a campaign field has several slots, or a side is empty.
    """

    user: tuple[Field, ...]
    campaign: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"schema: field {twice[0]!r} is named twice")
        if not self.user or not self.campaign:
            raise InputError("schema: at least one user field and one campaign field are needed")
        many = [field.name for field in self.campaign if field.slots > 1]
        if many:
            raise InputError(f"schema: campaign field {many[0]!r} must have one slot")

    @property
    def fields(self) -> tuple[Field, ...]:
        """User fields, then campaign fields: the order of the blocks in the table."""
        return self.user + self.campaign

    @property
    def user_slots(self) -> tuple[int, ...]:
        """Slots of each user field, (M,)."""
        return tuple(field.slots for field in self.user)

    @property
    def user_starts(self) -> tuple[int, ...]:
        """First slot of each user field among a user's S slots, (M,)."""
        return (0, *accumulate(self.user_slots))[:-1]

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> Schema:
        """A schema from plain data: ``{"user": [{"name": ..., "slots": ...}], "campaign": [...]}``.

        Raises:
          InputError: the data does not have that form.
        """
        try:
            return Schema(
                user=tuple(Field(**field) for field in data["user"]),
                campaign=tuple(Field(**field) for field in data["campaign"]),
            )
        except (TypeError, KeyError) as error:
            raise InputError(
                'schema: expected {"user": [{"name": ..., "slots": ...}, ...], "campaign": [...]}, '
                f"got {json.dumps(data)[:80]}"
            ) from error


#: The 14 user and 6 campaign features of the Tencent data that the paper uses (section 4.1).
TENCENT = Schema(
    user=(
        Field("carrier"),
        Field("consumptionAbility"),
        Field("LBS"),
        Field("age"),
        Field("education"),
        Field("gender"),
        Field("house"),
        Field("interest1", 10),
        Field("interest2", 10),
        Field("interest3", 10),
        Field("kw1", 5),
        Field("kw2", 5),
        Field("topic1", 5),
        Field("topic2", 5),
    ),
    campaign=(
        Field("advertiserId"),
        Field("campaignId"),
        Field("creativeSize"),
        Field("adCategoryId"),
        Field("productId"),
        Field("productType"),
    ),
)


@dataclass(frozen=True)
class Vocabulary:
    """The known raw values of every field, and the table row of each.

    Attributes:
      values: per field of ``schema.fields``, its distinct raw values in ascending order; integers,
        or strings. The value at position i of field f has table row ``offsets[f] + i``.
    """

    values: tuple[np.ndarray, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each field."""
        return tuple(len(values) for values in self.values)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First table row of each field."""
        return (0, *accumulate(self.sizes))[:-1]

    @property
    def rows(self) -> int:
        """R, the rows of the table; also the pad id."""
        return sum(self.sizes)

    def encode(self, field: int, raw: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Table rows (int32, shape of ``raw``) of raw values of one field; R where unknown."""
        values, raw = self.values[field], np.asarray(raw)
        if not len(values):
            return np.full(raw.shape, self.rows, np.int32)
        position = np.searchsorted(values, raw).clip(max=len(values) - 1)
        known = values[position] == raw
        return np.where(known, position + self.offsets[field], self.rows).astype(np.int32)
