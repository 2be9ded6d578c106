"""The curve of sizes: plain counts of held-out seeds, intervals, and a known truth."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from fixed_scores import DATA, campaign_of, fixed, tokens
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from toy import dataset

from metaheac_jax.audience import held_out
from metaheac_jax.audience.expanding import expand
from metaheac_jax.audience.held_out import cross_fit, size_curve
from metaheac_jax.audience.rates import wilson_estimate
from metaheac_jax.errors import InputError
from metaheac_jax.methods import fit

ALL = np.ones(DATA.num_users, bool)
CAMPAIGN = campaign_of(range(100), range(100, 200))


def curve_of(score, sizes, *, pool=ALL, campaign=CAMPAIGN):
    return size_curve(cross_fit(fixed(score), DATA, campaign), DATA, pool, sizes)


@pytest.mark.parametrize("pool", [ALL, np.arange(400) % 7 > 0])
def test_held_out_seeds_are_counted(monkeypatch, pool):
    """Against a plain reading: a tied user is in the audience with the chance of the ties.

    A seed is compared with the users whom its own model does not know.
    """
    monkeypatch.setattr(held_out, "_BLOCK", 33)
    score = tokens(DATA.user_rows[:])
    count, num_seeds = int(pool[100:].sum()), int(pool[:100].sum())
    sizes = (count // 9, count // 2, count)
    folds = cross_fit(fixed(tokens), DATA, CAMPAIGN)
    for point, size in zip(size_curve(folds, DATA, pool, sizes), sizes, strict=True):
        chances = []
        for fold in folds:
            known = {*range(100), *fold.model.campaign.users}
            new = np.array([u for u in np.flatnonzero(pool) if u not in known])
            for seed in score[fold.seeds]:  # one of so many users, and so many are in the audience
                places = size * (1 + len(new)) / count
                above, at = (score[new] > seed).sum(), (score[new] == seed).sum()
                chances.append(min(1, max(0, places - above) / (at + 1)))
        assert len(chances) == 100
        recall = np.mean(chances)
        assert (point.size, point.share) == (size, size / count)
        assert astuple(point.recall) == pytest.approx(astuple(wilson_estimate(100 * recall, 100)))
        for lift, part in zip(astuple(point.lift), astuple(point.recall), strict=True):
            reached = (size + part * num_seeds) / (count + num_seeds)  # of the pool with its seeds
            assert lift == pytest.approx(part / reached)


def test_scores_of_several_models_are_not_compared():
    """Each model has another scale, and the curve does not change."""
    folds = cross_fit(fixed(tokens), DATA, CAMPAIGN)
    scores = [lambda users, k=k: k + 9**k * tokens(users) for k in range(5)]
    scaled = [
        replace(own, model=replace(own.model, scorer=score))
        for own, score in zip(folds, scores, strict=True)
    ]
    assert size_curve(scaled, DATA, ALL, (50,)) == size_curve(folds, DATA, ALL, (50,))


def test_users_of_audiences_stay_in_the_pool():
    """Non-seeds at the top, where an earlier audience was: without them seeds would be there."""
    shown = np.arange(100, 150)
    score = lambda users: np.isin(np.arange(len(users)), shown).astype(np.float32)  # noqa: E731
    [point] = curve_of(score, (30,), campaign=replace(CAMPAIGN, found=shown))
    assert point.recall.value == 0


@pytest.mark.parametrize("base", [-4.5, -2.5])
def test_intervals_hold_the_true_lift(base):
    """Of 12 campaigns with a known truth, for audiences of 5% that are made as always.

    Where few users convert and where many do. An interval of 95% misses more than 3 of 12 once in
    400 times.
    """
    rng, users, campaigns = np.random.default_rng(2), 8000, 12
    data = dataset(users=users, campaigns=campaigns, per_campaign=40, pool=10, seed=2)
    taste = np.where(np.arange(data.num_rows + 1) < data.num_rows, 1, 0)
    taste = taste * rng.normal(size=(campaigns, data.num_rows + 1))
    general = fit(data.completed(), "lr", campaigns=[0])
    held = []
    for own in taste:
        chance = 1 / (1 + np.exp(-own[data.user_rows[:]].sum(axis=1) - base))
        seeds = np.flatnonzero((rng.random(users) < chance) & (rng.random(users) < 0.3))[:300]
        if len(seeds) < 50:
            continue
        others = rng.choice(np.setdiff1d(np.arange(users), seeds), 5 * len(seeds), replace=False)
        campaign = campaign_of(seeds, others[: users // 2], data=data)
        audience = expand(general, data, campaign, percent=5)
        folds = cross_fit(general, data, campaign)
        [point] = size_curve(folds, data, np.ones(users, bool), [len(audience)])
        candidates = np.delete(chance, seeds)
        truth = chance[data.find_users(audience["user_id"])].mean() / candidates.mean()
        held.append(point.lift.low <= truth <= point.lift.high)
    assert len(held) >= 9
    assert held.count(False) <= 3


@given(st.integers(1, 500), st.data())
def test_intervals_of_fractions_are_those_of_wilson(count, data):
    hits = data.draw(st.integers(0, count))
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    found = wilson_estimate(hits, count)
    assert found.value == hits / count
    np.testing.assert_allclose(astuple(found)[1:], expected, atol=1e-12)
    assert (wilson_estimate(0, count).low, wilson_estimate(count, count).high) == (0, 1)


def test_a_pool_without_other_users_is_refused():
    with pytest.raises(InputError, match="pool: all its users are seeds or learned from; use"):
        curve_of(tokens, (1,), pool=np.arange(400) == 100)
