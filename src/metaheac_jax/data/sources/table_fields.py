"""Learns the values of fields from columns of tables, and turns cells into table rows.

Axes: n rows of a block, S slots of adjacent fields.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from metaheac_jax.data.sources.table_file import TableFile, first_line, number
from metaheac_jax.data.sources.table_schema import Column
from metaheac_jax.errors import InputError
from metaheac_jax.schema import MISSING, UNSEEN, Field, Vocabulary

#: Limit of the memory for the values of a field, in bytes; each takes as much as the longest.
_MAX_BYTES = 1 << 30
#: Floats below this magnitude are exact whole numbers if they have no fractional part.
_EXACT = 2.0**53


@dataclass(frozen=True)
class LearnedField:
    """A column, its field, and the ascending values of the field.

    Attributes:
      whole: see `spells_whole`.
    """

    column: Column
    field: Field
    values: np.ndarray
    whole: bool | None = None


def learn(
    file: TableFile,
    column: Column,
    *,
    min_count: int = 1,
    hash_rows: int = 0,
    earlier: Field | None = None,
    known: np.ndarray | tuple[()] = (),
) -> LearnedField:
    """Learns the field of a column: the values that each get a table row.

    Args:
      file: table that contains the column.
      column: how to read it.
      min_count: values that fewer rows have share one table row with all unseen values.
      hash_rows: a category with more values than this is hashed to this many rows; 0 keeps all.
      earlier: the field in earlier data that are extended; its buckets are kept.
      known: the values of that field if they are text; they keep their spelling.

    Raises:
      InputError: the column is empty, does not fit the schema, or has too many values.
    """
    try:
        if column.buckets:
            return _learn_number(file, column, earlier)
        check_lists(file, column)
        whole = spells_whole(file, column, known)
        cells = file.scan().select(as_text(column, whole=whole).alias("value"))
        if column.slots > 1:  # of the values that are kept, a user counts once per value
            kept = pl.col("value").list.head(column.slots).list.unique()
            cells = cells.select(kept).explode("value")
        rows = column.hash_rows or (earlier.hash_rows if earlier else 0)
        if rows:  # no values are needed; this also checks that all cells are text
            _warn_of_pointed(file, column, cells)
        else:
            values = _learn_category(
                file, column, cells, min_count, may_be_empty=earlier is not None
            )
            rows = hash_rows if hash_rows and len(values) > hash_rows else 0
            if not rows:
                return LearnedField(column, Field(column.name, column.slots), values, whole)
        field = Field(column.name, column.slots, hash_rows=rows)
        return LearnedField(column, field, field.all_buckets, whole)
    except pl.exceptions.PolarsError as error:
        file.check_quotes()
        raise InputError(
            f"{file.path}: column {column.name!r} is not what the schema says ({first_line(error)})"
        ) from error


def check_lists(file: TableFile, column: Column) -> None:
    """Refuses a column of lists that is described as single values or as text, or the reverse.

    Raises:
      InputError: the description is not of the column's type; the message tells what to change.
    """
    where, kind = f"{file.path}: column {column.name!r}", file.kind(column.name)
    if column.slots > 1 and not column.separator and kind == pl.String:
        raise InputError(f'{where} has text, not lists; give the field a "separator", such as ";"')
    if column.separator and isinstance(kind, pl.List):
        raise InputError(
            f'{where} has lists; remove the field\'s "separator", which is for lists in text'
        )
    if column.slots == 1 and isinstance(kind, pl.List):
        raise InputError(
            f'{where} has lists; give a field of users "slots", the most values to keep, and '
            "remove one of campaigns, which has a single value"
        )


def _warn_of_pointed(file: TableFile, column: Column, cells: pl.LazyFrame) -> None:
    """Reads all cells, and warns if a hashed column has whole numbers alone, all spelled 1.0."""
    text = pl.col("value").filter(pl.col("value") != "")
    pointed = text.str.contains(r"^-?[0-9]+\.0$").all()
    one, all_pointed = cells.select(text.min(), at=pointed).collect(engine="streaming").row(0)
    if one is not None and all_pointed:
        warnings.warn(
            f"{file.path}: column {column.name!r} is hashed as it is spelled, such as {one}; a "
            f"file that has {one.removesuffix('.0')} instead has another value",
            stacklevel=3,
        )


def _learn_category(
    file: TableFile,
    column: Column,
    cells: pl.LazyFrame,
    min_count: int,
    *,
    may_be_empty: bool,
) -> np.ndarray:
    counts = cells.group_by("value").len().collect(engine="streaming")
    known = counts.filter(pl.col("value").is_not_null() & (pl.col("value") != ""))
    if known["value"].str.contains("\0", literal=True).any():
        raise InputError(f"{file.path}: column {column.name!r} has a zero byte; repair the file")
    frequent = known.filter(pl.col("len") >= min_count)["value"]
    longest = int(frequent.str.len_chars().max() or 0)  # pyrefly: ignore
    if 4 * longest * len(frequent) > _MAX_BYTES:
        raise InputError(
            f"{file.path}: column {column.name!r} has {len(frequent):,} values of up to {longest} "
            'characters; give the field "hash_rows", raise "min_count", or remove it'
        )
    values = set(frequent.to_list())
    if len(frequent) < len(known):
        values.add(UNSEEN)
    if column.slots == 1 and len(known) < len(counts):
        values.add("")  # a missing value has its own table row
    if not values and not may_be_empty:
        raise InputError(f"{file.path}: column {column.name!r} is empty; remove the field")
    if column.sensitive and {"", MISSING} <= values:
        raise InputError(
            f"{file.path}: sensitive column {column.name!r} has empty cells and cells {MISSING!r}, "
            "which look the same in reports; rename one of them"
        )
    return np.array(sorted(values), dtype=str)


def _learn_number(file: TableFile, column: Column, earlier: Field | None) -> LearnedField:
    """Quantile buckets of a column of numbers, and one more row for missing values and NaN."""
    file.check_numbers(column.name)
    if earlier is not None and earlier.edges:
        bounds = earlier.edges
    else:
        cells = number(column.name, file.kind(column.name)).drop_nulls().drop_nans()
        numbers = file.collect(file.scan().select(cells)).to_series()
        if not len(numbers):
            raise InputError(f"{file.path}: column {column.name!r} has no numbers")
        bounds = bucket_edges(numbers.to_numpy(), column.buckets)
    field = Field(column.name, edges=bounds)
    return LearnedField(column, field, field.all_buckets)


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
      fields: the fields, in the order of their slots.
      vocabulary: values of these fields, and possibly of others before and after them.
      first: position of the first of these fields in the vocabulary.
    """

    fields: Sequence[LearnedField]
    vocabulary: Vocabulary
    first: int = 0

    @property
    def num_slots(self) -> int:
        """S."""
        return sum(learned.field.slots for learned in self.fields)

    def rows(self, frame: pl.DataFrame) -> np.ndarray:
        """(n, S) int32 table rows of the cells in a block; the pad id where there is no value."""
        blocks = [
            self._rows(frame[learned.column.name], learned, number)
            for number, learned in enumerate(self.fields, start=self.first)
        ]
        return np.concatenate(blocks, axis=1)

    def _rows(self, cells: pl.Series, learned: LearnedField, place: int) -> np.ndarray:
        field = learned.field
        if field.edges:
            value = cells.to_frame().select(number(cells.name, cells.dtype)).to_series()
            bucket = field.bucket(value.fill_null(float("nan")).to_numpy())
            return self.vocabulary.encode(place, bucket)[:, None]
        texts = cells.to_frame().select(as_text(learned.column, whole=learned.whole).alias("text"))
        if field.slots == 1:
            return self._encode(texts.to_series().fill_null(""), field, place)[:, None]
        lists = texts.select(pl.col("text").list.head(field.slots))
        length = lists.select(pl.col("text").list.len()).to_series().to_numpy()
        flat = lists.select(pl.col("text").filter(pl.col("text").list.len() > 0).explode())
        rows = np.full((len(cells), field.slots), self.vocabulary.num_rows, np.int32)
        used = np.arange(field.slots) < length[:, None]
        rows[used] = self._encode(flat.to_series(), field, place)
        return rows

    def _encode(self, texts: pl.Series, field: Field, place: int) -> np.ndarray:
        """(n,) table rows of texts; each distinct text is looked up once."""
        if not field.hash_rows:  # a text longer than all values is unknown, even if truncated
            longest = self.vocabulary.values[place].dtype.itemsize // 4
            texts = texts.str.head(longest + 1)
        distinct = texts.unique()
        raw = field.hashed(distinct.to_list()) if field.hash_rows else distinct.to_numpy()
        rows = self.vocabulary.encode(place, raw if field.hash_rows else raw.astype(str))
        coded = texts.replace_strict(distinct, rows, return_dtype=pl.Int32)
        return coded.to_numpy().astype(np.int32, copy=False)  # without cells it has no numbers


