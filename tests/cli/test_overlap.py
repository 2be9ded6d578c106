"""`metaheac overlap`: files of several kinds, counted."""

import csv
import gzip

import polars as pl
import pytest
from commands import contents, refuses, succeeds

from metaheac_jax.cli.main import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("rank,user_id,score\n1,3,.5\n2,1,.4\n3,2,.1\n4,4,0\n")
    pl.DataFrame({"score": [0.5, 0.1], "user_id": [2, 9]}).write_parquet(tmp_path / "b.parquet")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"user_id\n7\n"))
    return tmp_path


def test_csv_and_parquet_are_compared(folder, capsys):
    succeeds(main, "overlap", "a.csv", "b.parquet", "c.csv.gz", "--out", "out.csv")
    rows = list(csv.reader((folder / "out.csv").read_text().splitlines()))
    header = ["first", "second", "first_users", "second_users", "both", "share", "jaccard"]
    assert rows == [
        header,
        ["a.csv", "b.parquet", "4", "2", "1", "0.25", "0.2"],
        ["a.csv", "c.csv.gz", "4", "1", "0", "0.0", "0.0"],
        ["b.parquet", "a.csv", "2", "4", "1", "0.5", "0.2"],
        ["b.parquet", "c.csv.gz", "2", "1", "0", "0.0", "0.0"],
        ["c.csv.gz", "a.csv", "1", "4", "0", "0.0", "0.0"],
        ["c.csv.gz", "b.parquet", "1", "2", "0", "0.0", "0.0"],
    ]
    printed = capsys.readouterr().out
    for title in ("Users in both", "Share of the row's users", "Jaccard index"):
        assert title in printed


def test_ids_are_compared_as_text(folder, capsys):
    (folder / "text.csv").write_text("user_id\nann\n2\n")
    succeeds(main, "overlap", "text.csv", "b.parquet", "--out", "out.csv")
    assert (folder / "out.csv").read_text().splitlines()[1].startswith("text.csv,b.parquet,2,2,1,")


def test_what_is_wrong_is_named(folder, capsys):
    (folder / "ids").write_text("1\n2\n")
    (folder / "gap.csv").write_text("rank,user_id\n1,5\n2,\n")
    (folder / "empty.csv").write_text("user_id\n")
    (folder / "false.parquet").write_text("user_id\n1\n")
    for words, message in (
        (("a.csv",), "overlap: give the files of two audiences or more"),
        (("a.csv", "none.csv"), "none.csv: no such file"),
        (("a.csv", "none.parquet"), "none.parquet: no such file"),
        (("a.csv", "ids"), "ids: not the file of an audience, with a column user_id"),
        (("a.csv", "false.parquet"), "false.parquet: cannot be read"),
        (("a.csv", "gap.csv"), "gap.csv: line 3: no user_id"),
        (("a.csv", "empty.csv"), "empty.csv: no users"),
        (("a.csv", "b.parquet", "--out", "a.csv"), "--out: a.csv would replace a file"),
        (("a.csv", "b.parquet", "--out", "none/x.csv"), "--out: none is not a folder"),
        (("a.csv", "b.parquet", "--out", "x"), "--out: x: expected a name that ends with .csv"),
    ):
        before = contents(folder)
        refuses(capsys, main, "overlap", *words, words=(message,))
        assert contents(folder) == before
