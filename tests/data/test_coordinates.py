"""Coordinates of values: correspondence analysis of co-occurrence and of exposure."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from metaheac_jax.data.coordinates import (
    campaign_coordinates,
    exposure_coordinates,
    exposure_counts,
    fractions,
    value_coordinates,
)
from metaheac_jax.methods.user_features import sampled_users
from metaheac_jax.table.layout import Layout

LAYOUT = Layout(user_slots=(1, 3), small_fields=(), num_campaign_fields=1)
NUM_ROWS = 14  # 4 values of the first field, 9 of the second, and one that no user has
FIELD = np.repeat([0, 1, 2], [4, 9, 1])


def users(count=500, seed=0):
    """(count, 4) rows of users of two kinds, who have different values."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, count)
    one = 2 * kind + rng.integers(0, 2, count)
    lists = np.stack([rng.choice(4, 3, replace=False) + 4 + 4 * own for own in kind])
    lists[rng.random((count, 3)) < 0.3] = NUM_ROWS
    lists[:, 0] = np.where(rng.random(count) < 0.5, 12, lists[:, 0])  # a value of both kinds
    return np.column_stack([one, lists]).astype(np.int32)


def dense_fractions(rows):
    matrix = np.zeros((len(rows), NUM_ROWS))
    for user, own in enumerate(rows):
        for field in (own[:1], own[1:]):
            values = field[field < NUM_ROWS]
            matrix[user, values] += 1 / max(len(values), 1)
    return matrix


def dense_reference(rows, width, smoothing=50.0):
    """Eigenvectors of the Gram matrix without its diagonal, orthogonal to fields' constants.

    So nothing in it depends on how often a value occurs with itself.
    """
    matrix = dense_fractions(rows)
    mass = matrix.sum(axis=0)
    scale = np.where(mass > 0, 1 / np.sqrt(mass + smoothing), 0)
    scaled = matrix / np.sqrt(np.maximum(matrix.sum(axis=1), 1))[:, None] * scale
    gram = scaled.T @ scaled
    np.fill_diagonal(gram, 0)
    constants = np.stack([mass * scale * (own == FIELD) for own in (0, 1)])
    constants /= np.linalg.norm(constants, axis=1, keepdims=True)
    centring = np.eye(NUM_ROWS) - constants.T @ constants
    _, vectors = np.linalg.eigh(centring @ gram @ centring)
    return scale[:, None] * vectors[:, ::-1][:, :width] * np.sqrt(len(rows))


def coordinates(rows, width):
    return value_coordinates(fractions(LAYOUT, rows, NUM_ROWS), FIELD, width)


def test_fractions_are_those_of_a_users_values_of_a_field():
    rows = users(50)
    found = fractions(LAYOUT, rows, NUM_ROWS)
    np.testing.assert_allclose(found.toarray(), dense_fractions(rows), rtol=1e-6)


def test_they_are_those_of_a_full_decomposition_but_for_the_sign():
    rows = users()
    found, expected = coordinates(rows, 2), dense_reference(rows, 2)
    sign = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * sign, expected, atol=2e-3)


def test_values_of_the_same_users_are_near_and_absent_ones_at_the_origin():
    rows = users(5000)
    first = coordinates(rows, 1)[:, 0]
    assert (
        len({*np.sign(first[[0, 1, 4, 5, 6, 7]])})
        == len({*np.sign(first[[2, 3, 8, 9, 10, 11]])})
        == 1
    )
    assert np.sign(first[0]) != np.sign(first[2])
    assert abs(first[12]) < 0.5 * abs(first[:12]).min()
    assert first[13] == 0


def test_they_are_the_same_every_time():
    rows = users()
    one, other = (coordinates(rows, 2) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("count", "expected"), [(10, 10), (9, 5), (3, 3), (1, 1), (99, 10)])
