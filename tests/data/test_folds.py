"""How examples are divided: each label alike, at random, none twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaheac_jax.data.folds import folds, hold_out, shuffle_classes


@given(st.lists(st.booleans(), max_size=40), st.integers(2, 6), st.integers(0, 9))
def test_folds_have_as_many_of_each_label_but_for_one(labels, num_folds, seed):
    """They are dealt in the given order, each label by itself."""
    labels = np.array(labels, int)
    order = np.random.default_rng(seed).permutation(len(labels))
    fold = folds(labels, num_folds, order)
    for label in (0, 1):
        dealt = [fold[i] for i in order if labels[i] == label]
        assert dealt == [i % num_folds for i in range(len(dealt))]


@pytest.mark.parametrize("first", [0, 1])
def test_classes_are_shuffled_one_after_the_other(first):
    labels = np.arange(60) % 3 == 0
    classes = shuffle_classes(labels, np.random.default_rng(1), first=first)
    rng = np.random.default_rng(1)
    for own, label in zip(classes, (first, 1 - first), strict=True):
        np.testing.assert_array_equal(own, rng.permutation(np.flatnonzero(labels == label)))


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
