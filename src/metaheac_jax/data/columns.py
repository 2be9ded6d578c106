"""Columns of tables as fields: their values and table rows, and a schema inferred from them.

Axes: n rows of a block or cells of a column, S slots of adjacent fields.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa

from metaheac_jax.data.table_file import ROWS_AT_A_TIME, Table
from metaheac_jax.encoding import Encoder
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema, Vocabulary, as_values, spelled

#: A column of more distinct numbers than this is cut into buckets, and one of more texts than this,
#: all of them distinct, is left out. Lists are text with one of these separators in at least this
#: fraction of the cells, and have at most this many slots.
_MAX_CATEGORIES, _SEPARATORS, _LIST_FRACTION, _MAX_SLOTS = 50, ";|", 0.1, 10
_LEAST_SPREAD = 1e-6  # of a component of a vector, relative to its mean; others are constant
_NA = "NA"  # as R and pandas write a missing value
#: Types whose texts Arrow and polars spell alike; others become text in polars.
_PLAIN = (pl.String, pl.Boolean, pl.Float64, pl.Categorical, pl.Enum)


def learn(table: Table, column: Field, missing: Sequence[str] = ()) -> tuple[Field, np.ndarray]:
    """The column, with the edges of its buckets, and the ascending values that get a table row.

    Args:
      table: contains the column.
      column: how to read it.
      missing: as in `Schema`.

    Raises:
      InputError: the column has no number or no value of a list, or does not fit the schema.
    """
    where, rows = f"{table.path}: column {column.name!r}", table.scan()
    check_kind(table, column)
    if column.vector:
        return _standardised(table, column), np.arange(column.vector)
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
    if column.is_number:
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


def check_kind(table: Table, column: Field) -> None:
    """Refuses a column of lists that is described as single values or as text, or the reverse."""
    where, kind = f"{table.path}: column {column.name!r}", table.kind(column.name)
    is_list = isinstance(kind, pl.List | pl.Array)
    if column.vector:
        if not is_list or not kind.inner.is_numeric():
            raise InputError(f'{where}: has no lists of numbers; remove "vector" from its field')
        return
    if column.slots > 1 and not column.separator and not is_list:
        raise InputError(f'{where}: has no lists; give the field a "separator", such as ";"')
    if is_list and (column.separator or column.slots == 1):
        raise InputError(
            f'{where}: has lists; give a field of users "slots", the most values to keep, and no '
            '"separator"; remove a field of campaigns'
        )


def _standardised(table: Table, column: Field) -> Field:
    """A vector with the means and standard deviations of its components, if it has none."""
    cells = pl.col(column.name).cast(pl.List(pl.Float64))
    right = (cells.list.len() == column.vector) & cells.list.eval(
        pl.element().is_finite().fill_null(False)
    ).list.all()
    expected = f"a list of {column.vector} finite numbers, or nothing"
    table.check(column.name, right | cells.is_null(), expected)
    if column.center:
        return column
    count, total, squares = 0, np.zeros(column.vector), np.zeros(column.vector)
    for _, block in table.blocks([column.name]):
        numbers = block.select(cells.list.to_array(column.vector)).to_series().drop_nulls()
        array = numbers.to_numpy().reshape(len(numbers), column.vector)
        count, total = count + len(array), total + array.sum(axis=0)
        squares += np.square(array).sum(axis=0)
    if not count:
        raise InputError(f"{table.path}: column {column.name!r}: has no vectors; remove the field")
    center = total / count
    spread = np.sqrt(np.maximum(squares / count - center**2, 0))
    scale = np.where(spread > _LEAST_SPREAD * np.abs(center), spread, 1)
    return replace(column, center=tuple(center.tolist()), scale=tuple(scale.tolist()))


def cell_texts(column: Field, missing: Sequence[str] = ()) -> pl.Expr:
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


def _number(column: Field, missing: Sequence[str]) -> pl.Expr:
    """Cells as float64; null if they are missing or no number."""
    return _text(pl.col(column.name), missing).cast(pl.Float64, strict=False)


def infer_schema(paths: Mapping[str, Path | str]) -> Schema:
    """Infers a first schema of tables, and warns of the columns that it leaves out.

    Ids are in the columns ``user_id`` and ``campaign_id``. Of the other user columns, numbers with
    many values become buckets, lists of equally many floats vectors, text with separators and other
    Parquet lists lists, and all else that can be a field categories. If a cell of users is NA, NA
    counts as missing. Left out are columns without a name, text or numbers, and those such as a
    name or a time, of which each user has another text or date.

    Args:
      paths: the files of ``users`` and ``campaigns``.

    Raises:
      InputError: a file is unreadable, or has no id or no field; or users and campaigns share one.
    """
    missing, columns = (), {}
    ids = {"users": "user_id", "campaigns": "campaign_id"}
    tables = {name: Table(paths[name], [own_id]) for name, own_id in ids.items()}
    for name, table in tables.items():
        frame = table.collect(table.scan().head(ROWS_AT_A_TIME))
        if name == "users" and any((column == _NA).any() for column in frame.select(cs.string())):
            missing = (_NA,)
        cells = frame.drop(ids[name]).iter_columns()
        found = {series.name: _infer(series, missing, of_users=name == "users") for series in cells}
        columns[name] = [field for field in found.values() if field is not None]
        left_out = [name or "(without a name)" for name in found if found[name] is None]
        if left_out:
            told = f"{paths[name]}: columns that are no fields: {', '.join(left_out)}"
            warnings.warn(told, stacklevel=3)
    campaign = tuple(Field(field.name) for field in columns["campaigns"])
    return Schema(tuple(columns["users"]), campaign, missing=missing)


def _infer(cells: pl.Series, missing: tuple[str, ...], *, of_users: bool) -> Field | None:
    """How to read the cells (n,); None if they cannot be a field."""
    is_list = isinstance(cells.dtype, pl.List | pl.Array)
    if is_list and not of_users:
        return None
    if is_list and getattr(cells.dtype, "inner", pl.Null).is_float():
        lengths = cells.cast(pl.List(pl.Float64)).list.len().drop_nulls().unique()
        return Field(cells.name, vector=int(lengths[0])) if len(lengths) == 1 else None
    try:
        column = Field(cells.name, slots=2 if is_list else 1)
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
    larger = (numbers[numbers > edge] for edge in edges[(counts > 1) | (edges == smallest)])
    edges = np.union1d(edges, [some.min() for some in larger if len(some)])
    used = edges[edges > smallest]
    return tuple((used if len(used) else edges[:1]).tolist())


def encode(
    frame: pl.DataFrame,
    fields: Sequence[Field],
    vocabulary: Vocabulary,
    first: int = 0,
    missing: Sequence[str] = (),
) -> np.ndarray:
    """(n, S) int32 table rows of the cells in a block; the pad id where there is no value.

    Args:
      frame: has the columns.
      fields: fields that are stored side by side.
      vocabulary: values of these fields, and possibly of others before and after them.
      first: position of the first of these fields in the vocabulary.
      missing: as in `Schema`.
    """
    parts = [np.empty((len(frame), 0), np.int32)]
    for number, field in enumerate(fields, start=first):
        encoder = Encoder(number, field, vocabulary, tuple(missing))
        cells = frame[field.name]
        parts.append(
            encoder.rows(
                cells.cast(pl.List(pl.Float64)).to_arrow() if field.vector else _as_arrow(cells)
            )
        )
    return np.concatenate(parts, axis=1)


def _as_arrow(cells: pl.Series) -> pa.Array:
    """A column of polars as one of Arrow, with texts where the two would spell values otherwise."""
    if isinstance(cells.dtype, pl.Array):
        cells = cells.arr.to_list()
    kind = cells.dtype
    inner = kind.inner if isinstance(kind, pl.List) else kind
    if not (inner in _PLAIN or inner.is_signed_integer()):
        cells = cells.cast(pl.List(pl.String) if isinstance(kind, pl.List) else pl.String)
    return cells.to_arrow()
