"""Tuning, with methods whose quality is a known function of their settings."""

import json
from dataclasses import replace

import numpy as np
import pytest
from toy import dataset

from experiments import tuning
from experiments.methods import METHODS
from experiments.methods.fine_tuned import TUNED
from experiments.methods.method import Job, Method
from experiments.tuning import RATES, SIZES, hold_out, search, tune, with_rates, with_sizes
from metaheac_jax.data.dataset import group_by_campaign
from metaheac_jax.data.splits import paper_split
from metaheac_jax.errors import InputError
from metaheac_jax.offline import Diverged
from metaheac_jax.presets import PAPER
from metaheac_jax.progress import silent


@pytest.fixture(scope="module")
def data():
    return dataset(users=200, campaigns=20, per_campaign=20, pool=40)


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
    """Methods that rank the pool by the labels, more or less, as a function of the preset says."""

    def __init__(self, quality):
        self.quality, self.trained, self.judged, self.fail_after = quality, [], set(), None
        self.directories = []

    def offline(self, job):
        if self.fail_after == len(self.trained):
            raise KeyboardInterrupt
        self.trained.append((job.preset, job.campaigns.tolist()))
        job.directory.mkdir(parents=True, exist_ok=True)
        self.directories.append(job.directory)
        return self.quality(job.preset)

    def online(self, job, general, campaigns, watch=None):
        self.judged |= set(campaigns.tolist())

        def scorer(c):
            label = job.dataset.stage2.label[job.dataset.stage2.of(c)]
            noise = np.random.default_rng(int(c)).random(len(label))
            return lambda users: general * label + noise

        return [scorer(c) for c in campaigns]


@pytest.fixture
def fakes(monkeypatch):
    """`lr` is best at an online rate of .01, and `metaheac` at .005, n = 8 and m = 3."""

    def metaheac(preset):
        if preset.outer_learning_rate == 0.1:
            raise Diverged("MetaHeac: the loss of step 7 is nan")
        if preset.outer_learning_rate == 0.02:
            return float("nan")
        far = abs(preset.experts - 8) + abs(preset.critics - 3)
        far += 100 * abs(preset.outer_learning_rate - 0.005)
        return 0.5 / (1 + far)

    def lr(preset):
        return 0.5 - abs(preset.online_learning_rate - 0.01) * 5

    made = {"lr": Fake(lr), "metaheac": Fake(metaheac), "prior": Fake(lambda preset: 1.0)}
    tuned = {"lr": ("online_learning_rate",), "metaheac": ("outer_learning_rate",), "prior": ()}
    for name, fake in made.items():
        method = Method(name.upper(), fake.offline, fake.online, {"width": 1}, tuned[name])
        monkeypatch.setitem(tuning.METHODS, name, method)
    return made


def job_of(data, directory):
    (directory / "methods").mkdir(parents=True, exist_ok=True)
    return Job(data, np.arange(0), PAPER, 0, directory, None, silent)


def test_every_method_gets_the_best_rate_of_the_papers_grid(data, fakes, tmp_path):
    held = hold_out(paper_split(data, 0), 0)
    found = tune(job_of(data, tmp_path), held, ["lr", "metaheac", "prior"], sizes=False)
    assert set(found["methods"]) == {"lr", "metaheac"}  # a method without rates has no trial
    assert found["sizes"] is None
    lr, metaheac = found["methods"]["lr"], found["methods"]["metaheac"]
    assert lr["chosen"] == {"online_learning_rate": 0.01}
    assert [t["fields"]["online_learning_rate"] for t in lr["tried"]] == list(RATES)
    aucs = [t["auc"] for t in lr["tried"]]
    assert aucs[2] == max(aucs) > max(aucs[:2] + aucs[3:])
    assert metaheac["chosen"] == {"outer_learning_rate": 0.005}
    # A training that diverges is worth chance, and it is told; so is one whose scores are none.
    diverged = {t["fields"]["outer_learning_rate"]: t for t in metaheac["tried"]}
    assert diverged[0.1]["diverged"] == "MetaHeac: the loss of step 7 is nan"
    assert "is not a number" in diverged[0.02]["diverged"]
    assert diverged[0.1]["auc"] == diverged[0.02]["auc"] == 0.5
    assert "diverged" not in diverged[0.01]
    # Trained on the rest, with the method's own settings; judged on the held-out campaigns only.
    for name, field in (("lr", "online_learning_rate"), ("metaheac", "outer_learning_rate")):
        rates = [getattr(preset, field) for preset, _ in fakes[name].trained]
        assert rates == list(RATES)
        assert all(preset.width == 1 for preset, _ in fakes[name].trained)
        assert all(campaigns == held.train.tolist() for _, campaigns in fakes[name].trained)
    assert fakes["lr"].judged == set(held.test.tolist())
    assert not fakes["prior"].trained
    assert not list((tmp_path / "checkpoints").iterdir())


