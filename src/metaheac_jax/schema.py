"""Fields of users and campaigns, and their table rows.

All fields share one table of R rows. Each field has a contiguous block of rows, so an id in memory
is a table row. The pad id is R, one past the end: a gather with ``mode="fill"`` reads zeros there
and a scatter with ``mode="drop"`` ignores it, so no mask is needed.

Axes: M user fields, N campaign fields, S slots of a user, R table rows.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from numbers import Real
from typing import Any

import numpy as np

from metaheac_jax.errors import InputError, check_keys, check_whole

#: The value that stands for all rare and unseen values of a field.
UNSEEN = "<unseen>"
#: How reports show a missing value.
MISSING = "(missing)"
#: Maximum length of a field's name, in UTF-8 bytes.
_NAME_BYTES = 200


@dataclass(frozen=True)
class Field:
    """A categorical feature, or a number divided into buckets.

    A field with one slot is one-valued; a missing value has its own table row. A field with several
    slots is many-valued: its first ``slots`` values are kept, and a missing list is empty.

    The values of a field with ``edges`` or ``hash_rows`` are bucket numbers from 0, and -1 for the
    missing value of a one-valued field.

    Attributes:
      name: name of the field.
      slots: number of slots.
      edges: ascending bounds between the buckets of a number; empty for a category.
      hash_rows: number of buckets that the values of a category are hashed to, if they are too many
        to keep; 0 if each value has its own row.

    Raises:
      InputError: the name is empty or cannot be that of a file, there is no slot, edges do not
        ascend, or a number is hashed.
    """

    name: str
    slots: int = 1
    edges: tuple[float, ...] = ()
    hash_rows: int = 0

    def __post_init__(self) -> None:
        kinds = isinstance(self.name, str) and type(self.slots) is int  # JSON may have other types
        if not kinds or not self.name or self.slots < 1:
            raise InputError(f"schema: field {self.name!r} needs a name and at least one slot")
        if self.name.startswith(".") or set(self.name) & set("/\\\0"):  # it names files
            raise InputError(
                f"schema: field {self.name!r}: a name must not start with a dot or have a slash"
            )
        if len(self.name.encode(errors="replace")) > _NAME_BYTES:
            raise InputError(
                f"schema: field {self.name[:20] + '...'!r}: a name must not have more than "
                f"{_NAME_BYTES} bytes, since it names files; shorten the column's name"
            )
        where = f"schema: field {self.name!r}"
        check_whole(f"{where}: slots", self.slots, 1)
        check_whole(f"{where}: hash_rows", self.hash_rows, 0)
        try:
            edges = tuple(map(float, self.edges))  # JSON has a list
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{where}: edges are not a list of numbers") from error
        if not all(a < b for a, b in pairwise(edges)):
            raise InputError(f"{where}: edges do not ascend")
        if self.hash_rows and edges:
            raise InputError(f"{where}: a field of numbers has no hash_rows")
        object.__setattr__(self, "edges", edges)

    @property
    def all_buckets(self) -> np.ndarray:
        """The values of a field with ``edges`` or ``hash_rows``, known from the field alone."""
        first = -1 if self.slots == 1 else 0
        return np.arange(first, self.hash_rows or len(self.edges) + 1)

    def hashed(self, texts: Sequence[str]) -> np.ndarray:
        """(n,) buckets of texts, the same in every process and version; -1 for an empty text.

        A bucket is the 8-byte BLAKE2b digest of the text in UTF-8, read as a little-endian number,
        modulo ``hash_rows``.
        """

        def bucket(text: str) -> int:
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            return int.from_bytes(digest, "little") % self.hash_rows

        return np.array([bucket(text) if text else -1 for text in texts], np.int64)

    def bucket(self, numbers: np.ndarray) -> np.ndarray:
        """Bucket numbers of an array of numbers, of the same shape; -1 for NaN."""
        return np.where(np.isnan(numbers), -1, np.searchsorted(self.edges, numbers, side="right"))

    def text(self, value: Any) -> str:
        """A value of the field as reports show it; a bucket of numbers is shown as its range."""
        if not self.edges and not self.hash_rows:
            return str(value) or MISSING
        bucket = int(value)
        if bucket < 0:
            return MISSING
        if self.hash_rows:
            return f"hash bucket {bucket}"
        edges = ["-inf", *_tell_apart(self.edges), "inf"]
        return f"{edges[bucket]} to {edges[bucket + 1]}"


@dataclass(frozen=True)
class Schema:
    """The M user fields and N campaign fields in use, in the order of the network's input.

    Raises:
      InputError: a name occurs twice, a campaign field has several slots, or there is no user field
        or no campaign field.
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
    def num_slots(self) -> int:
        """S, the number of slots of a user."""
        return sum(field.slots for field in self.user)

    @property
    def user_starts(self) -> tuple[int, ...]:
        """First slot of each of the M user fields."""
        return (0, *accumulate(field.slots for field in self.user))[:-1]

    def first_difference(self, other: Schema) -> str:
        """The name of the first field that differs from the one in another schema."""
        pairs = zip(self.fields, other.fields, strict=False)
        return next((a.name for a, b in pairs if a != b), "the number of fields")

    def to_json(self) -> dict[str, Any]:
        """Plain data for `from_json`."""
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> Schema:
        """A schema from plain data: ``{"user": [{"name": ..., "slots": ...}], "campaign": [...]}``.

        Raises:
          InputError: the data has a different form.
        """
        check_keys("schema", data, {"user": list, "campaign": list})
        kinds = {"name": str, "slots": int, "edges": list, "hash_rows": int}
        for side in ("user", "campaign"):
            if side not in data:
                raise InputError(f"schema: has no {side!r}; name the fields there")
            for field in data[side]:
                check_keys("schema: field", field, kinds)
        nameless: dict[str, Any] = {"name": ""}
        user, campaign = (
            tuple(Field(**nameless | field) for field in data[side])
            for side in ("user", "campaign")
        )
        return Schema(user, campaign)


