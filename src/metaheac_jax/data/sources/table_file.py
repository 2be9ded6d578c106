"""A Parquet or CSV file of rows, read as a stream; an error names the row.

Axes: n rows of a block.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO, TypeVar, cast

import numpy as np
import polars as pl

from metaheac_jax.data.campaign import MAX_ID_BYTES, plain_id
from metaheac_jax.errors import InputError

S = TypeVar("S", pl.Series, pl.Expr)

#: What the names of files of tables end with.
ENDINGS = (".parquet", ".csv", ".csv.gz")
ROWS_AT_A_TIME = 200_000  # rows held in memory at a time
#: White space before or after a text, as Python's ``strip`` removes it.
_PADDED = r"^[\s\x1c-\x1f]|[\s\x1c-\x1f]$"


class TableFile:
    """A file of rows, of which some columns are used.

    Attributes:
      path: of the file.
      names: of all its columns.
      columns: names of those in use.
    """

    def __init__(self, path: Path, columns: Sequence[str], missing: Sequence[str] = ()) -> None:
        """Args:
        path: ends in one of `ENDINGS`; columns of text files are text.
        columns: names of those to use.
        missing: what cells of a text file have, besides nothing, in the place of a missing value.

        Raises:
          InputError: the file cannot be read, names a column twice or lacks one of these, or a line
            has another number of cells than its header.
        """
        self.path, self._text = path, not path.name.endswith(".parquet")
        self._missing = ["", *missing]
        try:
            self.names = self._header() if self._text else self.scan().collect_schema().names()
        except (OSError, EOFError, ValueError, csv.Error, pl.exceptions.PolarsError) as error:
            raise self.unreadable(error) from error
        if not self.names:
            raise InputError(f"{path}: is empty")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise InputError(f"{path}: has two columns {twice[0]!r}; rename or remove one")
        for column in columns:
            if column not in self.names:
                hint = "; its values must be separated by commas" if len(self.names) == 1 else ""
                raise InputError(
                    f"{path}: has no column {column!r}; it has {', '.join(self.names)[:200]}{hint}"
                )
        self.columns = list(columns)
        if self._text:
            self._check_cells()

    def _header(self) -> list[str]:
        """The names of a text file's columns; polars renames those that occur twice."""
        with self._opened() as file:
            return next(csv.reader(file), [])

    def _check_cells(self) -> None:
        """Refuses a line with another number of cells, as if it were cut: polars fills it up."""
        line = pl.col("line")
        unquoted = line.str.replace_all('"[^"]*"', "")
        wrong = unquoted.str.count_matches(",", literal=True) != len(self.names) - 1
        over_lines = unquoted.str.contains('"', literal=True)  # a cell goes on in the next line
        found = pl.scan_lines(self.path, glob=False).select(
            over_lines.any().alias("over"), wrong.any().alias("any"), wrong.arg_max().alias("at")
        )
        over, any_wrong, at = self.collect(found).row(0)
        if over:
            at = self._first_other_line()
            any_wrong = at is not None
        if any_wrong:
            raise InputError(
                f"{self.path}: line {at + 1}: expected {len(self.names)} cells, as the header has; "
                "fix or remove it"
            )

    def _first_other_line(self) -> int | None:
        """As a plain reading finds it, counted from 0."""
        try:
            with self._opened() as file:
                reader = csv.reader(file)
                lines = (reader.line_num - 1 for row in reader if len(row) != len(self.names))
                return next(lines, None)
        except (OSError, EOFError, ValueError, csv.Error) as error:
            raise self.unreadable(error) from error

    def _opened(self) -> TextIO:
        if self.path.name.endswith(".gz"):
            return cast("TextIO", gzip.open(self.path, "rt", encoding="utf-8-sig", newline=""))
        return self.path.open(encoding="utf-8-sig", newline="")

    def scan(self) -> pl.LazyFrame:
        """All rows."""
        if self._text:
            return pl.scan_csv(self.path, infer_schema=False, glob=False, null_values=self._missing)
        return pl.scan_parquet(self.path, glob=False)

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """What a query on `scan` gives, computed as a stream.

        Raises:
          InputError: the file cannot be read.
        """
        try:
            return frame.collect(engine="streaming")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise self.unreadable(error) from error

    def count(self) -> int:
        """Number of rows."""
        return int(self.collect(self.scan().select(pl.len())).item())

    def blocks(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """Number of rows before a block, and the block with the columns in use."""
        start = 0
        frames = self.scan().select(self.columns).collect_batches(chunk_size=ROWS_AT_A_TIME)
        try:
            for frame in frames:
                if len(frame):
                    yield start, frame
                start += len(frame)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise self.unreadable(error) from error

    def unreadable(self, error: Exception) -> InputError:
        """The error for a file that cannot be read."""
        hint = "; save it as UTF-8" if "utf-8" in str(error).lower() else ""
        return InputError(f"{self.path}: cannot be read ({first_line(error)}){hint}")

    def fault(self, row: int, what: str) -> InputError:
        """The error for a row, counted from 0; of a text file its line."""
        where = f"line {row + 2}" if self._text else f"row {row + 1}"
        return InputError(f"{self.path}: {where}: {what}; fix or remove it")

    def kind(self, column: str) -> pl.DataType:
        """The type of a column; in a text file it is text."""
        return pl.String() if self._text else self.scan().collect_schema()[column]

    def has_whole_ids(self, column: str) -> bool:
        """Whether a column's ids are all whole numbers that fit into 64 bits."""
        if not self._text and not self.kind(column).is_integer():
            return False
        bad = self.scan().select(_is_not_whole(pl.col(column).cast(pl.String)).any())
        return not self.collect(bad).item()

    def check_numbers(self, column: str) -> None:
        """Refuses a cell that is neither empty nor a finite number.

        Raises:
          InputError: it names the row.
        """
        cell, finite = pl.col(column), number(column).is_finite().fill_null(False)
        wrong = (cell.is_not_null() & (cell.cast(pl.String) != "") & ~finite).cast(pl.UInt8)
        found = self.scan().select(wrong.max().alias("any"), wrong.arg_max().alias("row"))
        any_wrong, row = self.collect(found).row(0)
        if any_wrong:
            raise self.fault(row, f"{column} is not a number")

    def ids(self, column: pl.Series, first_row: int, *, whole: bool) -> np.ndarray:
        """(n,) int64 ids, or the UTF-8 bytes of text.

        Args:
          column: of a block.
          first_row: number of rows before the block.
          whole: whether they are whole numbers.

        Raises:
          InputError: an id is missing, too long, not a whole number as it is written, or has white
            space before or after it; its row is named. Or the column is of a type that has no ids,
            such as a list or dates.
        """
        missing = column.is_null()
        if missing.any():
            raise self.fault(first_row + int(missing.arg_max() or 0), f"no {column.name}")
        if whole:
            return self._whole_ids(column, first_row)
        if not _has_ids(column.dtype):
            raise self._no_ids(column)
        text = self._as_text(column)
        length = text.str.len_bytes()
        wrong = (length > MAX_ID_BYTES) | (length == 0) | text.str.contains("\0", literal=True)
        if wrong.any():
            what = f"{column.name} must have 1 to {MAX_ID_BYTES} bytes, none of them zero"
            raise self.fault(first_row + int(wrong.arg_max() or 0), what)
        padded = text.str.contains(_PADDED)
        if padded.any():
            at = int(padded.arg_max() or 0)
            what = f"{column.name} is {text[at]!r}, expected no white space before or after it"
            raise self.fault(first_row + at, what)
        return np.array([value.encode() for value in text.to_list()])

    def _as_text(self, column: pl.Series) -> pl.Series:
        """A column of ids as text.

        Raises:
          InputError: its type has no text, such as a list.
        """
        if not column.dtype.is_nested():
            with suppress(pl.exceptions.PolarsError):
                return column.cast(pl.String)
        raise self._no_ids(column)

    def _no_ids(self, column: pl.Series) -> InputError:
        return InputError(
            f"{self.path}: {column.name} is of type {column.dtype}, expected whole numbers or text"
        )

    def _whole_ids(self, column: pl.Series, first_row: int) -> np.ndarray:
        if column.dtype == pl.Int64:
            return column.to_numpy()
        text = self._as_text(column)
        wrong = _is_not_whole(text)
        if wrong.any():
            at = int(wrong.arg_max() or 0)
            what = f"{column.name} is {column[at]!r}, expected a whole number such as 12"
            raise self.fault(first_row + at, what)
        return text.cast(pl.Int64).to_numpy()

    def one_of(self, column: pl.Series, first_row: int, allowed: tuple[int, int]) -> np.ndarray:
        """(n,) whole numbers, each one of two.

        Args:
          column: of a block.
          first_row: number of rows before the block.
          allowed: the two.

        Raises:
          InputError: a cell is another; its row is named. Or the column is of a type that has no
            numbers, such as a list or dates.
        """
        kind = column.dtype
        if kind in (pl.Categorical, pl.Enum):
            column = column.cast(pl.String)
        elif not (kind.is_numeric() or kind in (pl.Boolean, pl.String, pl.Null)):
            raise InputError(
                f"{self.path}: {column.name} is of type {kind}, expected {allowed[0]} or "
                f"{allowed[1]} as numbers or text"
            )
        value = column.cast(pl.Float64, strict=False)
        wrong = ~value.is_in([float(number) for number in allowed]).fill_null(False)
        if wrong.any():
            at = int(wrong.arg_max() or 0)
            what = f"{column.name} is {column[at]!r}, expected {allowed[0]} or {allowed[1]}"
            raise self.fault(first_row + at, what)
        return value.to_numpy().astype(int)

    def check_once(self, ids: np.ndarray, name: str) -> None:
        """Refuses an id that occurs twice.

        Raises:
          InputError: it names the second row.
        """
        order = np.argsort(ids, kind="stable")
        again = order[1:][ids[order][1:] == ids[order][:-1]]
        if len(again):
            second = int(again.min())
            raise self.fault(second, f"{name} {plain_id(ids[second])} occurs on an earlier row")


def number(column: str) -> pl.Expr:
    """A column as numbers; null where it is empty or text."""
    return pl.col(column).cast(pl.Float64, strict=False)


def _has_ids(kind: pl.DataType) -> bool:
    """Whether cells of a type are whole numbers or text, which some programs write as bytes."""
    whole = kind.is_integer() or (isinstance(kind, pl.Decimal) and kind.scale == 0)
    return whole or kind in (pl.String, pl.Categorical, pl.Enum, pl.Binary)


def _is_not_whole(text: S) -> S:
    """Whether a text is not a whole number of 64 bits as it is written; null counts as one.

    007 and 12.0 are not: as numbers they would be other ids.
    """
    return text.cast(pl.Int64, strict=False).cast(pl.String).ne_missing(text)


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0][:200]
