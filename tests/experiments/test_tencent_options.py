"""Options of the comparisons: worlds, schemas, help, dry runs, and those that make no sense."""

import dataclasses
import json
import re
import runpy
from pathlib import Path

import commands
import numpy as np
import pytest
import toy
from commands import contents, explanations, refuses, succeeds, tiny_settings
from tencent_world import CAMPAIGNS, SMALL_SCHEMA, USERS, write

from experiments import movielens, tencent
from experiments.comparison import report
from experiments.comparison.tuning import LADDERS
from metaheac_jax.data.simulation import RECIPE
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.methods import METHODS, method_named

COMMAND = commands.module(tencent)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_settings():
        yield


def test_the_wechat_world_has_its_own_split_and_published_figures(tmp_path, monkeypatch):
    written = []

    def write_toy(target, *, users, examples, cardinality, seed, shape, progress):
        written.append((users, examples, cardinality, seed, shape.name, target.name))
        write(target)
        (target / "SIMULATED").write_text("simulated toy of WeChat\n")

    monkeypatch.setattr(tencent, "write_world", write_toy)
    monkeypatch.setitem(tencent.MIN_USERS_BY_DEFAULT, "wechat", 500)
    (tmp_path / "cache").mkdir()
    options = ("--cache-dir", tmp_path / "cache", "--out", tmp_path / "out", "--methods", "lr")
    succeeds(COMMAND, *options, "--world", "wechat", "--users", 500, "--seed", 2)
    name = f"simulated-{RECIPE}-wechat-500-users-seed-2"
    assert written == [(500, None, 0.1, 2, "WeChat-shaped Tencent", name)]
    stored = report.load(tmp_path / "out")
    assert stored.independent_runs  # each has a world of its own
    assert stored.about["train_campaigns"] == 8  # 58 of 90 are 7.7 of 12
    (prepared,) = (p for p in (tmp_path / "cache").iterdir() if p.name.startswith("prepared"))
    seeds = int(open_dataset(prepared).stage1.positives.sum())
    assert stored.about["threshold"] == round(10_000 * seeds / 286_036) > 0
    assert "| LR [paper] | 0.5654 |" in (tmp_path / "out" / "report.md").read_text()


def test_t_is_the_papers_where_the_world_is_no_smaller():
    data = toy.dataset(users=30, campaigns=90, per_campaign=20, pool=20)
    data = dataclasses.replace(data, stage1=Many(data.stage1))
    split = tencent.wechat_split(data, 0)
    assert (split.threshold, len(split.train), len(split.test)) == (10_000, 58, 32)


class Many:
    """A stage whose campaigns have 4,000 seeds each."""

    def __init__(self, stage):
        self.positives = np.full(len(stage.counts), 4000)


def test_a_schema_chooses_other_features(tmp_path):
    source, path = write(tmp_path / "data"), tmp_path / "schema.json"
    path.write_text(json.dumps(SMALL_SCHEMA))
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    succeeds(COMMAND, *options, "--schema", path, "--methods", "lr")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["about"]["rows"] == 2 + 3 + CAMPAIGNS  # genders, systems, creatives
    assert len(report.load(tmp_path / "out").runs[0]["lr"]["campaigns"]) == 2
    (prepared,) = (tmp_path / "cache").iterdir()
    assert open_dataset(prepared).user_rows.shape == (USERS, 3)


@pytest.mark.parametrize("module", [tencent, movielens])
def test_help_says_what_every_option_does(module, capsys):
    entries = explanations(capsys, commands.module(module), module.Options)
    names = {field.name.replace("_", "-") for field in dataclasses.fields(module.Options)}
    assert set(entries) == {f"--{name}" for name in names}
    for setting in LADDERS:  # --tune names what it chooses: experts for num_experts
        word = setting.split("_")[0 if setting.endswith("learning_rate") else -1]
        known = {"outer": "both stages", "online": "both stages"}.get(word, word)
        assert known in " ".join(entries["--tune"].split()), setting


def test_another_split_of_the_authors_files_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickles = tmp_path / "pickles"
    pickles.mkdir()
    (pickles / "train_stage1.pkl").write_bytes(bytes(8000))
    words = ("--split paper: the authors' pickles have their own split",)
    for more in ((), ("--dry-run",)):
        refuses(capsys, COMMAND, "--data-dir", pickles, "--split", "paper", *more, words=words)
    assert contents(tmp_path) == {"pickles"}


def test_all_stands_for_the_librarys_methods_beside_others():
    names = tencent.Options(methods=("program-step", "all", "lr")).names
    assert names == ("program-step", *METHODS)


