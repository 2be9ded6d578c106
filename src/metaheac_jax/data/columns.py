"""Columns of tables as fields: the schema of how they are read, their values and table rows.

Axes: n rows of a block or cells of a column, S slots of adjacent fields.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from metaheac_jax.data.table_file import ROWS_AT_A_TIME, Table
from metaheac_jax.errors import InputError, about, check_keys, check_whole
from metaheac_jax.files import read_json
from metaheac_jax.schema import Field, Vocabulary, as_values, spelled

#: A column of more distinct numbers than this is cut into buckets, and one of more texts than this,
#: all of them distinct, is left out. Lists are text with one of these separators in at least this
#: fraction of the cells, and have at most this many slots.
_MAX_CATEGORIES, _SEPARATORS, _LIST_FRACTION, _MAX_SLOTS = 50, ";|", 0.1, 10
_NA = "NA"  # as R and pandas write a missing value


@dataclass(frozen=True)
class Column(Field):
    """A field and how it is read from the column of its name.

    Attributes:
      separator: separator of the values of a list in text; a Parquet list column needs none.
      buckets: number of quantile buckets of a number; 0 for a category. A frequent number has a
        bucket of its own. The ``edges`` are found if there are none.
      sensitive: whether the field is hidden from all models; see `SensitiveField`.

    Raises:
      InputError: a value is invalid or does not go with another; the message names the field.
    """

    separator: str = ""
    buckets: int = 0
    sensitive: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"schema: field {self.name!r}"
        check_whole(f"{where}: buckets", self.buckets, 0)
        if self.separator and self.slots == 1:
            raise InputError(f"{where}: only a list has a separator; set slots to 2 or more")
        if self.buckets == 1 or (self.is_number and self.slots > 1):
            raise InputError(f"{where}: a number needs two buckets or more, and a single slot")
        if self.hash_rows and (self.buckets or self.sensitive):
            raise InputError(f"{where}: only a category that is not sensitive can have hash_rows")

    @property
    def field(self) -> Field:
        """The field alone."""
        return Field(self.name, self.slots, self.edges, self.hash_rows)

    @property
    def is_number(self) -> bool:
        """Whether the cells are numbers that are divided into buckets."""
        return bool(self.buckets or self.edges)

    @staticmethod
    def from_json(data: Any) -> Column:
        """A column from plain data.

        Raises:
          InputError: a key is missing or unknown, or a value is wrong; the message names it.
        """
        kinds = {known.name: type(known.default) for known in fields(Column)}
        kinds |= {"name": str, "edges": list}
        check_keys(f"schema: field {json.dumps(data):.60}", data, kinds, required=("name",))
        return Column(**data)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` accepts, without default values."""
        plain = {known.name: known.default for known in fields(Column)}
        return {key: value for key, value in vars(self).items() if value != plain[key]}