#: The user and campaign fields of the Tencent data that the paper uses (section 4.1).
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
    """The known raw values of each field, and their table rows.

    Attributes:
      values: distinct raw values per field of ``schema.fields``, in ascending order; integers or
        strings. The value at position i of field f has table row ``offsets[f] + i``.
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
    def num_rows(self) -> int:
        """R, the number of table rows; also the pad id."""
        return sum(self.sizes)

    def encode(self, field: int, raw: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Table rows (int32, the shape of ``raw``) of one field's raw values.

        An unknown value has the row of `UNSEEN` if the field has that value, and R otherwise.
        """
        values, raw = self.values[field], np.asarray(raw)
        if not len(values):
            return np.full(raw.shape, self.num_rows, np.int32)
        position = np.searchsorted(values, raw).clip(max=len(values) - 1)
        known = values[position] == raw
        rows = np.where(known, position + self.offsets[field], self.unknown_row(field))
        return rows.astype(np.int32)

    def unknown_row(self, field: int) -> int:
        """The table row of a field's unknown values."""
        values = self.values[field]
        if values.dtype.kind == "U":
            place = int(np.searchsorted(values, UNSEEN))
            if place < len(values) and values[place] == UNSEEN:
                return place + self.offsets[field]
        return self.num_rows

    def extending(self, schema: Schema, earlier_schema: Schema, earlier: Vocabulary) -> Vocabulary:
        """The union of this vocabulary and that of earlier data, field by field.

        Args:
          schema: schema of this vocabulary.
          earlier_schema: schema of the other vocabulary; must be the same.
          earlier: the other vocabulary.

        Raises:
          InputError: the schemas differ, or the values of a field are text in one vocabulary and
            whole numbers in the other.
        """
        if schema != earlier_schema:
            raise InputError(
                "schema: differs from that of the earlier data, first in "
                f"{schema.first_difference(earlier_schema)!r}; the fields, their order, slots and "
                "buckets must be the same"
            )
        both = []
        for field, own, old in zip(schema.fields, self.values, earlier.values, strict=True):
            if (own.dtype.kind == "U") != (old.dtype.kind == "U"):
                raise InputError(
                    f"field {field.name!r}: text and whole numbers cannot be values of one field; "
                    "prepare it from the same kind of file as the earlier data"
                )
            both.append(np.union1d(own, old))
        return Vocabulary(tuple(both))

    def warn_of_unknown(self, schema: Schema, known: Vocabulary, where: object) -> None:
        """Warns of the values that another vocabulary lacks, which count as unknown in it.

        Args:
          schema: schema of both vocabularies.
          known: the other vocabulary.
          where: what the warning is about, such as a folder.
        """
        counts = []
        for field, own, old in zip(schema.fields, self.values, known.values, strict=True):
            new = np.setdiff1d(own, old)
            if len(new):
                shown = (str(new[-1]) or MISSING)[:40]
                counts.append(f"{field.name} {len(new):,} (such as {shown!r})")
        if counts:
            warnings.warn(
                f"{where}: number of values that count as unknown, by field: {', '.join(counts)}",
                stacklevel=3,
            )

    def encode_attributes(self, schema: Schema, attributes: Mapping[str, Any]) -> np.ndarray:
        """(N,) int32 table rows of a campaign's raw values; unknown values are as in `encode`.

        Args:
          schema: has the campaign fields.
          attributes: a raw value for each of these fields, by name; None, NaN and empty text are
            missing values, except in fields whose values are whole numbers. A number, true or
            false is the value that is equal to it, whatever its spelling (1.0, True).

        Raises:
          InputError: a field is missing or unknown, the type of a value is not that of the field's
            values, or a hashed field has a float, true or false, whose spelling in the data is not
            known.
        """
        names = [field.name for field in schema.campaign]
        missing = [name for name in names if name not in attributes]
        unknown = [name for name in attributes if name not in names]
        if missing or unknown:
            wrong = f"has no {missing[0]!r}" if missing else f"has an unknown {unknown[0]!r}"
            raise InputError(f"campaign attributes: {wrong}; expected {', '.join(names)}")
        rows = []
        for number, field in enumerate(schema.campaign, start=len(schema.user)):
            name = field.name
            if field.edges:
                bucket = field.bucket(np.array([_as_number(name, attributes[name])]))
                rows.append(self.encode(number, bucket)[0])
                continue
            raw, known = attributes[name], self.values[number]
            if field.hash_rows:
                value = field.hashed([_as_text(name, raw)])[0]
            elif known.dtype.kind in "iu":
                value = _as_whole(name, raw)
            else:
                value = _as_text(name, raw, known)
            rows.append(self.encode(number, [value])[0])
        return np.array(rows, np.int32)


