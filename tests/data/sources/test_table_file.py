"""Files as they come: headers, encodings, and what cannot be read."""

import csv
import datetime
import gzip
import math
import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaheac_jax.data.sources.table_file import TableFile
from metaheac_jax.errors import InputError

TEXT = "user_id,city\n1,Rome\n2,NA\n3,\n"


def cells(path, missing=()):
    file = TableFile(path, ["user_id", "city"], missing)
    file.count()
    return [row for _, frame in file.blocks() for row in frame.rows()]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
@pytest.mark.parametrize("zipped", [False, True])
def test_text_is_read_whatever_its_ends_and_mark(tmp_path, mark, line, zipped):
    content = (mark + TEXT.replace("\n", line)).encode()
    path = tmp_path / ("users.csv.gz" if zipped else "users.csv")
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert cells(path) == [("1", "Rome"), ("2", "NA"), ("3", None)]
    assert cells(path, ["NA", "?"]) == [("1", "Rome"), ("2", None), ("3", None)]


@pytest.mark.parametrize("kind", [pl.String, pl.Categorical, pl.Enum(["Rome", "NA"]), pl.Binary])
def test_missing_text_of_a_parquet_file(tmp_path, kind):
    path, city = tmp_path / "users.parquet", pl.Series(["Rome", "NA", None]).cast(kind)
    pl.DataFrame({"user_id": [1, 2, 3], "city": city}).write_parquet(path)
    rome, na = (b"Rome", b"NA") if kind == pl.Binary else ("Rome", "NA")
    assert cells(path) == [(1, rome), (2, na), (3, None)]
    assert cells(path, ["NA", "?"]) == [(1, rome), (2, None), (3, None)]


@pytest.mark.parametrize(
    "kind", [pl.Int8, pl.Int64, pl.UInt64, pl.Float32, pl.Float64, pl.Decimal(9, 2), pl.String]
)
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_missing_numbers(tmp_path, kind, ending):
    path, city = tmp_path / f"users.{ending}", pl.Series([99, 12, None, 1]).cast(kind)
    frame = pl.DataFrame({"user_id": city.replace(None, 5).cast(pl.Int64), "city": city})
    frame.write_parquet(path) if ending == "parquet" else frame.write_csv(path)
    file = TableFile(path, ["user_id", "city"], ["NA", "99", "99.0", "99.00", "inf", "1_2"])
    assert file.collect(file.scan())["city"].null_count() == 2
    assert file.collect(file.scan())["user_id"].null_count() == 1
    of_ids = TableFile(path, file.names, ["NA", "99", "99.0", "99.00"], id_column="user_id")
    table = of_ids.collect(of_ids.scan())
    assert table["user_id"].null_count() == 0
    assert [value is None for value in table["city"]] == [True, False, True, False]


def test_missing_numbers_are_exact(tmp_path):
    path, large = tmp_path / "users.parquet", 2**53
    frame = pl.DataFrame({"a": [-99, large, large + 1], "b": [99.9, 0.1, -1.5]})
    frame = frame.with_columns(c=pl.col("b").cast(pl.Float32), d=pl.col("b") > 1)
    frame.write_parquet(path)
    file = TableFile(path, [], ["-99", str(large + 1), "99.9", "-1.5", "true"])
    found = file.collect(file.scan())
    assert found["a"].to_list() == [None, large, None]
    for name in "bc":
        assert [value is None for value in found[name]] == [True, False, True]
    assert found["d"].null_count() == 0


def test_bytes_that_are_not_text_are_not_missing(tmp_path):
    path = tmp_path / "users.parquet"
    pl.DataFrame({"user_id": [1], "city": [b"\xff"]}).write_parquet(path)
    assert cells(path, ["NA"]) == [(1, b"\xff")]


def test_a_path_is_no_pattern(tmp_path):
    folder = tmp_path / "data[1]*"
    folder.mkdir()
    (folder / "users.csv").write_text(TEXT)
    pl.DataFrame({"user_id": [5], "city": ["Oslo"]}).write_parquet(folder / "users.parquet")
    assert len(cells(folder / "users.csv")) == 3
    assert cells(folder / "users.parquet") == [(5, "Oslo")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # Polars takes the first two rows for one, and reads a cell that was cut off as missing.
        (
            '"say ""hi"" ",6" pipe,v\nv,6" pipe,v\nv,"say ""hi""","q"\nv,v,"two\nlines"\n',
            "line 2: a quote inside a cell",
        ),
        ('v,v,"two\nlines"\nv,bob,"0', "cannot be read (unexpected end of data)"),
    ],
)
def test_a_quote_that_begins_or_ends_no_cell_is_refused(tmp_path, text, said):
    (tmp_path / "users.csv").write_text(f"user_id,city,note\n{text}")
    with pytest.raises(InputError, match=re.escape(said)):
        cells(tmp_path / "users.csv")


