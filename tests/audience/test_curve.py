"""The curve of sizes: a plain count of held-out seeds, and intervals in closed form."""

import math
from dataclasses import replace

import numpy as np
import pytest
from fixed_scores import ATTRIBUTES, DATA, fixed_method, held_out, tokens
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from metaheac_jax.audience import curve
from metaheac_jax.audience.curve import Estimate, size_curve, wilson_interval
from metaheac_jax.audience.held_out_seeds import hold_out_seeds
from metaheac_jax.errors import InputError


def random_scores(seed=0):
    values = np.random.default_rng(seed).random(400).astype(np.float32)
    value = dict(zip(map(bytes, DATA.user_rows), values, strict=True))
    return lambda users: np.array([value[bytes(row)] for row in users])


def test_held_out_seeds_are_counted(monkeypatch):
    """Against a plain reading: a tied user is in the audience with the chance of the ties.

    80 non-seeds that the model has learned from are in the pool, but no seed is compared with them.
    """
    monkeypatch.setattr(curve, "_BLOCK", 33)
    held, score = held_out(tokens), tokens(DATA.user_rows)
    new = np.setdiff1d(np.arange(400), [*held.users, *held.model.campaign.users])
    assert len(new) == 220
    found = size_curve(held, DATA, percents=(50, 11, 100), base_rate=0.1)
    assert [point.percent for point in found] == [11, 50, 100]
    for point, size in zip(found, (33, 150, 300), strict=True):
        edge = np.sort(score[new])[::-1][math.ceil(size * 220 / 300) - 1]
        chances = []
        for seed in score[held.users]:  # one of 221 users, of whom so many are in the audience
            places = size * 221 / 300
            above, at = (score[new] > seed).sum(), (score[new] == seed).sum()
            chances.append(min(1, max(0, places - above) / (at + 1)))
        recall = np.mean(chances)
        assert (point.size, point.edge.value) == (size, edge)
        assert point.recall == pytest.approx((recall, *wilson_interval(recall, 20)))
        assert point.lift == pytest.approx([bound * 300 / size for bound in point.recall])
        expected = [min(size, bound * 0.1 * 300) for bound in point.recall]
        assert point.conversions == pytest.approx(expected)
    assert found[-1].recall.value == 1


@pytest.mark.parametrize("excluded", [[], [*range(40), *range(150, 200)]])
def test_seeds_that_the_model_has_seen_and_excluded_users_are_not_in_the_pool(excluded):
    held = held_out(random_scores(), exclude=[*DATA.user_ids[excluded], 10**9])
    score = random_scores()(DATA.user_rows)
    assert not set(held.users) & set(excluded)
    assert len(held.users) == (12 if excluded else 20)
    pool = np.setdiff1d(np.arange(100, 400), excluded)
    [whole] = size_curve(held, DATA, percents=(100,), base_rate=0.1)
    new = np.setdiff1d(pool, held.model.campaign.users)
    assert (whole.size, whole.edge.value) == (len(pool), score[new].min())
    assert whole.conversions.value == pytest.approx(0.1 * len(pool))
    [point] = size_curve(held, DATA, percents=(10,))
    rank = math.ceil(point.size * len(new) / len(pool))
    assert point.edge.value == np.sort(score[new])[-rank]


@pytest.mark.parametrize("percent", [10, 40, 60])
def test_a_model_that_tells_nobody_apart_is_a_random_audience(percent):
    held = held_out(lambda users: np.zeros(len(users), np.float32))
    [point] = size_curve(held, DATA, percents=(percent,))
    assert point.recall.value == pytest.approx(percent / 100)
    assert point.lift.value == pytest.approx(1)


def test_a_model_that_only_knows_its_own_non_seeds_is_a_random_audience():
    seen = []

    def score(users):
        scores = np.ones(len(users), np.float32)
        scores[seen[0].users[seen[0].labels == 0]] = 0
        return scores

    for point in size_curve(held_out(score, seen=seen), DATA, percents=(10, 40, 60)):
        assert point.recall.value == pytest.approx(point.percent / 100)
        assert point.lift.value == pytest.approx(1)


