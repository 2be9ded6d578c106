"""Schemas of tables, which say which columns to use and how to read them: files, and a first one.

Axis: n cells of a column.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import polars as pl

from metaheac_jax.data.columns import Column, cell_texts
from metaheac_jax.data.table_file import ROWS_AT_A_TIME, Table
from metaheac_jax.errors import InputError, about, check_keys, check_whole
from metaheac_jax.files import read_json

#: A column of more distinct numbers than this is cut into buckets, and one of more texts than this,
#: all of them distinct, is left out. Lists are text with one of these separators in at least this
#: fraction of the cells, and have at most this many slots.
_MAX_CATEGORIES, _SEPARATORS, _LIST_FRACTION, _MAX_SLOTS = 50, ";|", 0.1, 10
_NA = "NA"  # as R and pandas write a missing value


@dataclass(frozen=True)
class TableSchema:
    """The content of a schema file of tables.

    Attributes:
      user, campaign: fields of users and of campaigns; campaign fields have one slot.
      user_id: name of the id column of users, in all files that have it.
      campaign_id: name of the id column of campaigns, in all files that have it.
      min_count: a value that fewer users have shares one table row with all unseen values.
      missing: texts that are a missing value if a cell or a value of a list consists of one.

    Raises:
      InputError: a field is named twice, is an id column or has an option that it cannot have; the
        message names it.
    """

    user: tuple[Column, ...]
    campaign: tuple[Column, ...]
    user_id: str = "user_id"
    campaign_id: str = "campaign_id"
    min_count: int = 1
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_whole("schema: min_count", self.min_count, 0)
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
        check_keys("schema", data, kinds | dict.fromkeys((*sides, "missing"), list))
        for side in sides:
            if side not in data:
                raise InputError(f"schema: has no {side!r}; name the fields there")
        missing = tuple(data.get("missing", []))
        if not all(isinstance(text, str) for text in missing):
            raise InputError("schema: missing must be a list of strings")
        columns: dict[str, Any] = {side: tuple(map(Column.from_json, data[side])) for side in sides}
        return TableSchema(**data | columns | {"missing": missing})

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


def infer_schema(paths: Mapping[str, Path]) -> TableSchema:
    """Infers a first schema of tables, and warns of the columns that it leaves out.

    The first column of users and of campaigns is their id. Of the other user columns, numbers with
    many values become buckets, text with separators and Parquet lists become lists, and all else
    that can be a field categories. If a cell of users is NA, NA counts as missing. Left out are
    columns without text or numbers, and those such as a name or a time, of which each user has
    another text or date.

    Args:
      paths: the files of ``users`` and ``campaigns``.

    Raises:
      InputError: a file is unreadable, or has no column that can be an id or no field; or users and
        campaigns share a field.
    """
    frames: dict[str, pl.DataFrame] = {}
    for name in ("users", "campaigns"):
        table = Table(paths[name])
        if "" in table.names:
            raise InputError(
                f"{paths[name]}: column {table.names.index('') + 1} has no name; name it, or "
                "remove it (to_csv of pandas writes one unless it is given index=False)"
            )
        frames[name] = table.collect(table.scan().head(ROWS_AT_A_TIME))
    is_na = frames["users"].select((pl.col(pl.String) == _NA).any())
    missing = (_NA,) if any(column.any() for column in is_na.iter_columns()) else ()
    columns: dict[str, tuple[Column, ...]] = {}
    for name, frame in frames.items():
        cells = frame.iter_columns()
        next(cells, None)  # the id
        found = {own.name: _infer(own, missing, of_users=name == "users") for own in cells}
        columns[name] = tuple(own for own in found.values() if own is not None)
        left_out = [own for own, column in found.items() if column is None]
        if not columns[name]:
            raise InputError(
                f"{paths[name]}: has no field besides the id {frame.columns[0]!r}; add a column, "
                "or separate the values by commas"
            )
        if left_out:
            warnings.warn(
                f"{paths[name]}: columns that are no fields: {', '.join(left_out)}", stacklevel=3
            )
    with about(f"{paths['users']} and {paths['campaigns']}"):
        return TableSchema(
            user=columns["users"],
            campaign=tuple(Column(own.name) for own in columns["campaigns"]),
            user_id=frames["users"].columns[0],
            campaign_id=frames["campaigns"].columns[0],
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