@dataclass(frozen=True)
class TableSchema:
    """The content of a schema file of tables.

    Attributes:
      user, campaign: fields of users and of campaigns; campaign fields have one slot.
      user_id: name of the id column of users, in all files that have it.
      campaign_id: name of the id column of campaigns, in all files that have it.
      missing: texts that are a missing value if a cell or a value of a list consists of one.

    Raises:
      InputError: a field is named twice, is an id column or has an option that it cannot have; the
        message names it.
    """

    user: tuple[Column, ...]
    campaign: tuple[Column, ...]
    user_id: str = "user_id"
    campaign_id: str = "campaign_id"
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [self.user_id, self.campaign_id]
        names += [column.name for column in (*self.user, *self.campaign)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"schema: field {twice[0]!r} is named twice, or is an id column")
        wrong = [own.name for own in self.campaign if own.sensitive or own.slots > 1]
        if wrong:
            raise InputError(
                f"schema: campaign field {wrong[0]!r}: has one slot and is not sensitive; fields "
                "of users can be otherwise"
            )
        if not any(not own.sensitive for own in self.user) or not self.campaign:
            raise InputError("schema: at least one user field and one campaign field are needed")

    @staticmethod
    def from_json(data: Any) -> TableSchema:
        """A schema from plain data, as in a schema file.

        Raises:
          InputError: a key is missing or unknown, or a value is wrong; the message names it.
        """
        sides = ("user", "campaign")
        kinds = {known.name: type(known.default) for known in fields(TableSchema)}
        kinds |= dict.fromkeys((*sides, "missing"), list)
        check_keys("schema", data, kinds, required=sides)
        parts: dict[str, Any] = {side: tuple(map(Column.from_json, data[side])) for side in sides}
        parts["missing"] = tuple(map(str, data.get("missing", [])))
        return TableSchema(**data | parts)

    @staticmethod
    def read(path: Path) -> TableSchema:
        """The schema in a JSON file.

        Raises:
          InputError: the file is not JSON, a key is missing, unknown or given twice, or a value is
            wrong; the message names it.
        """
        content = read_json(path)
        with about(path):
            return TableSchema.from_json(content)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` accepts."""
        sides = {
            side: [own.to_json() for own in getattr(self, side)] for side in ("user", "campaign")
        }
        return {**vars(self), **sides, "missing": list(self.missing)}

    def describe(self) -> list[str]:
        """How the columns are read: a line per table and kind of column."""
        kinds: dict[str, list[str]] = {}
        for table, columns in (("users", self.user), ("campaigns", self.campaign)):
            for own in columns:
                kind = "lists" if own.slots > 1 else "categories"
                kind = "numbers in buckets" if own.is_number else kind
                kinds.setdefault(f"{table}, {kind}", []).append(own.name)
        return [f"{kind}: {', '.join(names)}" for kind, names in kinds.items()]


def learn(table: Table, column: Column, missing: Sequence[str] = ()) -> tuple[Column, np.ndarray]:
    """The column, with the edges of its buckets, and the ascending values that get a table row.

    Args:
      table: contains the column.
      column: how to read it.
      missing: as in `TableSchema`.

    Raises:
      InputError: the column has no number or no value of a list, or does not fit the schema.
    """
    where, rows = f"{table.path}: column {column.name!r}", table.scan()
    check_kind(table, column)
    if column.is_number:
        cells, number = pl.col(column.name), _number(column, missing)
        right = number.is_finite() | number.is_nan() | _text(cells, missing).is_null()
        table.check(column.name, right, 'a number (or remove "buckets" from its field)')
    if column.is_number and not column.edges:
        numbers = _number(column, missing).drop_nulls().drop_nans()
        numbers = table.collect(rows.select(numbers)).to_series()
        if not len(numbers):
            raise InputError(f"{where}: has no numbers; remove the field")
        column = replace(column, edges=bucket_edges(numbers.to_numpy(), column.buckets))
    if column.is_number or column.hash_rows:
        return column, column.all_buckets
    texts = rows.select(value=cell_texts(column, missing))
    if column.slots > 1:  # of the values that are kept, a user counts once per value
        texts = texts.select(pl.col("value").list.head(column.slots).list.unique()).explode("value")
    distinct = table.collect(texts.unique()).to_series().fill_null("").to_list()
    values = set(map(spelled, distinct))
    if column.slots > 1:
        values.discard("")  # of a list; a single missing value has its own table row
        if not values:
            raise InputError(f"{where}: has no values; remove the field")
    return column, as_values(values)


def check_kind(table: Table, column: Column) -> None:
    """Refuses a column of lists that is described as single values or as text, or the reverse."""
    where, kind = f"{table.path}: column {column.name!r}", table.kind(column.name)
    is_list = isinstance(kind, pl.List)
    if column.slots > 1 and not column.separator and not is_list:
        raise InputError(f'{where}: has no lists; give the field a "separator", such as ";"')
    if is_list and (column.separator or column.slots == 1):
        raise InputError(
            f'{where}: has lists; give a field of users "slots", the most values to keep, and no '
            '"separator"; remove a field of campaigns'
        )


def cell_texts(column: Column, missing: Sequence[str] = ()) -> pl.Expr:
    """The cells of a category as text, null if missing; or as lists of present texts."""
    cell = pl.col(column.name)
    if column.slots == 1:
        return _text(cell, missing)
    if column.separator:
        lists = cell.cast(pl.String).str.split(column.separator)
        value = _text(pl.element().str.strip_chars(), missing)
    else:
        lists, value = cell, _text(pl.element(), missing)
    return lists.list.eval(value.drop_nulls()).fill_null([])


def _text(cell: pl.Expr, missing: Sequence[str]) -> pl.Expr:
    """Cells as text; null if they are empty, NaN, or a missing value."""
    absent = ["", "NaN", *missing, *(f"{text}.0" for text in missing)]  # of floats, too
    text = cell.cast(pl.String)
    return pl.when(~text.is_in(absent)).then(text)


def _number(column: Column, missing: Sequence[str]) -> pl.Expr:
    """Cells as float64; null if they are missing or no number."""
    return _text(pl.col(column.name), missing).cast(pl.Float64, strict=False)


def infer_schema(paths: Mapping[str, Path | str]) -> TableSchema:
    """Infers a first schema of tables, and warns of the columns that it leaves out.

    Ids are in the columns ``user_id`` and ``campaign_id``. Of the other user columns, numbers with
    many values become buckets, text with separators and Parquet lists become lists, and all else
    that can be a field categories. If a cell of users is NA, NA counts as missing. Left out are
    columns without text or numbers, and those such as a name or a time, of which each user has
    another text or date.

    Args:
      paths: the files of ``users`` and ``campaigns``.

    Raises:
      InputError: a file is unreadable, or has no id, a column without a name or no field; or users
        and campaigns share a field.
    """
    frames: dict[str, pl.DataFrame] = {}
    ids = {"users": "user_id", "campaigns": "campaign_id"}
    for name, own_id in ids.items():
        table = Table(paths[name])
        if "" in table.names:
            raise InputError(
                f"{paths[name]}: column {table.names.index('') + 1} has no name; name it, or "
                "remove it (to_csv of pandas writes one unless it is given index=False)"
            )
        if own_id not in table.names:
            raise InputError(
                f"{paths[name]}: no column {own_id!r}; name the column of ids so, or give a schema "
                "that names it"
            )
        frames[name] = table.collect(table.scan().head(ROWS_AT_A_TIME))
    is_na = frames["users"].select((pl.col(pl.String) == _NA).any())
    missing = (_NA,) if any(column.any() for column in is_na.iter_columns()) else ()
    columns: dict[str, tuple[Column, ...]] = {}
    for name, frame in frames.items():
        cells = frame.drop(ids[name]).iter_columns()
        found = {own.name: _infer(own, missing, of_users=name == "users") for own in cells}
        columns[name] = tuple(own for own in found.values() if own is not None)
        left_out = [own for own, column in found.items() if column is None]
        if not columns[name]:
            raise InputError(f"{paths[name]}: has no field besides the id; add a column")
        if left_out:
            warnings.warn(
                f"{paths[name]}: columns that are no fields: {', '.join(left_out)}", stacklevel=3
            )
    return TableSchema(
        user=columns["users"],
        campaign=tuple(Column(own.name) for own in columns["campaigns"]),
        missing=missing,
    )


def _infer(cells: pl.Series, missing: tuple[str, ...], *, of_users: bool) -> Column | None:
    """How to read the cells (n,); None if they cannot be a field."""
    is_list = cells.dtype == pl.List
    if is_list and not of_users:
        return None
    try:
        column = Column(cells.name, slots=2 if is_list else 1)
        text = cells.to_frame().select(cell_texts(column, missing)).to_series().drop_nulls()
    except (InputError, pl.exceptions.PolarsError):  # for example, bytes that are not text
        return None
    if is_list:
        longest = int(text.list.len().max() or 0)  # pyrefly: ignore
        return replace(column, slots=min(max(longest, 2), _MAX_SLOTS)) if longest else None
    if not len(text):
        return None
    found = {one: text.str.count_matches(one, literal=True) for one in _SEPARATORS}
    # The one in most cells; another may be a part of values.
    separator = max(found, key=lambda one: int((found[one] > 0).sum()))
    counts = found[separator]
    if of_users and (counts > 0).mean() >= _LIST_FRACTION:  # pyrefly: ignore
        slots = min(int(counts.max()) + 1, _MAX_SLOTS)  # pyrefly: ignore
        return replace(column, slots=slots, separator=separator)
    numbers = text.cast(pl.Float64, strict=False)
    many = text.n_unique() > _MAX_CATEGORIES
    if many and numbers.is_finite().fill_null(False).all():
        return replace(column, buckets=10)
    identifies = of_users and many and text.is_unique().all() and not cells.dtype.is_numeric()
    return None if identifies else column


def bucket_edges(numbers: np.ndarray, num_buckets: int) -> tuple[float, ...]:
    """Ascending edges of buckets with about equally many numbers, at least one edge.

    A number that would fill several buckets, or the first, has one of its own, such as the 0 of a
    column that is mostly 0.
    """
    quantiles = np.quantile(numbers, np.arange(1, num_buckets) / num_buckets)
    edges, counts = np.unique(quantiles, return_counts=True)
    smallest = numbers.min()
    larger = (numbers[numbers > own] for own in edges[(counts > 1) | (edges == smallest)])
    edges = np.union1d(edges, [own.min() for own in larger if len(own)])
    used = edges[edges > smallest]
    return tuple((used if len(used) else edges[:1]).tolist())


@dataclass(frozen=True)
class Encoder:
    """Turns cells into the table rows of fields that are stored side by side.

    Attributes:
      columns: the columns of the fields, in the order of their slots.
      vocabulary: values of these fields, and possibly of others before and after them.
      first: position of the first of these fields in the vocabulary.
      missing: texts that stand for a missing value.
    """

    columns: Sequence[Column]
    vocabulary: Vocabulary
    first: int = 0
    missing: tuple[str, ...] = ()

    @property
    def num_slots(self) -> int:
        """S."""
        return sum(column.slots for column in self.columns)

    def rows(self, frame: pl.DataFrame) -> np.ndarray:
        """(n, S) int32 table rows of the cells in a block; the pad id where there is no value."""
        places = enumerate(self.columns, start=self.first)
        return np.concatenate([self._rows(frame, own, place) for place, own in places], axis=1)

    def _rows(self, frame: pl.DataFrame, column: Column, place: int) -> np.ndarray:
        if column.is_number:
            numbers = frame.select(_number(column, self.missing).fill_null(float("nan")))
            bucket = column.bucket(numbers.to_series().to_numpy())
            return self.vocabulary.encode(place, bucket)[:, None]
        texts = frame.select(text=cell_texts(column, self.missing))
        if column.slots == 1:
            return self._encode(texts["text"].fill_null(""), column, place)[:, None]
        lists = texts["text"].list.head(column.slots)
        length = lists.list.len().to_numpy()
        rows = np.full((len(frame), column.slots), self.vocabulary.num_rows, np.int32)
        used = np.arange(column.slots) < length[:, None]
        rows[used] = self._encode(lists.filter(lists.list.len() > 0).explode(), column, place)
        return rows

    def _encode(self, texts: pl.Series, column: Column, place: int) -> np.ndarray:
        """(n,) table rows of texts; each distinct text is looked up once."""
        if not len(texts):
            return np.empty(0, np.int32)
        distinct = texts.unique()
        rows = self.vocabulary.encode_texts(place, column, distinct.to_list())
        return texts.replace_strict(distinct, rows, return_dtype=pl.Int32).to_numpy()