@pytest.mark.parametrize("name", ["users.csv", "users.csv.gz"])
def test_a_header_with_a_name_twice_is_refused(tmp_path, name):
    content = b'user_id,"city",city\n1,Rome,Oslo\n'
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(InputError, match="has two columns 'city'; rename or remove one"):
        TableFile(tmp_path / name, [])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"user_id;city\n1;Rome\n", "it has user_id;city; its values must be sepa"),
        ("a.csv", TEXT.encode("utf-16"), r"cannot be read \('utf-8' codec.*; save it as UTF-8"),
        (
            "a.csv",
            "user_id,city\n1,Köln\n".encode("latin-1"),
            "cannot be read .*; save it as UTF-8",
        ),
        ("a.csv", TEXT.encode() + b"4,K\xf6ln\n" * 9999, "cannot be read .*; save it as UTF-8"),
        (
            "a.csv",
            gzip.compress(TEXT.encode(), mtime=0),
            r"; it is compressed, so rename it to end",
        ),
        (
            "a.csv",
            TEXT.encode().replace(b"\n", b"\r"),
            "line 1 ends in CR alone; save it with LF",
        ),
        ("a.csv", b"user_id\r1\r2\r", "line 1 ends in CR alone; save it with LF"),
        ("a.csv", b"user_id,city\r1\r\n2,Rome\r\n", "line 1 ends in CR alone; save it with LF"),
        ("a.csv", b"user_id,city\n1,Rome,3\n", "line 2: expected 2 cells, as the header has"),
        ("a.csv", TEXT.encode() + b"4", "line 5: expected 2 cells"),
        ("a.csv", TEXT.encode() + b'"4,5"\n6,7', "line 5: expected 2 cells"),
        ("a.csv", b'user_id,city\n1,"Rome\n,it,"\n2', "line 4: expected 2 cells"),
        ("a.csv", b'user_id,city\n1,"Rome\n,it,",3\n2,"x\ny"', "line 2: expected 2 cells"),
        ("a.csv.gz", gzip.compress(TEXT.encode() + b"4", mtime=0), "line 5: expected 2 cells"),
        ("a.csv", b'user_id,city\n1,"Rome\n', "cannot be read"),
        ("a.csv", b'user_id,city\n1,Rome\n2,5" pipe\n3,x\n', "line 3: a quote inside a cell; put"),
        ("a.csv", b'user_id,city,x\n1,5" pipe,6" pipe\n', "line 2: a quote inside a cell"),
        ("a.csv", b'user_id,city\n1,"a ""x""\n,b"\n2,"Rome"s\n', "line 4: a quote inside a cell"),
        ("a.csv", b'user_id,city\n1\n2,5" pipe\n', "line 2: expected 2 cells"),
        (
            "a.csv.gz",
            gzip.compress(b'user_id,city\n1,5" pipe\n', mtime=0),
            "line 2: a quote inside a cell",
        ),
        ("a.csv.gz", gzip.compress(TEXT.encode(), mtime=0)[:-12], "cannot be read"),
        (
            "a.csv.gz",
            gzip.compress(b'user_id,city\n1,5" pipe\n' + TEXT.encode() * 9999, mtime=0)[:-12],
            "cannot be read",
        ),
        ("a.csv.gz", gzip.compress(TEXT.encode(), mtime=0)[:10] + b"\xff" * 9, "cannot be read"),
        ("a.csv.gz", b"no gzip", r"cannot be read \(Not a gzipped file"),
        ("a.parquet", b"no parquet", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        cells(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.text('a", \n', max_size=6)] * 2)))
def test_quotes_as_they_should_be_are_accepted(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("quotes") / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "city"), *rows])
    TableFile(path, []).check_quotes()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_first_row_that_is_no_number_is_named(tmp_path, form):
    path, numbers = tmp_path / f"users.{form}", pl.Series("n", range(500_000)).cast(pl.String)
    frame = numbers.scatter([10, 250_000, 499_000], "bad").to_frame()
    frame.write_csv(path) if form == "csv" else frame.write_parquet(path, row_group_size=50_000)
    place = "line 12" if form == "csv" else "row 11"
    with pytest.raises(InputError, match=rf"users\.{form}: {place}: n is not a number; fix"):
        TableFile(path, ["n"]).check_numbers("n")


def test_the_first_line_with_other_cells_is_named(tmp_path):
    lines = ["a,b", *["1,2"] * 400_000]
    lines[5] = lines[300_000] = "1"
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"a\.csv: line 6: expected 2 cells"):
        TableFile(tmp_path / "a.csv", [])


