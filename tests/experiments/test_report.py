"""The report of a comparison on results written by hand: what is shown, drawn again and kept."""

import base64
import json
import re
import shutil
from pathlib import Path

import commands
import numpy as np
import pytest
from commands import contents, refuses, succeeds
from judged_runs import FirstTwo, comparison, runs
from rich.console import Console

from experiments.comparison import report
from experiments.comparison.results import load, summarise

COMMAND = commands.module(report)


TUNED_ON = "settings tuned on: toy"


@pytest.mark.parametrize("published", [None, "tencent"])
def test_the_report_and_the_screen_say_the_same(tmp_path, capsys, published):
    directory = tmp_path / "out [red]"
    directory.mkdir()
    given = comparison(runs(), published=published)
    summary = report.write(directory, given, Console(width=160))
    assert summary == summarise(runs())
    text, printed = (directory / "report.md").read_text(), capsys.readouterr().out
    page = (directory / "report.html").read_text()
    for shown in (text, page, printed):
        assert given.title in shown
        assert shown.count("campaign 7 could not be judged: 3 candidates") == 1
        assert "0.7000 ±0.1414" in shown
        assert ("[paper]: the paper's own figures" in shown.replace("&#x27;", "'")) == bool(
            published
        )
        assert ("0.7239" in shown) == ("MetaHeac [paper]" in shown) == bool(published)
        assert "no tests; these need 3 worlds" in shown
    assert f"are in {directory}\n" in printed
    assert "![AUC by number of seeds](auc_by_seeds.png)" in text
    methods = text.partition("## Methods")[2].partition("##")[0]
    cells = [line.count("|") for line in methods.splitlines() if line.startswith("|")]
    # A markdown table has as many cells in all rows.
    assert cells == [10] * (2 + 2 + 2 * bool(published))
    assert "0.6500" in text  # the pooled AUC; no room for it on the screen
    assert "pooled" not in printed


def test_the_page_needs_no_other_file(tmp_path):
    report.write(tmp_path, comparison(runs()), Console(quiet=True))
    page = (tmp_path / "report.html").read_text()
    assert "<h1>" in page
    assert re.findall(r'src="([^,]*),', page) == ["data:image/png;base64"] * 2
    assert not re.search(r"https?:|href|<script|url\(", page)
    names = ("auc.png", "auc_by_seeds.png")
    for data, name in zip(re.findall(r'base64,([^"]*)"', page), names, strict=True):
        assert base64.b64decode(data) == (tmp_path / name).read_bytes()
    assert "toy [bold]: two runs" in page


