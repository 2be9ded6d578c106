"""Columns of tables as fields: how they are read, their values, and their cells as table rows.

Axes: n rows of a block, S slots of adjacent fields.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import polars as pl

from metaheac_jax.data.table_file import Table
from metaheac_jax.errors import InputError, check_keys, check_whole
from metaheac_jax.schema import UNSEEN, Field, Vocabulary, as_values, spelled

#: Limit of the memory for the values of a field, in bytes; each takes as much as the longest.
_MAX_BYTES = 1 << 30


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
          InputError: a key is missing or unknown, or a value is wrong; the message names the field.
        """
        name = f" {data['name']!r}" if isinstance(data, dict) and "name" in data else ""
        where = f"schema: field{name}"
        kinds = {known.name: type(known.default) for known in fields(Column)}
        check_keys(where, data, kinds | {"name": str, "edges": list})
        if "name" not in data:
            raise InputError(f"{where}: has no 'name', got {json.dumps(data)[:80]}")
        return Column(**data)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` accepts, without default values."""
        plain = {known.name: known.default for known in fields(Column)}
        return {key: value for key, value in vars(self).items() if value != plain[key]}


@dataclass(frozen=True)
class Learned:
    """A column, with the edges of its buckets, and the values of its field, ascending."""

    column: Column
    values: np.ndarray


def learn(
    table: Table,
    column: Column,
    rows: pl.LazyFrame | None = None,
    *,
    min_count: int = 1,
    missing: Sequence[str] = (),
    may_be_empty: bool = False,
) -> Learned:
    """Learns the values of a column that each get a table row.

    Args:
      table: contains the column.
      column: how to read it.
      rows: the rows of the table that count; None for all.
      min_count: values that fewer rows have share one table row with all unseen values.
      missing: texts that stand for a missing value.
      may_be_empty: whether all cells may be missing.

    Raises:
      InputError: the column is empty, does not fit the schema, or has too many values.
    """
    where, rows = f"{table.path}: column {column.name!r}", table.scan() if rows is None else rows
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
        return Learned(column, column.all_buckets)
    texts = rows.select(value=cell_texts(column, missing))
    if column.slots > 1:  # of the values that are kept, a user counts once per value
        texts = texts.select(pl.col("value").list.head(column.slots).list.unique()).explode("value")
    counts: dict[str, int] = {}
    for value, count in table.collect(texts.group_by("value").len()).iter_rows():
        value = "" if value is None else spelled(value)
        counts[value] = counts.get(value, 0) + count
    some_missing = counts.pop("", 0)
    if not counts and not may_be_empty:
        raise InputError(f"{where}: is empty; remove the field")
    values = {value for value, count in counts.items() if count >= min_count}
    longest = max(map(len, values), default=0)
    if 4 * longest * len(values) > _MAX_BYTES:
        raise InputError(
            f"{where}: has {len(values):,} values of up to {longest} characters; give the field "
            '"hash_rows", raise "min_count", or remove it'
        )
    if any("\0" in value for value in values):
        raise InputError(f"{where}: has a zero byte; repair the file")
    if len(values) < len(counts):
        values.add(UNSEEN)
    if some_missing and column.slots == 1:
        values.add("")  # a missing value has its own table row
    return Learned(column, as_values(values))


def check_kind(table: Table, column: Column) -> None:
    """Refuses a column of lists that is described as single values or as text, or the reverse.

    Raises:
      InputError: the description is not of the column's type; the message tells what to change.
    """
    where, kind = f"{table.path}: column {column.name!r}", table.kind(column.name)
    is_list = isinstance(kind, pl.List)
    if column.slots > 1 and not column.separator and not is_list:
        raise InputError(f'{where}: has no lists; give the field a "separator", such as ";"')
    if is_list and (column.separator or column.slots == 1):
        raise InputError(
            f'{where}: has lists; give a field of users "slots", the most values to keep, and no '
            '"separator"; remove a field of campaigns'
        )
    if column.is_number and kind.is_temporal():
        raise InputError(f'{where}: has dates or times; make it a number, or remove "buckets"')


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
