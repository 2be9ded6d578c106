"""Infers a first schema from the tables, for the user to edit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from metaheac_jax.data.sources.table_fields import as_text
from metaheac_jax.data.sources.table_file import (
    BYTES_COLUMNS,
    ROWS_AT_A_TIME,
    TEXT_COLUMNS,
    TableFile,
    may_have_ids,
)
from metaheac_jax.data.sources.table_schema import Column, TableSchema
from metaheac_jax.data.sources.tables import find_tables
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field

#: A column of more distinct numbers than this is cut into buckets, and one of more texts than this,
#: all of them distinct, is left out. Lists are text with one of these separators in at least this
#: fraction of the values, and have at most this many slots.
_MAX_CATEGORIES, _SEPARATORS, _LIST_FRACTION, _MAX_SLOTS = 50, ";|", 0.1, 10
_NA = "NA"  # as R and pandas write a missing value


def infer_schema(source: Path) -> tuple[TableSchema, list[str]]:
    """Infers a first schema of tables.

    The first column of users and of campaigns counts as their id. Of the other user columns,
    numbers with many values become buckets, text with separators and Parquet lists become lists,
    and all else that can be a field categories. If a cell of users is NA, NA counts as missing.
    Without a file of campaigns, the schema lacks the columns that make campaigns, which the user
    has to add, and it has no id column if the first column of users cannot have ids, repeats a
    value or lacks one.

    Returns:
      The schema, and the names of the columns that cannot be fields, which it lacks: those without
      text, numbers, or lists of these, those whose name a field cannot have, and columns of users
      such as a name or a time, of which each user has another text or date.

    Raises:
      InputError: there are no users, there are examples without campaigns, a file is unreadable,
        has a column without a name, or no field besides the id; or, with campaigns, a first
        column cannot be an id, or users and campaigns share a field.
    """
    paths = find_tables(source)
    for name in ("users", *(["campaigns"] if "examples" in paths else [])):
        if name not in paths:
            raise InputError(f"{source}: has no {name}.parquet, .csv or .csv.gz")
    users, missing = _head(paths["users"]), ()
    as_bytes = BYTES_COLUMNS.is_in([_NA.encode()])
    is_na = users.select(TEXT_COLUMNS.cast(pl.String) == _NA, as_bytes)
    if any(column.any() for column in is_na.iter_columns()):
        missing = (_NA,)
        users = _head(paths["users"], missing)
    if "campaigns" not in paths:
        has_ids = _has_ids(users)
        of_users, left_out = _fields(paths["users"], users[:, int(has_ids) :])
        user_id = users.columns[0] if has_ids else ""
        return TableSchema(of_users, user_id=user_id, missing=missing), left_out
    campaigns = _head(paths["campaigns"], missing)
    for name, frame in (("users", users), ("campaigns", campaigns)):
        if not _has_ids(frame):
            raise InputError(
                f"{paths[name]}: the first column, {frame.columns[0]!r}, cannot be the id; put a "
                "column first that has a different whole number or text in each row"
            )
    of_users, left_out = _fields(paths["users"], users[:, 1:])
    of_campaigns, also_out = _fields(paths["campaigns"], campaigns[:, 1:], of_users=False)
    names = {column.name for column in of_campaigns}
    both = [column.name for column in of_users if column.name in names]
    if both:
        raise InputError(
            f"{paths['users']} and {paths['campaigns']}: both have a column {both[0]!r}; rename "
            "one of them"
        )
    schema = TableSchema(
        user=of_users,
        campaign=tuple(Column(column.name) for column in of_campaigns),
        user_id=users.columns[0],
        campaign_id=campaigns.columns[0],
        missing=missing,
    )
    return schema, [*left_out, *also_out]


def _head(path: Path, missing: tuple[str, ...] = ()) -> pl.DataFrame:
    """The first rows of a table.

    Raises:
      InputError: the file cannot be read, or a column has no name.
    """
    file = TableFile(path, [], missing)
    if "" in file.names:
        raise InputError(
            f"{path}: column {file.names.index('') + 1} has no name; name it, or remove it (to_csv "
            "of pandas writes such a column unless it is given index=False)"
        )
    return file.collect(file.scan().head(ROWS_AT_A_TIME))


def _has_ids(frame: pl.DataFrame) -> bool:
    """Whether the first column can be an id."""
    first = frame.to_series(0)
    return may_have_ids(first.dtype) and first.is_unique().all() and not first.has_nulls()


def _fields(
    path: Path, frame: pl.DataFrame, *, of_users: bool = True
) -> tuple[tuple[Column, ...], list[str]]:
    """The columns that can be fields, and the names of the others.

    Raises:
      InputError: there is no such column.
    """
    found = {cells.name: _infer(cells, of_users=of_users) for cells in frame.iter_columns()}
    left_out = [name for name, column in found.items() if column is None]
    fields = tuple(column for column in found.values() if column is not None)
    if not fields:
        hint = "" if path.suffix == ".parquet" else ", or separate the values by commas"
        lacks = f" ({', '.join(left_out)} cannot be one)" if left_out else ""
        raise InputError(f"{path}: has no field besides the id{lacks}; add a column{hint}")
    return fields, left_out


def _infer(cells: pl.Series, *, of_users: bool) -> Column | None:
    """How to read the cells; None if they cannot be a field."""
    if cells.dtype == pl.List and not of_users:
        return None
    column = Column(cells.name, slots=2 if cells.dtype == pl.List else 1)
    try:
        Field(column.name)
        text = cells.to_frame().select(as_text(column, whole=None)).to_series().drop_nulls()
    except (InputError, pl.exceptions.PolarsError):  # for example, bytes that are not text
        return None
    if column.slots > 1:
        longest = int(text.list.len().max() or 0)  # pyrefly: ignore
        return replace(column, slots=min(max(longest, 2), _MAX_SLOTS)) if longest else None
    found = {one: text.str.count_matches(one, literal=True) for one in _SEPARATORS}
    # The one in most cells; another may be a part of values.
    separator = max(found, key=lambda one: int((found[one] > 0).sum()))
    counts = found[separator]
    if len(text) and (counts > 0).mean() >= _LIST_FRACTION:  # pyrefly: ignore
        values = text.str.replace_all(separator, "", literal=True).str.strip_chars()
        if not (values != "").any():
            return None
        slots = min(int(counts.max()) + 1, _MAX_SLOTS)  # pyrefly: ignore
        return replace(column, slots=slots, separator=separator)
    numbers = text.cast(pl.Float64, strict=False)
    others = numbers.is_null() | numbers.is_infinite()
    if len(text) and not others.any() and text.n_unique() > _MAX_CATEGORIES:
        return replace(column, buckets=10)
    may_identify = of_users and not cells.dtype.is_numeric()
    if may_identify and len(text) > _MAX_CATEGORIES and text.is_unique().all():
        return None  # it identifies users
    return column