def test_sampled_users_are_evenly_spaced(count, expected):
    rows = np.arange(20).reshape(10, 2)
    found = sampled_users(rows, count)
    assert len(found) == expected
    assert {*np.diff(found[:, 0])} <= {2 * -(-10 // count)}


def test_a_user_without_values_is_no_obstacle():
    rows = users()
    rows[:5] = NUM_ROWS
    assert np.isfinite(coordinates(rows, 2)).all()


NO_ATTRIBUTES = np.zeros((12, 0))


def histories(count=400, campaigns=12, seed=0):
    """(count, campaigns) which campaigns users saw, and where they converted."""
    rng = np.random.default_rng(seed)
    shown, taste = rng.random((count, campaigns)) < 0.6, rng.normal(size=(count, 1))
    liked = rng.random((count, campaigns)) < 1 / (1 + np.exp(-2 * taste * rng.normal(size=12)))
    return shown, shown & liked


def test_coordinates_of_campaigns_are_those_of_what_rates_leave():
    shown, converts = histories()
    lists = csr_matrix(converts * 1.0), csr_matrix((shown & ~converts) * 1.0)
    found = campaign_coordinates(*lists, NO_ATTRIBUTES, 3)
    rate = converts.sum(axis=0) / shown.sum(axis=0)
    rest = np.where(shown, converts - rate, 0) / np.sqrt(shown.sum(axis=1))[:, None]
    scale = 1 / np.sqrt(shown.sum(axis=0) + 50)
    gram = (rest * scale).T @ (rest * scale)
    values, vectors = np.linalg.eigh(gram - np.diag(np.diag(gram)))
    largest = np.argsort(-np.abs(values))[: found.shape[2]]
    expected = vectors[:, largest] * scale[:, None] * np.sqrt(len(shown))
    assert 1 <= found.shape[2] <= 3
    sign = np.sign((found[0] * expected).sum(axis=0))
    np.testing.assert_allclose(found[0] * sign, (1 - rate)[:, None] * expected, atol=2e-3)
    np.testing.assert_allclose(found[1] * sign, -rate[:, None] * expected, atol=2e-3)


def test_a_user_without_a_taste_is_at_the_origin():
    """Who converts where all do, and where all do, sums to nothing."""
    shown, converts = histories()
    converts[:, 0], converts[:, 1] = shown[:, 0], False  # all convert in one, and none in another
    lists = csr_matrix(converts * 1.0), csr_matrix((shown & ~converts) * 1.0)
    found = campaign_coordinates(*lists, NO_ATTRIBUTES, 3)
    np.testing.assert_allclose(found[0, 0], 0, atol=1e-6)
    np.testing.assert_allclose(found[1, 1], 0, atol=1e-6)
    assert np.abs(found[0, 2:]).min() > 1e-4


def test_who_converts_in_one_campaign_instead_of_another_is_told():
    rng = np.random.default_rng(0)
    first = rng.random(2000) < 0.5
    converts = np.column_stack([first, ~first, rng.random((2000, 6)) < 0.5])
    lists = csr_matrix(converts * 1.0), csr_matrix(~converts * 1.0)
    found = campaign_coordinates(*lists, np.zeros((8, 0)), 8)
    assert found.shape[2] >= 1
    pair, rest = np.abs(found[0, :2, 0]), np.abs(found[0, 2:, 0])
    assert pair.min() > 5 * rest.max()


@pytest.mark.parametrize("seed", range(5))
def test_conversions_without_a_taste_have_no_coordinates(seed):
    rng = np.random.default_rng(seed)
    shown = rng.random((2000, 40)) < 0.2
    converts = shown & (rng.random(shown.shape) < rng.random(40))
    lists = csr_matrix(converts * 1.0), csr_matrix((shown & ~converts) * 1.0)
    assert campaign_coordinates(*lists, np.zeros((40, 0)), 20).shape[2] <= 4


def test_attributes_that_campaigns_share_have_the_coordinates_that_are_left():
    rng = np.random.default_rng(0)
    shown = rng.random((2000, 12)) < 0.5
    converts = shown & (rng.random(shown.shape) < 0.5)
    lists = csr_matrix(converts * 1.0), csr_matrix((shown & ~converts) * 1.0)
    values = np.column_stack([np.arange(12) < 8, np.arange(12) >= 8, np.arange(12) < 2])
    found = campaign_coordinates(*lists, values, 12)
    alone = campaign_coordinates(*lists, NO_ATTRIBUTES, 12)
    others, rate = alone.shape[2], converts.sum(axis=0) / shown.sum(axis=0)
    np.testing.assert_array_equal(found[..., :others], alone)
    scale = np.sqrt(2000) / np.sqrt(shown.sum(axis=0) + 50)
    for value, count in ((0, 8), (1, 4)):  # two campaigns are too few for the third
        expected = 0.3 / np.sqrt(count) * scale * values[:, value]
        np.testing.assert_allclose(found[0, :, others + value], (1 - rate) * expected, rtol=1e-5)
        np.testing.assert_allclose(found[1, :, others + value], -rate * expected, rtol=1e-5)
    assert found.shape[2] == others + 2
    fewer = campaign_coordinates(*lists, values, others + 1)
    assert fewer.shape[2] == others + 1


def test_there_may_be_more_coordinates_than_values():
    found = coordinates(users(), 40)
    np.testing.assert_allclose(found[:, :3], coordinates(users(), 3), atol=2e-3)
    assert found.shape == (NUM_ROWS, 40)
    assert not found[:, NUM_ROWS:].any()


def shown(drawn=False, flipped=False, campaigns=12, count=40_000, seed=0):
    """Counts of exposures (of each label) of one field with 30 values, and a value's true trait.

    Campaigns are aimed at some values, and convert by a taste that is not theirs. ``drawn`` non-
    seeds are random users.
    """
    rng = np.random.default_rng(seed)
    trait, other = rng.uniform(-1, 1, (2, 30))
    aim, taste = rng.uniform(-1, 1, campaigns), 2 * rng.normal(size=campaigns)
    examples = []
    for c in range(campaigns):
        weight = 1 + aim[c] * trait
        value = rng.choice(30, count // campaigns, p=weight / weight.sum())
        label = rng.random(len(value)) < 0.2 / (1 + np.exp(-taste[c] * other[value]))
        if drawn:
            value[~label] = rng.integers(0, 30, (~label).sum())
        own = csr_matrix((np.ones(len(value)), (np.arange(len(value)), value)), (len(value), 30))
        examples.append((own, label != flipped))
    return exposure_counts(examples), trait


def test_exposure_tells_whom_campaigns_are_aimed_at():
    counts, trait = shown()
    found = exposure_coordinates(counts, 4)
    assert abs(np.corrcoef(found[:, 0], trait)[0, 1]) > 0.97
    np.testing.assert_array_equal(found[:, 1:], 0)  # what is below a table of noise


def test_exposure_is_not_told_by_labels():
    """Neither are labels told apart, nor is what seeds alone show used."""
    found, flipped = (exposure_coordinates(shown(flipped=own)[0], 4) for own in (False, True))
    np.testing.assert_array_equal(found, flipped)
    np.testing.assert_array_equal(exposure_coordinates(shown(drawn=True)[0], 4), 0)


def test_exposure_counts_are_those_of_examples():
    x, label = csr_matrix([[1, 0.5], [0, 1], [1, 0]]), np.array([1, 0, 1])
    others, seeds = (own.toarray() for own in exposure_counts([(x, label), (x[:1], label[:1])]))
    np.testing.assert_array_equal(seeds, [[2, 0.5], [1, 0.5]])
    np.testing.assert_array_equal(others, [[0, 1], [0, 0]])