def test_who_feedback_tells_of_stays_in_the_pool():
    """Non-seeds at the top, where an earlier audience was: without them seeds would be there."""
    campaign = DATA.new_campaign(DATA.user_ids[:100], ATTRIBUTES, non_seeds_per_seed=1)
    shown = campaign.users[campaign.labels == 0][:50]
    method = fixed_method(lambda users: np.isin(np.arange(len(users)), shown).astype(np.float32))
    held = hold_out_seeds(method, method.fit(DATA), DATA, replace(campaign, found=shown))
    [point] = size_curve(held, DATA, percents=(10,))
    assert (point.size, point.recall.value, point.edge.value) == (30, 0, 1)


def test_a_model_that_knows_the_seeds_is_above_one_that_does_not():
    seeds = {bytes(row) for row in DATA.user_rows[:100]}
    good = lambda users: np.array([bytes(row) in seeds for row in users], np.float32)  # noqa: E731
    better, worse = (size_curve(held_out(s), DATA, percents=(30,))[0] for s in (good, tokens))
    assert better.recall.value == 1
    assert better.lift.value == pytest.approx(10 / 3)
    assert worse.recall.value < 0.6


def test_as_many_convert_as_there_are_seeds_by_default():
    """All of the pool has all converts, as far as it is not larger than the pool."""
    held = held_out(tokens)
    [point] = size_curve(held, DATA, percents=(100,))
    assert point.conversions.value == pytest.approx(100 / 400 * 300)
    [point] = size_curve(held, DATA, percents=(100,), base_rate=1)
    assert point.conversions.value == 300
    [point] = size_curve(held, DATA, percents=(5,), base_rate=1)
    assert max(point.conversions) <= point.size == 15


@given(st.integers(1, 500), st.data())
def test_intervals_of_recall_are_those_of_wilson(count, data):
    hits = data.draw(st.integers(0, count))
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson_interval(hits / count, count), expected, atol=1e-12)


def test_an_interval_ends_at_none_and_at_all():
    for count in (7, 1000):
        assert wilson_interval(0, count)[0] == 0
        assert wilson_interval(1, count)[1] == 1


@given(st.integers(1, 300), st.data())
def test_the_edges_interval_holds_the_quantile_with_95_percent(count, data):
    """The number of users above the true quantile is binomial; scores here are ranks from below."""
    size = data.draw(st.integers(1, count))
    edge = curve._edge(np.arange(count, dtype=np.float32), size, count)
    assert edge.value == count - size
    # With k users above the quantile, it lies from score count - k - 1 to score count - k.
    # The lowest and the highest score have no score beyond them.
    bounds = [
        (-math.inf if k == count else count - k - 1, count - k if k else math.inf)
        for k in range(count + 1)
    ]
    covered = [k for k, (low, high) in enumerate(bounds) if edge.low <= low and high <= edge.high]
    above, first, last = binom(count, size / count), min(covered), max(covered)
    assert covered == list(range(first, last + 1))
    assert above.pmf(covered).sum() >= 0.95 - 1e-9
    assert max(above.cdf(first - 1), above.sf(last)) <= 0.025 + 1e-9
    # One number fewer at either end would leave too much.
    assert min(above.cdf(first), above.sf(last - 1)) >= 0.025 - 1e-9


def test_users_who_are_new_to_the_model_are_needed():
    held = held_out(tokens, exclude=DATA.user_ids[100:])
    with pytest.raises(InputError, match="toy: all users are seeds, learned from or excluded"):
        size_curve(held, DATA)


def test_an_estimate_in_another_unit():
    assert Estimate(0.2, 0.1, 0.6).scaled(10) == Estimate(2, 1, 6)
    assert Estimate(0.2, 0.1, 0.6).scaled(10, most=5) == Estimate(2, 1, 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"percents": (0, 5)}, "percents: expected numbers above 0"),
        ({"percents": ()}, "percents: expected numbers above 0"),
        ({"percents": (101,)}, "percents: expected numbers above 0"),
        ({"base_rate": 0}, "base rate: expected more than 0 and at most 1, got 0"),
        ({"base_rate": 1.1}, "base rate: expected more than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        size_curve(held_out(tokens), DATA, **options)
