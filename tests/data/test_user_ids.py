"""Users who are named by ids: what is an id, where one stands, and the report of who is none."""

import gzip
import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaheac_jax.data.user_ids import as_ids, find_named
from metaheac_jax.errors import InputError

WHOLE, TEXT = np.array([30, 7, -7, 12]), np.array([b"ann", b"@bob", b"7", "é".encode()])


def found(named, user_ids=WHOLE, column="user_id"):
    """The ids and the users of some, and the warning, if there is one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ids, named = find_named(named, user_ids, "exclude", column)
    return ids.tolist(), np.flatnonzero(named).tolist(), "".join(str(own.message) for own in caught)


@pytest.mark.parametrize(
    ("given", "text", "said"),
    [
        ([10, 3.5], False, "item 2 is 3.5, expected a plain whole number"),
        ([10.0, 3.0], False, "item 1 is 10.0"),  # from 2**53 on, floats stand for other numbers
        ([[3], [10]], False, "expected a list"),
        (3, False, "expected a list"),
        ([None], False, "item 1 is None"),
        ([True], False, "item 1 is True"),
        ([2**63], False, "item 1 is 9223372036854775808"),
        ([7, "007"], False, "item 2 is '007'"),
        ([b"9223372036854775808"], False, "item 1 is b'9223372036854775808'"),
        ("ann", True, "expected a list"),
        (np.array([[b"ann"]]), True, "expected a list"),
        (["ann", 7.0], True, "item 2 is 7.0, expected text or a whole number"),
        (pl.Series([7, None]), True, "item 1 is 7.0"),
        (["ann\0"], True, "item 1 is 'ann.x00'"),  # NumPy would take it for ann
    ],
)
def test_what_is_no_list_of_ids_is_refused(given, text, said):
    with pytest.raises(InputError, match=f"^user ids: {said}"):
        as_ids(given, text=text)


@pytest.mark.parametrize(
    ("given", "text", "expected"),
    [
        ([], False, []),
        (np.array([2**63 - 1], np.uint64), False, [2**63 - 1]),
        ([b"-7", "9223372036854775807", 3], False, [-7, 2**63 - 1, 3]),
        ([np.int64(7)], True, [b"7"]),
        ([], True, []),
        (["é", 7], True, ["é".encode(), b"7"]),
        (np.array([b"x"]), True, [b"x"]),
    ],
)
def test_ids_take_the_form_of_the_data(given, text, expected):
    ids = as_ids(given, text=text)
    assert ids.tolist() == expected
    assert ids.dtype.kind == ("S" if text else "i")


spelled = st.text("0123456789+-.e_ '\u0667x", min_size=1, max_size=6) | st.integers().map(str)


@given(st.lists(spelled, min_size=1, max_size=3))
def test_a_file_and_a_list_have_one_rule(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("ids") / "ids.parquet"
    pl.DataFrame({"user_id": texts}).write_parquet(path)
    outcomes = []
    for named in (texts, path):
        try:
            outcomes.append(found(named, np.array([*range(-9, 100)]))[:2])
        except InputError as error:
            outcomes.append("0 of " in str(error))
    assert outcomes[0] == outcomes[1]


def test_a_report_counts_ids_and_names_one(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeff7\r\n\r\n99\r\n 30 \r\n99\r\n98".encode())
    told = f"{path}: 2 of 4 ids are users; 2 are not, such as 99 (line 3)"
    assert found(path) == ([7, 30, 98, 99], [0, 1], told)
    assert found([30, 5, 7])[2] == "exclude: 2 of 3 ids are users; 1 is not, such as 5 (item 2)"
    assert found(np.array([12, 30])) == ([12, 30], [0, 3], "")
    assert found([]) == ([], [], "")
    path = tmp_path / "ids.parquet"
    pl.DataFrame({"kunde": ["@bob", "bob", "7"]}).write_parquet(path)
    told = f"{path}: 2 of 3 ids are users; 1 is not, such as bob (row 2)"
    assert found([path], TEXT, "kunde") == ([b"7", b"@bob", b"bob"], [1, 2], told)
    # Of several files, each has its report, and an id is there once.
    path.with_name("more.csv").write_text("user_id,x\né,1\n'@bob,2\n")
    assert found([path, path.with_name("more.csv")], TEXT, "kunde")[1] == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "7\n\n7.0\n", "line 3: user_id is '7.0', expected a plain whole number"),
        ("a.txt", "user_id\n7", "line 1: user_id is 'user_id'"),
        ("a.txt", " \n", "0 of 0 ids are users; give"),
        ("a.txt", "8\n9", "0 of 2 ids are users; 2 are not, such as 8 (line 1); give"),
        ("a.csv", "user_id,x\n7,\n+7,\n", "line 3: user_id is '+7'"),
        ("a.csv", "user_id,x\n7,\n,\n", "line 3: user_id is None"),
        ("a.csv", "user_id,x\n", "0 of 0 ids are users"),
        ("a.csv", "id\n7\n", "has no column 'user_id'"),
        ("a.csv.gz", "user_id\na@b.org\n", "line 2: user_id is 'a@b.org'"),
        ("a.parquet", ["7", "1e1"], "row 2: user_id is '1e1'"),
        ("a.parquet", [7.0], "user_id is of type Float64, expected whole numbers or text; write"),
        ("a.doc", "7", "expected a file that ends"),
    ],
)
def test_a_file_of_ids_that_cannot_be_right_is_refused(tmp_path, name, content, said):
    path = tmp_path / name
    if name.endswith("parquet"):
        pl.DataFrame({"user_id": content}).write_parquet(path)
    else:
        path.write_bytes(gzip.compress(content.encode()) if "gz" in name else content.encode())
    with pytest.raises(InputError) as error:
        found([path])
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)


def test_apostrophes_of_spreadsheets_are_removed_from_files_of_text(tmp_path):
    (tmp_path / "a.txt").write_text("'@bob\né\n'7")
    assert found(tmp_path / "a.txt", TEXT)[1] == [1, 3]
    (tmp_path / "a.csv").write_text("user_id\n'-7\n")
    assert found(tmp_path / "a.csv")[1] == [2]
    assert found(["'@bob", "é"], TEXT)[1] == [3]
