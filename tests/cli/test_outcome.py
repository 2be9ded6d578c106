"""`metaheac outcome`: an audience's file, and who converted."""

import json

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
        "a.csv: 20 users, 19 shown, 4 converted (21.05%, 95% interval 8.51% to 43.33%)",
        "not in the audience: 4 shown, 1 converted (25.00%, 95% interval 4.56% to 69.94%)",
        "lift over these: 0.84 (95% interval 0.12 to 5.67)",
    ):
        assert f"{line}\n" in printed
    assert "gains by tenth of the users, best first" in printed
    assert "rates of converts, expected calibration error" in printed
    facts = json.loads((folder / "o.json").read_text())
    assert facts["users"] == 20
    assert (facts["inside"]["users"], facts["inside"]["converts"]) == (19, 4)
    assert facts["outside"]["rate"]["value"] == 0.25
    assert facts["lift"]["value"] == pytest.approx(16 / 19)
    assert [row["converts"] for row in facts["gains"]] == [2, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    assert facts["calibration"][-1] == {"users": 1, "predicted": 0.95, "observed": 1.0}


def test_an_audience_alone_has_neither_lift_nor_probabilities(folder, capsys):
    (folder / "b.csv").write_text("user_id\n99\n98\n50\n")
    pl.DataFrame({"user_id": [99, 98], "converted": [0, 0]}).write_csv("none.csv")
    succeeds(main, "outcome", "b.csv", "none.csv", "--out", "o.json")
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["b.csv: 3 users, 2 shown, 0 converted (0.00%, 95% interval 0.00% to 65.76%)"]
    facts = json.loads((folder / "o.json").read_text())
    assert facts["outside"] == {"users": 0, "converts": 0, "rate": None}
    assert (facts["lift"], facts["gains"], facts["calibration_error"]) == (None, [], None)


def test_what_is_wrong_is_named(folder, capsys):
    (folder / "ids").write_text("1\n2\n")
    (folder / "twice.csv").write_text("user_id\n99\n99\n")
    (folder / "large.csv").write_text("user_id,probability\n99,.5\n98,1.5\n")
    (folder / "other.csv").write_text("user_id\n1\n")
    for words, message in (
        (("a.csv",), "outcome: give the files that say who was shown it and who converted"),
        (("none.csv", "2.csv"), "none.csv: no such file"),
        (("ids", "2.csv"), "ids: not the file of an audience, with a column user_id"),
        (("a.csv", "a.csv"), "a.csv: has no column 'converted'"),
        (("twice.csv", "2.csv"), "twice.csv: line 3: user_id 99 occurs on an earlier row"),
        (("large.csv", "2.csv"), "large.csv: line 3: probability is not a number from 0 to 1"),
        (("other.csv", "1.parquet"), "other.csv: no user of the audience is in the feedback"),
        (("a.csv", "2.csv", "--out", "2.csv"), "--out: 2.csv would replace a file that is read"),
        (("a.csv", "2.csv", "--out", "x"), "--out: x: expected a name that ends with .json"),
    ):
        before = contents(folder)
        refuses(capsys, main, "outcome", *words, words=(message,))
        assert contents(folder) == before
