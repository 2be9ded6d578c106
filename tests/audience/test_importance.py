"""Permutation importance: zero for what a model ignores, and what it should be for one field."""

import numpy as np
import pytest
from fixed_scores import DATA, campaign_of, fixed

from metaheac_jax.audience import held_out
from metaheac_jax.audience.held_out import cross_fit, field_importance
from metaheac_jax.ranking import auc

GENDER, CITY, TOKENS = (slice(start, start + slots) for start, slots in ((0, 1), (1, 1), (2, 4)))
ALL = np.ones(DATA.num_users, bool)


def gender(users):
    return users[:, GENDER].sum(axis=1).astype(np.float32)


def fold_of(score, seeds=range(100), seed=0):
    """The first fold of a campaign, with as many non-seeds as seeds."""
    others = np.setdiff1d(np.arange(400), seeds)[: len(seeds)]
    return cross_fit(fixed(score), DATA, campaign_of(seeds, others), seed=seed)[0]


def women():
    """A fold of a campaign whose seeds are users of one gender, and a model that knows it."""
    return fold_of(gender, np.flatnonzero(DATA.user_rows[:, 0] == 1)[:100])


def test_only_the_field_that_the_model_uses_counts():
    fold = women()
    auc_, fields = field_importance(fold, DATA, ALL)
    first, *others = fields
    assert first.field == "gender"
    assert {field.field for field in others} == {"city", "tokens"}
    assert all((field.drop, field.error) == (0, 0) for field in others)
    # Every seed ties with the other users of its gender and is above the rest.
    rest = np.setdiff1d(np.arange(400), [*fold.seeds, *fold.model.campaign.users])
    assert auc_ == pytest.approx(1 - gender(DATA.user_rows[rest]).mean() / 2)


def test_held_out_seeds_are_compared_with_users_of_the_pool():
    auc_, fields = field_importance(women(), DATA, DATA.user_rows[:, 0] == 1)
    assert auc_ == 0.5
    assert all((field.drop, field.error) == (0, 0) for field in fields)


def test_equal_to_a_plain_reading(monkeypatch):
    """One permutation: AUC before and after, with the same permutations."""
    monkeypatch.setattr(held_out, "NUM_PERMUTATIONS", 1)
    weight = np.random.default_rng(1).normal(size=DATA.num_rows + 1)
    fold = fold_of(lambda users: weight[users].sum(axis=1))
    found = field_importance(fold, DATA, ALL, seed=4)

    rng = held_out.generator(4, 0)
    others = rng.permutation(np.flatnonzero(fold.unknown(ALL)))
    users = DATA.user_rows[np.concatenate([fold.seeds, np.sort(others)])]
    labels = np.arange(len(users)) < 20
    before = auc(weight[users].sum(axis=1), labels)
    assert found[0] == pytest.approx(before)
    found_drops = [own.drop for own in found[1]]
    assert found_drops == sorted(found_drops, reverse=True)
    monkeypatch.setattr(held_out, "NUM_PERMUTATIONS", 300)
    drops = {own.field: own.drop for own in field_importance(fold, DATA, ALL)[1]}
    rng = np.random.default_rng(0)
    for name, slots in (("gender", GENDER), ("city", CITY), ("tokens", TOKENS)):
        plain = []
        for _ in range(300):
            permuted = users.copy()
            permuted[:, slots] = permuted[rng.permutation(len(users))][:, slots]
            plain.append(before - auc(weight[permuted].sum(axis=1), labels))
        assert drops[name] == pytest.approx(np.mean(plain), abs=0.02)


@pytest.mark.parametrize("compared", [100, 5])
def test_the_error_is_that_of_the_seeds_and_of_who_they_are_compared_with(monkeypatch, compared):
    """The spread of drops over campaigns of the same kind is what the error says.

    It is somewhat less where the compared users are a large part of the pool, as here of 100.
    """
    monkeypatch.setattr(held_out, "NUM_COMPARED", compared)
    weight = np.random.default_rng(1).normal(size=DATA.num_rows + 1)
    found = [
        field_importance(
            fold_of(lambda users: weight[users].sum(axis=1), seed=seed), DATA, ALL, seed=seed
        )
        for seed in range(80)
    ]
    drops, errors = (
        np.array([[getattr(f, name) for f in sorted(i[1], key=lambda f: f.field)] for i in found])
        for name in ("drop", "error")
    )
    mean = np.sqrt((errors**2).mean(axis=0))
    np.testing.assert_allclose(mean, drops.std(axis=0), rtol=0.4)


def test_the_error_of_a_mean_of_few():
    assert held_out._squared_error(np.array([1.0, 3.0])) == 1  # the variance is 2, of 2 values
    assert held_out._squared_error(np.array([5.0])) == 0
