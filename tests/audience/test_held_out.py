"""Folds of seeds: each is unseen by its model."""

from dataclasses import replace

import numpy as np
import pytest
from fixed_scores import DATA, campaign_of, fixed, tokens

from metaheac_jax.audience.held_out import FOLDS, cross_fit

CAMPAIGN = campaign_of(range(100), range(100, 203))
ALL = np.ones(DATA.num_users, bool)


def test_every_seed_is_in_one_fold_whose_model_does_not_see_it():
    seen, random_seeds = [], []
    folds = cross_fit(fixed(tokens, seen=seen, random_seeds=random_seeds), DATA, CAMPAIGN, seed=7)
    assert len(folds) == FOLDS
    assert sorted(np.concatenate([fold.seeds for fold in folds])) == list(range(100))
    assert random_seeds == [7]
    out = []
    for fold, kept in zip(folds, seen, strict=True):
        assert fold.model.campaign is kept
        assert set(fold.seeds) | set(kept.seeds) == set(range(100))
        assert not set(fold.seeds) & set(kept.users)
        out.append(set(range(100, 203)) - set(kept.users))
        unknown = set(np.flatnonzero(fold.unknown(ALL)))
        assert unknown == set(range(100, 400)) - set(kept.users)
    assert sorted(map(len, out)) == [20, 20, 21, 21, 21]
    assert set.union(*out) == set(range(100, 203))


def test_users_of_audiences_are_learned_from_and_stand_for_the_pool():
    """Their model's own audience found them, so they say nothing of what else it finds."""
    campaign, seen = replace(CAMPAIGN, found=np.r_[10:50, 100:140]), []
    folds = cross_fit(fixed(tokens, seen=seen), DATA, campaign)
    assert sorted(np.concatenate([fold.seeds for fold in folds])) == [*range(10), *range(50, 100)]
    for fold, kept in zip(folds, seen, strict=True):
        assert {*range(10, 50), *range(100, 140)} <= set(kept.users)
        unknown = set(np.flatnonzero(fold.unknown(ALL)))
        assert set(range(100, 140)) < unknown
        assert not unknown & set(range(100))
    assert cross_fit(fixed(tokens), DATA, replace(campaign, found=np.arange(51))) == []


@pytest.mark.parametrize(("inside", "expected"), [(60, 60), (49, 100)])
def test_seeds_of_the_pool_are_judged_if_they_are_enough(inside, expected):
    folds = cross_fit(fixed(tokens), DATA, CAMPAIGN, pool=np.arange(400) >= 100 - inside)
    held = np.concatenate([fold.seeds for fold in folds])
    assert sorted(held) == list(range(100 - expected, 100))


def test_folds_depend_on_the_seed():
    first, again, other = (
        set(cross_fit(fixed(tokens), DATA, CAMPAIGN, seed=seed)[0].seeds) for seed in (0, 0, 1)
    )
    assert first == again != other
