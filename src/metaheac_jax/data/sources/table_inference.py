"""Infers a first schema from the tables, for the user to edit."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from metaheac_jax.data.sources.table_file import ROWS_AT_A_TIME, TableFile, first_line
from metaheac_jax.data.sources.table_schema import Column, TableSchema
from metaheac_jax.data.sources.tables import find_tables
from metaheac_jax.errors import InputError

#: A column of more distinct numbers than this is cut into buckets. Lists are text with one of these
#: separators in at least this fraction of the values, and have at most this many slots.
_MAX_CATEGORIES, _SEPARATORS, _LIST_FRACTION, _MAX_SLOTS = 50, ";|", 0.1, 10
_NA = "NA"  # as R and pandas write a missing value


def infer_schema(source: Path) -> TableSchema:
    """Infers a first schema of tables.

    The first column of users and of campaigns counts as their id. Of the other user
    columns, numbers with many values become buckets, text with separators and Parquet lists become
    lists, and all else categories. If a cell of users is NA, NA counts as missing. Without a file
    of campaigns, the schema lacks the columns that make campaigns, which the user has to add, and
    it has no id column if the first column of users is a list, repeats a value or lacks one.

    Raises:
      InputError: there are no users, there are examples without campaigns, a file is unreadable or
        has no column besides the id, or users and campaigns share a column.
    """
    paths = find_tables(source)
    for name in ("users", *(["campaigns"] if "examples" in paths else [])):
        if name not in paths:
            raise InputError(f"{source}: has no {name}.parquet, .csv or .csv.gz")
    users, missing = _head(paths["users"]), ()
    if any((users[name] == _NA).any() for name in users.select(pl.col(pl.String)).columns):
        missing = (_NA,)
        users = _head(paths["users"], missing)
    if "campaigns" not in paths:
        first = users.to_series(0)
        has_ids = first.dtype != pl.List and first.is_unique().all() and not first.has_nulls()
        fields = users.columns[1:] if has_ids else users.columns
        columns = tuple(_infer(paths["users"], users[name]) for name in fields)
        user_id = users.columns[0] if has_ids else ""
        return TableSchema(columns, user_id=user_id, missing=missing)
    campaigns = _head(paths["campaigns"])
    for name, frame in (("users", users), ("campaigns", campaigns)):
        if frame.width == 1:
            raise InputError(f"{paths[name]}: has no column besides the id; add one")
    both = [name for name in users.columns[1:] if name in campaigns.columns[1:]]
    if both:
        raise InputError(
            f"{paths['users']} and {paths['campaigns']}: both have a column {both[0]!r}; rename "
            "one of them"
        )
    return TableSchema(
        user=tuple(_infer(paths["users"], users[name]) for name in users.columns[1:]),
        campaign=tuple(map(Column, campaigns.columns[1:])),
        user_id=users.columns[0],
        campaign_id=campaigns.columns[0],
        missing=missing,
    )


def _head(path: Path, missing: tuple[str, ...] = ()) -> pl.DataFrame:
    file = TableFile(path, [], missing)
    return file.collect(file.scan().head(ROWS_AT_A_TIME))


def _infer(path: Path, column: pl.Series) -> Column:
    if column.dtype == pl.List:
        longest = int(column.list.len().max() or 1)  # pyrefly: ignore
        return Column(column.name, slots=min(max(longest, 2), _MAX_SLOTS))
    try:
        text = column.cast(pl.String).drop_nulls()
    except pl.exceptions.PolarsError as error:  # for example, bytes that are not text
        raise InputError(
            f"{path}: column {column.name!r}: expected text or numbers ({first_line(error)}); "
            "leave it out"
        ) from error
    for separator in _SEPARATORS:
        counts = text.str.count_matches(separator, literal=True)
        if len(text) and (counts > 0).mean() >= _LIST_FRACTION:  # pyrefly: ignore
            slots = min(int(counts.max()) + 1, _MAX_SLOTS)  # pyrefly: ignore
            return Column(column.name, slots=slots, separator=separator)
    numbers = text.cast(pl.Float64, strict=False)
    if len(text) and not numbers.is_null().any() and text.n_unique() > _MAX_CATEGORIES:
        return Column(column.name, buckets=10)
    return Column(column.name)
