"""What is held out of a campaign, and which model of it is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaheac_jax.customising.early_stopping import EarlyStopping, hold_out


@pytest.mark.parametrize(("seeds", "held_seeds"), [(2, 1), (9, 1), (10, 1), (25, 2)])
def test_a_tenth_of_both_classes_is_held_out_and_one_at_least(seeds, held_seeds):
    rng = np.random.default_rng(0)
    label = rng.permutation(np.arange(100) < seeds).astype(np.float32)
    fit, held = hold_out(label, 0.1, rng)
    assert sorted([*fit, *held]) == [*range(100)]
    assert label[held].sum() == held_seeds
    assert len(held) - held_seeds == int(0.1 * (100 - seeds))


@pytest.mark.parametrize("kind", [0, 1])
def test_what_is_held_out_of_each_class_is_drawn_at_random(kind):
    label = np.arange(100) % 2

    def drawn(seed):
        _, held = hold_out(label, 0.1, np.random.default_rng(seed))
        return set(held[label[held] == kind])

    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize("label", [[1, 0, 0, 0], [0, 1, 1, 1], [0, 0], [1]])
def test_nothing_is_held_out_where_a_class_has_a_single_example_or_none(label):
    fit, held = hold_out(np.array(label), 0.5, np.random.default_rng(0))
    np.testing.assert_array_equal(fit, np.arange(len(label)))
    assert len(held) == 0


def test_a_fraction_of_zero_holds_out_nothing():
    fit, held = hold_out(np.arange(10) % 2, 0.0, np.random.default_rng(0))
    assert (len(fit), len(held)) == (10, 0)


def keep(better, new, old):
    return np.where(better, new, old)


@given(st.integers(1, 3), st.lists(st.tuples(*[st.integers(0, 5)] * 2), min_size=1, max_size=12))
def test_the_first_model_with_the_least_loss_is_kept_of_each_campaign(patience, losses):
    """Models are the numbers of their epochs; the one before the first epoch is 0."""
    losses = np.array(losses, float)
    losses[losses == 5] = np.nan  # is never better, and hides nothing
    stopping = EarlyStopping(np.zeros(2), losses[0], patience=patience, select=keep)
    for epoch, now in enumerate(losses[1:], start=1):
        stopping.update(np.full(2, float(epoch)), now)
    best = np.where(np.isnan(losses), np.inf, losses).argmin(axis=0)  # the first of equal ones
    np.testing.assert_array_equal(stopping.best, best)
    since = len(losses) - 1 - best
    np.testing.assert_array_equal(stopping.going, since < patience)
