"""Permutation importance: zero for what a model ignores, and what it should be for one field."""

import numpy as np
import pytest
from fixed_scores import DATA, campaign_of, fixed

from metaheac_jax.audience import held_out
from metaheac_jax.audience.held_out import cross_fit, field_importance
from metaheac_jax.ranking import auc

GENDER, CITY, TOKENS = (slice(start, start + slots) for start, slots in ((0, 1), (1, 1), (2, 4)))
ALL = np.ones(DATA.num_users, bool)
WEIGHT = np.random.default_rng(1).normal(size=DATA.num_rows + 1)


def gender(users):
    return users[:, GENDER].sum(axis=1).astype(np.float32)


def weighted(users):
    return WEIGHT[users].sum(axis=1)


def folds_of(score, seeds=range(100), seed=0):
    """The folds of a campaign with as many non-seeds as seeds."""
    others = np.setdiff1d(np.arange(400), seeds)[: len(seeds)]
    return cross_fit(fixed(score), DATA, campaign_of(seeds, others), seed=seed)


def women():
    """Folds of a campaign whose seeds are users of one gender, and a model that knows it."""
    return folds_of(gender, np.flatnonzero(DATA.user_rows[:, 0] == 1)[:100])


def test_only_the_field_that_the_model_uses_counts():
    folds = women()
    auc_, (first, *others) = field_importance(folds, DATA, ALL)
    assert first.field == "gender"
    assert {field.field for field in others} == {"city", "tokens"}
    assert all((field.drop, field.error) == (0, 0) for field in others)
    # Every seed ties with the other users of its gender and is above the rest.
    expected = [1 - gender(DATA.user_rows[fold.unknown(ALL)]).mean() / 2 for fold in folds]
    assert auc_ == pytest.approx(np.mean(expected))


def test_held_out_seeds_are_compared_with_users_of_the_pool():
    auc_, fields = field_importance(women(), DATA, DATA.user_rows[:, 0] == 1)
    assert auc_ == 0.5
    assert all((field.drop, field.error) == (0, 0) for field in fields)


def test_equal_to_a_plain_reading():
    """The mean drop over many permutations of each fold; the slots of a field move together."""
    folds, plain = folds_of(weighted), []
    found, before = [field_importance(folds, DATA, ALL, seed=s) for s in range(60)], []
    assert all([f.drop for f in own[1]] == sorted(f.drop for f in own[1])[::-1] for own in found)
    rng = np.random.default_rng(0)
    for fold in folds:
        users = DATA.user_rows[np.r_[fold.seeds, np.flatnonzero(fold.unknown(ALL))]]
        labels = np.arange(len(users)) < 20
        before.append(auc(weighted(users), labels))
        for slots in (GENDER, CITY, TOKENS):
            for _ in range(60):
                permuted = users.copy()
                permuted[:, slots] = permuted[rng.permutation(len(users))][:, slots]
                plain.append(before[-1] - auc(weighted(permuted), labels))
    assert found[0][0] == pytest.approx(np.mean(before))
    expected = np.reshape(plain, (5, 3, 60)).mean(axis=(0, 2))
    for name, drop in zip(("gender", "city", "tokens"), expected, strict=True):
        mean = np.mean([own.drop for _, fields in found for own in fields if own.field == name])
        assert mean == pytest.approx(drop, abs=0.02)


def test_the_error_is_the_spread_of_drops_over_campaigns_of_the_same_kind(monkeypatch):
    monkeypatch.setattr(held_out, "NUM_COMPARED", 20)
    found = []
    for seed in range(80):
        seeds = np.random.default_rng(seed).permutation(400)[:100]
        found.append(field_importance(folds_of(weighted, seeds, seed), DATA, ALL, seed=seed)[1])
    drops, errors = (
        np.array([[getattr(f, name) for f in sorted(own, key=lambda f: f.field)] for own in found])
        for name in ("drop", "error")
    )
    np.testing.assert_allclose(np.sqrt((errors**2).mean(axis=0)), drops.std(axis=0), rtol=0.4)
