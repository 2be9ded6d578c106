"""Audiences that commands read, and files that are none."""

import pytest

from metaheac_jax.cli.held_out import read_audience
from metaheac_jax.errors import InputError


@pytest.mark.parametrize(
    ("name", "content", "text", "words"),
    [
        ("a.csv", b"user,score\n5,1\n", False, "not the file of an audience, with a column user_"),
        ("a.csv", b"user_id\nfive\n", False, "not the file of an audience"),
        ("a.csv", b"user_id,score\n5,1\n,2\n", False, "a line has no user_id"),
        ("a.csv", b"", True, "not the file of an audience"),
        ("a.csv.gz", b"\x1f\x8bhalf", True, "not the file of an audience"),
        ("a.parquet", b"user_id\n5\n", True, "not the file of an audience"),
    ],
)
def test_what_is_no_audience_is_named(tmp_path, name, content, text, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: {words}"):
        read_audience(tmp_path / name, text=text)
