"""How many users without conversion become non-seeds: closed forms, and no effect of a constant."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from metaheac_jax.audience.shown import share_to_keep

#: Kinds of users convert at .5 and 3 times the rate of the pool, of which they are .8 and .2. Among
#: 100 seeds and 2,000 users of the pool they have these log-odds of being a seed.
LIFT = np.array([0.5, 3.0])
LOG_ODDS = np.log(LIFT / 20)
SCORES = LOG_ODDS[np.repeat([0, 1, 0, 1], [40, 60, 1600, 400])]
LABELS = np.repeat([1, 0], [100, 2000])


@pytest.mark.parametrize("rate", [0.0005, 0.005])
def test_users_who_are_kept_have_the_odds_of_the_examples(rate):
    """One user in 20 of the pool is a seed, so at a rate of 1/2000 a hundredth is kept."""
    few, many = 10_000, 90_000
    shown = np.repeat(LOG_ODDS, [few, many])
    converted = np.concatenate(
        [np.arange(few) < few * rate * LIFT[0], np.arange(many) < many * rate * LIFT[1]]
    )
    share = share_to_keep(shown, converted, SCORES, LABELS)
    assert share == pytest.approx(20 * rate, rel=0.02)
    odds = converted.sum() / (share * (~converted).sum())
    assert odds == pytest.approx(np.exp(shown).mean(), rel=0.02)


def test_equal_scores_have_a_closed_form():
    """Converts and half a convert, per user who remains, divided by the expected odds."""
    converted = np.arange(1000) < 9
    found = share_to_keep(np.full(1000, np.log(0.15)), converted, SCORES, LABELS)
    assert found == pytest.approx(9.5 / 990.5 / 0.15)


@given(st.floats(-9, 9), st.integers(0, 40), st.integers(0, 2**32))
def test_a_constant_in_the_scores_changes_nothing(constant, converts, seed):
    rng = np.random.default_rng(seed)
    shown, scores = rng.normal(-2, 2, 40), rng.normal(-2, 2, 90)
    labels, converted = (np.arange(90) < 9).astype(int), np.arange(40) < converts
    share = share_to_keep(shown, converted, scores, labels)
    assert 0 < share <= 1
    moved = share_to_keep(shown + constant, converted, scores + constant, labels)
    assert moved == pytest.approx(share, rel=1e-6)


def test_all_are_kept_if_more_convert_than_expected():
    assert share_to_keep(np.full(10, -3.0), np.ones(10, bool), SCORES, LABELS) == 1
    assert share_to_keep(np.array([-3.0]), np.array([True]), SCORES, LABELS) == 1


def test_some_are_kept_if_nobody_converts():
    share = share_to_keep(np.full(10, np.log(0.15)), np.zeros(10, bool), SCORES, LABELS)
    assert share == pytest.approx(0.5 / 9.5 / 0.15)
    # As many as expected: 10 users of whom half a one converts.
    assert 10 * expit(np.log(0.15 * share)) == pytest.approx(0.5)
