"""`metaheac fit`: where it may write, and how an interrupted training goes on."""

import json
import re
import shutil
import sys
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from commands import (
    contents,
    exit_code,
    interrupt_after,
    interrupted,
    refuses,
    succeeds,
    tiny_settings,
)
from toy import dataset

from metaheac_jax.cli import terminal
from metaheac_jax.cli.fit import (
    _folder_notes,
    _judged,
    _start_notes,
    _training_campaigns,
    _with_added,
)
from metaheac_jax.cli.main import main
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.examples import group_by_campaign
from metaheac_jax.data.splits import official_split, paper_split
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.methods import method_named
from metaheac_jax.methods.ensemble import member_methods
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.record import steps_of
from metaheac_jax.methods.registry import METHODS
from metaheac_jax.model import AddedCampaign, Judged, load, save
from metaheac_jax.settings import SETTINGS

DATA = dataset(users=120, campaigns=6, per_campaign=60, pool=40)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_settings():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "data"
    write_dataset(DATA, str(folder))
    assert open_dataset(str(folder)).num_users == DATA.num_users
    return folder


def all_bytes(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_nothing_is_learned_from_excluded_users(data, tmp_path, capsys):
    """The model is that of data without their examples, which an opt-out list may name in vain."""
    left = np.unique(DATA.user_ids[DATA.stage1.user[::7]])
    (tmp_path / "optouts.csv").write_text("\n".join(["user_id", *map(str, left), "999999999"]))
    method = ("--method", "mlp-pretraining", "--epochs", 1)
    exclude = ("--exclude", tmp_path / "optouts.csv")
    succeeds(main, "fit", data, tmp_path / "model", *method, *exclude)
    is_left = np.isin(DATA.user_ids[DATA.stage1.user], left)
    printed = capsys.readouterr().out
    assert f"note: {is_left.sum():,} examples of users in --exclude are left out\n" in printed
    assert f"{len(left)} of {len(left) + 1} ids to leave out are users of the data" in printed
    owner = np.repeat(np.arange(6), DATA.stage1.counts)[~is_left]
    parts = (own[~is_left] for own in (DATA.stage1.user, DATA.stage1.label))
    kept = replace(DATA, stage1=group_by_campaign(owner, *parts, num_campaigns=6))
    write_dataset(kept, tmp_path / "kept")
    succeeds(main, "fit", tmp_path / "kept", tmp_path / "other", *method)
    succeeds(main, "fit", data, tmp_path / "all", *method)
    ours, same, all_users = (
        dict(load(tmp_path / name).state) for name in ("model", "other", "all")
    )
    jax.tree.map(np.testing.assert_array_equal, ours, same)
    assert not np.array_equal(ours["table"], all_users["table"])
    (tmp_path / "everyone").write_text("\n".join(map(str, DATA.user_ids)))
    options = (tmp_path / "none", "--exclude", tmp_path / "everyone")
    refuses(capsys, main, "fit", data, *options, words=("examples",))
    assert not (tmp_path / "none").exists()


def test_the_log_of_a_training_is_kept_if_asked(data, tmp_path, capsys):
    log, model = tmp_path / "june.jsonl", tmp_path / "model"
    command = ("fit", data, model, "--method", "mlp-pretraining", "--epochs", 1)
    log.write_text("of May\n")
    succeeds(main, *command, "--log", log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[-1]["name"] == "MLP+pre-training"
    assert {"step", "loss", "steps_per_second", "seconds"} <= lines[-1].keys()
    assert lines[-1]["step"] == steps_of(load(model, optimizer=True))
    assert contents(tmp_path) == {"june.jsonl", "model"}
    (tmp_path / "empty").mkdir()
    for out, place in (
        (model, model / "log.jsonl"),
        (model, tmp_path / "model.training" / "x"),
        (model, data),
        (tmp_path / "new", tmp_path / "new"),
        (tmp_path / "empty", tmp_path / "empty" / "log.jsonl"),
    ):
        refuses(capsys, main, "fit", data, out, *command[3:], "--log", place, words=("--log: ",))
        assert contents(tmp_path) == {"june.jsonl", "model", "empty"}


def test_a_log_that_cannot_be_written_is_refused_before_the_training(
    data, tmp_path, capsys, writers
):
    log = tmp_path / "june.jsonl"
    with writers.of(log) as process:
        words = (f"{log}: process {process} on ", " is writing it; wait for it")
        refuses(capsys, main, "fit", data, tmp_path / "model", "--log", log, words=words, code=75)
    assert contents(tmp_path) == {".june.jsonl.lock"}


def test_options_reach_the_training(data, tmp_path, monkeypatch):
    seen = []

    def fit(self, data, **options):
        seen.append((self.settings, options))
        raise InputError("seen")

    monkeypatch.setattr(Method, "fit", fit)
    stopping = replace(SETTINGS["official"], offline_patience=4)
    monkeypatch.setitem(SETTINGS, "official", stopping)
    (tmp_path / "model.training").mkdir()
    words = ("--method", "mlp-pretraining", "--settings", "official", "--epochs", 7, "--seed", 5)
    more = ("--skip-nonfinite", 3, "--resume", "--allow-change", "data")
    more += ("--set", "value_dropout=.5", "width=32", "mixture=mean", "disjoint=true")
    more += ("online_patience=none",)
    assert exit_code(main, "fit", data, tmp_path / "model", *words, *more) == 2
    [(settings, options)] = seen
    set_ = {"value_dropout": 0.5, "width": 32, "mixture": "mean", "disjoint": True}
    chosen = replace(stopping, **set_, online_patience=None)
    assert settings == replace(chosen, offline_epochs=7, offline_patience=None)
    assert (options["seed"], options["skip_nonfinite"]) == (5, 3)
    assert tuple(options["allow_changes"]) == ("data",)


def test_a_campaign_that_is_added_every_day_is_recorded_once():
    tea, jazz = AddedCampaign("tea", "1", {"topic": 4}), AddedCampaign("jazz", "2", {"topic": 4})
    today, other = tea._replace(digest="3"), tea._replace(digest="4", attributes={"topic": 5})
    assert _with_added((tea, jazz), [today]) == (jazz, today)
    assert _with_added((tea, jazz), [other]) == (tea, jazz, other)
    assert _with_added((tea, jazz), []) == (tea, jazz)
    missing = tea._replace(attributes={"topic": float("nan")})
    assert len(_with_added((missing,), [tea._replace(attributes={"topic": float("nan")})])) == 1


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_bits(data, tmp_path, capsys, monkeypatch):
    whole, part, training = (tmp_path / name for name in ("whole", "part", "part.training"))
    succeeds(main, "fit", data, whole, "--seed", 2)
    assert contents(tmp_path) == {"whole"}
    with monkeypatch.context() as patch:
        saved = interrupt_after(patch, 2)
        interrupted(main, "fit", data, part, "--seed", 2)
    assert saved == [4, 8]
    assert "--resume" in capsys.readouterr().err
    assert contents(tmp_path) == {"whole", "part.training"}

    before = all_bytes(training)
    words = (f"{training}: an interrupted training; continue with --resume, or delete the folder",)
    refuses(capsys, main, "fit", data, part, "--seed", 2, words=words)
    file = training / "checkpoints.json"
    for flag, value, what in (
        ("--seed", 3, "seed (2, now 3)"),
        ("--method", "alpha-0", "method (metaheac, now alpha-0)"),
        ("--campaigns", "paper", "campaigns"),
    ):
        words = (f"{file}: started with another {what}; use the same, or delete {file} and ",)
        options = chain(*({"--seed": 2} | {flag: value}).items())
        refuses(capsys, main, "fit", data, part, *options, "--resume", words=words)
    other, label = tmp_path / "data", DATA.stage1.label.copy()
    seed, non_seed = label.argmax(), label.argmin()
    label[[seed, non_seed]] = label[[non_seed, seed]]  # every count is the same
    write_dataset(replace(DATA, stage1=replace(DATA.stage1, label=label)), other)
    words = (f"{file}: started with another data; ", "allow it with --allow-change data, or delete")
    refuses(capsys, main, "fit", other, part, "--seed", 2, "--resume", words=words)
    good = file.read_bytes()
    file.write_bytes(good[:20])
    words = (f"{file}: damaged; delete {file} and {training / 'checkpoints'} to train afresh",)
    refuses(capsys, main, "fit", data, part, "--seed", 2, "--resume", words=words)
    file.write_bytes(good)
    assert all_bytes(training) == before

    with monkeypatch.context() as patch:
        saved = interrupt_after(patch, 99)
        succeeds(main, "fit", data, part, "--seed", 2, "--resume")
    assert saved[0] > 8  # none was done twice
    assert contents(tmp_path) == {"whole", "part", "data"}
    assert all_bytes(part) == all_bytes(whole)


def with_few(folder, few, keep):
    """The data, in which some campaigns have their first ``keep`` examples alone."""
    parts = [DATA.campaign(c) for c in range(DATA.num_campaigns)]
    parts = [own.pick(np.arange(keep if c in few else 60)) for c, own in enumerate(parts)]
    stage1 = group_by_campaign(
        np.repeat(np.arange(len(parts)), [len(own.users) for own in parts]),
        np.concatenate([own.users for own in parts]),
        np.concatenate([own.labels for own in parts]),
        num_campaigns=len(parts),
    )
    write_dataset(replace(DATA, stage1=stage1), folder)


def test_campaigns_that_nothing_can_be_trained_on_are_skipped_if_asked(tmp_path, capsys):
    with_few(tmp_path / "data", [1, 4], keep=19)
    command = ("fit", tmp_path / "data", tmp_path / "model", "--method", "cosine")
    first, second = map(str, DATA.campaign_ids[[1, 4]])
    words = (f"campaign {first}: stage 1 has", f"{second}; --skip-unusable leaves out those of")
    refuses(capsys, main, *command, words=words)
    assert exit_code(main, *command, "--skip-unusable") == terminal.FAULTS
    printed = capsys.readouterr().out
    assert printed.index(f"note: left out as unusable (2): {first}, {second}\n") < printed.index(
        "trained on 4 campaigns of toy"
    )
    kept = np.delete(DATA.campaign_ids, [1, 4]).tolist()
    assert list(load(tmp_path / "model").campaigns) == kept
    with_few(tmp_path / "none", range(6), keep=19)
    none = ("fit", tmp_path / "none", tmp_path / "other", "--skip-unusable")
    refuses(capsys, main, *none, words=("--skip-unusable: leaves no campaign of",))
    # The paper's split comes first, so what is judged does not depend on what is left out.
    [bad] = paper_split(DATA, 0).train[:1]
    with_few(tmp_path / "one", [bad], keep=19)
    command = ("fit", tmp_path / "one", tmp_path / "paper", "--method", "cosine")
    code = exit_code(main, *command, "--campaigns", "paper", "--skip-unusable")
    assert code == terminal.FAULTS
    kept = np.setdiff1d(paper_split(DATA, 0).train, bad)
    assert set(load(tmp_path / "paper").campaigns) == set(DATA.campaign_ids[kept].tolist())


def test_skipping_changes_nothing_if_all_campaigns_are_usable(data, tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(Method, "fit", lambda *_, campaigns, **__: seen.append(campaigns) or 1 / 0)
    for name, more in (("a", ()), ("b", ("--skip-unusable",))):
        with pytest.raises(ZeroDivisionError):
            exit_code(main, "fit", data, tmp_path / name, "--campaigns", "paper", *more)
    assert seen[0].tolist() == seen[1].tolist()


@pytest.mark.slow
def test_campaigns_that_are_held_out_are_not_counted(data, tmp_path, capsys, monkeypatch):
    settings = replace(SETTINGS["paper"], offline_patience=8)
    monkeypatch.setitem(SETTINGS, "paper", settings)
    succeeds(main, "fit", data, tmp_path / "model", "--method", "mlp-pretraining")
    printed = capsys.readouterr().out
    assert re.search(
        r"trained on 3 campaigns of toy; AUC \S+ on 3 more, held out to decide", printed
    )
    assert len(load(tmp_path / "model").held_out) == 3
    go_on = ("--from", tmp_path / "model", "--seed", 1)
    succeeds(main, "fit", data, tmp_path / "next", *go_on)
    [trained, held] = re.search(
        r"on (\d) campaigns.* on (\d) more", capsys.readouterr().out
    ).groups()
    assert int(trained) + int(held) == 6
    general = load(tmp_path / "model", optimizer=True)
    save(replace(general, campaigns=tuple(DATA.campaign_ids.tolist())), tmp_path / "known")
    succeeds(main, "fit", data, tmp_path / "later", "--from", tmp_path / "known")
    words = "earlier trainings learned from 3 of the held-out campaigns"
    assert words in " ".join(capsys.readouterr().out.split())
    succeeds(main, "fit", data, tmp_path / "prior", "--method", "prior")
    printed = capsys.readouterr().out
    assert "trained on 3 campaigns of toy; 3 more, held out to decide when to stop" in printed


@pytest.mark.parametrize(
    ("num_seen", "steps", "expected"),
    [
        (0, 8, []),
        (2, 8, ["earlier trainings learned from 2 of the held-out campaigns"]),
        (0, 5, ["the trained weights are those of june"]),
    ],
)
def test_a_training_that_continued_says_what_its_judgements_are_worth(num_seen, steps, expected):
    start, general = (SimpleNamespace(optimizer={"count": np.array(count)}) for count in (5, steps))
    notes = [*_start_notes(general, start, "june", num_seen)]
    assert len(notes) == len(expected)
    for note, words in zip(notes, expected, strict=True):
        assert words in note


def test_with_from_the_campaigns_that_the_model_has_seen_are_not_left_out(data, tmp_path, capsys):
    first = tmp_path / "first"
    succeeds(main, "fit", data, first, "--epochs", 1, "--campaigns", "paper", "--seed", 1)
    general = load(first)
    again = _training_campaigns(DATA, "paper", 5, general)
    assert DATA.campaign_ids[again].tolist() == sorted(general.campaigns)
    assert len(again) == len(paper_split(DATA, 5).train) == 4
    assert set(again) != set(paper_split(DATA, 5).train)
    words = ("--from: --campaigns official divides all campaigns anew", "give --campaigns paper")
    options = ("--from", first, "--campaigns", "official")
    refuses(capsys, main, "fit", data, tmp_path / "next", *options, words=words)


def test_the_best_judgement_is_printed():
    judged = (Judged(4, 0.6, 0.5), Judged(8, 0.71234, 0.4), Judged(12, 0.65, 0.3))
    what = "on 3 more, held out to decide when to stop, at step 8"
    assert _judged(SimpleNamespace(judgements=judged), 3) == f"; AUC 0.7123 {what}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["width"], "--set: expected NAME=VALUE, got 'width'; the names are width, num_experts,"),
        (["dropout=.5"], "--set: expected NAME=VALUE, got 'dropout=.5'; the names are width,"),
        (["width=8", "width=16"], "--set: width has two values; give one"),
        (["value_dropout=1"], "settings: value_dropout: expected a number below 1, got 1"),
        (["value_dropout=half"], "settings: value_dropout: expected a number of 0 or more"),
        (["width=8.5"], "settings: width: expected a whole number of 1 or more, got 8.5"),
        (["width=none"], "settings: width: expected a whole number of 1 or more, got None"),
        (["disjoint=1"], "settings: disjoint: expected true or false, got 1"),
        (["table_scale=true"], "settings: table_scale: expected a number of 0 or more, got True"),
        (["offline_epochs=3", "--epochs", "1"], "--epochs: --set says how long to train; omit"),
        (["value_dropout=.5", "--from", "x"], "--from: the method and settings are the model's"),
    ],
)
def test_settings_that_cannot_be_set_are_refused(data, tmp_path, capsys, words, message):
    refuses(capsys, main, "fit", data, tmp_path / "model", "--set", *words, words=(message,))
    assert not contents(tmp_path)


def test_data_without_campaigns_have_none_to_choose_from():
    without = SimpleNamespace(num_campaigns=0, where="data")
    assert not len(_training_campaigns(without, "all", 0))
    for which in ("paper", "official"):
        with pytest.raises(InputError, match=r"data: has users alone; .* or omit --campaigns"):
            _training_campaigns(without, which, 0)


def test_attributes_that_the_data_does_not_know_and_new_feedback_are_told():
    data = dataset(users=60, campaigns=4, per_campaign=10, pool=10)
    known = {"advertiser": int(data.vocabulary.values[-2][0]), "category": 1}
    records = [{**known, "category": 99}, known, {"advertiser": 77, "category": 98}]
    folders = [
        SimpleNamespace(record=SimpleNamespace(name=f"c{n}", attributes=own), learned=n, known=2)
        for n, own in enumerate(records, start=1)
    ]
    first, *unseen = _folder_notes(data, [*folders])
    assert first.startswith("note: c1: its feedback has changed since its model learned from it")
    assert [line for line in unseen if "feedback" not in line] == [
        "note: c1: the data does not know these values, of which nothing is learned: category 99",
        "note: c3: the data does not know these values, of which nothing is learned: "
        "advertiser 77, category 98",
    ]
    assert [line.split(":")[1] for line in unseen if "feedback" in line] == [" c3"]


def test_a_campaigns_folder_is_given_once(data, tmp_path, capsys):
    twice = (tmp_path / "tea", tmp_path / "golf", tmp_path / "golf" / ".." / "tea")
    words = (f"--with: {twice[2]} is given twice; give it once",)
    refuses(capsys, main, "fit", data, tmp_path / "model", "--with", *twice, words=words)


def test_an_ensemble_sets_the_value_dropout_of_its_network_alone():
    method = method_named("ensemble").with_settings(value_dropout=0.9)
    head, network, _ = member_methods(method.settings)
    assert (head.settings.value_dropout, network.settings.value_dropout) == (0.5, 0.9)


@pytest.mark.parametrize("option", ["--epochs", "--log", "--skip-nonfinite"])
def test_a_method_without_steps_takes_no_options_of_steps(data, tmp_path, capsys, option):
    words = (f"{option}: prior takes no steps; omit the option",)
    out = tmp_path / "model"
    refuses(capsys, main, "fit", data, out, "--method", "prior", option, 1, words=words)
    assert not contents(tmp_path)


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_training_that_is_refused_leaves_nothing(tmp_path, capsys, monkeypatch, more):
    few = tmp_path / "few"
    write_dataset(dataset(users=120, campaigns=2, per_campaign=60, pool=40), few)
    settings = replace(SETTINGS["paper"], offline_patience=1)
    monkeypatch.setitem(SETTINGS, "paper", settings)
    options = ("--method", "mlp-pretraining", *more)
    refuses(capsys, main, "fit", few, tmp_path / "model", *options, words=("held out",))
    assert contents(tmp_path) == {"few"}


def test_a_missing_library_leaves_no_training(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    words = ("need LightGBM; install it with",)
    refuses(capsys, main, "fit", data, tmp_path / "model", "--method", "prior", words=words)
    assert contents(tmp_path) == set()


def test_a_second_training_of_a_model_is_refused(data, tmp_path, capsys, writers):
    out = tmp_path / "deep" / "model"
    with writers.of(out) as process:
        words = (f"{out}: process {process} on ", " is writing it; wait for it")
        refuses(capsys, main, "fit", data, out, "--method", "cosine", words=words, code=75)
        assert contents(out.parent) == {".model.lock"}
    directory = tmp_path / "checkpoints"  # as a program gives it
    with writers.of(directory), pytest.raises(InputError, match="checkpoints: process "):
        method_named("cosine").fit(DATA, directory=directory)
    succeeds(main, "fit", data, out, "--method", "cosine")
    assert contents(out.parent) == {"model"}


def test_a_folder_that_is_no_model_stays(data, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    (tmp_path / "file").write_text("mine")
    for name in ("mine", "file"):
        words = (f"{tmp_path / name}: exists and is not a model, or has a damaged",)
        refuses(capsys, main, "fit", data, tmp_path / name, "--method", "cosine", words=words)
    assert contents(tmp_path) == {"mine", "file"}
    assert contents(tmp_path / "mine") == {"thesis.tex"}


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_data_set_in_the_place_of_a_training_stays(data, tmp_path, capsys, more):
    june = shutil.copytree(data, tmp_path / "june.training")
    words = (f"OUT: {june}/", "is not of the work on june, which is kept in")
    options = ("--method", "cosine", *more)
    refuses(capsys, main, "fit", data, tmp_path / "june", *options, words=words)
    assert all_bytes(june) == all_bytes(data)


def test_a_model_is_replaced(data, tmp_path, capsys):
    out = tmp_path / "model"
    succeeds(main, "fit", data, out, "--method", "lr")
    capsys.readouterr()
    succeeds(main, "fit", data, out, "--method", "cosine", "--campaigns", "official")
    printed = capsys.readouterr().out
    assert f"{out}: cosine to the mean seed, trained on 3 campaigns of toy\n" in printed
    assert f"next: metaheac expand {out} --data {data} --seeds FILE " in printed
    general = load(out)
    assert general.method == "cosine"
    train = official_split(DATA).train
    assert general.campaigns == tuple(DATA.campaign_ids[train].tolist())
    assert contents(out / "state") == {"idf.npy"}
    assert contents(tmp_path) == {"model"}


def test_a_name_in_brackets_is_printed(data, tmp_path, capsys):
    out = tmp_path / "[/red]"
    succeeds(main, "fit", data, out, "--method", "cosine")
    printed = capsys.readouterr().out
    assert f"{out}: cosine to the mean seed, trained on 6 campaigns of toy\n" in printed
    assert f"next: metaheac expand '{out}' --data {data} " in printed


def one_class(data: Dataset) -> Dataset:
    """The second campaign has seeds alone."""
    label = data.stage1.label.copy()
    label[data.stage1.of(1)] = 1
    return replace(data, stage1=replace(data.stage1, label=label))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (one_class(DATA), "campaign 110: stage 1 has 60 seeds among 60 examples"),
        (dataset(users=60, campaigns=1, per_campaign=60, pool=40), "data: 1 training campaigns, "),
    ],
)
def test_data_that_cannot_be_trained_on_leave_nothing(tmp_path, capsys, data, words):
    write_dataset(data, tmp_path / "data")
    for _ in range(2):  # the first one is no interrupted training to the second
        refuses(capsys, main, "fit", tmp_path / "data", tmp_path / "model", words=(words,))
    assert contents(tmp_path) == {"data"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "xgboost"), "unknown method 'xgboost'; choose from lr, mlp-one-stage, "),
        (("--seed", -1), "--seed: expected 0 or more, got -1"),
        (("--allow-change", "data"), "--allow-change: only with --resume"),
    ],
)
def test_options_that_make_no_sense(data, tmp_path, capsys, options, words):
    refuses(capsys, main, "fit", data, tmp_path / "model", *options, words=(words,))
    assert contents(tmp_path) == set()


