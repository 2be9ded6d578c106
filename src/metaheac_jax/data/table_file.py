"""Tables in files: CSV, Parquet, or a folder of Parquet files; errors name the file and the row."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from metaheac_jax.data.campaign import EXPECTED_ID, plain_id
from metaheac_jax.errors import InputError
from metaheac_jax.files import inert_frame, read_text, whole_file, without_apostrophe


class Format(NamedTuple):
    """How a file of a table is read and written.

    Attributes:
      scan: opens a path or URL.
      write: writes a table to a path.
      is_text: whether all cells are text, one row on a line, after a line of names.
    """

    scan: Callable[[Path | str], pl.LazyFrame]
    write: Callable[[pl.DataFrame, Path], object]
    is_text: bool = False


def _write_csv(frame: pl.DataFrame, path: Path) -> None:
    inert_frame(frame).write_csv(path)


def _write_compressed(frame: pl.DataFrame, path: Path) -> None:
    path.write_bytes(gzip.compress(inert_frame(frame).write_csv().encode(), mtime=0))


_scan_csv = partial(pl.scan_csv, infer_schema=False, glob=False)
#: The formats of tables, by the ending of a file's name.
FORMATS = {
    ".parquet": Format(partial(pl.scan_parquet, glob=False), pl.DataFrame.write_parquet),
    ".csv": Format(_scan_csv, _write_csv, is_text=True),
    ".csv.gz": Format(_scan_csv, _write_compressed, is_text=True),
}
#: Limits of a compressed CSV file, see `_check_size`, and how compressed files begin.
_MAX_RATIO, _ANY_SIZE = 200, 1 << 28
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"x\x01", b"x\x9c", b"x\xda")
ROWS_AT_A_TIME = 200_000  # rows held in memory at a time
_ROW = "number of the row"  # name of a column that no table should have
#: Maximum length of a user or campaign id, in UTF-8 bytes.
MAX_ID_BYTES = 64
#: White space before or after a text that Python's ``strip`` would remove.
_PADDED = r"^[\s\x1c-\x1f]|[\s\x1c-\x1f]$"


def format_of(name: Path | str) -> Format | None:
    """The format of a file with this name, in capitals or not; None if there is none."""
    name = str(name).lower()
    return next((each for ending, each in FORMATS.items() if name.endswith(ending)), None)


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Writes a table completely or not at all, in the `FORMATS` of its name.

    In CSV, no text is a formula of a spreadsheet; see `files.inert_frame`.
    """
    kind = format_of(path)
    if kind is None:
        raise InputError(f"{path}: expected a name that ends in {', '.join(FORMATS)}")
    with whole_file(path) as temporary:
        kind.write(frame, temporary)


def is_url(source: object) -> bool:
    """Whether a table or folder is named by a URL, such as s3://bucket/users."""
    return "://" in str(source)


def is_table(path: Path | str) -> bool:
    """Whether there is a table: a file, or a folder that has Parquet files.

    Raises:
      InputError: the place of a URL cannot be read.
    """
    if not is_url(path):
        path = Path(path)
        return bool(_parts(path)) if path.is_dir() else path.is_file() and bool(format_of(path))
    try:
        Table(path)
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError) or "paths were empty" in str(error):
            return False
        raise
    return True


def _is_regular(path: Path) -> bool:
    return path.is_file() or path.is_dir()


def _check_size(path: Path) -> None:
    """Refuses a CSV file that a decompression would make far larger than tables become.

    A table is seldom compressed to less than a fiftieth of its size, and the format of gzip allows
    a thousandth, of which a small file could fill memory. Small results are harmless.

    Raises:
      InputError: the file is larger than `_MAX_RATIO` times its compressed size and `_ANY_SIZE`
        bytes, or is compressed and its name does not say so.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if not path.name.endswith(".gz"):
        if start.startswith(_COMPRESSED):
            raise InputError(f"{path}: is compressed; name it .csv.gz, or decompress it")
        return
    limit, size = max(_MAX_RATIO * path.stat().st_size, _ANY_SIZE), 0
    with gzip.open(path) as file:
        while block := file.read(1 << 20):
            size += len(block)
            if size > limit:
                raise InputError(
                    f"{path}: has over {limit:,} bytes when it is decompressed, {_MAX_RATIO} times "
                    "its own; check it, then decompress it or save it as Parquet"
                )


def _parts(folder: Path) -> list[Path]:
    """The Parquet files in a folder and its subfolders, by path, without hidden ones."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.parquet"))
    return [folder / path for path in found if not any(part[0] in "._" for part in path.parts)]


def _folder(folder: Path) -> pl.LazyFrame:
    """The rows of the Parquet files in a folder, or of the Delta table that it is."""
    if (folder / "_delta_log").is_dir():
        try:
            return pl.scan_delta(str(folder))
        except ImportError as error:
            raise InputError(f"{folder}: a Delta table; pip install deltalake") from error
    parts = _parts(folder)
    if not parts:
        raise InputError(f"{folder}: has no file NAME.parquet; put the table's files there")
    return pl.scan_parquet(parts, glob=False, hive_partitioning=True)


