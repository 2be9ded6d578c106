"""Factor analysis with a block of noise for each field."""

import numpy as np
import pytest
from scipy.linalg import block_diag, subspace_angles

from metaheac_jax.data.factors import factor_model

FIELD = np.repeat([0, 1, 2, 3], [4, 3, 3, 5])


def planted(seed=0, factors=2):
    """Loadings (p, d), noise (p, p) of any covariance within a field, and their covariance."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(len(FIELD), factors))
    parts = [rng.normal(size=(size, 2 * size)) for size in np.bincount(FIELD)]
    noise = block_diag(*(own @ own.T / own.shape[1] for own in parts))
    return loadings, noise, loadings @ loadings.T + noise


def log_likelihood(model, covariance):
    """Mean log-density of vectors with this covariance, but for a constant."""
    own = model.loadings @ model.loadings.T + model.noise
    return -np.linalg.slogdet(own)[1] - np.trace(np.linalg.solve(own, covariance))


def test_planted_loadings_are_found_but_for_a_rotation():
    loadings, noise, covariance = planted()
    found = factor_model(covariance, FIELD, 2)
    assert np.rad2deg(subspace_angles(found.loadings, loadings)).max() < 1
    np.testing.assert_allclose(found.loadings @ found.loadings.T, loadings @ loadings.T, atol=0.05)
    np.testing.assert_allclose(found.noise, noise, atol=0.05)


def test_what_one_field_shows_alone_is_no_factor():
    loadings, _, covariance = planted()
    strong = np.where(FIELD == 3, 10.0, 0.0)
    found = factor_model(covariance + np.outer(strong, strong), FIELD, 2)
    assert np.rad2deg(subspace_angles(found.loadings, loadings)).max() < 2


def test_factors_are_read_out_as_posterior_means():
    loadings, noise, covariance = planted()
    model = factor_model(covariance, FIELD, 2)._replace(loadings=loadings, noise=noise)
    expected = loadings.T @ np.linalg.inv(covariance)  # of a joint normal distribution
    np.testing.assert_allclose(model.read_out(), expected, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_no_round_lowers_the_likelihood(seed):
    covariance = planted(seed, factors=4)[2]
    model = factor_model(covariance, FIELD, 3)
    rng = np.random.default_rng(seed)
    model = model._replace(loadings=rng.normal(size=model.loadings.shape))
    values = []
    for _ in range(20):
        values.append(log_likelihood(model, covariance))
        model = model.improved(covariance)
    assert np.diff(values).min() > -1e-9
    assert values[-1] > values[0] + 0.1
    off = model.noise * (FIELD[:, None] != FIELD)
    np.testing.assert_array_equal(off, 0)


def test_fewer_entries_than_factors_and_dependent_ones_are_no_obstacle():
    shares = np.eye(3) - 1 / 3  # of the indicators of one field, which sum to 1
    found = factor_model(block_diag(shares, shares), np.repeat([0, 1], 3), 20)
    assert found.loadings.shape == (6, 5)
    assert np.isfinite(found.read_out()).all()
