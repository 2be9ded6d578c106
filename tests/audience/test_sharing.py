"""Users in few audiences: no assignment is better."""

from itertools import product

import numpy as np
import pytest
from fixed_scores import fixed
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import dataset

import metaheac_jax as mh
from metaheac_jax.audience import sharing
from metaheac_jax.audience.sharing import Candidates, num_needed, share_in_order, share_users


def candidates(chances, sizes, per_user):
    """The candidates that each campaign may need, from (G, U) chances."""
    found = []
    for own, size, count in zip(chances, sizes, num_needed(sizes, per_user), strict=True):
        order = np.argsort(-own, kind="stable")[:count]
        found.append(Candidates(own[order], order, size))
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
@given(st.integers(1, 3), st.integers(2, 9), st.integers(1, 2), st.integers(0, 2**31))
def test_no_assignment_is_better(num_campaigns, num_users, per_user, seed):
    rng = np.random.default_rng(seed)
    chances = rng.integers(1, 8, (num_campaigns, num_users)) / 8  # with ties
    sizes = rng.integers(1, 4, num_campaigns).tolist()
    given = candidates(chances, sizes, per_user)
    found = share_users(given, per_user)
    assert total(given, found, per_user) == pytest.approx(brute_force(chances, sizes, per_user))


@pytest.mark.parametrize("per_user", [1, 2])
def test_a_program_with_few_candidates_is_exact(per_user, monkeypatch):
    """However bad the first prices: those of a sixteenth of the users, twice."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        common, sizes = rng.normal(size=600), rng.integers(20, 60, 6).tolist()
        chances = 1 / (1 + np.exp(3 - common - rng.normal(size=(6, 600))))
        given = candidates(chances, [600] * 6, per_user)  # all
        given = [one._replace(size=size) for one, size in zip(given, sizes, strict=True)]
        whole = total(given, share_users(given, per_user), per_user)
        with monkeypatch.context() as few:
            few.setattr(sharing, "_FEW", 10)
            found = share_users(given, per_user)
        assert [*map(len, found)] == sizes
        assert total(given, found, per_user) == pytest.approx(whole, rel=1e-12)


def total(given, found, per_user):
    """Expected conversions; refuses audiences that are too large, and users in too many."""
    assert all(len(own) <= one.size for one, own in zip(given, found, strict=True))
    taken = np.concatenate([one.users[own] for one, own in zip(given, found, strict=True)])
    assert np.bincount(taken).max() <= per_user
    return sum(one.chances[own].sum() for one, own in zip(given, found, strict=True))


def test_earlier_campaigns_choose_first():
    chances = np.array([[0.9, 0.8, 0.1, 0.2], [0.9, 0.8, 0.7, 0.1], [0.9, 0.8, 0.7, 0.6]])
    once, twice = (share_in_order(candidates(chances, [1, 2, 2], n), n) for n in (1, 2))
    assert [own.tolist() for own in once] == [[0], [1, 2], [3]]
    assert [own.tolist() for own in twice] == [[0], [0, 1], [1, 2]]


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(2, 20), st.integers(1, 3), st.integers(0, 2**31))
def test_earlier_campaigns_need_no_other_candidates(num_campaigns, num_users, per_user, seed):
    rng = np.random.default_rng(seed)
    chances, sizes = rng.random((num_campaigns, num_users)), rng.integers(1, 9, num_campaigns)
    given = candidates(chances, sizes.tolist(), per_user)
    left, found = np.full(num_users, per_user), share_in_order(given, per_user)
    for own, size, one, some in zip(chances, sizes, given, found, strict=True):
        order = np.argsort(-own)
        expected = order[left[order] > 0][:size]
        left[expected] -= 1
        assert one.users[some].tolist() == expected.tolist()


@pytest.fixture(scope="module")
def world():
    data = dataset(users=1500, campaigns=3, per_campaign=300, pool=30, seed=1)
    general = fixed(lambda rows: rows[:, 1].astype(np.float32), data=data)
    return general, data, data.campaign_ids.tolist()


@pytest.mark.parametrize("by_priority", [False, True])
def test_users_are_in_one_audience(world, by_priority):
    """All campaigns want the same users; each gets a whole audience."""
    general, data, campaigns = world
    with pytest.warns(UserWarning, match=r"fewer conversions are expected .* for campaign"):
        found = mh.expand(general, data, campaigns, size=100, per_user=1, by_priority=by_priority)
    assert found["user_id"].n_unique() == len(found) == 300
    ranks = found.group_by("campaign_id", maintain_order=True).agg("rank")["rank"]
    assert all(own.to_list() == [*range(1, 101)] for own in ranks)


def test_a_limit_that_cannot_bind_changes_nothing(world):
    """But for ties."""
    general, data, campaigns = world
    free = mh.expand(general, data, campaigns, size=50, probability=True)
    with pytest.warns(UserWarning, match=r"0\.0% fewer"):
        found = mh.expand(general, data, campaigns, size=50, per_user=3)
    assert found.drop("user_id").equals(free.drop("user_id"))