class Table:
    """A table in a file, in a folder of Parquet files, or in memory.

    The cells of a CSV file are text. The files of a folder follow each other by path; a subfolder
    KEY=VALUE makes a column KEY, as Hive and Spark write it. A folder of Delta Lake is its table.

    Attributes:
      path: the file or folder, its URL, or the name of a table in memory.
      lines: of a file of text, the number of each row's line; empty for another.
      names: names of all columns.
    """

    def __init__(
        self, source: Path | str | pl.DataFrame, columns: Sequence[str] = (), *, name: str = "table"
    ) -> None:
        """Args:
        source: path or URL of a file with one of the `FORMATS`, or of a folder; or the table.
        columns: names of columns that it must have.
        name: name in messages of a table in memory.

        Raises:
          InputError: the file cannot be read, has a column twice or lacks one of ``columns``, or a
            line and the header differ in their number of cells.
        """
        self.path: Path | str = name
        self.lines: Sequence[int] = ()
        self._left_out = pl.lit(False)
        if isinstance(source, pl.DataFrame):
            self._rows = source.lazy()
        else:
            self.path = str(source) if is_url(source) else Path(source)
            kind = format_of(source)
            if isinstance(self.path, Path) and self.path.exists() and not _is_regular(self.path):
                raise InputError(f"{self.path}: is neither a regular file nor a folder; give one")
            if isinstance(self.path, Path) and self.path.is_dir():
                self._rows = _folder(self.path)
            elif kind is not None:
                self._rows = kind.scan(self.path)
                self.lines = range(2, sys.maxsize) if kind.is_text else ()
                if kind.is_text and isinstance(self.path, Path):
                    with self._reading():
                        _check_size(self.path)
            elif is_url(source):
                self._rows = pl.scan_parquet(f"{source}/**/*.parquet", hive_partitioning=True)
            else:
                raise InputError(f"{source}: expected a file that ends in {', '.join(FORMATS)}")
        with self._reading():
            self.names = self._rows.collect_schema().names()
        twice = [name for name in self.names if "_duplicated_" in name]  # as polars names it
        if twice:
            raise InputError(f"{self.path}: has a column twice ({twice[0]}); rename or remove one")
        for column in columns:
            if column not in self.names:
                known = ", ".join(self.names)[:200]
                raise InputError(
                    f"{self.path}: has no column {column!r}; it has {known}; add it or rename one"
                )
        if self.lines:
            self._check_cells()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A block that reads the table, in which errors are one line and name the file."""
        try:
            yield
        except FileNotFoundError as error:
            raise InputError(f"{self.path}: no such file; check the path") from error
        except (OSError, EOFError, zlib.error, pl.exceptions.PolarsError) as error:
            first = str(error).strip().partition("\n")[0][:200]
            raise InputError(f"{self.path}: cannot be read ({first}); repair the file") from error

    def _check_cells(self) -> None:
        """Refuses a row with the wrong number of cells, which polars would fill, or an odd quote.

        A cell in quotes must end on its line, since a quote out of place would join many rows.
        """
        line = pl.col("line").str.replace_all('"[^"]*"', "")
        quote = line.str.contains('"', literal=True)
        wrong = line.str.count_matches(",", literal=True) != len(self.names) - 1
        lines = pl.scan_lines(self.path, glob=False).select(quote=quote, wrong=quote | wrong)
        first = self.collect(lines.with_row_index(_ROW).filter(pl.col("wrong")).head(1))
        if len(first):
            what = f"expected {len(self.names)} cells, as the header has; fix or remove it"
            if first["quote"].item():
                what = "a quote is not closed on this line; double it, or save the file as Parquet"
            raise InputError(f"{self.path}: line {first[_ROW].item() + 1}: {what}")

    def leave_out(self, column: str, ids: np.ndarray) -> None:
        """Leaves out the rows with one of these ids, in all but checks."""
        if len(ids):
            texts = [str(plain_id(key)) for key in ids]
            self._left_out = self.id_cells(column, whole=False).is_in(texts)

    def scan(self) -> pl.LazyFrame:
        """All rows that are not left out."""
        return self._rows.filter(~self._left_out)

    def kind(self, column: str) -> pl.DataType:
        """The type of a column; in a CSV file it is text."""
        return self._rows.collect_schema()[column]

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """The result of a query on `scan`, computed as a stream.

        Raises:
          InputError: the file cannot be read, or a column does not fit the query.
        """
        with self._reading():
            return frame.collect(engine="streaming")

    def blocks(self, columns: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yields blocks of these columns, each with the number of rows before it."""
        start = 0
        with self._reading():
            frames = self.scan().select(columns).collect_batches(chunk_size=ROWS_AT_A_TIME)
            for frame in frames:
                if len(frame):
                    yield start, frame
                start += len(frame)

    def place(self, row: int) -> str:
        """Where a row is, counted from 0: its line in a file of text."""
        return f"line {self.lines[row]}" if self.lines else f"row {row + 1}"

    def fault(self, row: int, what: str) -> InputError:
        """The error for a row, counted from 0."""
        return InputError(f"{self.path}: {self.place(row)}: {what}; fix or remove it")

    def check(self, column: str, right: pl.Expr, expected: str) -> None:
        """Refuses a column with a cell that is not right; null counts as not right.

        Raises:
          InputError: there is such a cell; the message names the first row with one.
        """
        wrong = ~right.fill_null(False)
        rows = self._rows.select(wrong=wrong, cell=pl.col(column)).with_row_index(_ROW)
        first = self.collect(rows.filter(pl.col("wrong")).head(1))
        if len(first):
            [row], [cell] = first[_ROW].to_list(), first["cell"].to_list()
            raise self.fault(row, f"{column} is {cell!r}, expected {expected}")

    def ids(self, column: str) -> pl.Series:
        """The ids in a column: Int64, or text.

        They are whole numbers if the column has that type, or all cells of a CSV file are plain
        whole numbers.

        Raises:
          InputError: an id is missing, occurs twice, has the wrong length, a zero byte or white
            space around it (the message names the row), or the column has another type.
        """
        self.check_ids(column)
        self.check(column, self.id_cells(column).is_first_distinct(), "one that no earlier row has")
        ids = self.collect(self.scan().select(self.id_cells(column))).to_series()
        if not len(ids):
            raise InputError(f"{self.path}: has no rows; add some")
        if ids.dtype == pl.Int64 or not (self.lines or self.kind(column).is_integer()):
            return ids
        whole = ids.to_frame("id").select(_whole(pl.col("id"))).to_series()
        return ids if whole.has_nulls() else whole

    def check_ids(self, column: str, *, whole: bool = False) -> None:
        """Checks every cell of a column of ids.

        Raises:
          InputError: as `ids`, but an id may occur several times; or one is no plain whole number
            where all users have ``whole`` numbers.
        """
        kind, text = self.kind(column), pl.col(column).cast(pl.String)
        right = text.str.len_bytes().is_between(1, MAX_ID_BYTES)
        if kind.is_integer():
            right = pl.col(column).is_not_null()
        elif kind in (pl.String, pl.Categorical, pl.Enum, pl.Binary):
            right &= ~text.str.contains("\0", literal=True) & ~text.str.contains(_PADDED)
        else:
            raise InputError(
                f"{self.path}: {column} is of type {kind}, expected whole numbers or text; write "
                "it as one of them"
            )
        if whole:
            right &= self.id_cells(column, whole=True).is_not_null()
        what = f"an id of 1 to {MAX_ID_BYTES} bytes, none of them zero, without white space around"
        self.check(column, right, EXPECTED_ID[True] if whole else what)

    def id_cells(self, column: str, *, whole: bool | None = None) -> pl.Expr:
        """The ids in a column: Int64 or text, or as ``whole`` says, then null where no number."""
        kind, cell = self.kind(column), pl.col(column)
        if kind.is_integer() and kind not in (pl.UInt64, pl.Int128, pl.UInt128):
            return cell.cast(pl.Int64) if whole is not False else cell.cast(pl.String)
        text = cell.cast(pl.String)
        text = without_apostrophe(text) if self.lines else text
        return _whole(text) if whole else text


