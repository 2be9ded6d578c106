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
    RATES,
    SIZES,
    hold_out,
    search,
    tune,
    tuned_method,
    with_sizes,
)
from metaheac_jax.data.dataset import group_by_campaign
from metaheac_jax.data.splits import paper_split
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods import METHODS, Method
from metaheac_jax.methods.fine_tuning import TUNED
from metaheac_jax.progress import silent
from metaheac_jax.settings import PAPER


@pytest.fixture(scope="module")
def data():
    return dataset(users=200, campaigns=20, per_campaign=40, pool=40)


def test_only_training_campaigns_are_held_out(data):
    split = paper_split(data, 0)
    held = hold_out(split, 0)
    assert len(held.test) == 3  # a fifth of 12, rounded up
    assert sorted([*held.train, *held.test]) == split.train.tolist()
    assert (held.threshold, held.small.tolist()) == (split.threshold, split.small.tolist())
    assert hold_out(split, 0).test.tolist() == held.test.tolist()
    assert {tuple(hold_out(split, seed).test) for seed in range(5)} > {tuple(held.test)}
    one = replace(split, train=split.train[:1])
    with pytest.raises(InputError, match="single training campaign"):
        hold_out(one, 0)


class Counted:
    """An evaluation that keeps what it was asked for."""

    def __init__(self, auc):
        self.auc, self.asked = auc, []

    def __call__(self, fields):
        self.asked.append(fields)
        return {"auc": self.auc(**fields)}


def test_a_search_goes_field_by_field():
    evaluate = Counted(lambda a, b, c: -((a - 3) ** 2) - (b - a) ** 2 - c)
    tried, kept = [], []
    grid = [("a", (1, 2, 4)), ("b", (1, 4))]
    best = search(grid, {"b": 1, "c": 0}, tried, evaluate, lambda: kept.append(len(tried)))
    # With b = 1: -4, -2, -10; then with a = 2: b = 1 is known, b = 4 is worse.
    assert best == {"a": 2, "b": 1, "c": 0}
    assert [(t["field"], t["fields"]["a"], t["fields"]["b"]) for t in tried] == [
        *(("a", 1, 1), ("a", 2, 1), ("a", 4, 1)),
        *(("b", 2, 1), ("b", 2, 4)),
    ]
    assert len(evaluate.asked) == 4
    assert kept == [1, 2, 3, 4, 5]
    # An interrupted search makes no trial twice, and ends the same.
    for done in range(6):
        again = Counted(evaluate.auc)
        part = [dict(t) for t in tried[:done]]
        assert search(grid, {"b": 1, "c": 0}, part, again, lambda: None) == best
        assert part == tried
        assert len(again.asked) == 4 - min(done, 3) - (done == 5)


def test_of_equals_the_first_is_best():
    assert search([("a", (3, 1, 2))], {}, [], Counted(lambda a: 0.5), lambda: None) == {"a": 3}


def test_what_diverges_is_never_best():
    def evaluate(fields):
        return {"auc": 0.5, "diverged": "step 3"} if fields["a"] == 1 else {"auc": 0.4}

    assert search([("a", (1, 2))], {}, [], evaluate, lambda: None) == {"a": 2}


class Fake:
    """A method that ranks the pool by the labels, the better the higher its quality.

    ``quality`` is a function of the settings.
    """

    def __init__(self, quality):
        self.quality, self.trained, self.judged, self.fail_after = quality, [], set(), None
        self.directories = []

    def train(self, run):
        if self.fail_after == len(self.trained):
            raise KeyboardInterrupt
        self.trained.append((run.settings, run.campaigns.tolist()))
        run.directory.mkdir(parents=True, exist_ok=True)
        self.directories.append(run.directory)
        return {"quality": self.quality(run.settings)}

    def adapt(self, run, state, campaigns, watch=None):
        def scorer(c):
            label = run.dataset.stage2.label[run.dataset.stage2.of(c)]
            noise = np.random.default_rng(int(c)).random(len(label))
            return lambda users: state["quality"] * label + noise

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
    """`lr` is best at an online rate of .01, and `metaheac` at .005, n = 8 and m = 3."""

    def metaheac(settings):
        if settings.outer_learning_rate == 0.1:
            raise Diverged("MetaHeac: the loss of step 7 is nan")
        if settings.outer_learning_rate == 0.02:
            return float("nan")
        far = abs(settings.num_experts - 8) + abs(settings.num_critics - 3)
        far += 100 * abs(settings.outer_learning_rate - 0.005)
        return 0.5 / (1 + far)

    def lr(settings):
        return 0.5 - abs(settings.online_learning_rate - 0.01) * 5

    made = {"lr": Fake(lr), "metaheac": Fake(metaheac), "prior": Fake(lambda settings: 1.0)}
    tuned = {"lr": ("online_learning_rate",), "metaheac": ("outer_learning_rate",), "prior": ()}
    for name, fake in made.items():
        fake.register(monkeypatch, name, tuned[name], width=1)
    return made