def test_trials_of_the_online_rate_share_the_offline_stage(data, fakes, tmp_path, monkeypatch):
    """They are begun in one folder, whose checkpoints save the training; chosen one by one."""

    def quality(preset):
        far = abs(preset.outer_learning_rate - 0.005) + abs(preset.online_learning_rate - 0.02)
        return 0.5 / (1 + 100 * far)

    fake = Fake(quality)
    monkeypatch.setitem(
        tuning.METHODS, "ours", Method("OURS", fake.offline, fake.online, {}, TUNED)
    )
    held = hold_out(paper_split(data, 0), 0)
    found = tune(job_of(data, tmp_path), held, ["ours"], sizes=False)["methods"]["ours"]
    assert found["chosen"] == {"outer_learning_rate": 0.005, "online_learning_rate": 0.02}
    tried = [(p.outer_learning_rate, p.online_learning_rate) for p, _ in fake.trained]
    # .005 and .001, the preset's online rate, are tried once.
    assert tried == [*((r, 0.001) for r in RATES), *((0.005, r) for r in RATES[1:])]
    folders = dict(zip(tried, fake.directories, strict=True))
    assert len({folders[0.005, rate] for rate in RATES}) == 1
    assert len({folders[rate, 0.001] for rate in RATES}) == len(RATES)


def test_experts_and_critics_are_chosen_once_with_metaheac(data, fakes, tmp_path):
    held = hold_out(paper_split(data, 0), 0)
    found = tune(job_of(data, tmp_path), held, ["lr"], sizes=True)
    assert set(found["methods"]) == {"lr"}
    assert found["sizes"]["chosen"] == {"experts": 8, "critics": 3}
    sizes = [(p.experts, p.critics) for p, _ in fakes["metaheac"].trained[len(RATES) :]]
    # m = 5, the preset's, at n = 8 is not tried twice.
    assert sizes == [*((n, 5) for n in SIZES), *((8, m) for m in SIZES if m != 5)]
    rates = {p.outer_learning_rate for p, _ in fakes["metaheac"].trained[len(RATES) :]}
    assert rates == {0.005}
    preset = with_rates(with_sizes(PAPER, found), found, "lr")
    wanted = {"experts": 8, "critics": 3, "online_learning_rate": 0.01}
    assert preset == replace(PAPER, **wanted)
    assert with_rates(with_sizes(PAPER, {}), {}, "lr") == PAPER


def test_an_interrupted_tuning_goes_on_where_it_stopped(data, fakes, tmp_path):
    held = hold_out(paper_split(data, 0), 0)
    whole = tune(job_of(data, tmp_path / "whole"), held, ["lr", "metaheac"], sizes=True)
    trials = len(fakes["metaheac"].trained)
    fakes["metaheac"].trained.clear()
    fakes["lr"].trained.clear()
    fakes["metaheac"].fail_after = 7
    with pytest.raises(KeyboardInterrupt):
        tune(job_of(data, tmp_path / "part"), held, ["lr", "metaheac"], sizes=True)
    fakes["metaheac"].fail_after = None
    assert tune(job_of(data, tmp_path / "part"), held, ["lr", "metaheac"], sizes=True) == whole
    assert len(fakes["metaheac"].trained) == trials
    assert len(fakes["lr"].trained) == len(RATES)


def test_a_search_goes_on_with_the_settings_it_was_begun_with(data, fakes, tmp_path, monkeypatch):
    held = hold_out(paper_split(data, 0), 0)
    tune(job_of(data, tmp_path), held, ["lr"], sizes=False)
    other = replace(tuning.METHODS["lr"], settings={"width": 2})
    monkeypatch.setitem(tuning.METHODS, "lr", other)
    with pytest.raises(InputError, match=r"lr.json: begun with other settings; start afresh"):
        tune(job_of(data, tmp_path), held, ["lr"], sizes=False)


def test_held_out_campaigns_that_cannot_be_judged(data, fakes, tmp_path):
    held = hold_out(paper_split(data, 0), 0)
    none = replace(data.stage2, label=np.zeros_like(data.stage2.label))
    job = job_of(replace(data, stage2=none), tmp_path)
    with pytest.raises(InputError, match="--tune: no held-out training campaign can be judged"):
        tune(job, held, ["lr"], sizes=False)


def test_what_was_chosen_before_has_the_form_of_a_tuning(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "CHOSEN", tmp_path)
    assert tuning.chosen_before("tencent") == {}
    kept = {"methods": {"lr": {"chosen": {"online_learning_rate": 0.02}}}, "sizes": None}
    (tmp_path / "tencent.json").write_text(json.dumps(kept))
    found = tuning.chosen_before("tencent")
    assert with_rates(PAPER, found, "lr").online_learning_rate == 0.02
    assert with_rates(with_sizes(PAPER, found), found, "metaheac") == PAPER


def test_held_out_campaigns_without_a_pool_get_half_of_their_examples():
    data = dataset(users=200, campaigns=4, per_campaign=40)
    keep = np.repeat(np.arange(4), data.stage2.counts) != 2  # campaign 2 has no stage 2
    label = data.stage2.label[keep]
    owner = np.repeat(np.arange(4), data.stage2.counts)[keep]
    stage2 = group_by_campaign(owner, data.stage2.user[keep], label, campaigns=4)
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


@pytest.mark.parametrize("path", sorted(tuning.CHOSEN.glob("*.json")), ids=lambda path: path.stem)
def test_kept_tunings_are_of_methods_that_there_are_and_chose_the_best(path):
    kept = tuning.chosen_before(path.stem)
    assert set(kept["methods"]) == {name for name, method in METHODS.items() if method.tuned}
    for name, one in kept["methods"].items():
        assert tuple(one["chosen"]) == METHODS[name].tuned
        for field in METHODS[name].tuned:
            trials = [trial for trial in one["tried"] if trial["field"] == field]
            assert [trial["fields"][field] for trial in trials] == list(RATES)
            best = max(trials, key=lambda trial: ("diverged" not in trial, trial["auc"]))
            assert one["chosen"][field] == best["fields"][field]
