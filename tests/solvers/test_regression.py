"""Sparse logistic regression: the minimum is that of scikit-learn."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from metaheac_jax.solvers.regression import fit_regression


@pytest.mark.parametrize("penalty", [0.3, 10.0, 300.0])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_the_fit_is_the_minimum_that_scikit_learn_finds(penalty, shift):
    """An offset that is the same for all examples moves the bias alone."""
    rng = np.random.default_rng(0)
    features = (rng.random((300, 40)) < 0.2).astype(float)
    labels = (rng.random(300) < 0.2 + 0.4 * features[:, 0]).astype(int)
    offset = np.full(300, shift)
    weights, bias = fit_regression(csr_matrix(features), labels, penalty, offset=offset)
    model = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=10_000).fit(features, labels)
    np.testing.assert_allclose(weights, model.coef_[0], atol=1e-3)
    np.testing.assert_allclose(bias + shift, model.intercept_[0], atol=1e-3)


def test_examples_of_one_class_have_a_finite_fit():
    weights, bias = fit_regression(csr_matrix(np.eye(4)), np.ones(4), 1.0)
    assert np.isfinite([*weights, bias]).all()
