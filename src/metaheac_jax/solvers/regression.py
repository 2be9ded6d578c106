"""Sparse logistic regression with an L2 penalty, whose minimum is unique.

Axes: P examples, R features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix


def fit_regression(
    features: csr_matrix, labels: np.ndarray, penalty: float, *, offset: Any = 0.0
) -> tuple[np.ndarray, float]:
    """(R,) weights w and a bias b that minimise the summed loss + penalty / 2 |w|^2.

    Args:
      features: (P, R).
      labels: (P,) 1 for a seed, 0 for a non-seed.
      penalty: above 0; it does not apply to the bias.
      offset: (P,) log-odds that the regression is added to.
    """
    from scipy.optimize import minimize
    from scipy.special import expit
    from threadpoolctl import threadpool_limits

    touched = np.unique(features.indices)  # the weights of the other rows stay 0
    matrix = csr_matrix(features[:, touched], dtype=np.float64)

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-1], parameters[-1]
        log_odds = matrix @ weights + bias + offset
        loss = np.sum(np.logaddexp(0, log_odds) - labels * log_odds)
        error = expit(log_odds) - labels
        gradient = np.append(matrix.T @ error + penalty * weights, error.sum())
        return loss + penalty / 2 * weights @ weights, gradient

    start = np.zeros(len(touched) + 1)
    rate = labels.mean().clip(0.5 / len(labels), 1 - 0.5 / len(labels))
    start[-1] = np.log(rate / (1 - rate)) - np.mean(offset)
    # Its vectors are short: a thread per core would wait for the others, and round otherwise.
    with threadpool_limits(1, "blas"):
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    weights = np.zeros(features.shape[1])
    weights[touched] = found.x[:-1]
    return weights, float(found.x[-1])
