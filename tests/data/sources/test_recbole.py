"""RecBole's atomic files: each type becomes its column, and a faulty line is named."""

import gzip
import zlib

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaheac_jax.data.sources.recbole import read_atomic
from metaheac_jax.errors import InputError


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_each_type_becomes_its_column(tmp_path):
    table = read_atomic(
        write(
            tmp_path / "a.item",
            "id:token\ttitle:token_seq\tprice:float\tvector:float_seq\n"
            "07\tToy  Story\t1.5e1\t1 -2.5\n"
            '"x\t\t\t\n',
        )
    )
    assert table.schema == {
        "id": pl.String,
        "title": pl.List(pl.String),
        "price": pl.Float64,
        "vector": pl.List(pl.Float64),
    }
    # A missing float is null; a missing sequence is empty; quotes are plain characters.
    assert table.rows() == [("07", ["Toy", "Story"], 15.0, [1.0, -2.5]), ('"x', [], None, [])]


def test_windows_line_ends_and_a_missing_last_one(tmp_path):
    table = read_atomic(write(tmp_path / "a.user", "id:token\tage:float\r\n1\t2\r\n3\t4"))
    assert table.rows() == [("1", 2.0), ("3", 4.0)]


WORD = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r "), min_size=1, max_size=4)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
ROW = st.tuples(
    WORD | st.just(""), st.lists(WORD, max_size=3), NUMBER, st.lists(NUMBER, max_size=3)
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=5))
def test_what_was_written_is_read(tmp_path, rows):
    lines = ["a:token\tb:token_seq\tc:float\td:float_seq"]
    lines += [f"{a}\t{' '.join(b)}\t{c!r}\t{' '.join(map(repr, d))}" for a, b, c, d in rows]
    assert read_atomic(write(tmp_path / "a.inter", "\n".join(lines) + "\n")).rows() == rows


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "", "empty; get the file again"),
        ("a:token\n", "", "expected a header and a line of data"),
        ("a:token\tb\n1\t2\n", ":1", "header cell 'b'"),
        ("a:token\tb:int\n1\t2\n", ":1", "header cell 'b:int'"),
        (":token\n1\n", ":1", "header cell ':token'"),
        ("a:token\ta:float\n1\t2\n", ":1", "'a' is named twice"),
        ("a:token\tb:token\n1\t2\n3\n", ":3", "1 cells, expected 2"),
        ("a:token\tb:token\n1\t2\t3\n4\t5\n", ":2", "3 cells, expected 2"),
        ("a:token\tb:token\n1\t2\n\n4\t5\n", ":3", "1 cells, expected 2"),
        ("a:float\tb:token\n1\t2\nx\t2\n", ":3", "'x' in column 'a'"),
        ("a:token\tb:float\n1\t\n1\tnan\n", ":3", "'nan' in column 'b'"),
        ("a:float_seq\n1 2\n\n3 4,5\n", ":4", "'3 4,5' in column 'a'"),
        (b"a:token\n1\n2\n\xe9\n", ":4", "not UTF-8"),
    ],
)
def test_malformed_files_are_refused_by_line(tmp_path, text, where, what):
    path = write(tmp_path / "bad.inter", text)
    with pytest.raises(InputError) as error:
        read_atomic(path)
    assert str(error.value).startswith(f"{path}{where}: ")
    assert what in str(error.value)
    assert "\n" not in str(error.value)


def test_a_compressed_file_is_refused_before_it_grows(tmp_path):
    """Polars would decompress it to any size."""
    text = b"a:token\n" + b"1\n" * 1000
    for number, content in enumerate((zlib.compress(text), gzip.compress(text))):
        path = tmp_path / f"{number}.inter"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"inter: compressed; decompress it first"):
            read_atomic(path)


def test_a_header_of_too_many_columns_is_refused(tmp_path):
    def table(columns):
        header, line = (f"c{n}:token" for n in range(columns)), map(str, range(columns))
        return write(tmp_path / "a.inter", "\t".join(header) + "\n" + "\t".join(line) + "\n")

    assert read_atomic(table(1000)).width == 1000
    with pytest.raises(InputError, match=r"inter:1: 1001 columns, more than 1000; give fewer"):
        read_atomic(table(1001))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.user: no such file"):
        read_atomic(tmp_path / "none.user")