def spells_whole(
    file: TableFile, column: Column, known: np.ndarray | tuple[()] = ()
) -> bool | None:
    """Whether a category's numbers without a fractional part are spelled 1 rather than 1.0.

    A column of whole numbers becomes a column of floats as soon as a cell is missing. If earlier
    values spell whole numbers only as 1.0, new values do too. None if the cells are whole numbers
    that are spelled 1, or no numbers.
    """
    kind = file.kind(column.name)
    inner = kind.inner if isinstance(kind, pl.List) else kind
    if inner.is_float():
        return not has_pointed(known)
    return False if inner.is_integer() and has_pointed(known) else None


def has_pointed(texts: np.ndarray | tuple[()]) -> bool:
    """Whether texts include whole numbers spelled 1.0, and none spelled 1."""
    patterns = (re.compile("-?[0-9]+"), re.compile(r"-?[0-9]+\.0"))
    whole, pointed = (any(map(pattern.fullmatch, texts)) for pattern in patterns)
    return pointed and not whole


def as_text(column: Column, *, whole: bool | None) -> pl.Expr:
    """A category's cells as text, or as lists of text without empty texts.

    A missing list becomes an empty one, and NaN is missing.

    Args:
      column: how to read the cells.
      whole: see `spells_whole`.
    """
    cell = pl.col(column.name)
    if column.slots == 1:
        return _as_text(cell, whole)
    if column.separator:
        lists = _as_text(cell, whole).str.split(column.separator)
        value = pl.element().str.strip_chars()
    else:
        lists, value = cell, _as_text(pl.element(), whole)
    lists = lists.list.eval(pl.when(value != "").then(value))
    return lists.fill_null([]).list.drop_nulls()


def _as_text(cell: pl.Expr, whole: bool | None) -> pl.Expr:
    if whole is not None:  # the product makes floats of whole numbers; Float32 stays Float32
        cell = (cell * 1.0).fill_nan(None)
    if not whole:
        return cell.cast(pl.String)
    text = cell.cast(pl.Int64, strict=False).cast(pl.String)
    return pl.when(_is_whole(cell)).then(text).otherwise(cell.cast(pl.String))


def _is_whole(cell: pl.Expr) -> pl.Expr:
    """Whether floats are exact whole numbers."""
    return (cell.abs() < _EXACT) & (cell == cell.floor())