def _as_text(name: str, raw: Any, known: np.ndarray | None = None) -> str:
    """A raw value of a category as text, empty if it is missing.

    Numbers, true and false may be spelled in several ways (1, 1.0; 0.00001, 1e-05; true, True).
    Their spelling is that of ``known``; without these, that of a float, true or false is unknown.
    """
    if raw is None or (isinstance(raw, Real) and raw != raw):
        return ""
    if isinstance(raw, str):
        return raw
    truth = isinstance(raw, bool | np.bool_)
    if not truth and not isinstance(raw, Real):
        raise InputError(f"campaign attributes: {name} is {raw!r}, expected text or a number")
    if known is None and (truth or isinstance(raw, float | np.floating)):
        raise InputError(
            f"campaign attributes: {name} is {raw!r}, but its field is hashed; give it as text, "
            "spelled as in the data"
        )
    usual = str(raw).lower() if truth else str(raw)
    if known is None or usual in known:
        return usual
    equal = (text for text in known if (text.lower() == usual if truth else _equals(text, raw)))
    return str(next(equal, usual))


def _equals(text: str, number: Real) -> bool:
    """Whether a text spells a number; floats are compared in their own precision.

    Python would also read " 7" and 18_24, which are other texts.
    """
    if "_" in text or text != text.strip():
        return False
    kind = type(number) if isinstance(number, float | np.floating) else float
    with suppress(ValueError, OverflowError):
        return bool(kind(text) == number)
    return False


def _as_whole(name: str, raw: Any) -> int:
    """A raw value of a category whose values are whole numbers."""
    single = isinstance(raw, str | Real) and not isinstance(raw, bool)
    with suppress(TypeError, ValueError, OverflowError):
        value = int(raw)
        if single and (isinstance(raw, str) or value == raw):
            return value
    raise InputError(f"campaign attributes: {name} is {raw!r}, expected a whole number")


def _tell_apart(numbers: Sequence[float]) -> list[str]:
    """Distinct numbers as distinct texts: whole ones in full, others with at least six digits."""
    texts: list[str] = []
    for digits in range(6, 18):
        texts = [
            f"{n:.0f}" if abs(n) < 1e15 and n == round(n) else f"{n:.{digits}g}" for n in numbers
        ]
        if len(set(texts)) == len(texts):
            break
    return texts


def _as_number(name: str, raw: Any) -> float:
    """A raw value of a field with ``edges``, as a float; NaN if it is missing."""
    try:
        if isinstance(raw, bool):
            raise TypeError("true and false are not numbers")
        return float("nan") if raw is None or raw == "" else float(raw)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"campaign attributes: {name} is {raw!r}, expected a number") from error
