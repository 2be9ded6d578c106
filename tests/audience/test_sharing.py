"""Users in few audiences: equal to the best of all assignments, and exact with few candidates."""

from itertools import product

import numpy as np
import polars as pl
import pytest
from fixed_scores import fixed
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import dataset

import metaheac_jax as mh
from metaheac_jax.audience import expanding
from metaheac_jax.audience.sharing import Candidates, share_in_order, share_users


def candidates(chances, sizes, count=None):
    """The best candidates of each campaign, from (G, U) chances."""
    found = []
    for own, size in zip(chances, sizes, strict=True):
        order = np.argsort(-own, kind="stable")[:count]
        found.append(Candidates(own[order], order, size, len(order) == len(own)))
    return found


def brute_force(chances, sizes, per_user):
    """The most expected conversions of all assignments."""
    subsets = [s for s in product((0, 1), repeat=len(sizes)) if sum(s) <= per_user]
    best = {(0,) * len(sizes): 0.0}  # by the number of users in each audience
    for user in chances.T:
        grown = {}
        for taken, value in best.items():
            for subset in subsets:
                now = tuple(a + b for a, b in zip(taken, subset, strict=True))
                if all(a <= b for a, b in zip(now, sizes, strict=True)):
                    total = value + float(user @ subset)
                    grown[now] = max(total, grown.get(now, -1.0))
        best = grown
    return max(best.values())


@settings(max_examples=60)
@given(
    st.integers(1, 3),
    st.integers(2, 9),
    st.integers(1, 2),
    st.integers(0, 2**31),
    st.sampled_from([None, 2, 4]),
)
def test_no_assignment_is_better(num_campaigns, num_users, per_user, seed, count):
    """With fewer candidates it is the same, or it is told that others may be needed."""
    rng = np.random.default_rng(seed)
    chances = rng.integers(1, 8, (num_campaigns, num_users)) / 8  # with ties
    sizes = rng.integers(1, 4, num_campaigns).tolist()
    given = candidates(chances, sizes, count)
    found = share_users(given, per_user)
    if found is None:
        assert count is not None
        return
    assert all(len(own) <= size for own, size in zip(found, sizes, strict=True))
    taken = np.concatenate([own.ids[some] for own, some in zip(given, found, strict=True)])
    assert np.bincount(taken).max() <= per_user
    total = sum(own.chances[some].sum() for own, some in zip(given, found, strict=True))
    assert total == pytest.approx(brute_force(chances, sizes, per_user))


def test_earlier_campaigns_choose_first():
    chances = np.array([[0.9, 0.8, 0.1, 0.2], [0.9, 0.8, 0.7, 0.1], [0.9, 0.8, 0.7, 0.6]])
    found = share_in_order(candidates(chances, [1, 2, 2]), 1)
    assert [own.tolist() for own in found] == [[0], [1, 2], [3]]
    assert share_in_order(candidates(chances, [1, 2, 2], 3), 1) is None
    twice = share_in_order(candidates(chances, [1, 2, 2]), 2)
    assert [own.tolist() for own in twice] == [[0], [0, 1], [1, 2]]


@pytest.fixture(scope="module")
def world():
    data = dataset(users=1500, campaigns=3, per_campaign=300, pool=30, seed=1)
    general = fixed(lambda rows: rows[:, 1].astype(np.float32), data=data)
    return general, data, data.campaign_ids.tolist()


@pytest.mark.parametrize("by_priority", [False, True])
def test_expand_enlarges_the_lists_until_they_suffice(world, by_priority, monkeypatch):
    general, data, campaigns = world
    results = []
    for more in (2, 40):
        monkeypatch.setattr(expanding, "_MORE", more)
        options = {"per_user": 1, "by_priority": by_priority}
        with pytest.warns(UserWarning, match=r"fewer conversions are expected .* for campaign"):
            results.append(mh.expand(general, data, campaigns, size=100, **options))
    assert results[0]["user_id"].n_unique() == len(results[0]) == 300
    ranks = results[0].group_by("campaign_id", maintain_order=True).agg("rank")["rank"]
    assert all(own.to_list() == [*range(1, 101)] for own in ranks)
    totals = [own.group_by("campaign_id").agg(pl.sum("probability")) for own in results]
    each = [own.sort("campaign_id")["probability"].to_numpy() for own in totals]
    np.testing.assert_allclose(each[0].sum(), each[1].sum(), rtol=1e-6)


def test_a_limit_that_cannot_bind_changes_nothing(world):
    """But for ties."""
    general, data, campaigns = world
    free = mh.expand(general, data, campaigns, size=50, probability=True)
    with pytest.warns(UserWarning, match=r"0\.0% fewer"):
        found = mh.expand(general, data, campaigns, size=50, per_user=3)
    assert found.drop("user_id").equals(free.drop("user_id"))
