"""The Tencent comparison as a user runs it, on tiny files: what it leaves, and how it resumes."""

import dataclasses
import json
import re

import commands
import numpy as np
import pytest
from commands import contents, interrupted, refuses, succeeds, tiny_settings
from tencent_world import (
    AIDS,
    TEST,
    TRAIN,
    UNJUDGED,
    world,
    write,
)

from experiments import tencent
from experiments.comparison import report, runs
from experiments.comparison.results import load
from experiments.sources import tencent as competition

COMMAND = commands.module(tencent)
FILES = world()


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_settings():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The options of a run of LR that nothing interrupted, without --methods; and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    options = ("--data-dir", write(folder / "data"), "--cache-dir", folder / "cache")
    succeeds(COMMAND, *options, "--out", folder / "out", "--methods", "lr")
    return options, folder / "out"


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_run_leaves_its_report_and_every_digit(finished):
    _, out = finished
    assert contents(out) == {"seed-0", *report.OUTPUTS}
    judged = [aid for aid in TEST if aid not in UNJUDGED]
    of = load(out / report.RESULTS)
    assert (of.campaigns[0]["campaign"], list(of.methods)) == (judged, ["lr"])
    assert of.about["train_campaigns"] == 7
    assert not of.independent_runs  # runs divide the campaigns of these files
    assert str(out) not in of.about["commands"][0]
    text = (out / "report.md").read_text()
    for aid, why in UNJUDGED.items():
        assert f"campaign {aid} could not be judged: {why}" in text
    result = json.loads((out / "seed-0" / "methods" / "lr.json").read_text())
    assert [round(c["auc"], 6) for c in result["campaigns"]] == of.methods["lr"]["runs"][0]["auc"]


def test_runs_follow_each_other_and_resume(finished, tmp_path, monkeypatch, capsys):
    options = (*finished[0], "--out", tmp_path / "out", "--methods", "lr")
    succeeds(COMMAND, *options, "--seed", 3)
    first = times(tmp_path / "out" / "seed-3" / "methods")
    succeeds(COMMAND, *options, "--seed", 3, "--runs", 2, "--resume")
    assert times(tmp_path / "out" / "seed-3" / "methods") == first
    of = load(tmp_path / "out" / report.RESULTS)
    assert of.seeds == [3, 4]
    assert {*of.campaigns[0]["campaign"]} != {*of.campaigns[1]["campaign"]}  # splits of their own
    text = (tmp_path / "out" / "report.md").read_text()
    assert re.search(r"\| LR \| \d\.\d{4} ±\d\.\d{4} \|", text)
    # Other options or data are not resumed.
    more = (*options, "--seed", 3, "--resume")
    refuses(capsys, COMMAND, *more, "--set", "penalty=3", words=("seed-3: ", "another set"))
    refuses(capsys, COMMAND, *more, "--preset", "official", words=("seed-3: ", "preset"))
    # A new run replaces all of it, and nothing else.
    (tmp_path / "out" / "seed-4" / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run_methods", interrupt)
        interrupted(COMMAND, *options, "--seed", 3)
    assert contents(tmp_path / "out") == {"seed-3", "seed-4"}
    assert contents(tmp_path / "out" / "seed-3") == {"config.json", "methods"}
    assert contents(tmp_path / "out" / "seed-4") == {"notes.txt"}


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_without_options_the_world_is_small_and_says_so(tmp_path, monkeypatch, capsys):
    opened, built = [], []

    def open_toy(world, cache_dir, **_):
        opened.append(world)
        data = competition.prepare(write(tmp_path / f"in-{len(opened)}"), cache_dir / "toy")
        return dataclasses.replace(data, name="simulated toy")

    build = tencent.Options.build
    monkeypatch.setattr(
        tencent.Options,
        "build",
        lambda self, *a, **own: built.append(own) or build(self, *a, **own),
    )
    monkeypatch.setattr(tencent, "open_world", open_toy)
    monkeypatch.setattr(tencent, "oracle", lambda *_: None)
    zeros = lambda *given: np.zeros(len(given[2].stage2.user))  # noqa: E731
    monkeypatch.setattr(tencent, "seeds_only_oracle", zeros)
    (tmp_path / "cache").mkdir()
    options = ("--cache-dir", tmp_path / "cache", "--out", tmp_path / "out", "--methods", "lr")
    succeeds(COMMAND, *options)
    told = capsys.readouterr().out
    assert f"{tencent.SMALL['users']:,} users" in told
    assert "docs/results.md has the real comparison" in told
    assert opened[0].users == tencent.SMALL["users"]
    assert built == [{"offline_epochs": tencent.SMALL_EPOCHS}]
    # A world of a given size is trained in until nothing improves, and has the paper's figures.
    succeeds(COMMAND, *options, "--users", 400_000)
    assert (opened[1].users, opened[1].min_pool_examples, built[1]) == (400_000, 1500, {})
    assert "docs/results.md" not in capsys.readouterr().out
    assert "| LR [paper] | 0.5942 |" in (tmp_path / "out" / "report.md").read_text()
    assert load(tmp_path / "out" / report.RESULTS).independent_runs


def test_a_bad_campaign_leaves_an_older_run_alone(finished, tmp_path, capsys):
    lines = FILES[TRAIN].split("\n")
    single = [re.sub(",-?1$", ",1", x) if x.startswith(f"{AIDS[3]},") else x for x in lines]
    source = write(tmp_path / "data", **{TRAIN: "\n".join(single)})
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", finished[1])
    before = times(finished[1])
    refuses(capsys, COMMAND, *options, words=(f"campaign {AIDS[3]}: stage 1 has ", "add examples"))
    assert times(finished[1]) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--runs", 0), ("--runs", "1 or more")),
        (("--methods", "lr", "xgboost"), ("--methods: unknown", "'xgboost'", "lr, ")),
        (("--set", "wide=8"), ("--set: ", "width")),
        (("--seed", -1), ("--seed", "0 or more")),
        (("--data-dir", "nowhere"), ("nowhere: no such folder",)),
        (("--users", 369_999), ("--users", "or more")),
        (("--data-dir", ".", "--users", 400_000), ("--data-dir: ", "omit --users")),
        (("--data-dir", ".", "--runs", 2, "--preset", "official"), ("--runs: these files have",)),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_options_that_make_no_sense(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    refuses(capsys, COMMAND, "--cache-dir", "cache", "--out", "out", *arguments, words=words)
    assert contents(tmp_path) == set()
