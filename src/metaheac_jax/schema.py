"""Fields of users and campaigns, how they are read from tables, and their table rows.

A vector has a table row per component, and each of its slots holds the number of a component, see
`table.layout`. In every other slot is the table row of a value.

All fields share one table of R rows. Each field has a contiguous block of rows, so an id in memory
is a table row. The pad id is R, one past the end: a gather with ``mode="fill"`` reads zeros there
and a scatter with ``mode="drop"`` ignores it, so no mask is needed.

Axes: M user fields, N campaign fields, S slots of a user, R table rows.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from metaheac_jax.boundary import Column
from metaheac_jax.errors import InputError, about, check_whole, printable
from metaheac_jax.files import read_json

#: The missing value of a one-valued category of whole numbers; that of text is empty.
MISSING_WHOLE = -(2**63)
_NO_WHOLE = MISSING_WHOLE + 1  # stands for other text, and is never a value
#: How reports show a missing value.
MISSING = "(missing)"
#: Maximum length of a field's name, in UTF-8 bytes.
_NAME_BYTES = 200
#: Maximum number of slots of a list and of a vector, with which rows of users fit into memory.
_MAX_SLOTS, _MAX_VECTOR = 1 << 16, 256
#: The types in JSON of attributes, and their names in messages.
_JSON = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "bool": (bool, "true or false"),
    "tuple": (list, "a list"),
}


def _of_tables(default: Any) -> Any:
    """An attribute that says how tables are read, in which the schema of a model may differ."""
    return dataclasses.field(default=default, compare=False)


@dataclass(frozen=True)
class Field:
    """A category, a number divided into buckets, or a vector, in the column of its name.

    A field with one slot is one-valued; a missing value has its own table row. A field with several
    slots is many-valued: its first ``slots`` values are kept, and a missing list is empty.

    The values of a number are those of its buckets from 0, and -1 for a missing number.

    Attributes:
      name: name of the field.
      slots: number of slots.
      edges: ascending bounds between the buckets of a number; empty for a category.
      separator: separator of the values of a list in text; a Parquet list column needs none.
      buckets: number of quantile buckets of a number; 0 for a category. A frequent number has a
        bucket of its own. The ``edges`` are found if there are none.
      sensitive: whether the field is hidden from all models; see `SensitiveField`.
      vector: number of components of a vector; 0 for other fields. A vector of users has a slot per
        component; a missing one has the mean of all.
      center, scale: means of the components of a vector, and their standard deviations, by which
        it is standardised. They are found if there are none.

    Raises:
      InputError: a value is invalid or does not go with another; the message names the field.
    """

    name: str
    slots: int = 1
    edges: tuple[float, ...] = ()
    separator: str = _of_tables("")
    buckets: int = _of_tables(0)
    sensitive: bool = _of_tables(False)
    vector: int = 0
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        where = f"schema: field {self.name!r:.60}"
        long = len(self.name.encode(errors="replace")) > _NAME_BYTES
        odd = long or self.name.startswith(".") or set(self.name) & set("/\\")
        if not self.name or odd or printable(self.name) != self.name:
            raise InputError(
                f"{where}: a name must have 1 to {_NAME_BYTES} bytes, no slash, no control "
                "character and no dot at its start, since it names files; rename the column"
            )
        check_whole(f"{where}: slots", self.slots, 1, _MAX_SLOTS)
        check_whole(f"{where}: buckets", self.buckets, 0)
        check_whole(f"{where}: vector", self.vector, 0, _MAX_VECTOR)
        for name in ("edges", "center", "scale"):
            try:
                numbers = tuple(map(float, getattr(self, name)))  # JSON has a list
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{where}: {name} are not a list of numbers") from error
            if not np.isfinite(numbers).all():
                raise InputError(f"{where}: {name} are not finite")
            object.__setattr__(self, name, numbers)
        edges = self.edges
        if not all(a < b for a, b in pairwise(edges)):
            raise InputError(f"{where}: edges do not ascend")
        if self.vector and self.slots == 1:
            object.__setattr__(self, "slots", self.vector)
        lengths = {self.vector, self.slots, len(self.center) or self.vector}
        of_vector = self.vector and not (self.is_number or self.separator or self.sensitive)
        if (self.vector or self.center or self.scale) and not (
            of_vector
            and lengths == {self.vector}
            and len(self.center) == len(self.scale)
            and all(one > 0 for one in self.scale)
        ):
            raise InputError(
                f"{where}: a vector has as many slots, and numbers in center and scale, as it has "
                "components, and no buckets or separator, and is not sensitive"
            )
        if self.separator and self.slots == 1:
            raise InputError(f"{where}: only a list has a separator; set slots to 2 or more")
        if self.buckets == 1 or (self.is_number and self.slots > 1):
            raise InputError(f"{where}: a number needs two buckets or more, and a single slot")

    @property
    def is_number(self) -> bool:
        """Whether the cells are numbers that are divided into buckets."""
        return bool(self.buckets or self.edges)

    @property
    def all_buckets(self) -> np.ndarray:
        """The values of a number, known from the ``edges`` alone."""
        return np.arange(-1, len(self.edges) + 1)

    def bucket(self, numbers: np.ndarray) -> np.ndarray:
        """Bucket numbers of an array of numbers, of the same shape; -1 for NaN."""
        return np.where(np.isnan(numbers), -1, np.searchsorted(self.edges, numbers, side="right"))

    def text(self, value: Any) -> str:
        """A value of the field as reports show it; a bucket of numbers is shown as its range."""
        if not self.edges:
            [text] = as_texts(np.array([value]))
            return text or MISSING
        bucket = int(value)
        edges = [f"{edge:.0f}" if edge == round(edge) else f"{edge:.6g}" for edge in self.edges]
        if bucket < 0:
            return MISSING
        if bucket == 0:
            return f"below {edges[0]}"
        if bucket == len(edges):
            return f"{edges[-1]} or more"
        return f"{edges[bucket - 1]} to {edges[bucket]}"


@dataclass(frozen=True)
class Schema:
    """The M user fields and N campaign fields in use, in the order of the network's input.

    Attributes:
      user, campaign: fields of users and of campaigns; campaign fields have one slot. Vectors come
        first. Those of tables may be sensitive, those of data and of models are not.
      user_id: name of the id column of users, in all files that have it.
      campaign_id: name of the id column of campaigns, in all files that have it.
      missing: texts that are a missing value if a cell or a value of a list consists of one.
      history: whether users have histories, from the examples; see `data.history`.

    Raises:
      InputError: a field is named twice, is an id column or has an option that it cannot have; the
        message names it.
    """

    user: tuple[Field, ...]
    campaign: tuple[Field, ...]
    user_id: str = _of_tables("user_id")
    campaign_id: str = _of_tables("campaign_id")
    missing: tuple[str, ...] = _of_tables(())
    history: bool = _of_tables(False)

    def __post_init__(self) -> None:
        user = sorted(self.user, key=lambda field: not field.vector)
        object.__setattr__(self, "user", tuple(user))
        names = [self.user_id, self.campaign_id, *(field.name for field in self.fields)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"schema: field {twice[0]!r} is named twice, or is an id column")
        wrong = [field.name for field in self.campaign if field.sensitive or field.slots > 1]
        if wrong:
            raise InputError(
                f"schema: campaign field {wrong[0]!r}: has one slot and is not sensitive; fields "
                "of users can be otherwise"
            )
        if not self.of_models.user or not self.campaign:
            raise InputError("schema: at least one user field and one campaign field are needed")

    @property
    def of_models(self) -> Schema:
        """The schema without sensitive fields."""
        user = tuple(field for field in self.user if not field.sensitive)
        return self if user == self.user else dataclasses.replace(self, user=user)

    @property
    def fields(self) -> tuple[Field, ...]:
        """User fields, then campaign fields: the order of the blocks in the table."""
        return self.user + self.campaign

    @property
    def num_slots(self) -> int:
        """S, the number of slots of a user."""
        return sum(field.slots for field in self.user)

    @property
    def num_numbers(self) -> int:
        """Number of slots of a user that hold numbers, which are the first ones."""
        return sum(field.vector for field in self.user)

    @property
    def user_starts(self) -> tuple[int, ...]:
        """First slot of each of the M user fields."""
        return (0, *accumulate(field.slots for field in self.user))[:-1]

    def value_columns(self, prefix: str) -> dict[str, Column]:
        """What the arrays of a `Vocabulary` must be, by the prefix and the field's name."""
        columns = dict[str, Column]()
        for field in self.fields:
            count = len(field.edges)
            kinds = Column("i8 U", (field.name,), order=np.less)
            if field.edges:
                kinds = Column("i8", (count + 2,), -1, count + 1, np.less)
            if field.vector:
                kinds = Column("i8", (field.vector,), 0, field.vector, np.less)
            columns[prefix + field.name] = kinds
        return columns

    def check_same(self, other: Schema, where: object) -> None:
        """Refuses another schema than that of a model.

        Args:
          other: the schema of the model.
          where: the data that have this one, for the message.

        Raises:
          InputError: a field, its slots or its buckets differ; the message names the first one.
        """
        if self == other:
            return
        pairs = zip(self.fields, other.fields, strict=False)
        first = next((a.name for a, b in pairs if a != b), "the number of fields")
        raise InputError(
            f"{where}: schema: differs from that of the model, first in {first!r}; the fields, "
            "their order, slots and buckets must be the same, so prepare the data with the other's "
            "schema.json"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` accepts, without default values of fields."""
        plain = {field.name: field.default for field in dataclasses.fields(Field)}
        sides = {
            side: [
                {
                    k: [*v] if isinstance(v, tuple) else v
                    for k, v in vars(field).items()
                    if v != plain[k]
                }
                for field in fields
            ]
            for side, fields in (("user", self.user), ("campaign", self.campaign))
        }
        return {**vars(self), **sides, "missing": list(self.missing)}

    @staticmethod
    def from_json(data: Any) -> Schema:
        """A schema from plain data, as in a schema file.

        Raises:
          InputError: a key is missing or unknown, or a value is wrong; the message names it.
        """
        if isinstance(data, dict) and type(data.get("history")) is int:
            data = {**data, "history": data["history"] > 0}  # earlier releases have a number
        _check_keys("schema", data, Schema)
        lists: dict[str, Any] = {"missing": tuple(map(str, data.get("missing", ())))}
        for side in ("user", "campaign"):
            for field in data[side]:
                _check_keys(f"schema: field {json.dumps(field):.60}", field, Field)
            lists[side] = tuple(Field(**field) for field in data[side])
        return Schema(**data | lists)

    @staticmethod
    def read(path: Path) -> Schema:
        """The schema in a JSON file.

        Raises:
          InputError: the file is not JSON, a key is missing, unknown or given twice, or a value is
            wrong; the message names it.
        """
        content = read_json(path)
        with about(path):
            return Schema.from_json(content)

    def describe(self) -> list[str]:
        """How the columns are read: a line per table and kind of column."""
        kinds: dict[str, list[str]] = {}
        for table, fields in (("users", self.user), ("campaigns", self.campaign)):
            for field in fields:
                kind = "lists" if field.slots > 1 else "categories"
                kind = "numbers in buckets" if field.is_number else kind
                kind = "vectors" if field.vector else kind
                kinds.setdefault(f"{table}, {kind}", []).append(field.name)
        return [f"{kind}: {', '.join(names)}" for kind, names in kinds.items()]


def _check_keys(where: str, data: Any, kind: Any) -> None:
    """Refuses anything but a JSON object with attributes of a dataclass, of their types."""
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a JSON object, got {json.dumps(data)[:80]}")
    known = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in data.items():
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; expected {', '.join(known)}")
        expected, said = _JSON[known[key].type.partition("[")[0]]
        if type(value) is not expected:
            raise InputError(f"{where}: {key} is {json.dumps(value)[:80]}, expected {said}")
    for key, kind in known.items():
        if kind.default is dataclasses.MISSING and key not in data:
            raise InputError(f"{where}: has no {key!r}; add it")


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
        strings; of a vector, the numbers of its components. The value at position i of field f has
        table row ``offsets[f] + i``. A category is one of integers if all its values are whole
        numbers, see `as_values`.
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
        rows = [self.encode(f, as_kind(theirs, ours)) for f, (ours, theirs) in enumerate(pairs)]
        return np.concatenate([*rows, [self.num_rows]]).astype(np.int32)

    def encode_texts(self, number: int, texts: Sequence[str]) -> np.ndarray:
        """(n,) int32 table rows of texts, empty if missing, of the category with this number."""
        usual, known = [spelled(text) for text in texts], self.values[number]
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
                rows.extend(self.encode_texts(number, [text]))
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
