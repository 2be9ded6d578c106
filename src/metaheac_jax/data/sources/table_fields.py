"""The fields of tables: the values that their columns have, and the table rows of cells.

Axes: n rows of a block, S slots of some fields side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from metaheac_jax.data.sources.table_file import TableFile, first_line, number
from metaheac_jax.data.sources.table_schema import Column
from metaheac_jax.errors import InputError
from metaheac_jax.schema import UNSEEN, Field, Vocabulary

#: Bytes that the values of a field may take in memory, all as long as the longest.
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class LearnedField:
    """A column, its field, and the field's values, ascending."""

    column: Column
    field: Field
    values: np.ndarray


def learn(
    file: TableFile,
    column: Column,
    *,
    min_count: int = 1,
    hash_rows: int = 0,
    earlier: Field | None = None,
) -> LearnedField:
    """The values of a column that get a table row each.

    Args:
      file: has the column.
      column: how to read it.
      min_count: values with fewer cells share one row with unseen ones.
      hash_rows: a category with more values than this is hashed to as many rows; 0 keeps all.
      earlier: the field in data that are extended; it keeps its buckets.

    Raises:
      InputError: the column is empty, is not what the schema says, or has too many values.
    """
    try:
        if column.buckets:
            return _learn_number(file, column, earlier)
        rows = column.hash_rows or (earlier.hash_rows if earlier else 0)
        if not rows:
            values = _learn_category(file, column, min_count)
            rows = hash_rows if hash_rows and len(values) > hash_rows else 0
            if not rows:
                return LearnedField(column, Field(column.name, column.slots), values)
        field = Field(column.name, column.slots, hash_rows=rows)
        return LearnedField(column, field, field.all_buckets)
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"{file.path}: column {column.name!r} is not what the schema says ({first_line(error)})"
        ) from error


def _learn_category(file: TableFile, column: Column, min_count: int) -> np.ndarray:
    cells = file.scan().select(pl.col(column.name))
    if column.slots > 1:
        cells = cells.select(as_list(column).alias(column.name)).explode(column.name)
    counts = (
        cells.select(pl.col(column.name).cast(pl.String))
        .group_by(column.name)
        .len()
        .collect(engine="streaming")
    )
    known = counts.filter(pl.col(column.name).is_not_null() & (pl.col(column.name) != ""))
    if known[column.name].str.contains("\0", literal=True).any():
        raise InputError(f"{file.path}: column {column.name!r} has a zero byte; repair the file")
    frequent = known.filter(pl.col("len") >= min_count)[column.name]
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
        values.add("")  # a missing value is a value of its own
    if not values:
        raise InputError(f"{file.path}: column {column.name!r} is empty; remove the field")
    return np.array(sorted(values))


def _learn_number(file: TableFile, column: Column, earlier: Field | None) -> LearnedField:
    """Quantile buckets of a column of numbers, and one more row for a missing value."""
    file.check_numbers(column.name)
    if earlier is not None and earlier.edges:
        bounds = earlier.edges
    else:
        numbers = file.collect(file.scan().select(number(column.name).drop_nulls())).to_series()
        if not len(numbers):
            raise InputError(f"{file.path}: column {column.name!r} has no numbers")
        fractions = np.arange(1, column.buckets) / column.buckets
        bounds = tuple(np.unique(np.quantile(numbers.to_numpy(), fractions)).tolist())
    field = Field(column.name, edges=bounds)
    return LearnedField(column, field, field.all_buckets)


@dataclass(frozen=True)
class Encoder:
    """Turns cells into the table rows of fields that are stored side by side.

    Attributes:
      fields: in this order.
      vocabulary: theirs, or one that begins or goes on with others.
      first: number of the first of these fields in the vocabulary.
    """

    fields: Sequence[LearnedField]
    vocabulary: Vocabulary
    first: int = 0

    @property
    def num_slots(self) -> int:
        """S."""
        return sum(learned.field.slots for learned in self.fields)

    def rows(self, frame: pl.DataFrame) -> np.ndarray:
        """(n, S) int32 rows of the vocabulary; the pad id where there is no value."""
        blocks = [
            self._rows(frame[learned.column.name], learned, number)
            for number, learned in enumerate(self.fields, start=self.first)
        ]
        return np.concatenate(blocks, axis=1)

    def _rows(self, cells: pl.Series, learned: LearnedField, place: int) -> np.ndarray:
        field = learned.field
        if field.edges:
            value = cells.to_frame().select(number(cells.name)).to_series()
            bucket = field.bucket(value.fill_null(float("nan")).to_numpy())
            return self.vocabulary.encode(place, bucket)[:, None]
        if field.slots == 1:
            return self._encode(cells.cast(pl.String).fill_null(""), field, place)[:, None]
        lists = cells.to_frame().select(as_list(learned.column).alias("list"))
        lists = lists.select(pl.col("list").list.head(field.slots))
        length = lists.select(pl.col("list").list.len()).to_series().to_numpy()
        flat = lists.select(pl.col("list").filter(pl.col("list").list.len() > 0).explode())
        rows = np.full((len(cells), field.slots), self.vocabulary.num_rows, np.int32)
        used = np.arange(field.slots) < length[:, None]
        rows[used] = self._encode(flat.to_series().cast(pl.String), field, place)
        return rows

    def _encode(self, texts: pl.Series, field: Field, place: int) -> np.ndarray:
        """(n,) table rows of texts, each distinct one looked up once."""
        if not field.hash_rows:  # one that is longer than all values need not be kept whole
            longest = self.vocabulary.values[place].dtype.itemsize // 4
            texts = texts.str.head(longest + 1)
        distinct = texts.unique()
        raw = field.hashed(distinct.to_list()) if field.hash_rows else distinct.to_numpy()
        rows = self.vocabulary.encode(place, raw if field.hash_rows else raw.astype(str))
        return texts.replace_strict(distinct, rows, return_dtype=pl.Int32).to_numpy()


def as_list(column: Column) -> pl.Expr:
    """The values of a list column, without empty ones; an empty list where it is missing."""
    cell = pl.col(column.name)
    if column.separator:
        cell = cell.cast(pl.String).str.split(column.separator)
        cell = cell.list.eval(pl.element().str.strip_chars())
        cell = cell.list.eval(pl.element().filter(pl.element() != ""))
    return cell.fill_null([]).list.drop_nulls()
