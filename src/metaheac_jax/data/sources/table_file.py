"""Reads Parquet and CSV files of rows as a stream; errors name the row.

Axes: n rows of a block.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

import numpy as np
import polars as pl
import polars.selectors as cs

from metaheac_jax.data.campaign import MAX_ID_BYTES, plain_id
from metaheac_jax.data.examples import is_repeat
from metaheac_jax.errors import InputError

S = TypeVar("S", pl.Series, pl.Expr)

#: Endings of the names of table files.
ENDINGS = (".parquet", ".csv", ".csv.gz")
_LISTS_OF_TIMES = cs.by_dtype(*(pl.List(pl.Datetime(unit)) for unit in ("ms", "ns")))
#: The columns of text, which may be dictionaries or bytes in a Parquet file.
TEXT_COLUMNS, BYTES_COLUMNS = pl.col(pl.String, pl.Categorical, pl.Enum), pl.col(pl.Binary)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
ROWS_AT_A_TIME = 200_000  # rows held in memory at a time
#: White space before or after a text that Python's ``strip`` would remove.
_PADDED = r"^[\s\x1c-\x1f]|[\s\x1c-\x1f]$"
#: What Python raises for a file that it cannot read as CSV.
_ERRORS = (OSError, EOFError, ValueError, csv.Error, zlib.error)
#: A CSV cell in quotes, or its part on one line; "end" is its last quote.
_QUOTED = re.compile(r'(?:^|(?<=,))"[^"]*(?:""[^"]*)*(?P<end>"(?=[,\r\n]|\Z)|\Z)')


def is_table(path: Path) -> bool:
    """Whether a path is a table's file, or a folder of Parquet files such as Spark writes."""
    is_folder = path.name.endswith(".parquet") and path.is_dir()
    return is_folder or (path.is_file() and path.name.endswith(ENDINGS))


