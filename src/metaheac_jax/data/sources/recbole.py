"""RecBole's atomic files (``.inter``, ``.user``, ``.item``): tab-separated, with typed headers.

A header cell is ``name:type``. The types are ``token`` (a string), ``token_seq`` (strings separated
by single spaces), ``float`` and ``float_seq``. The format has no quoting and no comments.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from metaheac_jax.data.sources.text_blocks import check_start
from metaheac_jax.errors import InputError

MAX_COLUMNS = 1000  # the time to read grows with the number of columns
#: Types in header cells, and the data types of their columns.
TYPES: dict[str, pl.DataType] = {
    "token": pl.String(),
    "token_seq": pl.List(pl.String()),
    "float": pl.Float64(),
    "float_seq": pl.List(pl.Float64()),
}


def read_atomic(path: Path) -> pl.DataFrame:
    """Reads one atomic file; row i of the result is line i + 2 of the file.

    Returns:
      One column per header cell, without the type in its name: ``token`` as String (empty if
      missing), ``token_seq`` as List(String) (empty if missing), ``float`` as Float64 (null if
      missing) and ``float_seq`` as List(Float64) (empty if missing).

    Raises:
      InputError: the file is missing, is not UTF-8 or has no data, a header cell has an unknown
        type or a repeated name, a line and the header differ in their number of cells, or a number
        is not finite; the message names the file and, where there is one, the line.
    """
    path = Path(path)
    lines = _read_lines(path)
    if len(lines) < 2:
        raise InputError(f"{path}: expected a header and a line of data, got {len(lines)} lines")
    header = _parse_header(path, lines[0])

    data = lines[1:]
    tabs = data.str.count_matches("\t", literal=True)
    faulty = _first(tabs != len(header) - 1)
    if faulty is not None:
        raise InputError(
            f"{path}:{faulty + 2}: {tabs[faulty] + 1} cells, expected {len(header)} as in the "
            "header; fix or remove the line"
        )
    cells = data.str.split_exact("\t", len(header) - 1).struct.unnest().get_columns()
    return pl.DataFrame(
        [_convert(path, name, kind, cell) for (name, kind), cell in zip(header, cells, strict=True)]
    )


def _read_lines(path: Path) -> pl.Series:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected one of RecBole's atomic files")
    try:
        with path.open("rb") as file:
            check_start(path, file.read(4))  # polars would decompress the file
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
    """Name and type of each column."""
    header: dict[str, str] = {}
    cells = line.split("\t")
    if len(cells) > MAX_COLUMNS:
        raise InputError(f"{path}:1: {len(cells)} columns, more than {MAX_COLUMNS}; give fewer")
    for cell in cells:
        name, _, kind = cell.rpartition(":")
        if not name or kind not in TYPES:
            raise InputError(
                f"{path}:1: header cell {cell!r}, expected name:type with one of the types "
                + ", ".join(TYPES)
            )
        if name in header:
            raise InputError(f"{path}:1: column {name!r} is named twice; rename one")
        header[name] = kind
    return list(header.items())


def _convert(path: Path, name: str, kind: str, cells: pl.Series) -> pl.Series:
    """Parses the cells of a column."""
    if kind == "token":
        return cells.alias(name)
    if kind == "float":
        cells = cells.replace("", None).alias(name)
        values = cells.cast(pl.Float64, strict=False)
        bad = ~values.is_finite().fill_null(False) & cells.is_not_null()
    else:
        parts = cells.str.extract_all("[^ ]+").alias(name)
        if kind == "token_seq":
            return parts
        values = parts.list.eval(pl.element().cast(pl.Float64, strict=False))
        bad = ~values.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    faulty = _first(bad)
    if faulty is not None:
        raise InputError(
            f"{path}:{faulty + 2}: {cells[faulty]!r} in column {name!r} of type {kind}, expected "
            "finite numbers; fix the cell"
        )
    return values


def _first(mask: pl.Series) -> int | None:
    """Index of the first true element, if any."""
    return mask.arg_max() if mask.any() else None
