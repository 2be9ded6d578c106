"""Simulated weeks: buckets, days, feedback, lifts, and the command."""

import json

import numpy as np
import pytest
import scipy.stats
from toy import dataset

from experiments import live_week
from experiments.live_week import (
    MEASURES,
    Options,
    Week,
    lift_table,
    main,
    mean_lifts,
    run_arm,
    split_candidates,
    week_lifts,
)
from experiments.sources.simulated import open_world
from experiments.sources.splits import paper_split
from metaheac_jax.errors import InputError
from metaheac_jax.methods import METHODS, LogisticRegression, Trained
from metaheac_jax.progress import silent

RNG, WEEK = np.random.default_rng(0), Week("video", users=30_000, seed=1)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Weeks of two days with twelve campaigns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_week, "DAYS", 2)
        patch.setattr(live_week, "CAMPAIGNS", 12)
        yield


@pytest.fixture(scope="module")
def cache(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    open_world(WEEK.world, folder)
    return folder


class Seen(LogisticRegression):
    """A method that scores at random, and notes what it is trained on and customised to."""

    def __init__(self):
        super().__init__()
        self.trained, self.customised = [], []

    def train(self, offline):
        self.trained.append(offline.campaigns.tolist())
        return Trained({})

    def adapt(self, online, state, campaigns):
        self.customised += campaigns
        return [lambda users: RNG.random(len(users)) for _ in campaigns]


def test_buckets_are_equal_disjoint_and_of_candidates_only():
    data = dataset(users=3001, campaigns=20, per_campaign=20, pool=20)
    running, candidates = np.arange(8), np.setdiff1d(np.arange(3001), data.stage1.user)
    first, second = split_candidates(data, running, 0)
    assert first.shape == second.shape == (8, len(candidates) // 2)
    for pair in zip(first, second, strict=True):
        both = np.concatenate(pair)
        assert len(np.unique(both)) == len(both) >= len(candidates) - 1
        assert np.isin(both, candidates).all()
    # At random, for each campaign by itself: two campaigns' halves share half of their users.
    shared = [len(np.intersect1d(first[0], other)) / len(other) for other in first[1:]]
    assert np.mean(shared) == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow
def test_answers_are_the_next_days_examples(cache, tmp_path, monkeypatch):
    seen = Seen()
    # What the name of a model stands for: the method itself.
    monkeypatch.setitem(METHODS, "lr", lambda *_: seen)
    exposed, converted = run_arm(WEEK, seen, 0, folder=tmp_path, cache_dir=cache, progress=silent)
    before = open_world(WEEK.world, cache)
    split = paper_split(before, WEEK.seed)
    assert seen.trained == [split.train.tolist()]
    days = [seen.customised[: len(split.test)], seen.customised[len(split.test) :]]
    bucket = split_candidates(before, split.test, WEEK.seed)[0]
    added, positives = 0, 0
    for own, index, users in zip(days[1], split.test, bucket, strict=True):
        earlier = before.campaign(int(index))
        new = np.setdiff1d(own.users, earlier.users)
        assert len(new)
        assert np.isin(new, users).all()  # of the arm's own bucket
        added += len(new)
        positives += int(own.labels[np.isin(own.users, new)].sum())
    assert 0 < converted < exposed
    assert added <= exposed
    assert positives <= converted


def test_intervals_are_students_over_the_weeks():
    counts = np.random.default_rng(0).integers(50, 99, (4, 2, 2)) * np.array([5, 1])
    ratios = [[e1 / e0, c1 / c0, c1 / e1 * e0 / c0] for (e0, c0), (e1, c1) in counts]
    for found, logs in zip(mean_lifts(week_lifts(counts)), np.log(ratios).T, strict=True):
        bounds = scipy.stats.ttest_1samp(logs, 0).confidence_interval(0.95)
        np.testing.assert_allclose(found, np.exp([logs.mean(), *bounds]) - 1, rtol=1e-10)


def test_a_week_without_a_conversion_has_no_lift_of_conversions():
    counts = np.array([[[200, 10], [220, 22]]] * 3)
    counts[1, 0, 1] = 0
    found = mean_lifts(week_lifts(counts))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()
    header, [row, published] = lift_table({"video": {"A against B": counts}})
    assert header[2:] == list(MEASURES)
    assert row[:2] == ["video", "A against B"]
    assert published[3] == "+10.18%"


@pytest.mark.slow
def test_a_test_resumes_with_what_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(live_week, "APPLICATIONS", {"video": 2.0})
    folders = {"out": tmp_path / "out", "cache_dir": tmp_path / "cache"}
    options = Options(treatment="lr", control=("cosine",), weeks=2, users=30_000, **folders)
    main(options)
    first = json.loads((tmp_path / "out" / "results.json").read_text())
    titles = [test["test"] for test in first["tests"]]
    assert titles == ["LR against cosine to the mean seed", "A/A: LR"]
    monkeypatch.setattr(live_week, "run_arm", None)
    main(Options(**{**vars(options), "resume": True}))
    assert json.loads((tmp_path / "out" / "results.json").read_text())["tests"] == first["tests"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"control": ("metaheac",)}, "--control: metaheac"),
        ({"weeks": 1}, "--weeks"),
        ({"users": 0}, "--users"),
    ],
)
def test_options_that_no_test_can_have_are_refused(changed, said, tmp_path):
    with pytest.raises(InputError, match=said):
        main(Options(out=tmp_path / "out", **changed))