def test_a_dry_run_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "data")
    pickles = tmp_path / "pickles"
    pickles.mkdir()
    (pickles / "train_stage1.pkl").write_bytes(bytes(8000))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    options = ("--cache-dir", tmp_path / "cache", "--out", "out", "--methods", "all", "--dry-run")
    for more, words in (
        (("--users", 380_000), "simulate 380,000 users in "),
        (("--world", "wechat"), f"simulated-{RECIPE}-wechat-600000-users-seed-0"),
        (("--runs", 3, "--tune", 16), "LR: 16 trials, then no offline steps"),
        (("--data-dir", source), f"about {USERS} users and 961 stage-1 examples"),
        (("--data-dir", pickles), "about 10 examples, 10 of them in stage 1"),
    ):
        succeeds(COMMAND, *options, *more)
        printed = capsys.readouterr().out
        assert words in printed
        for name in METHODS:
            assert f"{method_named(name).label}: " in printed
        assert re.search(r"roughly [\d.]+ GiB of memory and \d+ minutes", printed)
    words = ("98,764 examples leave 0 for stage 1",)  # as the run itself is refused
    refuses(capsys, COMMAND, *options, "--examples", 98_764, words=words)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--runs", 0), ("--runs: expected 1 or more, got 0",)),
        (("--methods", "lr", "xgboost"), ("--methods: unknown 'xgboost'", "lr, mlp-one-stage")),
        (("--methods", "all", "xgboost"), ("--methods: unknown 'xgboost'",)),
        (("--tune-only", "penalty"), ("--tune-only: needs --tune",)),
        (("--set", "wide=8"), ("--set: expected NAME=VALUE, got 'wide=8'", "width")),
        (("--set", "width=0"), ("settings: width: ", "got 0")),
        (("--set", "width=8", "--tune", 2), ("--set: gives settings that --tune would choose",)),
        (("--tune", 3, "--tune-only", "width"), ("--tune-only: unknown 'width'", "penalty")),
        (("--offline-examples", 0), ("--offline-examples: expected more than 0 and at most 1",)),
        (("--online-examples", 1.5), ("--online-examples: expected ", "at most 1, got 1.5")),
        (("--methods",), ("--methods: has no value; give one",)),
        (("--seed", -1), ("--seed: expected 0 or more, got -1",)),
        (("--data-dir", "nowhere"), ("nowhere: no such folder",)),
        (("--data-dir", "nowhere", "--dry-run"), ("nowhere/userFeature.data: missing",)),
        (("--users", 369_999), ("--users: expected 370000 or more, got 369999",)),
        (("--users", 9, "--world", "wechat"), ("--users: expected 180000 or more, got 9",)),
        (("--data-dir", ".", "--users", 400_000), ("--users: cannot be used with",)),
        (("--data-dir", ".", "--examples", 9, "--dry-run"), ("--examples: cannot be used with",)),
        (("--data-dir", ".", "--cardinality", 1), ("--cardinality: cannot be used with",)),
        (("--data-dir", ".", "--runs", 2, "--split", "official"), ("--runs: these files have",)),
        (("--data-dir", ".", "--runs", 2, "--preset", "official"), ("--runs: these files have",)),
        (("--world", "wechat", "--data-dir", "."), ("--world wechat: it is simulated",)),
        (("--world", "wechat", "--split", "official"), ("--world wechat: ", "its own split")),
        (("--schema", "none.json"), ("none.json: No such file",)),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_options_that_make_no_sense(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    options = ("--cache-dir", "cache", "--out", "out", *arguments)
    refuses(capsys, COMMAND, *options, words=words)
    assert contents(tmp_path) == set()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"user": [', "schema.json: not valid JSON"),
        ("[]", "schema.json: schema: expected a JSON object"),
        ('{"user": [{"name": 3}], "campaign": [{"name": "aid"}]}', "schema: field: name is 3"),
        ('{"user": [{"name": "a"}], "campaign": [{"name": "a"}]}', "'a' is named twice"),
    ],
)
def test_an_invalid_schema_is_refused(tmp_path, capsys, text, words):
    path = tmp_path / "schema.json"
    path.write_text(text)
    options = ("--cache-dir", tmp_path / "cache", "--out", tmp_path / "out", "--schema", path)
    for more in ((), ("--dry-run",)):
        refuses(
            capsys,
            COMMAND,
            *options,
            "--data-dir",
            write_once(tmp_path),
            *more,
            words=(words,),
        )
    assert contents(tmp_path) == {"schema.json", "data"}


def write_once(directory: Path) -> Path:
    return directory / "data" if (directory / "data").exists() else write(directory / "data")


@pytest.mark.parametrize("module", [tencent, movielens, report])
def test_a_module_is_a_command(tmp_path, capsys, monkeypatch, module):
    monkeypatch.chdir(tmp_path)
    start = lambda: runpy.run_path(module.__file__, run_name="__main__")  # noqa: E731
    arguments = ("nowhere",) if module is report else ("--data-dir", "nowhere")
    refuses(capsys, start, *arguments, words=("nowhere",))
    assert contents(tmp_path) == set()
