"""`metaheac outcome`: an audience's file, and who converted."""

import gzip
import json
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from commands import contents, refuses, succeeds

from metaheac_jax.cli.main import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An audience of 20 users with probabilities, 19 of whom were shown it, and four others."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{i},{100 - i},{-i},{1 - i / 20}" for i in range(1, 21)]
    (tmp_path / "a.csv").write_text("\n".join(["rank,user_id,score,probability", *rows, ""]))
    first = {100 - i: int(i < 5) for i in range(1, 11)}
    pl.DataFrame({"user_id": [*first], "converted": [*first.values()]}).write_parquet("1.parquet")
    rows = [*(f"{100 - i},0" for i in range(11, 20)), "1,1", "2,0", "3,0", "4,0"]
    (tmp_path / "2.csv").write_text("\n".join(["user_id,converted", *rows, ""]))
    return tmp_path


def test_rates_and_tenths_are_shown(folder, capsys):
    succeeds(main, "outcome", "a.csv", "1.parquet", "2.csv", "--out", "o.json")
    printed = capsys.readouterr().out
    for line in (
        "1.parquet: 10 users, 10 of them in the audience",
        "2.csv: 13 users, 9 of them in the audience",
        "a.csv: 20 users, 19 shown, 4 converted (21.05%, 95% interval 8.51% to 43.33%)",
        "not in the audience: 4 shown, 1 converted (25.00%, 95% interval 4.56% to 69.94%)",
        "ratio of the two rates: 0.84 (95% interval 0.12 to 5.67)",
        "users shown: gains by tenth of the users, best first",
    ):
        assert f"{line}\n" in printed
    assert "users shown: rates of converts, expected calibration error" in printed
    facts = json.loads((folder / "o.json").read_text())
    assert facts["size"] == 20
    assert (facts["shown"]["users"], facts["shown"]["converts"]) == (19, 4)
    assert facts["others"]["rate"]["value"] == 0.25
    assert facts["rate_ratio"]["value"] == pytest.approx(16 / 19)
    assert [row["converts"] for row in facts["gains"]] == [2, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    assert facts["calibration"][-1] == {"users": 1, "predicted": 0.95, "observed": 1.0}


def test_the_order_of_the_rows_does_not_matter(folder):
    """The ranks are those of a band, whose file was sorted by another program."""
    rows = pl.read_csv("a.csv").with_columns(pl.col("rank") + 20_000)
    rows.sort("user_id").write_parquet("sorted.parquet")
    for name in ("a.csv", "sorted.parquet"):
        succeeds(main, "outcome", name, "1.parquet", "2.csv", "--out", f"of-{name}.json")
    assert Path("of-a.csv.json").read_text() == Path("of-sorted.parquet.json").read_text()


def test_a_user_in_two_files_counts_once_and_ids_may_be_text(folder, capsys):
    Path("b.csv.gz").write_bytes(gzip.compress(b"user_id\nann\n007\n"))
    Path("mon.csv").write_text("user_id,converted\nann,0\n007,0\nbob,0\n")
    Path("tue.csv").write_text("user_id,converted\nann,1\nbob,0\n")
    succeeds(main, "outcome", "b.csv.gz", "mon.csv", "tue.csv", "--out", "o.json")
    unknown = "ratio of the two rates: unknown, since none or all of a group converted\n"
    assert unknown in capsys.readouterr().out
    facts = json.loads(Path("o.json").read_text())
    assert (facts["shown"]["users"], facts["shown"]["converts"]) == (2, 1)
    assert (facts["others"]["users"], facts["rate_ratio"]) == (1, None)


def test_an_audience_alone_has_neither_ratio_nor_probabilities(folder, capsys):
    (folder / "b.csv").write_text("user_id\n99\n98\n50\n")
    pl.DataFrame({"user_id": [99, 98], "converted": [0, 0]}).write_csv("none.csv")
    succeeds(main, "outcome", "b.csv", "none.csv", "--out", "o.json")
    assert capsys.readouterr().out.splitlines() == [
        "none.csv: 2 users, 2 of them in the audience",
        "b.csv: 3 users, 2 shown, 0 converted (0.00%, 95% interval 0.00% to 65.76%)",
    ]
    facts = json.loads((folder / "o.json").read_text())
    assert facts["others"] == {"users": 0, "converts": 0, "rate": None}
    assert (facts["rate_ratio"], facts["gains"], facts["calibration_error"]) == (None, [], None)


def test_what_is_wrong_is_named(folder, capsys):
    for name, text in {
        "ids": "1\n2\n",
        "empty.csv": "user_id\n",
        "header.csv": "user_id,converted\n",
        "twice.csv": "user_id\n99\n99\n",
        "large.csv": "user_id,probability\n99,.5\n98,1.5\n",
        "gap.csv": "user_id,probability\n99,.5\n98,\n",
        "nan.csv": "rank,user_id\n1,99\nnan,98\n",
        "other.csv": "user_id\n1\n",
        "pandas.csv": "user_id,converted\n99.0,1\n",
    }.items():
        (folder / name).write_text(text)
    for name, cells in {"list": [[0.5]], "time": [timedelta(0)]}.items():
        pl.DataFrame({"user_id": [99], "probability": cells}).write_parquet(f"{name}.parquet")
    for words, message in (
        (("a.csv",), "outcome: give the files that say who was shown it and who converted"),
        (("none.csv", "2.csv"), "none.csv: no such file"),
        (("ids", "2.csv"), "ids: not the file of an audience, with a column user_id"),
        (("empty.csv", "2.csv"), "empty.csv: no users"),
        (("a.csv", "a.csv"), "a.csv: has no column 'converted'"),
        (("a.csv", "header.csv"), "header.csv: no records of users who were shown"),
        (("twice.csv", "2.csv"), "twice.csv: line 3: user_id 99 occurs on an earlier row"),
        (("large.csv", "2.csv"), "line 3: probability is '1.5', expected a number from 0 to 1"),
        (("gap.csv", "2.csv"), "gap.csv: line 3: probability is None, expected a number from 0"),
        (("nan.csv", "2.csv"), "nan.csv: line 3: rank is 'nan', expected a number, 0 or more"),
        (("list.parquet", "2.csv"), "list.parquet: probability is of type List(Float64), expected"),
        (("time.parquet", "2.csv"), "time.parquet: probability is of type Duration"),
        (("other.csv", "1.parquet"), "other.csv: no user of the audience is in the feedback"),
        (("a.csv", "pandas.csv"), "pandas.csv: line 2: user_id is '99.0', expected a whole number"),
        (("a.csv", "2.csv", "--out", "2.csv"), "--out: 2.csv would replace a file that is read"),
        (("a.csv", "2.csv", "--out", "./a.csv.json"), "a.csv.json is the audience's record; give"),
        (("a.csv", "2.csv", "--out", "x"), "--out: x: expected a name that ends with .json"),
    ):
        before = contents(folder)
        refuses(capsys, main, "outcome", *words, words=(message,))
        assert contents(folder) == before
