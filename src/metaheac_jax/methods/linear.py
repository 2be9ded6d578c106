"""LR: logistic regression on a campaign's own examples (paper section 4.1).

There is one weight per table row and an L2 penalty, so the minimum is unique. L-BFGS finds it,
instead of steps of the customiser.

Axes: P users, R table rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit

from metaheac_jax.customise.minibatches import padded_rows
from metaheac_jax.data.batches import Batch
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.list_lengths import with_list_lengths
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.online import adapt_each, build_restore, compiled_scorer
from metaheac_jax.methods.stages import Run, Trained
from metaheac_jax.model import AdaptedWeights, Scorer, State, Weights
from metaheac_jax.networks.linear import Linear
from metaheac_jax.settings import PAPER, Settings
from metaheac_jax.table.sparse import value_counts

#: The width of LR's table, whatever the settings say.
LINEAR_WIDTH = 1
LINEAR = Linear()


def logistic_regression(settings: Settings = PAPER, *, lengths: bool = False) -> Method:
    """LR with an L2 penalty, `Settings.penalty`; with ``lengths``, list lengths are values too."""
    method = Method(
        name="lr-lengths" if lengths else "lr",
        label="LR, with list lengths" if lengths else "LR",
        settings=settings,
        train=_untrained,
        adapt=_fit_each,
        restore=build_restore(lambda _: LINEAR),
        tuned=("penalty",),
    )
    return with_list_lengths(method) if lengths else method


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


def _untrained(run: Run) -> Trained:
    """The offline stage, which has nothing to learn: all weights are 0."""
    table = jnp.zeros((run.dataset.num_rows, LINEAR_WIDTH))
    return Trained({"network": {"bias": jnp.zeros(())}, "table": table})


def _fit_each(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
    """The online stage: fits a regression to each campaign, on its examples only."""
    num_rows, penalty = run.dataset.num_rows, run.settings.penalty

    def fit(examples: Batch) -> AdaptedWeights:
        counts = value_counts(examples.ids.user, num_rows)
        weights, bias = fit_regression(counts, examples.label, penalty)
        rows = padded_rows(np.flatnonzero(weights), num_rows)
        values = np.append(weights, 0.0)[rows, None].astype(np.float32)
        return AdaptedWeights({"bias": jnp.asarray(bias, jnp.float32)}, rows, jnp.asarray(values))

    pool = compiled_scorer(LINEAR, run.dataset.layout)
    return adapt_each(run, pool, Weights(**state), campaigns, fit)
