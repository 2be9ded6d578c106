"""Coordinates of values: correspondence analysis without labels."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from metaheac_jax.data.coordinates import campaign_coordinates, sampled_users, value_coordinates
from metaheac_jax.table.layout import Layout

LAYOUT = Layout(user_slots=(1, 3), small_fields=(), num_campaign_fields=1)
NUM_ROWS = 14  # 4 values of the first field, 9 of the second, and one that no user has


def users(count=500, seed=0):
    """(count, 4) rows of users of two kinds, who have different values."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, count)
    one = 2 * kind + rng.integers(0, 2, count)
    lists = np.stack([rng.choice(4, 3, replace=False) + 4 + 4 * own for own in kind])
    lists[rng.random((count, 3)) < 0.3] = NUM_ROWS
    lists[:, 0] = np.where(rng.random(count) < 0.5, 12, lists[:, 0])  # a value of both kinds
    return np.column_stack([one, lists]).astype(np.int32)


def dense_reference(rows, width, smoothing=50.0):
    matrix = np.zeros((len(rows), NUM_ROWS))
    for user, own in enumerate(rows):
        for field in (own[:1], own[1:]):
            values = field[field < NUM_ROWS]
            matrix[user, values] += 1 / max(len(values), 1)
    mass = matrix.sum(axis=0)
    scale = np.where(mass > 0, 1 / np.sqrt(mass + smoothing), 0)
    _, _, vectors = np.linalg.svd(matrix / np.sqrt(matrix.sum(axis=1))[:, None] * scale)
    return scale[:, None] * vectors[1 : width + 1].T * np.sqrt(len(rows))


def test_they_are_those_of_a_full_decomposition_but_for_the_sign():
    rows = users()
    found, expected = value_coordinates(LAYOUT, rows, NUM_ROWS, 3), dense_reference(rows, 3)
    sign = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * sign, expected, atol=2e-3)


def test_values_of_the_same_users_are_near_and_absent_ones_at_the_origin():
    rows = users(5000)
    first = value_coordinates(LAYOUT, rows, NUM_ROWS, 1)[:, 0]
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
    one, other = (value_coordinates(LAYOUT, rows, NUM_ROWS, 2) for _ in range(2))
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
    assert np.isfinite(value_coordinates(LAYOUT, rows, NUM_ROWS, 2)).all()


def histories(count=400, campaigns=12, seed=0):
    """(count, campaigns) which campaigns users saw, and where they converted."""
    rng = np.random.default_rng(seed)
    shown, taste = rng.random((count, campaigns)) < 0.6, rng.normal(size=(count, 1))
    liked = rng.random((count, campaigns)) < 1 / (1 + np.exp(-2 * taste * rng.normal(size=12)))
    return shown, shown & liked


def test_coordinates_of_campaigns_are_those_of_what_rates_leave():
    shown, converts = histories()
    lists = csr_matrix(converts * 1.0), csr_matrix((shown & ~converts) * 1.0)
    found = campaign_coordinates(*lists, 3)
    rate = converts.sum(axis=0) / shown.sum(axis=0)
    rest = np.where(shown, converts - rate, 0) / np.sqrt(shown.sum(axis=1))[:, None]
    scale = 1 / np.sqrt(shown.sum(axis=0) + 50)
    expected = np.linalg.svd(rest * scale)[2][:3].T * scale[:, None] * np.sqrt(len(shown))
    sign = np.sign((found[0] * expected).sum(axis=0))
    np.testing.assert_allclose(found[0] * sign, (1 - rate)[:, None] * expected, atol=2e-3)
    np.testing.assert_allclose(found[1] * sign, -rate[:, None] * expected, atol=2e-3)


def test_a_user_without_a_taste_is_at_the_origin():
    """Who converts where all do, and where all do, sums to nothing."""
    shown, converts = histories()
    converts[:, 0], converts[:, 1] = shown[:, 0], False  # all convert in one, and none in another
    found = campaign_coordinates(
        csr_matrix(converts * 1.0), csr_matrix((shown & ~converts) * 1.0), 3
    )
    np.testing.assert_allclose(found[0, 0], 0, atol=1e-6)
    np.testing.assert_allclose(found[1, 1], 0, atol=1e-6)
    assert np.abs(found[0, 2:]).min() > 1e-4


def test_there_may_be_more_coordinates_than_values():
    found = value_coordinates(LAYOUT, users(), NUM_ROWS, 40)
    np.testing.assert_allclose(
        found[:, :3], value_coordinates(LAYOUT, users(), NUM_ROWS, 3), atol=2e-3
    )
    assert found.shape == (NUM_ROWS, 40)
    assert not found[:, NUM_ROWS:].any()
