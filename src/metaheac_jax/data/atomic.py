"""RecBole's atomic files (``.inter``, ``.user``, ``.item``): tab-separated, with typed headers.

A header cell is ``name:type``; the types are ``token`` (a string), ``token_seq`` (strings with
single spaces between), ``float`` and ``float_seq``. There is no quoting and no comment.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from metaheac_jax.errors import InputError

#: The types of a header cell, and what a column of that type becomes.
TYPES: dict[str, pl.DataType] = {
    "token": pl.String(),
    "token_seq": pl.List(pl.String()),
    "float": pl.Float64(),
    "float_seq": pl.List(pl.Float64()),
}


def read_atomic(path: Path) -> pl.DataFrame:
    """Reads one atomic file; row i of the result stands on line i + 2 of the file.

    Returns:
      One column a header cell, under its bare name: ``token`` as String (empty if missing),
      ``token_seq`` as List(String) (empty if missing), ``float`` as Float64 (null if missing) and
      ``float_seq`` as List(Float64) (empty if missing).

    Raises:
      InputError: no such file, not UTF-8, no data, a header cell without a known type, a name
        twice, a line with another number of cells than the header, or no finite number where one
        is due; file and line are named.
    """
    path = Path(path)
    lines = _read_lines(path)
    if len(lines) < 2:
        raise InputError(f"{path}: expected a header and a line of data, got {len(lines)} lines")
    header = _parse_header(path, lines[0])

    data = lines[1:]
    tabs = data.str.count_matches("\t", literal=True)
    row = _first(tabs != len(header) - 1)
    if row is not None:
        raise InputError(
            f"{path}:{row + 2}: {tabs[row] + 1} cells, expected {len(header)} as in the header; "
            "mend or remove the line"
        )
    cells = data.str.split_exact("\t", len(header) - 1).struct.unnest().get_columns()
    return pl.DataFrame(
        [_convert(path, name, kind, cell) for (name, kind), cell in zip(header, cells, strict=True)]
    )


def _read_lines(path: Path) -> pl.Series:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected one of RecBole's atomic files")
    try:
        return pl.read_lines(path, glob=False)["line"]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except pl.exceptions.ComputeError as error:
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                raise InputError(f"{path}:{number}: not UTF-8; convert the file") from error
        raise


def _parse_header(path: Path, line: str) -> list[tuple[str, str]]:
    """Name and type of every column."""
    header = []
    for cell in line.split("\t"):
        name, _, kind = cell.rpartition(":")
        if not name or kind not in TYPES:
            raise InputError(
                f"{path}:1: header cell {cell!r}, expected name:type with one of the types "
                + ", ".join(TYPES)
            )
        if name in [known for known, _ in header]:
            raise InputError(f"{path}:1: column {name!r} is named twice; rename one")
        header.append((name, kind))
    return header


def _convert(path: Path, name: str, kind: str, cells: pl.Series) -> pl.Series:
    """A column of cells as strings -> its values."""
    if kind == "token":
        return cells.alias(name)
    parts = cells.str.extract_all("[^ ]+").alias(name)
    if kind == "token_seq":
        return parts
    if kind == "float":
        parts = cells.replace("", None).alias(name)
        values = parts.cast(pl.Float64, strict=False)
        bad = ~values.is_finite().fill_null(False) & parts.is_not_null()
    else:
        values = parts.list.eval(pl.element().cast(pl.Float64, strict=False))
        bad = ~values.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    row = _first(bad)
    if row is not None:
        raise InputError(
            f"{path}:{row + 2}: {cells[row]!r} in column {name!r} of type {kind}, expected finite "
            "numbers; mend the cell"
        )
    return values


def _first(mask: pl.Series) -> int | None:
    """Index of the first true element, if any."""
    return mask.arg_max() if mask.any() else None