@pytest.mark.parametrize("header", ["user_id,city", '"user_id","\ncity"'])
def test_a_row_after_a_cell_of_several_lines_is_named_by_its_line(tmp_path, header):
    path = tmp_path / "users.csv"
    path.write_text(f'{header}\n1,"Rome\n(Italy)"\n2,Oslo\n3,"a\nb\nc"\n')
    file = TableFile(path, ["user_id"])
    more = header.count("\n")
    for row, line in enumerate((2, 4, 5)):
        assert str(file.fault(row, "is bad")) == (
            f"{path}: line {line + more}: is bad; fix or remove it"
        )


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("ids", "kind"),
    [([[1], [2]], "List"), ([{"id": 1}], "Struct"), ([b"\xff"], "Binary")],
)
def test_a_type_that_has_no_ids_is_named(tmp_path, ids, kind, whole):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user_id": ids}).write_parquet(path)
    file = TableFile(path, ["user_id"])
    assert not file.has_whole_ids("user_id")
    [(start, frame)] = file.blocks()
    with pytest.raises(InputError) as caught:
        file.ids(frame["user_id"], start, whole=whole)
    assert str(caught.value).startswith(f"{path}: user_id is of type {kind}")
    assert str(caught.value).endswith(", expected whole numbers or text")
    assert "\n" not in str(caught.value)


def test_text_without_a_type_is_text(tmp_path):
    """Some programs write text as bytes."""
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user_id": [b"ann", b"12"]}).write_parquet(path)
    file = TableFile(path, ["user_id"])
    [(start, frame)] = file.blocks()
    assert file.ids(frame["user_id"], start, whole=False).tolist() == [b"ann", b"12"]


def labels(path, cells):
    """A column of labels as it is read."""
    pl.DataFrame({"label": cells}).write_parquet(path)
    file = TableFile(path, ["label"])
    [(start, frame)] = file.blocks()
    return file.one_of(frame["label"], start, (0, 1)).tolist()


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([[1], [0]], r"List\(Int64\)"),
        ([b"1", b"0"], "Binary"),
        ([datetime.date(1970, 1, 2)], "Date"),
        ([datetime.timedelta(microseconds=1)], r"Duration\(.*\)"),
    ],
)
def test_a_type_that_has_no_labels_is_named(tmp_path, cells, kind):
    words = rf"a\.parquet: label is of type {kind}, expected 0 or 1 \(numbers or text\)$"
    with pytest.raises(InputError, match=words):
        labels(tmp_path / "a.parquet", cells)


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["0", "1", "yes"]), pl.String])
def test_labels_may_be_text_of_any_kind(tmp_path, kind):
    path = tmp_path / "a.parquet"
    assert labels(path, pl.Series(["1", "0"], dtype=kind)) == [1, 0]
    with pytest.raises(InputError, match="row 2: label is 'yes', expected 0 or 1; fix"):
        labels(path, pl.Series(["1", "yes"], dtype=kind))


@pytest.mark.parametrize(("cell", "shown"), [("-1", "'-1'"), ("inf", "'inf'"), ("", "None")])
def test_a_cell_that_is_no_number_in_the_range_is_named(tmp_path, cell, shown):
    path = tmp_path / "a.csv"
    path.write_text(f"rank,name\n2.5,a\n{cell},b\n")
    file = TableFile(path, ["rank"])
    [(start, frame)] = file.blocks()
    assert file.numbers(frame["rank"][:1], start, most=3).tolist() == [2.5]
    with pytest.raises(InputError, match=f"line 3: rank is {shown}, expected a number, 0 or more"):
        file.numbers(frame["rank"], start, most=math.inf)
    with pytest.raises(InputError, match=r"line 2: rank is '2\.5', expected a number from 0"):
        file.numbers(frame["rank"], start, most=2)


@pytest.mark.parametrize("own", ["ann  ", "\tann", "ann\u00a0", "ann\x1f"])
def test_an_id_with_white_space_around_it_is_named(tmp_path, own):
    """Lists of users in the commands have none."""
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user_id": ["jo ann", own]}).write_parquet(path)
    file = TableFile(path, ["user_id"])
    [(start, frame)] = file.blocks()
    assert file.ids(frame["user_id"][:1], start, whole=False).tolist() == [b"jo ann"]
    with pytest.raises(InputError) as caught:
        file.ids(frame["user_id"], start, whole=False)
    what = f"user_id is {own!r}, expected no white space before or after it; fix or remove it"
    assert str(caught.value) == f"{path}: row 2: {what}"
