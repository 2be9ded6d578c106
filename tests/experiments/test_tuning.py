"""Tuning, with methods whose quality is a known function of their settings."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from judged_runs import comparison, runs
from toy import dataset

from experiments.comparison import tuning
from experiments.comparison.results import summarise
from experiments.comparison.run import Data
from experiments.comparison.tables import build_tables
from experiments.comparison.tuning import (
    HELD_OUT,
    LADDERS,
    climb,
    describe,
    trial_campaigns,
    tune,
    tuned_method,
)
from metaheac_jax.data.splits import paper_split
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods import METHODS, Method
from metaheac_jax.methods.fine_tuning import TUNED
from metaheac_jax.methods.held_out_campaigns import halve, hold_out_campaigns
from metaheac_jax.methods.stages import Trained
from metaheac_jax.progress import silent
from metaheac_jax.settings import PAPER

RATES = LADDERS["online_learning_rate"]
TRIALS = 16
climb = partial(climb, max_trials=TRIALS)


@pytest.fixture(scope="module")
def data():
    return dataset(users=200, campaigns=30, per_campaign=40, pool=40)


def held_out(data):
    """The campaigns that are trained on, and those that judge."""
    return hold_out_campaigns(data, paper_split(data, 0).train, 0, fraction=HELD_OUT)


class Counted:
    """An evaluation that keeps what it was asked for."""

    def __init__(self, auc):
        self.auc, self.asked = auc, []

    def __call__(self, fields):
        self.asked.append(fields)
        return {"auc": self.auc(**fields)}


GRID = {"a": (1, 2, 3, 4, 5), "b": (1, 2, 4)}


def test_a_search_climbs_field_by_field():
    evaluate = Counted(lambda a, b, c: -((a - 4) ** 2) - (b - a / 2) ** 2 - c)
    tried, kept = [], []
    best = climb(GRID, {"a": 2, "b": 1, "c": 0}, tried, evaluate, lambda: kept.append(len(tried)))
    # At b = 1: a = 2, 3 and 4 gain, 5 does not; nothing below is tried that is known. Then b = 2.
    assert best == {"a": 4, "b": 2, "c": 0}
    asked = [(fields["a"], fields["b"]) for fields in evaluate.asked]
    assert asked == [(2, 1), (3, 1), (4, 1), (5, 1), (4, 2), (4, 4)]
    assert kept == [1, 2, 3, 4, 5, 6]
    # An interrupted search makes no trial twice, and ends the same.
    for done in range(7):
        again = Counted(evaluate.auc)
        part = [dict(trial) for trial in tried[:done]]
        assert climb(GRID, {"a": 2, "b": 1, "c": 0}, part, again, lambda: None) == best
        assert part == tried
        assert len(again.asked) == 6 - done


def test_the_search_goes_down_as_well_and_takes_a_start_off_the_ladder():
    evaluate = Counted(lambda a: -a)
    assert climb({"a": (1, 2, 4)}, {"a": 3}, [], evaluate, lambda: None) == {"a": 1}
    assert [fields["a"] for fields in evaluate.asked] == [3, 4, 2, 1]


def test_of_equals_the_first_is_best():
    assert climb({"a": (1, 2, 3)}, {"a": 2}, [], Counted(lambda a: 0.5), lambda: None) == {"a": 2}


def test_what_diverges_is_never_best():
    def evaluate(fields):
        return {"auc": 0.5, "diverged": "step 3"} if fields["a"] != 1 else {"auc": 0.4}

    assert climb({"a": (1, 2, 3)}, {"a": 2}, [], evaluate, lambda: None) == {"a": 1}


def test_the_budget_of_trials_is_the_limit():
    evaluate = Counted(lambda a: a)
    ladder = {"a": tuple(range(100))}
    assert climb(ladder, {"a": 5}, [], evaluate, lambda: None) == {"a": 5 + TRIALS - 1}
    assert len(evaluate.asked) == TRIALS


class Fake:
    """A method that ranks by the labels, the better the higher its quality.

    ``quality`` is a function of the settings.
    """

    def __init__(self, quality):
        self.quality, self.trained, self.judged, self.fail_after = quality, [], set(), None
        self.directories = set()

    def train(self, run):
        if self.fail_after == len(self.trained):
            raise KeyboardInterrupt
        self.trained.append((run.settings, run.campaigns.tolist()))
        run.directory.mkdir(parents=True, exist_ok=True)
        run.log.write_text(repr(run.settings))
        self.directories.add(run.directory)
        return Trained({"quality": self.quality(run.settings)})

    def adapt(self, run, state, campaigns):
        quality = self.quality(run.settings) * state["quality"]

        def scorer(c):
            label = halve(run.dataset, c, 0).labels
            noise = np.random.default_rng(int(c)).random(len(label))
            return lambda users: quality * label + noise

        keys = [campaign.id for campaign in campaigns]
        indices = np.searchsorted(run.dataset.campaign_ids, keys)
        self.judged |= set(indices.tolist())
        return [scorer(c) for c in indices]

    def register(self, patch, name, tuned, *, takes_steps=False, **own):
        """Puts the method into the registry; ``own`` are settings that it has of its own."""
        build = partial(Method, name, name.upper(), train=self.train, adapt=self.adapt, tuned=tuned)
        build = partial(build, takes_steps=takes_steps)
        patch.setitem(METHODS, name, lambda settings: build(settings=replace(settings, **own)))


@pytest.fixture
def fakes(monkeypatch):
    """`lr` is best at a penalty of 100, `metaheac` at a rate of .003, n = 8 and m = 3."""

    def metaheac(settings):
        if settings.outer_learning_rate == 0.01:
            raise Diverged("MetaHeac: the loss of step 7 is nan")
        far = abs(settings.num_experts - 8) + abs(settings.num_critics - 3)
        far += 1000 * abs(settings.outer_learning_rate - 0.003)
        return 0.9 / (1 + far / 4)

    def lr(settings):
        return 0.5 - abs(settings.penalty - 100) / 1000

    made = {"lr": Fake(lr), "metaheac": Fake(metaheac), "prior": Fake(lambda settings: 1.0)}
    sized = ("outer_learning_rate", "num_experts", "num_critics")
    tuned = {"lr": ("penalty",), "metaheac": sized, "prior": ()}
    for name, fake in made.items():
        fake.register(monkeypatch, name, tuned[name], width=1)
    return made


def tune_in(directory, data, names, **more):
    (directory / "methods").mkdir(parents=True, exist_ok=True)
    all_data, options = Data(data, paper_split(data, 0)), {"max_trials": TRIALS, "origin": "toy"}
    options |= {"seed": 0, "directory": directory, "progress": silent, **more}
    return tune(all_data, names, PAPER, **options)


def test_every_method_gets_its_best_settings(data, fakes, tmp_path):
    kept, held = held_out(data)
    found = tune_in(tmp_path, data, ["lr", "metaheac", "prior"])
    assert set(found["methods"]) == {"lr", "metaheac"}  # a method without settings has no trial
    assert found["origin"] == "toy"
    lr, metaheac = found["methods"]["lr"], found["methods"]["metaheac"]
    assert lr["chosen"] == {"penalty": 100.0}
    assert [t["fields"]["penalty"] for t in lr["tried"]] == [30.0, 100.0, 300.0]
    # Each method has its own n and m.
    best = {"outer_learning_rate": 0.003, "num_experts": 8, "num_critics": 3}
    assert metaheac["chosen"] == best
    # A training that diverges counts as chance, and says so.
    diverged = {t["fields"]["outer_learning_rate"]: t for t in metaheac["tried"]}
    assert diverged[0.01]["diverged"] == "MetaHeac: the loss of step 7 is nan"
    assert diverged[0.01]["auc"] == 0.5
    assert "diverged" not in diverged[0.003]
    # Trained on the rest, with the method's own settings; judged on the held-out campaigns only.
    for name in ("lr", "metaheac"):
        assert all(settings.width == 1 for settings, _ in fakes[name].trained)
        assert all(campaigns == kept.tolist() for _, campaigns in fakes[name].trained)
    assert fakes["lr"].judged == set(held.tolist())
    assert not fakes["prior"].trained
    # What stays of the checkpoints is a log of every training, also of one that diverged.
    logs = [path.read_text() for path in (tmp_path / "checkpoints").iterdir()]
    trained = [settings for fake in fakes.values() for settings, _ in fake.trained]
    assert sorted(logs) == sorted(map(repr, trained))


def test_trials_know_nothing_of_the_campaigns_that_judge_them(data, tmp_path):
    apart = []
    known = Data(data, paper_split(data, 0), without=lambda c: apart.append(c) or data)
    tuning._Search(known, 0, tmp_path, 1, (), silent)
    np.testing.assert_array_equal(apart, [held_out(data)[1]])


def test_some_settings_are_tuned_and_the_others_stay_as_chosen_before(data, fakes, tmp_path):
    before = {
        "origin": "earlier",
        "methods": {
            "lr": {"chosen": {"penalty": 3.0}, "tried": []},
            "metaheac": {"chosen": {"outer_learning_rate": 0.001, "num_experts": 3}},
            "mmoe": {"chosen": {}},
            "solved-head": {"chosen": {"value_dropout": 0.9}},
        },
    }
    names = ["metaheac", "lr", "prior", "solved-constant"]
    found = tune_in(tmp_path, data, names, only=["num_experts"], before=before)
    chosen = {"outer_learning_rate": 0.001, "num_experts": 8, "num_critics": PAPER.num_critics}
    assert found["methods"]["metaheac"]["chosen"] == chosen
    assert {settings.outer_learning_rate for settings, _ in fakes["metaheac"].trained} == {0.001}
    tried = [trial["fields"] for trial in found["methods"]["metaheac"]["tried"]]
    assert tried == [{"num_experts": n} for n in (3, 5, 8, 10)]
    # A method that has no such setting keeps what was chosen, of itself or of its base; others of
    # the tuning are left out.
    assert found["methods"]["lr"] == {"origin": "earlier"} | before["methods"]["lr"]
    assert not fakes["lr"].trained
    assert set(found["methods"]) == {"metaheac", "lr", "solved-head"}
    assert tuned_method("solved-constant", PAPER, found).settings.value_dropout == 0.9
    told = "settings tuned on: metaheac: toy; lr, solved-constant: earlier; not tuned: prior"
    assert describe(names, found) == told
    tables = build_tables(comparison(runs(), tuning=found), summarise(runs()))
    [table] = [table for table in tables if table.title == "Tuning"]
    aucs = [trial["auc"] for trial in found["methods"]["metaheac"]["tried"]]
    assert len(table.rows) == 1  # the trials of the others are not of this tuning
    assert table.rows[0][3:5] == [f"{aucs[0]:.4f}", f"{max(aucs):.4f}"]


def test_trials_of_the_online_rate_share_the_offline_stage(data, tmp_path, monkeypatch):
    def quality(settings):
        far = abs(settings.outer_learning_rate - 0.003)
        far += abs(settings.online_learning_rate - 0.01)
        return 0.7 / (1 + 100 * far)

    fake = Fake(quality)
    fake.register(monkeypatch, "seed-aware", TUNED, takes_steps=True)
    found = tune_in(tmp_path, data, ["seed-aware"])["methods"]["seed-aware"]
    chosen = found["chosen"]
    assert (chosen["outer_learning_rate"], chosen["online_learning_rate"]) == (0.003, 0.01)
    tried = [t["fields"] for t in found["tried"]]
    offline = {tuple(v for k, v in f.items() if not k.startswith("online_")) for f in tried}
    assert len(fake.directories) == len(offline) < len(tried)
    # Models that tell when training stops have the same online settings in every trial.
    online = {settings.online_learning_rate for settings, _ in fake.trained}
    assert online == {PAPER.online_learning_rate}
    assert len(fake.trained) > len(offline)  # one was trained again, in the same folder


def test_trials_train_on_a_part_of_many_examples(data, monkeypatch):
    train = paper_split(data, 0).train
    kept, held = held_out(data)
    counts = data.stage1.counts[kept]
    for most, campaigns in ((counts.sum(), len(kept)), (counts.sum() - 1, len(kept) - 1), (1, 5)):
        monkeypatch.setattr(tuning, "MAX_EXAMPLES", most)
        monkeypatch.setattr(tuning, "MIN_CAMPAIGNS", 5)
        drawn, judging = trial_campaigns(data, train, 0)
        assert len(drawn) == campaigns
        assert set(drawn) <= set(kept)
        assert judging.tolist() == held.tolist()
    monkeypatch.setattr(tuning, "MAX_HELD_OUT", 2)
    drawn, judging = trial_campaigns(data, train, 0)
    assert len(judging) == 2
    assert set(judging) <= set(held)
    assert trial_campaigns(data, train, 0)[1].tolist() == judging.tolist()


def test_what_was_chosen_is_used_and_told():
    found = {"origin": "toy", "methods": {"lr": {"chosen": {"penalty": 0.3}}}}
    lr = tuned_method("lr", PAPER, found)
    assert lr.settings == replace(METHODS["lr"](PAPER).settings, penalty=0.3)
    assert tuned_method("metaheac", PAPER, found).settings == PAPER
    assert describe(["lr"], found) == "settings tuned on: toy"
    assert describe(["lr", "metaheac"], found) == "settings tuned on: toy; not tuned: metaheac"
    # What was not tuned is as the method that it differs from, but for what it is.
    found = {"origin": "toy", "methods": {"alpha-0-lengths": {"chosen": {"value_dropout": 0.5}}}}
    assert tuned_method("program-step", PAPER, found).settings.value_dropout == 0.5
    assert tuned_method("seeds", PAPER, found).settings.value_dropout == 0.5
    assert describe(["seeds"], found) == "settings tuned on: toy"
    found["methods"]["metaheac-lengths"] = {"chosen": {"inner_learning_rate": 0.1}}
    assert tuned_method("learned-rates-5", PAPER, found).settings.inner_learning_rate == 0.1
    assert tuned_method("metaheac", PAPER, found).settings == PAPER
    # And a control as the method that it is compared with.
    found["methods"] = {"solved-head": {"chosen": {"value_dropout": 0.7}}}
    assert tuned_method("solved-constant", PAPER, found).settings.value_dropout == 0.7
    found["methods"] = {"seed-aware": {"chosen": {"table_scale": 0.03}}}
    for control in ("alpha-0-seeds", "mlp-seeds"):
        assert tuned_method(control, PAPER, found).settings.table_scale == 0.03
    found = {"origin": "toy", "methods": {"lr": {"chosen": {"penalty": 0.3}}}}
    assert describe(["metaheac"], found) == describe(["lr"], {}) == "settings not tuned"


def test_an_interrupted_tuning_goes_on_where_it_stopped(data, fakes, tmp_path):
    names = ["lr", "metaheac"]
    whole = tune_in(tmp_path / "whole", data, names)
    trials = {name: len(fakes[name].trained) for name in names}
    for fake in fakes.values():
        fake.trained.clear()
    fakes["metaheac"].fail_after = 3
    with pytest.raises(KeyboardInterrupt):
        tune_in(tmp_path / "part", data, names)
    fakes["metaheac"].fail_after = None
    assert tune_in(tmp_path / "part", data, names) == whole
    assert {name: len(fakes[name].trained) for name in names} == trials


def test_a_search_goes_on_with_the_settings_it_was_begun_with(data, fakes, tmp_path, monkeypatch):
    tune_in(tmp_path, data, ["lr"])
    fakes["lr"].register(monkeypatch, "lr", ("penalty",), width=2)
    with pytest.raises(InputError, match=r"lr.json: has other settings; start afresh"):
        tune_in(tmp_path, data, ["lr"])


def test_a_world_without_a_kept_tuning_has_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "TUNED", tmp_path)
    assert tuning.tuned_before("tencent") == tuning.tuned_before(None) == {}
    kept = {"origin": "toy", "methods": {"lr": {"chosen": {"penalty": 0.3}}}}
    (tmp_path / "tencent.json").write_text(json.dumps(kept))
    assert tuning.tuned_before("tencent") == kept


@pytest.mark.parametrize("path", sorted(tuning.TUNED.glob("*.json")), ids=lambda path: path.stem)
def test_kept_tunings_are_of_methods_that_there_are_and_chose_the_best(path):
    kept = tuning.tuned_before(path.stem)
    assert kept["origin"]
    for name, one in kept["methods"].items():
        assert set(one["chosen"]) <= set(METHODS[name](PAPER).tuned)
        fine = [trial for trial in one["tried"] if "diverged" not in trial]
        best = max(fine, key=lambda trial: trial["auc"], default={"fields": one["chosen"]})
        assert one["chosen"] == best["fields"]