class TableFile:
    """A file of rows, some of whose columns are used; or a folder of such Parquet files.

    The files of a folder follow each other by name. Those whose names begin with a dot or an
    underscore do not count.

    Attributes:
      path: path of the file or folder.
      names: names of all its columns.
      columns: names of the columns in use.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        missing: Sequence[str] = (),
        *,
        id_column: str = "",
    ) -> None:
        """Args:
        path: path that ends in one of `ENDINGS`, a folder in ``.parquet``; columns of CSV files
          are text.
        columns: names of the columns to use.
        missing: text that stands for a missing value, besides empty cells of a CSV file. In a
          Parquet file, a number that it spells is missing, too.
        id_column: the column of ids, if there is one; a number is never missing in it.

        Raises:
          InputError: the file cannot be read, names a column twice or lacks one of ``columns``, or
            a line and the header differ in their number of cells; or the folder has no such file,
            or files with other columns or types.
        """
        self.path, self._text, self._parts = path, not path.name.endswith(".parquet"), [path]
        if not self._text and path.is_dir():
            parts = sorted(path.glob("*.parquet"))
            self._parts = [part for part in parts if part.name[0] not in "._"]
            if not self._parts:
                raise InputError(f"{path}: has no file NAME.parquet; put the table's files there")
        self._missing, self._id_column = list(missing), id_column
        try:
            self._check_parts()
            self.names = self._header() if self._text else self.scan().collect_schema().names()
        except InputError:
            raise
        except (*_ERRORS, pl.exceptions.PolarsError) as error:
            raise self.unreadable(error) from error
        if not self.names:
            raise InputError(f"{path}: is empty")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise InputError(f"{path}: has two columns {twice[0]!r}; rename or remove one")
        self.check_columns(columns)
        self.columns = list(columns)
        self._over_lines = self._text and self._check_cells()

    def _check_parts(self) -> None:
        """Refuses files of one folder that differ in their columns or types."""
        if len(self._parts) == 1:
            return
        first, *others = ((part, pl.read_parquet_schema(part)) for part in self._parts)
        for part, own in others:
            for name in [*first[1], *own]:
                here, there = own.get(name, "missing"), first[1].get(name, "missing")
                if here != there:
                    raise InputError(
                        f"{part}: column {name!r} is {here}, but in {first[0].name} it is {there}; "
                        "write all files with the same columns and types"
                    )

    def check_columns(self, columns: Sequence[str]) -> None:
        """Refuses a file that lacks one of these columns."""
        for column in columns:
            if column not in self.names:
                alone = self._text and len(self.names) == 1
                hint = "; its values must be separated by commas" if alone else ""
                if column in [name.strip() for name in self.names]:
                    hint = "; remove the spaces around this name in the header"
                raise InputError(
                    f"{self.path}: has no column {column!r}; it has "
                    f"{', '.join(self.names)[:200]}{hint}"
                )

    def _header(self) -> list[str]:
        """The names of a CSV file's columns, which polars would rename if repeated.

        Polars does not know lines that end in CR alone, which are refused.
        """
        line = ""
        with self._opened() as file:
            names = next(csv.reader(line := text for text in file), [])
        if line.endswith("\r"):
            raise InputError(
                f"{self.path}: line 1 ends in CR alone; save it with LF or CRLF line ends"
            )
        return names

    def _check_cells(self) -> bool:
        """Refuses a line with the wrong number of cells; polars would pad a truncated line.

        Returns:
          Whether a quoted cell continues on the next line.
        """
        line = pl.col("line")
        unquoted = line.str.replace_all('"[^"]*"', "")
        wrong = unquoted.str.count_matches(",", literal=True) != len(self.names) - 1
        over_lines = unquoted.str.contains('"', literal=True)  # a cell continues on the next line
        lines = pl.scan_lines(self.path, glob=False).select(over=over_lines, wrong=wrong)
        first_wrong = pl.col("at").filter("wrong").min()
        found = lines.with_row_index("at").select(pl.col("over").any(), first_wrong)
        over, at = self.collect(found).row(0)
        if over:
            at = self._first_other_line()
        if at is not None:
            self.check_quotes(at + 1)
            raise InputError(
                f"{self.path}: line {at + 1}: expected {len(self.names)} cells, as the header has; "
                "fix or remove it"
            )
        if over:
            self.check_quotes()  # polars may take such a quote for a cell of several lines
        return bool(over)

    def _first_other_line(self) -> int | None:
        """The line, from 0, on which the first row with the wrong number of cells begins."""
        try:
            with self._opened() as file:
                reader, begin = csv.reader(file, strict=True), 0
                for row in reader:
                    if len(row) != len(self.names):
                        return begin
                    begin = reader.line_num
                return None
        except _ERRORS as error:
            raise self.unreadable(error) from error

    def check_quotes(self, last: float = math.inf) -> None:
        """Refuses a quote inside a CSV cell that is not in quotes, on lines up to ``last``.

        To be called when polars has failed, since its message names no line, and when cells may
        have several lines.

        Raises:
          InputError: there is such a quote; the message names its line.
        """
        if not self._text:
            return
        inside = False
        with suppress(OSError, EOFError, UnicodeError, zlib.error), self._opened() as file:
            for number, line in enumerate(file, start=1):
                if number > last:
                    return
                if inside or '"' in line:
                    whole = '"' + line if inside else line
                    if '"' in _QUOTED.sub("", whole):
                        deque(file, 0)  # a damaged file has other faults
                        raise InputError(
                            f"{self.path}: line {number}: a quote inside a cell; put the cell in "
                            "quotes and double the quote"
                        )
                    inside = any(not cell["end"] for cell in _QUOTED.finditer(whole))

    def _opened(self) -> TextIO:
        if self.path.name.endswith(".gz"):
            return cast("TextIO", gzip.open(self.path, "rt", encoding="utf-8-sig", newline=""))
        return self.path.open(encoding="utf-8-sig", newline="")

    def scan(self) -> pl.LazyFrame:
        """All rows."""
        numbers = [text for text in self._missing if _NUMBER.fullmatch(text)]
        words = [text for text in self._missing if text not in numbers]
        if self._text:
            nulls = ["", *words]
            rows = pl.scan_csv(self.path, infer_schema=False, glob=False, null_values=nulls)
            return rows.with_columns(self._without(pl.all(), numbers)) if numbers else rows
        rows = pl.scan_parquet(self._parts, glob=False)
        rows = rows.with_columns(  # so that the unit of a file does not change the text of a time
            cs.datetime().dt.cast_time_unit("us"), _LISTS_OF_TIMES.cast(pl.List(pl.Datetime("us")))
        )
        if not self._missing:
            return rows
        rows = rows.with_columns(
            pl.when(~TEXT_COLUMNS.cast(pl.String).is_in(words)).then(TEXT_COLUMNS),
            pl.when(~BYTES_COLUMNS.is_in([text.encode() for text in words])).then(BYTES_COLUMNS),
        )
        if not numbers:
            return rows
        values = [float(text) for text in numbers]
        return rows.with_columns(
            self._without(TEXT_COLUMNS, numbers, pl.String()),
            self._without(BYTES_COLUMNS, [text.encode() for text in numbers]),
            self._without(cs.integer().as_expr(), numbers, pl.String()),
            self._without(pl.col(pl.Float32), pl.Series(values, dtype=pl.Float32)),
            self._without((cs.decimal() | cs.by_dtype(pl.Float64)).as_expr(), values, pl.Float64()),
        )

    def _without(
        self, columns: pl.Expr, values: Sequence[Any] | pl.Series, kind: pl.DataType | None = None
    ) -> pl.Expr:
        """Columns, but the one of ids, where cells with one of the values are null.

        Args:
          columns: selects the columns.
          values: the values.
          kind: type in which cells and values are compared; None for that of the cells.
        """
        columns = columns.exclude(self._id_column) if self._id_column else columns
        cells = columns if kind is None else columns.cast(kind)
        return pl.when(~cells.is_in(values)).then(columns)

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """The result of a query on `scan`, computed as a stream.

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
        """Yields blocks with the columns in use, each with the number of rows before it."""
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
        """The error for a file that cannot be read.

        Raises:
          InputError: a quote is the reason; see `check_quotes`.
        """
        self.check_quotes()
        hint = "; save it as UTF-8" if "utf-8" in str(error).lower() else ""
        if self._text and not self.path.name.endswith(".gz") and self._is_gzip():
            hint = "; it is compressed, so rename it to end in .csv.gz"
        return InputError(f"{self.path}: cannot be read ({first_line(error)}){hint}")

    def _is_gzip(self) -> bool:
        with suppress(OSError), self.path.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"
        return False

    def fault(self, row: int, what: str) -> InputError:
        """The error for a row, counted from 0; it names the line if the file is CSV."""
        if self._text:
            return InputError(f"{self.path}: line {self._line(row)}: {what}; fix or remove it")
        sizes = [int(self.collect(pl.scan_parquet(p).select(pl.len())).item()) for p in self._parts]
        part = int(np.searchsorted(np.cumsum(sizes), row, side="right"))
        row -= sum(sizes[:part])
        return InputError(f"{self._parts[part]}: row {row + 1}: {what}; fix or remove it")

    def _line(self, row: int) -> int:
        """The line of a CSV file on which a row begins."""
        if not self._over_lines:
            return row + 2
        with self._opened() as file:
            reader = csv.reader(file)
            next(islice(reader, row + 1, row + 1), None)  # the header too
            return reader.line_num + 1

    def kind(self, column: str) -> pl.DataType:
        """The type of a column; in a CSV file it is text."""
        return pl.String() if self._text else self.scan().collect_schema()[column]

    def has_whole_ids(self, column: str) -> bool:
        """Whether a column's ids are all whole numbers that fit into 64 bits."""
        if not self._text and not self.kind(column).is_integer():
            return False
        bad = self.scan().select(_is_not_whole(pl.col(column).cast(pl.String)).any())
        return not self.collect(bad).item()

    def check_numbers(self, column: str) -> None:
        """Refuses a cell that is neither empty, nor NaN, nor a finite number.

        Raises:
          InputError: there is such a cell, and the message names the first row with one; or the
            column has dates or times, whose numbers depend on the file's unit.
          PolarsError: the column has a type that no number has, such as a list.
        """
        if self.kind(column).is_temporal():
            raise InputError(
                f"{self.path}: column {column!r} has dates or times; make it a number, such as one "
                'of days, or a category without "buckets"'
            )
        cell, value = pl.col(column), number(column, self.kind(column))
        bad = value.is_null() | value.is_infinite()
        wrong = cell.is_not_null() & (cell.cast(pl.String) != "") & bad
        rows = self.scan().select(wrong=wrong).with_row_index("row")
        row = rows.select(pl.col("row").filter("wrong").min()).collect(engine="streaming").item()
        if row is not None:
            raise self.fault(row, f"{column} is not a number")

    def ids(self, column: pl.Series, first_row: int, *, whole: bool) -> np.ndarray:
        """(n,) int64 ids, or the UTF-8 bytes of text.

        Args:
          column: column of a block.
          first_row: number of rows before the block.
          whole: whether ids are whole numbers.

        Raises:
          InputError: an id is missing, has the wrong length or a zero byte, is not written as a
            whole number, or has white space before or after it (the message names the row); or ids
            cannot have the column's type, such as lists or dates.
        """
        missing = column.is_null()
        if missing.any():
            raise self.fault(first_row + int(missing.arg_max() or 0), f"no {column.name}")
        if whole:
            return self._whole_ids(column, first_row)
        if not may_have_ids(column.dtype):
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
          InputError: its type cannot be written as text, such as a list.
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
        """(n,) whole numbers, each equal to one of two.

        Args:
          column: column of a block.
          first_row: number of rows before the block.
          allowed: the two numbers.

        Raises:
          InputError: a cell is neither of them (the message names the row), or numbers cannot have
            the column's type, such as lists or dates.
        """
        expected = f"{allowed[0]} or {allowed[1]}"
        value = self._as_numbers(column, expected)
        right = value.is_in([float(number) for number in allowed])
        self._check_all(column, right, first_row, expected)
        return value.to_numpy().astype(int)

    def numbers(self, column: pl.Series, first_row: int, *, most: float) -> np.ndarray:
        """(n,) float64 numbers from 0 to ``most``, which may be infinite.

        Args:
          column: column of a block.
          first_row: number of rows before the block.
          most: the largest number that is allowed.

        Raises:
          InputError: a cell is no such number (the message names the row), or numbers cannot have
            the column's type, such as lists or dates.
        """
        expected = "a number, 0 or more" if math.isinf(most) else f"a number from 0 to {most:g}"
        value = self._as_numbers(column, expected)
        right = value.is_finite() & value.is_between(0, most)
        self._check_all(column, right, first_row, expected)
        return value.to_numpy()

    def _as_numbers(self, column: pl.Series, expected: str) -> pl.Series:
        """A column as numbers; null where a cell is none.

        Raises:
          InputError: numbers cannot have the column's type.
        """
        kind = column.dtype
        if kind in (pl.Categorical, pl.Enum):
            column = column.cast(pl.String)
        elif not (kind.is_numeric() or kind in (pl.Boolean, pl.String, pl.Null)):
            raise InputError(
                f"{self.path}: {column.name} is of type {kind}, expected {expected} (numbers or "
                "text)"
            )
        return column.cast(pl.Float64, strict=False)

    def _check_all(
        self, column: pl.Series, right: pl.Series, first_row: int, expected: str
    ) -> None:
        """Refuses a column with a cell that is not right.

        Raises:
          InputError: there is such a cell; the message names the first row with one.
        """
        wrong = ~right.fill_null(False)
        if wrong.any():
            at = int(wrong.arg_max() or 0)
            what = f"{column.name} is {column[at]!r}, expected {expected}"
            raise self.fault(first_row + at, what)

    def check_once(self, ids: np.ndarray, name: str) -> None:
        """Refuses an id that occurs twice.

        Raises:
          InputError: there is such an id; the message names its second row.
        """
        again = is_repeat(ids)
        if again.any():
            second = int(again.argmax())
            raise self.fault(second, f"{name} {plain_id(ids[second])} occurs on an earlier row")


def number(column: str, kind: pl.DataType) -> pl.Expr:
    """A column of a type as numbers; null where a cell is empty or other text."""
    cell = pl.col(column)
    if kind in (pl.Categorical, pl.Enum, pl.Binary):
        cell = cell.cast(pl.String)
    return cell.cast(pl.Float64, strict=False)


def may_have_ids(kind: pl.DataType) -> bool:
    """Whether a type holds whole numbers or text; some programs write text as bytes."""
    whole = kind.is_integer() or (isinstance(kind, pl.Decimal) and kind.scale == 0)
    return whole or kind in (pl.String, pl.Categorical, pl.Enum, pl.Binary)


def _is_not_whole(text: S) -> S:
    """Whether a text is not the plain spelling of a 64-bit whole number; false for null.

    007 and 12.0 are not plain: as numbers they would be other ids.
    """
    return text.cast(pl.Int64, strict=False).cast(pl.String).ne_missing(text)


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0][:200]
