"""Times of examples: microseconds since 1970 in UTC."""

from __future__ import annotations

import polars as pl

from metaheac_jax.data.table_file import Table
from metaheac_jax.errors import InputError

EXPECTED = "a date or a time, such as 2026-05-01 or 2026-05-01T12:30:00+02:00"
_ZONE = r"(?:Z|[+-]\d\d:?\d\d)$"


def time_cells(table: Table, column: str) -> pl.Expr:
    """The Int64 times in a column of dates, of times or of text. Without a zone, they are in UTC.

    Raises:
      InputError: a cell is missing or is none, or some have a zone and others have none; the
        message names the file and the row.
    """
    kind = table.kind(column)
    if kind in (pl.Date, pl.Datetime):
        cell = pl.col(column).cast(pl.Datetime("us"))
    else:
        text = pl.col(column).cast(pl.String)
        zoned = text.str.contains(f"T.*{_ZONE}") | text.str.contains(f" .*{_ZONE}")
        first = table.collect(table.scan().select(zoned.first())).item()
        same = (zoned == bool(first)).fill_null(True)
        table.check(column, same, "a zone in all rows or in none")
        cell = _parsed(text, zoned=bool(first))
    table.check(column, cell.is_not_null(), EXPECTED)
    return cell.dt.epoch("us")


def parse_time(text: str, what: str) -> int:
    """A time as text.

    Raises:
      InputError: it is none; the message begins with ``what``.
    """
    cell = pl.lit(text)
    both = (_parsed(cell, zoned=zoned).dt.epoch("us") for zoned in (False, True))
    found = pl.select(pl.coalesce(*both)).item()
    if found is None:
        raise InputError(f"{what}: {text!r} is no time; give {EXPECTED}")
    return found


def _parsed(text: pl.Expr, *, zoned: bool) -> pl.Expr:
    """Text as times in UTC, without a zone; null if it is none."""
    text = text.str.strip_chars().str.replace(" ", "T", literal=True).str.replace("Z$", "+00:00")
    clock = pl.when(text.str.contains("T", literal=True)).then(text).otherwise(text + "T00:00:00")
    clock = clock.str.replace(r"T(\d\d:\d\d)($|[+-])", "T$1:00$2")
    form, zone = "%Y-%m-%dT%H:%M:%S%.f", "%:z" if zoned else ""
    parsed = clock.str.to_datetime(form + zone, time_unit="us", strict=False)
    return parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if zoned else parsed
