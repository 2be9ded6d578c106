"""Audiences that commands read, and files that are none."""

import polars as pl
import pytest

from metaheac_jax.cli.held_out import read_audience
from metaheac_jax.errors import InputError


@pytest.mark.parametrize(
    ("name", "content", "text", "words"),
    [
        ("a.csv", b"user,score\n5,1\n", False, "not the file of an audience, with a column user_"),
        ("a.csv", b"user_id\nfive\n", False, "line 2: user_id is 'five', expected a whole number"),
        ("a.csv", b"user_id\n5\n007\n", False, "line 3: user_id is '007', expected a whole number"),
        ("a.csv", b"user_id\n+8\n", False, r"line 2: user_id is '\+8', expected a whole number"),
        ("a.csv", b"user_id\n12.0\n", False, "line 2: user_id is '12.0', expected a whole number"),
        ("a.csv", b"user_id,score\n5,1\n,2\n", False, "line 3: no user_id"),
        ("a.csv", b"", True, "is empty"),
        ("a.csv.gz", b"\x1f\x8bhalf", True, "cannot be read"),
        ("a.parquet", b"user_id\n5\n", True, "cannot be read"),
    ],
)
def test_what_is_no_audience_is_named(tmp_path, name, content, text, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: {words}"):
        read_audience(tmp_path / name, text=text)


@pytest.mark.parametrize("text", [False, True])
def test_lists_are_no_ids(tmp_path, text):
    pl.DataFrame({"user_id": [[1], [2]]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet: user_id is of type List\(Int64\), expected"):
        read_audience(tmp_path / "a.parquet", text=text)
