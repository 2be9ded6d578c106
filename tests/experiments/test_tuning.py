"""Tuning, with methods whose quality is a known function of their settings."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from toy import dataset

from experiments.comparison import tuning
from experiments.comparison.run import Data
from experiments.comparison.tuning import (
    HELD_OUT,
    LADDERS,
    MAX_TRIALS,
    climb,
    tune,
    tuned_method,
    with_sizes,
)
from metaheac_jax.data.splits import paper_split
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods import METHODS, Method
from metaheac_jax.methods.fine_tuning import TUNED
from metaheac_jax.methods.held_out import halve, hold_out_campaigns
from metaheac_jax.methods.method import Trained
from metaheac_jax.progress import silent
from metaheac_jax.settings import PAPER

RATES = LADDERS["online_learning_rate"]


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
    assert climb(ladder, {"a": 5}, [], evaluate, lambda: None) == {"a": 5 + MAX_TRIALS - 1}
    assert len(evaluate.asked) == MAX_TRIALS


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
        self.directories.add(run.directory)
        return Trained({"quality": self.quality(run.settings)})

    def adapt(self, run, state, campaigns, watch=None):
        quality = self.quality(run.settings) * state["quality"]

        def scorer(c):
            label = halve(run.dataset, c, 0).labels
            noise = np.random.default_rng(int(c)).random(len(label))
            return lambda users: quality * label + noise

        keys = [campaign.key for campaign in campaigns]
        indices = np.searchsorted(run.dataset.campaign_key, keys)
        self.judged |= set(indices.tolist())
        return [scorer(c) for c in indices]

    def register(self, patch, name, tuned, **own):
        """Puts the method into the registry; ``own`` are settings that it has of its own."""
        build = partial(Method, name, name.upper(), train=self.train, adapt=self.adapt, tuned=tuned)
        patch.setitem(METHODS, name, lambda settings: build(settings=replace(settings, **own)))


@pytest.fixture
def fakes(monkeypatch):
    """`lr` is best at a penalty of 30, `metaheac` at a rate of .003, n = 8 and m = 3."""

    def metaheac(settings):
        if settings.outer_learning_rate == 0.01:
            raise Diverged("MetaHeac: the loss of step 7 is nan")
        far = abs(settings.num_experts - 8) + abs(settings.num_critics - 3)
        far += 1000 * abs(settings.outer_learning_rate - 0.003)
        return 0.9 / (1 + far / 4)

    def lr(settings):
        return 0.5 - abs(settings.penalty - 30) / 1000

    made = {"lr": Fake(lr), "metaheac": Fake(metaheac), "prior": Fake(lambda settings: 1.0)}
    tuned = {"lr": ("penalty",), "metaheac": ("outer_learning_rate",), "prior": ()}
    for name, fake in made.items():
        fake.register(monkeypatch, name, tuned[name], width=1)
    return made


def tune_in(directory, data, names, **options):
    (directory / "methods").mkdir(parents=True, exist_ok=True)
    all_data = Data(data, paper_split(data, 0))
    return tune(all_data, names, PAPER, seed=0, directory=directory, progress=silent, **options)


def test_every_method_gets_its_best_settings(data, fakes, tmp_path):
    kept, held = held_out(data)
    found = tune_in(tmp_path, data, ["lr", "metaheac", "prior"], sizes=False)
    assert set(found["methods"]) == {"lr", "metaheac"}  # a method without settings has no trial
    assert found["sizes"] is None
    lr, metaheac = found["methods"]["lr"], found["methods"]["metaheac"]
    assert lr["chosen"] == {"penalty": 30.0}
    assert [t["fields"]["penalty"] for t in lr["tried"]] == [10.0, 30.0, 100.0, 3.0][:3]
    assert metaheac["chosen"] == {"outer_learning_rate": 0.003}
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
    assert not list((tmp_path / "checkpoints").iterdir())


def test_trials_of_the_online_rate_share_the_offline_stage(data, tmp_path, monkeypatch):
    def quality(settings):
        far = abs(settings.outer_learning_rate - 0.003)
        far += abs(settings.online_learning_rate - 0.01)
        return 0.7 / (1 + 100 * far)

    fake = Fake(quality)
    fake.register(monkeypatch, "seed-aware", TUNED)
    found = tune_in(tmp_path, data, ["seed-aware"], sizes=False)["methods"]["seed-aware"]
    chosen = found["chosen"]
    assert (chosen["outer_learning_rate"], chosen["online_learning_rate"]) == (0.003, 0.01)
    tried = [t["fields"] for t in found["tried"]]
    offline = {tuple(v for k, v in f.items() if not k.startswith("online_")) for f in tried}
    assert len(fake.directories) == len(offline) < len(tried)


def test_experts_and_critics_are_chosen_once_with_metaheac(data, fakes, tmp_path):
    found = tune_in(tmp_path, data, ["lr"], sizes=True)
    assert set(found["methods"]) == {"lr"}
    assert found["sizes"]["chosen"] == {"num_experts": 8, "num_critics": 3}
    tried = [t["fields"] for t in found["sizes"]["tried"]]
    assert {fields["outer_learning_rate"] for fields in tried} == {0.003}


def test_what_was_chosen_is_used():
    found = {
        "methods": {"lr": {"chosen": {"penalty": 0.3}}},
        "sizes": {"chosen": {"num_experts": 8, "num_critics": 3}},
    }
    settings = with_sizes(PAPER, found)
    assert settings == replace(PAPER, num_experts=8, num_critics=3)
    lr = tuned_method("lr", settings, found)
    assert lr.settings == replace(METHODS["lr"](settings).settings, penalty=0.3)
    assert tuned_method("metaheac", settings, found).settings == settings
    assert with_sizes(PAPER, {}) == PAPER
    assert tuned_method("metaheac", PAPER, {}).settings == PAPER


def test_an_interrupted_tuning_goes_on_where_it_stopped(data, fakes, tmp_path):
    names = ["lr", "metaheac"]
    whole = tune_in(tmp_path / "whole", data, names, sizes=True)
    trials = {name: len(fakes[name].trained) for name in names}
    for fake in fakes.values():
        fake.trained.clear()
    fakes["metaheac"].fail_after = 3
    with pytest.raises(KeyboardInterrupt):
        tune_in(tmp_path / "part", data, names, sizes=True)
    fakes["metaheac"].fail_after = None
    assert tune_in(tmp_path / "part", data, names, sizes=True) == whole
    assert {name: len(fakes[name].trained) for name in names} == trials


def test_a_search_goes_on_with_the_settings_it_was_begun_with(data, fakes, tmp_path, monkeypatch):
    tune_in(tmp_path, data, ["lr"], sizes=False)
    fakes["lr"].register(monkeypatch, "lr", ("penalty",), width=2)
    with pytest.raises(InputError, match=r"lr.json: has other settings; start afresh"):
        tune_in(tmp_path, data, ["lr"], sizes=False)


def test_a_world_without_a_kept_tuning_has_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "TUNED", tmp_path)
    assert tuning.tuned_before("tencent") == tuning.tuned_before(None) == {}
    kept = {"methods": {"lr": {"chosen": {"penalty": 0.3}}}, "sizes": None}
    (tmp_path / "tencent.json").write_text(json.dumps(kept))
    assert tuning.tuned_before("tencent") == kept
    assert with_sizes(PAPER, kept) == PAPER


@pytest.mark.parametrize("path", sorted(tuning.TUNED.glob("*.json")), ids=lambda path: path.stem)
def test_kept_tunings_are_of_methods_that_there_are_and_chose_the_best(path):
    kept = tuning.tuned_before(path.stem)
    assert set(kept["methods"]) <= set(METHODS)
    for one in kept["methods"].values():
        fine = [trial for trial in one["tried"] if "diverged" not in trial]
        best = max(fine, key=lambda trial: trial["auc"])
        assert one["chosen"] == best["fields"]
