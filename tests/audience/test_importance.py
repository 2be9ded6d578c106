"""Permutation importance: zero for what a model ignores, and what it should be for one field."""

from dataclasses import replace

import numpy as np
import pytest
from fixed_scores import ATTRIBUTES, DATA, fixed_method, held_out

from metaheac_jax.audience import importance
from metaheac_jax.audience.held_out_seeds import hold_out_seeds
from metaheac_jax.audience.importance import field_importance
from metaheac_jax.errors import InputError
from metaheac_jax.ranking import auc

GENDER, CITY, TOKENS = (slice(start, start + slots) for start, slots in ((0, 1), (1, 1), (2, 4)))


def gender(users):
    return users[:, GENDER].sum(axis=1).astype(np.float32)


def women(exclude=()):
    """A campaign whose seeds are users of one gender, and a model that knows it."""
    method = fixed_method(gender)
    seeds = DATA.user_ids[DATA.user_rows[:, 0] == 1][:100]
    campaign = DATA.new_campaign(seeds, ATTRIBUTES, non_seeds_per_seed=1)
    return hold_out_seeds(method, method.fit(DATA), DATA, campaign, exclude=exclude)


def test_only_the_field_that_the_model_uses_counts():
    auc_, fields = field_importance(women(), DATA)
    first, *others = fields
    assert first.field == "gender"
    assert {field.field for field in others} == {"city", "tokens"}
    assert all((field.drop, field.error) == (0, 0) for field in others)
    # Every seed ties with the other users of its gender and is above the rest.
    held = women()
    rest = np.setdiff1d(np.arange(400), [*held.users, *held.model.campaign.users])
    same = gender(DATA.user_rows[rest]).mean()
    assert auc_ == pytest.approx(1 - same / 2)


def test_held_out_seeds_are_not_compared_with_excluded_users():
    men = DATA.user_ids[DATA.user_rows[:, 0] != 1]
    auc_, fields = field_importance(women(exclude=men), DATA)
    assert auc_ == 0.5
    assert all((field.drop, field.error) == (0, 0) for field in fields)


def test_a_shuffled_informative_field_leaves_the_share_of_its_value(monkeypatch):
    """Shuffled, a user is a woman with the chance of all, so the AUC falls to a half."""
    monkeypatch.setattr(importance, "NUM_COMPARED", 200)
    auc_, [first, *_] = field_importance(women(), DATA, num_permutations=200)
    assert first.drop == pytest.approx(auc_ - 0.5, abs=0.02)
    assert 0 < first.error < 0.02


def test_equal_to_a_plain_reading():
    """One permutation: AUC before and after, with the same permutations."""
    rng = np.random.default_rng(1)
    weight = rng.normal(size=DATA.num_rows + 1)
    held = held_out(lambda users: weight[users].sum(axis=1))
    found = field_importance(held, DATA, num_permutations=1, seed=4)

    rng = importance.generator(4, 0)
    known = np.concatenate([held.users, held.model.campaign.users])
    drawn = rng.choice(400, 400, replace=False)
    users = DATA.user_rows[np.concatenate([held.users, drawn[~np.isin(drawn, known)]])]
    labels = np.arange(len(users)) < 20
    before = auc(weight[users].sum(axis=1), labels)
    assert found.auc == pytest.approx(before)
    drops = {field.field: field.drop for field in found.fields}
    for name, slots in (("gender", GENDER), ("city", CITY), ("tokens", TOKENS)):
        permuted = users.copy()
        permuted[:, slots] = permuted[rng.permutation(len(users))][:, slots]
        assert drops[name] == pytest.approx(before - auc(weight[permuted].sum(axis=1), labels))
    assert [field.drop for field in found.fields] == sorted(drops.values(), reverse=True)


@pytest.mark.parametrize("compared", [100, 5])
def test_the_error_is_that_of_the_held_out_seeds_and_of_who_they_are_compared_with(
    monkeypatch, compared
):
    """The spread of drops over campaigns of the same kind is what the error says.

    It is somewhat less where the compared users are a large part of the pool, as here of 100.
    """
    monkeypatch.setattr(importance, "NUM_COMPARED", compared)
    rng = np.random.default_rng(1)
    weight = rng.normal(size=DATA.num_rows + 1)
    held = [held_out(lambda users: weight[users].sum(axis=1), seed=seed) for seed in range(80)]
    found = [field_importance(h, DATA, seed=seed) for seed, h in enumerate(held)]
    drops, errors = (
        np.array(
            [[getattr(f, name) for f in sorted(i.fields, key=lambda f: f.field)] for i in found]
        )
        for name in ("drop", "error")
    )
    mean = np.sqrt((errors**2).mean(axis=0))
    np.testing.assert_allclose(mean, drops.std(axis=0), rtol=0.4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_permutations": 0}, "num_permutations: expected a whole number of 1 or more"),
        ({"seed": -1}, "seed: expected a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        field_importance(held_out(gender), DATA, **options)


def test_a_pool_without_other_users_is_refused():
    held = held_out(gender)
    users = np.concatenate([held.users, held.model.campaign.seeds])
    own = replace(DATA, user_ids=DATA.user_ids[:100], user_rows=DATA.user_rows[:100])
    assert set(users) == set(range(100))
    with pytest.raises(InputError, match="all users are seeds, learned from or excluded"):
        field_importance(held, own)