def tune_in(directory, data, split, names, **options):
    (directory / "methods").mkdir(parents=True, exist_ok=True)
    return tune(
        Data(data, split), names, PAPER, seed=0, directory=directory, progress=silent, **options
    )


def test_every_method_gets_the_best_rate_of_the_papers_grid(data, fakes, tmp_path):
    held = hold_out(paper_split(data, 0), 0)
    found = tune_in(tmp_path, data, held, ["lr", "metaheac", "prior"], sizes=False)
    assert set(found["methods"]) == {"lr", "metaheac"}  # a method without rates has no trial
    assert found["sizes"] is None
    lr, metaheac = found["methods"]["lr"], found["methods"]["metaheac"]
    assert lr["chosen"] == {"online_learning_rate": 0.01}
    assert [t["fields"]["online_learning_rate"] for t in lr["tried"]] == list(RATES)
    aucs = [t["auc"] for t in lr["tried"]]
    assert aucs[2] == max(aucs) > max(aucs[:2] + aucs[3:])
    assert metaheac["chosen"] == {"outer_learning_rate": 0.005}
    # A training that diverges counts as chance, and says so; so does one whose scores are NaN.
    diverged = {t["fields"]["outer_learning_rate"]: t for t in metaheac["tried"]}
    assert diverged[0.1]["diverged"] == "MetaHeac: the loss of step 7 is nan"
    assert "is not a number" in diverged[0.02]["diverged"]
    assert diverged[0.1]["auc"] == diverged[0.02]["auc"] == 0.5
    assert "diverged" not in diverged[0.01]
    # Trained on the rest, with the method's own settings; judged on the held-out campaigns only.
    for name, field in (("lr", "online_learning_rate"), ("metaheac", "outer_learning_rate")):
        rates = [getattr(settings, field) for settings, _ in fakes[name].trained]
        assert rates == list(RATES)
        assert all(settings.width == 1 for settings, _ in fakes[name].trained)
        assert all(campaigns == held.train.tolist() for _, campaigns in fakes[name].trained)
    assert fakes["lr"].judged == set(held.test.tolist())
    assert not fakes["prior"].trained
    assert not list((tmp_path / "checkpoints").iterdir())


def test_trials_of_the_online_rate_share_the_offline_stage(data, tmp_path, monkeypatch):
    """They are begun in one folder, whose checkpoints save the training; chosen one by one."""

    def quality(settings):
        far = abs(settings.outer_learning_rate - 0.005)
        far += abs(settings.online_learning_rate - 0.02)
        return 0.5 / (1 + 100 * far)

    fake = Fake(quality)
    fake.register(monkeypatch, "seed-aware", TUNED)
    held = hold_out(paper_split(data, 0), 0)
    found = tune_in(tmp_path, data, held, ["seed-aware"], sizes=False)["methods"]["seed-aware"]
    assert found["chosen"] == {"outer_learning_rate": 0.005, "online_learning_rate": 0.02}
    tried = [(s.outer_learning_rate, s.online_learning_rate) for s, _ in fake.trained]
    # .005 and .001, the online rate of the settings, are tried once.
    assert tried == [*((r, 0.001) for r in RATES), *((0.005, r) for r in RATES[1:])]
    folders = dict(zip(tried, fake.directories, strict=True))
    assert len({folders[0.005, rate] for rate in RATES}) == 1
    assert len({folders[rate, 0.001] for rate in RATES}) == len(RATES)


def test_experts_and_critics_are_chosen_once_with_metaheac(data, fakes, tmp_path):
    held = hold_out(paper_split(data, 0), 0)
    found = tune_in(tmp_path, data, held, ["lr"], sizes=True)
    assert set(found["methods"]) == {"lr"}
    assert found["sizes"]["chosen"] == {"num_experts": 8, "num_critics": 3}
    after_rates = [settings for settings, _ in fakes["metaheac"].trained[len(RATES) :]]
    sizes = [(s.num_experts, s.num_critics) for s in after_rates]
    # m = 5, as in the settings, at n = 8 is not tried twice.
    assert sizes == [*((n, 5) for n in SIZES), *((8, m) for m in SIZES if m != 5)]
    assert {s.outer_learning_rate for s in after_rates} == {0.005}