def test_with_nothing_to_resume_a_training_starts(data, tmp_path, capsys):
    out, options = tmp_path / "model", ("--method", "cosine", "--resume")
    succeeds(main, "fit", data, out, *options)
    line = f"{out}.training: no training to resume; a new one starts\n"
    assert line in capsys.readouterr().out
    assert contents(tmp_path) == {"model"}
    (tmp_path / "model.training").mkdir()
    succeeds(main, "fit", data, out, *options)
    assert line not in capsys.readouterr().out


def test_a_folder_without_data_is_named(tmp_path, capsys):
    words = (f"{tmp_path}: has no manifest.json; prepare the data first",)
    refuses(capsys, main, "fit", tmp_path, tmp_path / "model", words=words)
    assert contents(tmp_path) == set()


# Going on ---------------------------------------------------------------------------------------


def test_a_model_does_not_go_on_in_its_own_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("model")
    words = ("--from: model would be replaced", "choose another folder")
    refuses(capsys, main, "fit", "data", "model", "--from", "link", words=words)


@pytest.mark.slow
def test_a_model_goes_on_on_new_data(data, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    succeeds(main, "fit", data, first, "--seed", 2)
    capsys.readouterr()
    succeeds(main, "fit", data, second, "--seed", 2, "--from", first)
    assert f"{second}: MetaHeac, trained on 6 campaigns of toy\n" in capsys.readouterr().out
    old, new = (load(folder, optimizer=True) for folder in (first, second))
    assert steps_of(new) == 2 * steps_of(old) > 0
    assert new.parent == old.origin.digest
    assert new.data_digest == old.data_digest == open_dataset(data).digest is not None
    shutil.rmtree(first / "optimizer")
    words = ("the general model of 'toy' has no optimiser state;", "fit it from scratch")
    refuses(capsys, main, "fit", data, second, "--from", first, words=words)
    for option in (("--method", "metaheac"), ("--settings", "paper")):
        words = ("--from: the method and settings are the model's; omit these options",)
        refuses(capsys, main, "fit", data, second, "--from", first, *option, words=words)
    assert contents(tmp_path) == {"first", "second"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mesh", "campaign=4,row=2"], ["campaign=4,row=2", "8 devices", "jax has 1"]),
        (["--mesh", "4x2"], ["4x2", "campaign=4,row=2"]),
        (["--mesh", "row=1", "--method", "lr"], ["lr: cannot use a mesh of devices"]),
        (["--coordinator", "host:1"], ["--coordinator: only with --mesh"]),
        (["--process", "0/2"], ["--process: only with --coordinator"]),
        (
            ["--mesh", "row=1", "--coordinator", "auto", "--process", "0/2"],
            ["--process: not with --coordinator auto"],
        ),
        (["--mesh", "row=1", "--coordinator", "host:1", "--process", "2/2"], ["0/2 or 1/2"]),
    ],
)
def test_devices_that_cannot_be_used_are_refused(data, tmp_path, capsys, options, words):
    refuses(capsys, main, "fit", data, tmp_path / "model", *options, words=words)
    assert contents(tmp_path) == set()


def test_the_help_of_mesh_names_the_methods_that_can_use_one(capsys):
    assert exit_code(main, "fit", "--help") == 0
    shown = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    assert "For metaheac, mlp-pretraining, solved-head, ensemble, seed-aware and their" in shown
    variants = r"alpha-0.*|without-.*|.*-seeds|.*-lengths"
    meshes = {name for name in METHODS if method_named(name).meshes}
    named = {name for name in meshes if not re.fullmatch(variants, name)}
    assert named == {"metaheac", "mlp-pretraining", "solved-head", "ensemble", "seed-aware"}


@pytest.mark.long
def test_a_mesh_of_one_device_makes_the_same_model(data, tmp_path):
    succeeds(main, "fit", data, tmp_path / "one")
    succeeds(main, "fit", data, tmp_path / "mesh", "--mesh", "campaign=1,row=1")
    one, mesh = (load(tmp_path / name) for name in ("one", "mesh"))
    np.testing.assert_allclose(mesh.state["table"], one.state["table"], atol=1e-5)
