"""Held-out seeds: a fifth, unseen by the model."""

import numpy as np
import pytest
from fixed_scores import ATTRIBUTES, DATA, held_out

from metaheac_jax.errors import InputError


def tokens(users):
    return (users < DATA.num_rows).sum(axis=1).astype(np.float32)


def test_the_model_does_not_see_them():
    seen = []
    held = held_out(tokens, seen=seen)
    campaign = DATA.new_campaign(DATA.user_key[:100], ATTRIBUTES, non_seeds_per_seed=1)
    [kept] = seen
    assert (len(held.users), len(kept.seeds), held.num_seeds) == (20, 80, 100)
    assert set(held.users) | set(kept.seeds) == set(campaign.seeds)
    assert set(kept.users) == set(campaign.users) - set(held.users)
    assert held.model.campaign is kept


def test_they_depend_on_the_seed():
    first, again, other = (set(held_out(tokens, seed=seed).users) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_seeds": 49}, "new campaign: 49 seeds, too few to hold a fifth out; give 50"),
        ({"seed": -1}, "seed: expected a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        held_out(tokens, **options)
    assert len(held_out(tokens, num_seeds=50).users) == 10
