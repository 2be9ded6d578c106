"""The curve of sizes: a plain count of held-out seeds; better models are above worse ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from toy import dataset

from metaheac_jax.audience import curve
from metaheac_jax.audience.curve import size_curve, wilson_interval
from metaheac_jax.errors import InputError
from metaheac_jax.methods.method import Method
from metaheac_jax.settings import PAPER

DATA = dataset(users=400, campaigns=3, per_campaign=40, pool=30)
ATTRIBUTES = {"advertiser": 1, "category": 0}


def method(score, seen=None):
    """A method whose customised models score users in a fixed way."""

    def adapt(run, state, campaigns, watch):
        if seen is not None:
            seen.extend(campaigns)
        return [score for _ in campaigns]

    return Method("fixed", "Fixed", PAPER, train=lambda run: {}, adapt=adapt)


def tokens(users):
    """Scores with many ties."""
    return (users < DATA.num_rows).sum(axis=1).astype(np.float32)


def points(score, seen=None, num_seeds=100, **options):
    fixed = method(score, seen)
    campaign = DATA.new_campaign(DATA.user_key[:num_seeds], ATTRIBUTES, non_seeds_per_seed=1)
    return size_curve(fixed, fixed.fit(DATA), DATA, campaign, **options), campaign


def test_held_out_seeds_are_counted(monkeypatch):
    monkeypatch.setattr(curve, "_BLOCK", 33)
    rng = np.random.default_rng(0)
    value = dict(zip(map(bytes, DATA.user_rows), rng.random(400), strict=True))
    score = lambda users: np.array([value[bytes(row)] for row in users])  # noqa: E731
    seen = []
    found, campaign = points(score, seen, percents=(10, 50, 100))
    held = np.setdiff1d(campaign.seeds, seen[0].seeds)
    assert (len(held), len(seen[0].seeds)) == (20, 80)
    assert set(seen[0].users) == set(campaign.users) - set(held)
    pool = np.setdiff1d(np.arange(400), seen[0].seeds)
    ordered = np.sort(score(DATA.user_rows[pool]))[::-1]
    for point, size in zip(found, (32, 160, 320), strict=True):
        assert point.size == size
        assert point.edge == ordered[size - 1]
        inside = score(DATA.user_rows[held]) >= point.edge
        assert point.recall == pytest.approx(inside.mean(), abs=0.051)  # ties of equal users
    assert found[-1].recall == 1


def test_ties_are_neither_for_nor_against_the_seeds():
    """All scores equal: an audience of half the pool has half of the seeds, or all or none."""
    found, _ = points(lambda users: np.zeros(len(users), np.float32), percents=(40, 60))
    assert [point.recall for point in found] == [0, 1]


def test_a_model_that_knows_the_seeds_is_above_one_that_does_not():
    seeds = {bytes(row) for row in DATA.user_rows[:100]}
    good = lambda users: np.array([bytes(row) in seeds for row in users], np.float32)  # noqa: E731
    better, worse = (points(score, percents=(20,))[0][0] for score in (good, tokens))
    assert better.recall == 1
    assert better.lift == 5
    assert worse.recall < 0.6


@settings(deadline=None)
@given(st.integers(1, 500), st.data())
def test_intervals_are_those_of_wilson(count, data):
    hits = data.draw(st.integers(0, count))
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson_interval(hits / count, count), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_seeds": 49}, "new campaign: 49 seeds, too few to hold a fifth out; give 50"),
        ({"percents": (0, 5)}, "percents: expected numbers above 0"),
        ({"percents": ()}, "percents: expected numbers above 0"),
        ({"seed": -1}, "seed: expected a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        points(tokens, **options)