def _whole(text: pl.Expr) -> pl.Expr:
    """Texts as Int64, null where one is no plain whole number."""
    number = text.cast(pl.Int64, strict=False)
    return pl.when(number.cast(pl.String) == text).then(number)


def id_array(ids: pl.Series) -> np.ndarray:
    """Ids of `Table.ids` as int64 or UTF-8 bytes."""
    if ids.dtype == pl.Int64:
        return ids.to_numpy()
    return np.array([text.encode() for text in ids.to_list()], "S" if len(ids) else "S1")


def read_ids(path: Path, column: str, *, whole: bool) -> tuple[np.ndarray, Callable[[int], str]]:
    """The ids of users in a file, as `user_ids.find_named` takes it.

    Returns:
      (n,) ids as in `id_array`, and `Table.place`, which says where each is.

    Raises:
      InputError: the file cannot be read, or an id cannot be that of a user.
    """
    if path.name.endswith(".txt"):
        table = _lines(path, column)
    else:
        column = column if column in Table(path).names else "user_id"
        table = Table(path, [column])
    table.check_ids(column, whole=whole)
    ids = table.collect(table.scan().select(table.id_cells(column, whole=whole))).to_series()
    return id_array(ids), table.place


def _lines(path: Path, column: str) -> Table:
    """A table with a column of lines of a file, without empty ones and white space around."""
    lines = read_text(path).split("\n")
    found = {number: line.strip() for number, line in enumerate(lines, start=1) if line.strip()}
    table = Table(pl.DataFrame({column: [*found.values()]}, {column: pl.String}), name=str(path))
    table.lines = [*found]
    return table
