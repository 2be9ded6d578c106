"""What is held out of a campaign, and which model of it is kept."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_network import LogisticRegression
from toy import dataset, distinct_users

from metaheac_jax.customising.customiser import Customiser, hold_out
from metaheac_jax.model import Weights

DATA = dataset(users=100, campaigns=1, per_campaign=60, pool=5)


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


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_the_first_model_with_the_least_loss_is_kept(patience, losses):
    """Models are the numbers of their epochs; the one before the first epoch is 0."""
    losses = np.array(losses, float)
    losses[losses == 5] = np.nan  # is never better, and hides nothing
    customise = Customiser(LogisticRegression(), DATA.layout)
    epoch, told = itertools.count(), iter(losses)
    customise._steps = SimpleNamespace(
        start=lambda *_: (),
        adapt=lambda *_: (),
        current=lambda *_: {"network": np.float32(next(epoch)), "table": np.zeros((9, 1))},
        summed_loss=lambda *_: next(told),
    )
    weights = Weights(None, np.zeros((DATA.num_rows, 1)))
    examples = distinct_users(DATA, 40)
    epochs = len(losses) - 1
    (kept,) = customise(weights, [examples], epochs=epochs, patience=patience)
    known = np.where(np.isnan(losses), np.inf, losses)
    best = 0
    for number, loss in enumerate(known):  # the first of equal ones
        if number - best > patience:
            break
        best = number if loss < known[best] else best
    assert kept.network == best
    assert next(epoch) == min(len(losses), best + patience + 1)