def full_comparison():
    """Something for every file of a report."""
    results = runs()
    rng = np.random.default_rng(0)
    results[0]["metaheac"]["space"] = {
        "campaign": list(range(8)),
        "category": list("aabbccdd"),
        "representation": rng.normal(size=(8, 3)).round(5).tolist(),
        "gate": rng.random((8, 2)).round(5).tolist(),
    }
    results[0]["lr"]["campaigns"][3]["auc"] = 0.9000496  # .9000, and .9001 when it is .900050
    for run in results:
        run["without-he"] = run["lr"] | {"label": "w/o HE"}
        run["metaheac"] |= {
            "curve": {"campaign": 1, "steps": [0, 5], "loss": [0.7, 0.6], "auc": [0.5, 0.6]},
            "offline": {
                "steps": 40,
                "best_step": 20,
                "ceiling": 90,
                "curve": [[20, 0.7, 0.5], [40, 0.7, 0.4]],
            },
            "seconds": {"offline": 3.0, "customise": 2.0, "score": 1.0},
            "provenance": {"commit": "abc", "jax": "0.12.0"},
        }
    tuned = {"label": "LR", "tried": [], "chosen": {"online_learning_rate": 0.02}}
    diverged = {"auc": 0.5, "diverged": "it did"}
    for rate, more in ((0.1, {"auc": 0.55}), (0.2, diverged), (0.02, {"auc": 0.625})):
        fields = {"online_learning_rate": rate}
        tuned["tried"].append({"fields": fields, **more})
    about = {"data": "toy", "command": "python -m toy", "tuned": TUNED_ON}
    tuning = {"origin": "toy", "methods": {"lr": tuned}}
    return comparison(results, published="tencent", about=about, tuning=tuning)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with a report; nothing may change it."""
    directory = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn.manifold.TSNE", FirstTwo)
        report.write(directory, full_comparison(), Console(quiet=True))
        yield directory


@pytest.mark.slow
def test_what_was_stored_is_drawn_again(drawn, tmp_path):
    drawn = Path(shutil.copytree(drawn, tmp_path / "copy"))
    written = {path.name: path.read_bytes() for path in drawn.iterdir()}
    assert set(written) == set(report.OUTPUTS)
    text = (drawn / "report.md").read_text()
    assert "| LR | 3 | 1 | 0.5500 | 0.6250 | online_learning_rate 0.02 |" in text
    for name in ("report.md", "report.html", "auc_by_seeds.png", "training.png", "space.png"):
        (drawn / name).unlink()
    succeeds(COMMAND, drawn)
    assert {path.name: path.read_bytes() for path in drawn.iterdir()} == written
    # The tables come from the campaigns' lines.
    lines = [json.loads(x) for x in (drawn / "campaigns.jsonl").read_text().splitlines()]
    (drawn / "campaigns.jsonl").write_text(
        "".join(json.dumps(line | {"auc": 0.125}) + "\n" for line in lines)
    )
    succeeds(COMMAND, drawn)
    assert "| LR | 0.1250 ±0.0000 |" in (drawn / "report.md").read_text()


def test_under_each_table_stands_where_it_comes_from(drawn):
    origin = "`python -m toy`; toy; Python unknown; jax 0.12.0; commit abc; unknown; 12 s of wall"
    for table in (drawn / "report.md").read_text().split("\n## ")[1:]:
        assert table.count(f"\n{origin} time\n") == 1
    origin = origin.replace("; toy;", f"; toy; {TUNED_ON};")
    assert json.loads((drawn / "results.json").read_text())["origin"] == f"{origin} time"


def test_where_settings_come_from_stands_once_after_the_tables(drawn):
    for name, line in (("report.md", "\n- {}\n"), ("report.html", "<li>{}</li>")):
        text = (drawn / name).read_text()
        assert text.count(TUNED_ON) == text.count(line.format(TUNED_ON)) == 1


def test_results_json_has_values_of_runs_and_the_tests(drawn):
    data = json.loads((drawn / "results.json").read_text())
    assert data["summary"]["lr"]["small"]["auc"]["runs"] == [0.6, 0.8]
    assert data["test"].startswith("Errors are over the campaigns of 2 worlds")
    assert data["primary_claims"] == []
    assert data["pairs"] == []


def test_what_is_kept_is_small_and_can_be_drawn_again(drawn, tmp_path, capsys):
    before = {path: path.read_bytes() for path in drawn.iterdir()}
    keep = tmp_path / "results" / "toy"
    keep.mkdir(parents=True)  # what an older one left does not stay
    for name in ("report.md", "tuning.json"):
        (keep / name).write_text("old")
    succeeds(COMMAND, drawn, "--keep", keep)
    assert f"are in {keep}; all of it may be committed\n" in capsys.readouterr().out
    assert contents(keep) == set(report.OUTPUTS) - {"report.html"}
    assert {path: path.read_bytes() for path in drawn.iterdir()} == before
    for name in contents(keep):
        assert (keep / name).read_bytes() == (drawn / name).read_bytes()
    assert load(keep) == load(drawn)


def test_what_must_not_be_kept_over(drawn, tmp_path, capsys):
    (drawn.parent / "report.md").write_text("of another comparison")
    run = drawn.parent / "run"
    shutil.copytree(drawn, run)
    (run / "seed-0").mkdir()
    words = (f"{run / 'seed-0'} would be removed; give another folder to keep in",)
    refuses(capsys, COMMAND, drawn, "--keep", run, words=words)
    assert (run / "seed-0").is_dir()
    for kept in (drawn, drawn.parent):
        words = (f"--keep: {kept} would replace {drawn}; give another",)
        refuses(capsys, COMMAND, drawn, "--keep", kept, words=words)
    (drawn.parent / "report.md").unlink()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    words = ("mine/notes.txt would be removed; give another folder",)
    refuses(capsys, COMMAND, drawn, "--keep", tmp_path / "mine", words=words)
    assert contents(tmp_path / "mine") == {"notes.txt"}
    refuses(capsys, COMMAND, tmp_path / "mine", words=("no results.json; train something first",))
