"""Fields of users and campaigns, and their table rows.

All fields share one table of R rows. Each field has a contiguous block of rows, so an id in memory
is a table row. The pad id is R, one past the end: a gather with ``mode="fill"`` reads zeros there
and a scatter with ``mode="drop"`` ignores it, so no mask is needed.

Axes: M user fields, N campaign fields, S slots of a user, R table rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from metaheac_jax.errors import InputError, check_whole

#: The missing value of a one-valued category of whole numbers; that of text is empty.
MISSING_WHOLE = -(2**63)
_NO_WHOLE = MISSING_WHOLE + 1  # stands for other text, and is never a value
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
        where = f"schema: field {self.name!r:.60}"
        if not self.name:
            raise InputError(f"{where}: needs a name")
        too_long = len(self.name.encode(errors="replace")) > _NAME_BYTES
        if too_long or self.name.startswith(".") or set(self.name) & set("/\\\0"):
            raise InputError(
                f"{where}: a name must not start with a dot, have a slash or have more than "
                f"{_NAME_BYTES} bytes, since it names files; rename the column"
            )
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
            [text] = as_texts(np.array([value]))
            return text or MISSING
        bucket = int(value)
        if bucket < 0:
            return MISSING
        if self.hash_rows:
            return f"hash bucket {bucket}"
        edges = [f"{edge:.0f}" if edge == round(edge) else f"{edge:.6g}" for edge in self.edges]
        if bucket == 0:
            return f"below {edges[0]}"
        if bucket == len(edges):
            return f"{edges[-1]} or more"
        return f"{edges[bucket - 1]} to {edges[bucket]}"


@dataclass(frozen=True)
class Schema:
    """The M user fields and N campaign fields in use, in the order of the network's input.

    The names are distinct, there is a field on either side, and campaign fields have one slot.
    """

    user: tuple[Field, ...]
    campaign: tuple[Field, ...]

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

    def check_same(self, other: Schema, what: str) -> None:
        """Refuses another schema.

        Raises:
          InputError: a field, its slots or its buckets differ; the message names the first one and
            ``what`` has the other schema.
        """
        if self == other:
            return
        pairs = zip(self.fields, other.fields, strict=False)
        first = next((a.name for a, b in pairs if a != b), "the number of fields")
        raise InputError(
            f"schema: differs from that of {what}, first in {first!r}; the fields, their order, "
            "slots and buckets must be the same, so prepare the data with the other's schema.json"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for `from_json`."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Schema:
        """The schema of `to_json`."""
        user, campaign = (tuple(Field(**f) for f in data[side]) for side in ("user", "campaign"))
        return Schema(user, campaign)


_ONE_VALUED = ("carrier", "consumptionAbility", "LBS", "age", "education", "gender", "house")
_OF_CAMPAIGNS = ("advertiserId", "campaignId", "creativeSize", "adCategoryId", "productId")
#: The user and campaign fields of the Tencent data that the paper uses (section 4.1).
TENCENT = Schema(
    user=(
        *map(Field, _ONE_VALUED),
        *(Field(name, 10) for name in ("interest1", "interest2", "interest3")),
        *(Field(name, 5) for name in ("kw1", "kw2", "topic1", "topic2")),
    ),
    campaign=tuple(map(Field, (*_OF_CAMPAIGNS, "productType"))),
)


@dataclass(frozen=True)
class Vocabulary:
    """The known raw values of each field, and their table rows.

    Attributes:
      values: distinct raw values per field of ``schema.fields``, in ascending order; integers or
        strings. The value at position i of field f has table row ``offsets[f] + i``. A category is
        one of integers if all its values are whole numbers, see `as_values`.
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

        An unknown value has R.
        """
        values, raw = self.values[field], np.asarray(raw)
        if not len(values):
            return np.full(raw.shape, self.num_rows, np.int32)
        position = np.searchsorted(values, raw).clip(max=len(values) - 1)
        known = values[position] == raw
        rows = np.where(known, position + self.offsets[field], self.num_rows)
        return rows.astype(np.int32)

    def rows_of(self, other: Vocabulary) -> np.ndarray:
        """(R' + 1,) int32 table rows here of the R' rows of another vocabulary, and of its pad id.

        The fields must be the same; unknown values are as in `encode`.
        """
        pairs = zip(self.values, other.values, strict=True)
        rows = [self.encode(f, as_kind(theirs, own)) for f, (own, theirs) in enumerate(pairs)]
        return np.concatenate([*rows, [self.num_rows]]).astype(np.int32)

    def extending(self, schema: Schema, earlier_schema: Schema, earlier: Vocabulary) -> Vocabulary:
        """The union of this vocabulary and that of earlier data, field by field.

        Raises:
          InputError: the schema of this vocabulary and that of the earlier one differ.
        """
        schema.check_same(earlier_schema, "the earlier data")
        pairs = zip(self.values, earlier.values, strict=True)
        return Vocabulary(tuple(union_of_values(own, old) for own, old in pairs))

    def encode_texts(self, number: int, field: Field, texts: Sequence[str]) -> np.ndarray:
        """(n,) int32 table rows of texts, empty if missing, of the category with this number."""
        usual, known = [spelled(text) for text in texts], self.values[number]
        if field.hash_rows:
            return self.encode(number, field.hashed(usual))
        # A text longer than all values is unknown, even if it is cut.
        longest = known.dtype.itemsize // 4 if known.dtype.kind == "U" else 20
        return self.encode(number, as_kind(np.array([t[: longest + 1] for t in usual]), known))

    def encode_attributes(self, schema: Schema, attributes: Mapping[str, Any]) -> np.ndarray:
        """(N,) int32 table rows of a campaign's raw values; unknown values are as in `encode`.

        Args:
          schema: has the campaign fields.
          attributes: a raw value for each of these fields, by name; None, NaN and empty text are
            missing values. Numbers, true and false are spelled as `spelled` does.

        Raises:
          InputError: a field is missing or unknown, or a value is no number where the field has
            ``edges``.
        """
        names = [field.name for field in schema.campaign]
        wrong = [f"has no {name!r}" for name in names if name not in attributes]
        wrong += [f"has an unknown {name!r}" for name in attributes if name not in names]
        if wrong:
            raise InputError(f"campaign attributes: {wrong[0]}; expected {', '.join(names)}")
        rows = []
        for number, field in enumerate(schema.campaign, start=len(schema.user)):
            raw = attributes[field.name]
            text = "" if raw is None or raw != raw else str(raw)
            if not field.edges:
                rows.extend(self.encode_texts(number, field, [text]))
                continue
            try:
                bucket = field.bucket(np.array([float(text or "nan")]))
            except ValueError as error:
                raise InputError(
                    f"campaign attributes: {field.name} is {raw!r}, expected a number"
                ) from error
            rows.extend(self.encode(number, bucket))
        return np.array(rows, np.int32)


def spelled(text: str) -> str:
    """The usual spelling of a category's value: 12 for 12.0, and true for True.

    Files and programs write the same value in either way.
    """
    if re.fullmatch(r"-?[0-9]+\.0", text):
        return text[:-2]
    return text.lower() if text in ("True", "TRUE", "False", "FALSE") else text


def whole_number(text: str | bytes) -> int | None:
    """The 64-bit whole number that a text spells plainly, as 7 and not 007; None for other text."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if not re.fullmatch("-?[0-9]{1,19}", text):
        return None
    number = int(text)
    return number if str(number) == text and _NO_WHOLE < number < 2**63 else None


def as_values(texts: Iterable[str]) -> np.ndarray:
    """The distinct values of a category, ascending, from their texts.

    They are int64 if all texts are plain whole numbers, except an empty one (missing), which
    becomes `MISSING_WHOLE`, the first. Otherwise they are text.
    """
    distinct = set(texts)
    values = {text: whole_number(text) for text in distinct - {""}}
    if not values or None in values.values():
        return np.array(sorted(distinct), dtype=str)
    whole = [values.get(text, MISSING_WHOLE) for text in distinct]
    return np.sort(np.array(whole, np.int64))


def as_texts(values: np.ndarray) -> list[str]:
    """The texts of a category's values; see `as_values`."""
    if values.dtype.kind == "U":
        return values.tolist()
    return ["" if value == MISSING_WHOLE else str(value) for value in values.tolist()]


def union_of_values(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The distinct values of two vocabularies of a field, ascending."""
    if (one.dtype.kind == "U") == (other.dtype.kind == "U"):
        return np.union1d(one, other)
    return as_values([*as_texts(one), *as_texts(other)])


def as_kind(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A category's values as text or whole numbers, as others are; other texts are unseen."""
    if (values.dtype.kind == "U") == (like.dtype.kind == "U"):
        return values
    if like.dtype.kind == "U":
        return np.array(as_texts(values), dtype=str)
    whole = [MISSING_WHOLE if not text else whole_number(text) for text in values.tolist()]
    return np.array([_NO_WHOLE if n is None else n for n in whole], np.int64)
