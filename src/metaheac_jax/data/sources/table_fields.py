"""The fields of tables: the values that their columns have, and the table rows of cells.

Axes: n rows of a block, S slots of some fields side by side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from metaheac_jax.data.sources.table_file import TableFile, first_line, number
from metaheac_jax.data.sources.table_schema import Column
from metaheac_jax.errors import InputError
from metaheac_jax.schema import MISSING, UNSEEN, Field, Vocabulary

#: Bytes that the values of a field may take in memory, all as long as the longest.
_MAX_BYTES = 1 << 30
#: Floats of a smaller size are exact whole numbers if they have no fraction.
_EXACT = 2.0**53


@dataclass(frozen=True)
class LearnedField:
    """A column, its field, and the field's values, ascending.

    Attributes:
      whole: see `spells_whole`.
    """

    column: Column
    field: Field
    values: np.ndarray
    whole: bool = False


def learn(
    file: TableFile,
    column: Column,
    *,
    min_count: int = 1,
    hash_rows: int = 0,
    earlier: Field | None = None,
    known: np.ndarray | tuple[()] = (),
) -> LearnedField:
    """The values of a column that get a table row each.

    Args:
      file: has the column.
      column: how to read it.
      min_count: values with fewer cells share one row with unseen ones.
      hash_rows: a category with more values than this is hashed to as many rows; 0 keeps all.
      earlier: the field in data that are extended; it keeps its buckets.
      known: the texts that are values of that field; they stay spelled as they are.

    Raises:
      InputError: the column is empty, is not what the schema says, or has too many values.
    """
    try:
        if column.buckets:
            return _learn_number(file, column, earlier)
        whole = spells_whole(file, column, known)
        cells = file.scan().select(as_text(column, whole=whole))
        if column.slots > 1:
            cells = cells.explode(column.name)
        rows = column.hash_rows or (earlier.hash_rows if earlier else 0)
        if rows:  # no values are needed, but all cells must be text
            cells.select(pl.col(column.name).str.len_bytes().max()).collect(engine="streaming")
        else:
            values = _learn_category(file, column, cells, min_count)
            rows = hash_rows if hash_rows and len(values) > hash_rows else 0
            if not rows:
                return LearnedField(column, Field(column.name, column.slots), values, whole)
        field = Field(column.name, column.slots, hash_rows=rows)
        return LearnedField(column, field, field.all_buckets, whole)
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"{file.path}: column {column.name!r} is not what the schema says ({first_line(error)})"
        ) from error


def _learn_category(
    file: TableFile, column: Column, cells: pl.LazyFrame, min_count: int
) -> np.ndarray:
    counts = cells.group_by(column.name).len().collect(engine="streaming")
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
    if column.sensitive and {"", MISSING} <= values:
        raise InputError(
            f"{file.path}: sensitive column {column.name!r} has empty cells and cells {MISSING!r}, "
            "which reports show alike; write one of them in another way"
        )
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
        """(n,) table rows of texts, each distinct one looked up once."""
        if not field.hash_rows:  # one that is longer than all values need not be kept whole
            longest = self.vocabulary.values[place].dtype.itemsize // 4
            texts = texts.str.head(longest + 1)
        distinct = texts.unique()
        raw = field.hashed(distinct.to_list()) if field.hash_rows else distinct.to_numpy()
        rows = self.vocabulary.encode(place, raw if field.hash_rows else raw.astype(str))
        return texts.replace_strict(distinct, rows, return_dtype=pl.Int32).to_numpy()


def spells_whole(file: TableFile, column: Column, known: np.ndarray | tuple[()] = ()) -> bool:
    """Whether a category's floats without a fraction are values such as 1, and not 1.0.

    A column of whole numbers becomes one of floats as soon as a cell is missing. Earlier values
    that are spelled 1.0 alone stay so.
    """
    kind = file.kind(column.name)
    if not (kind.inner if isinstance(kind, pl.List) else kind).is_float():
        return False
    return not has_pointed(known)


def has_pointed(texts: np.ndarray | tuple[()]) -> bool:
    """Whether texts have whole numbers such as 1.0, and none such as 1."""
    patterns = (re.compile("-?[0-9]+"), re.compile(r"-?[0-9]+\.0"))
    whole, pointed = (any(map(pattern.fullmatch, texts)) for pattern in patterns)
    return pointed and not whole


def as_text(column: Column, *, whole: bool) -> pl.Expr:
    """A category's cells as text, or as lists of text without empty ones.

    A missing list is empty.

    Args:
      column: how to read it.
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


def _as_text(cell: pl.Expr, whole: bool) -> pl.Expr:
    if not whole:
        return cell.cast(pl.String)
    text = cell.cast(pl.Int64, strict=False).cast(pl.String)
    return pl.when(_is_whole(cell)).then(text).otherwise(cell.cast(pl.String))


def _is_whole(cell: pl.Expr) -> pl.Expr:
    """Whether floats are exact whole numbers."""
    return (cell.abs() < _EXACT) & (cell == cell.floor())
