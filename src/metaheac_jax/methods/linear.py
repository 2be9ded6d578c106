"""LR: logistic regression on a campaign's own examples (paper section 4.1).

There is one weight per table row and an L2 penalty, so the minimum is unique. L-BFGS finds it,
instead of steps of the customiser.

Axes: P users, S slots of a user, R table rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit

from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.similarity import indicators
from metaheac_jax.methods.stages import Run, no_training
from metaheac_jax.model import Scorer, State
from metaheac_jax.settings import PAPER, Settings


def logistic_regression(settings: Settings = PAPER) -> Method:
    """LR with an L2 penalty, `Settings.penalty`."""
    return Method(
        name="lr",
        label="LR",
        settings=settings,
        train=no_training,
        adapt=fit_regressions,
        tuned=("penalty",),
    )


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
    touched = np.unique(features.indices)  # the weights of the other rows stay 0
    own = csr_matrix(features[:, touched], dtype=np.float64)

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-1], parameters[-1]
        log_odds = own @ weights + bias + offset
        loss = np.sum(np.logaddexp(0, log_odds) - labels * log_odds)
        error = expit(log_odds) - labels
        gradient = np.append(own.T @ error + penalty * weights, error.sum())
        return loss + penalty / 2 * weights @ weights, gradient

    start = np.zeros(len(touched) + 1)
    rate = labels.mean().clip(0.5 / len(labels), 1 - 0.5 / len(labels))
    start[-1] = np.log(rate / (1 - rate)) - np.mean(offset)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    weights = np.zeros(features.shape[1])
    weights[touched] = found.x[:-1]
    return weights, float(found.x[-1])


def fit_regressions(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
    """Fits a regression to each campaign, on its examples only."""
    del state
    models, num_rows = [], run.dataset.num_rows

    def scorer(weights: np.ndarray, bias: float) -> Scorer:
        return lambda users: indicators(users, num_rows) @ weights + bias

    for number, campaign in enumerate(campaigns):
        features = indicators(run.dataset.user_rows[campaign.users], num_rows)
        models.append(scorer(*fit_regression(features, campaign.labels, run.settings.penalty)))
        run.progress("customise", number + 1, len(campaigns))
    return models