def test_what_was_chosen_is_used():
    found = {
        "methods": {"lr": {"chosen": {"online_learning_rate": 0.02}}},
        "sizes": {"chosen": {"num_experts": 8, "num_critics": 3}},
    }
    settings = with_sizes(PAPER, found)
    assert settings == replace(PAPER, num_experts=8, num_critics=3)
    lr = tuned_method("lr", settings, found)
    assert lr.settings == replace(METHODS["lr"](settings).settings, online_learning_rate=0.02)
    assert tuned_method("metaheac", settings, found).settings == settings
    assert with_sizes(PAPER, {}) == PAPER
    assert tuned_method("metaheac", PAPER, {}).settings == PAPER


def test_an_interrupted_tuning_goes_on_where_it_stopped(data, fakes, tmp_path):
    held, names = hold_out(paper_split(data, 0), 0), ["lr", "metaheac"]
    whole = tune_in(tmp_path / "whole", data, held, names, sizes=True)
    trials = len(fakes["metaheac"].trained)
    fakes["metaheac"].trained.clear()
    fakes["lr"].trained.clear()
    fakes["metaheac"].fail_after = 7
    with pytest.raises(KeyboardInterrupt):
        tune_in(tmp_path / "part", data, held, names, sizes=True)
    fakes["metaheac"].fail_after = None
    assert tune_in(tmp_path / "part", data, held, names, sizes=True) == whole
    assert len(fakes["metaheac"].trained) == trials
    assert len(fakes["lr"].trained) == len(RATES)


def test_a_search_goes_on_with_the_settings_it_was_begun_with(data, fakes, tmp_path, monkeypatch):
    held = hold_out(paper_split(data, 0), 0)
    tune_in(tmp_path, data, held, ["lr"], sizes=False)
    fakes["lr"].register(monkeypatch, "lr", ("online_learning_rate",), width=2)
    with pytest.raises(InputError, match=r"lr.json: has other settings; start afresh"):
        tune_in(tmp_path, data, held, ["lr"], sizes=False)


def test_held_out_campaigns_that_cannot_be_judged(data, fakes, tmp_path):
    held = hold_out(paper_split(data, 0), 0)
    none = replace(data.stage2, label=np.zeros_like(data.stage2.label))
    with pytest.raises(InputError, match="--tune: no held-out training campaign can be judged"):
        tune_in(tmp_path, replace(data, stage2=none), held, ["lr"], sizes=False)


def test_a_world_without_a_kept_tuning_has_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "TUNED", tmp_path)
    assert tuning.tuned_before("tencent") == tuning.tuned_before(None) == {}
    kept = {"methods": {"lr": {"chosen": {"online_learning_rate": 0.02}}}, "sizes": None}
    (tmp_path / "tencent.json").write_text(json.dumps(kept))
    assert tuning.tuned_before("tencent") == kept
    assert with_sizes(PAPER, kept) == PAPER


def test_held_out_campaigns_without_a_pool_get_half_of_their_examples():
    data = dataset(users=200, campaigns=4, per_campaign=40)
    keep = np.repeat(np.arange(4), data.stage2.counts) != 2  # campaign 2 has no stage 2
    label = data.stage2.label[keep]
    owner = np.repeat(np.arange(4), data.stage2.counts)[keep]
    stage2 = group_by_campaign(owner, data.stage2.user[keep], label, num_campaigns=4)
    data = replace(data, stage2=stage2)
    assert tuning.with_pools(data, np.array([0, 1]), 0) is data
    new = tuning.with_pools(data, np.array([1, 2]), 0)
    for c in (0, 1, 3):
        for before, after in ((data.stage1, new.stage1), (data.stage2, new.stage2)):
            np.testing.assert_array_equal(before.user[before.of(c)], after.user[after.of(c)])
    seeds = data.stage1.positives[2]
    assert new.stage2.positives[2] == seeds // 2
    assert new.stage1.positives[2] == seeds - seeds // 2
    halves = [stage.user[stage.of(2)] for stage in (new.stage1, new.stage2)]
    whole = data.stage1.user[data.stage1.of(2)]
    np.testing.assert_array_equal(np.sort(np.concatenate(halves)), np.sort(whole))


@pytest.mark.parametrize("path", sorted(tuning.TUNED.glob("*.json")), ids=lambda path: path.stem)
def test_kept_tunings_are_of_methods_that_there_are_and_chose_the_best(path):
    kept = tuning.tuned_before(path.stem)
    fields = {name: build(PAPER).tuned for name, build in METHODS.items() if build(PAPER).tuned}
    assert set(kept["methods"]) == set(fields)
    for name, one in kept["methods"].items():
        assert tuple(one["chosen"]) == fields[name]
        for field in fields[name]:
            trials = [trial for trial in one["tried"] if trial["field"] == field]
            assert [trial["fields"][field] for trial in trials] == list(RATES)
            best = max(trials, key=lambda trial: ("diverged" not in trial, trial["auc"]))
            assert one["chosen"][field] == best["fields"][field]
