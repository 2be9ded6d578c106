"""Files of feedback: Parquet and CSV, text and whole numbers; a bad row is named."""

import datetime

import polars as pl
import pytest
from toy import by_user

from metaheac_jax.data.sources.feedback import read_feedback
from metaheac_jax.errors import InputError

WRITE = {
    "f.csv": lambda frame, path: frame.write_csv(path),
    "f.parquet": lambda frame, path: frame.write_parquet(path),
    "f.csv.gz": lambda frame, path: frame.write_csv(path, compression="gzip"),
}


def written(folder, name="f.csv", **columns):
    path = folder / name
    WRITE[name](pl.DataFrame(columns), path)
    return path


@pytest.mark.parametrize("name", WRITE)
def test_columns_that_are_not_used_may_be_there(tmp_path, name):
    when = [datetime.date(2026, 6, day) for day in (1, 2, 3)]
    path = written(
        tmp_path, name, time=when, converted=[0, 1, 0], event=["a", "b", "c"], user_id=[7, 3, 7]
    )
    assert by_user(read_feedback(path, text=False)) == {3: True, 7: False}


@pytest.mark.parametrize("name", WRITE)
def test_text_ids(tmp_path, name):
    path = written(tmp_path, name, user_id=["ann", "näher", "bob"], converted=[1, 0, 0])
    users = {"ann": True, "bob": False, "näher": False}
    assert by_user(read_feedback(path, text=True)) == {k.encode(): v for k, v in users.items()}


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize(("text", "kind"), [(True, "S"), (False, "i")])
def test_a_file_may_have_only_a_header(tmp_path, name, text, kind):
    found = read_feedback(written(tmp_path, name, user_id=[], converted=[]), text=text)
    assert (len(found), found.user_ids.dtype.kind, found.converted.dtype) == (0, kind, bool)


def test_numbers_will_do_where_ids_are_text(tmp_path):
    path = written(tmp_path, "f.parquet", user_id=[12, 5], converted=[True, False])
    assert by_user(read_feedback(path, text=True)) == {b"12": True, b"5": False}


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        ([123.0, 5.0], "Float64"),
        ([True, False], "Boolean"),
        ([datetime.date(2026, 6, 1), datetime.date(2026, 6, 2)], "Date"),
        (pl.Series(["12.00", "5.00"]).cast(pl.Decimal(10, 2)), "Decimal"),
    ],
)
def test_a_type_that_no_text_id_has_is_named(tmp_path, ids, kind):
    path = written(tmp_path, "f.parquet", user_id=ids, converted=[1, 0])
    with pytest.raises(
        InputError, match=rf"f\.parquet: user_id is of type {kind}.*, expected whole"
    ):
        read_feedback(path, text=True)


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["12", "5"]), pl.Decimal(38, 0)])
def test_text_ids_of_other_types(tmp_path, kind):
    ids = pl.Series(["12", "5"]).cast(kind)
    path = written(tmp_path, "f.parquet", user_id=ids, converted=[1, 0])
    assert by_user(read_feedback(path, text=True)) == {b"12": True, b"5": False}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user_id,converted\n1,1\nann,0\n", "f.csv: line 3: user_id is 'ann', expected a whole"),
        ("user_id,converted\n1,1\n,0\n", "f.csv: line 3: no user_id"),
        ("user_id,converted\n1,1\n2,yes\n", "f.csv: line 3: converted is 'yes', expected 0 or 1"),
        ("user_id,converted\n1,\n2,1\n", "f.csv: line 2: converted is None, expected 0 or 1"),
        ("user_id,converted\n1,2\n", "f.csv: line 2: converted is '2', expected 0 or 1"),
        ("user_id,label\n1,1\n", "f.csv: has no column 'converted'; it has user_id, label"),
        (
            "user_id, converted\n1,1\n",
            "no column 'converted'; it has user_id,  converted; remove the spaces around this name",
        ),
        ("", "f.csv: is empty"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(InputError) as refused:
        read_feedback(tmp_path / "f.csv", text=False)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        (["7", "007"], "row 2: user_id is '007'"),
        (["7", "+8"], "row 2: user_id is '+8'"),
        (["7", "12.5"], "row 2: user_id is '12.5'"),
        (["7", str(2**63)], f"row 2: user_id is '{2**63}'"),
        ([12.5, 7.0], "row 1: user_id is 12.5"),
        ([12.0, 7.0], "row 1: user_id is 12.0"),
        ([True, False], "row 1: user_id is True"),
    ],
)
def test_an_id_that_is_no_whole_number_as_written_is_nobodys(tmp_path, ids, shown):
    for name in WRITE:
        path = written(tmp_path, name, user_id=ids, converted=[1, 0])
        line = shown if name.endswith("parquet") else "expected a whole number such as 12; fix"
        with pytest.raises(InputError) as refused:
            read_feedback(path, text=False)
        assert line in str(refused.value)


@pytest.mark.parametrize("kind", [pl.Int32, pl.UInt64, pl.String, pl.Categorical])
def test_whole_numbers_of_any_kind_are_ids(tmp_path, kind):
    ids = pl.Series([31, 8]).cast(pl.String).cast(kind)
    path = written(tmp_path, "f.parquet", user_id=ids, converted=[1, 0])
    assert by_user(read_feedback(path, text=False)) == {31: True, 8: False}


def test_a_row_of_a_parquet_file_is_named(tmp_path):
    path = written(tmp_path, "f.parquet", user_id=["a" * 65, "b"], converted=[1, 0])
    with pytest.raises(InputError, match=r"f\.parquet: row 1: user_id must have 1 to 64 bytes"):
        read_feedback(path, text=True)


@pytest.mark.parametrize("name", ["f.txt", "f.json"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / name).write_text("user_id,converted\n1,1\n")
    with pytest.raises(InputError, match=r"expected a file that ends in \.parquet, \.csv"):
        read_feedback(tmp_path / name, text=False)
