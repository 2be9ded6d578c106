"""LR: logistic regression on a campaign's own examples (paper section 4.1).

There is one weight per table row and an L2 penalty, so the minimum is unique. L-BFGS finds it,
instead of steps of the customiser.

Axes: P users, S slots of a user, R table rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit

from metaheac_jax.customise.minibatches import usual_size
from metaheac_jax.customise.score import AdaptedScorer
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.list_lengths import with_lengths
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.online import build_restore, compiled_scorer, lengthened
from metaheac_jax.methods.stages import Adapt, Run, Train, Trained
from metaheac_jax.model import AdaptedWeights, Scorer, State, Weights
from metaheac_jax.networks.linear import Linear
from metaheac_jax.settings import PAPER, Settings
from metaheac_jax.table.sparse import value_counts

#: The width of LR's table, whatever the settings say.
LINEAR_WIDTH = 1
LINEAR = Linear()


def logistic_regression(settings: Settings = PAPER, *, lengths: bool = False) -> Method:
    """LR with an L2 penalty, `Settings.penalty`; with ``lengths``, list lengths are values too."""
    return Method(
        name="lr-lengths" if lengths else "lr",
        label="LR, with list lengths" if lengths else "LR",
        settings=settings,
        train=_build_zeros(lengths=lengths),
        adapt=_build_regressions(lengths=lengths),
        restore=build_restore(lambda _: LINEAR, lengths=lengths),
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


def _build_zeros(*, lengths: bool) -> Train:
    """Builds the offline stage: weights of zero, since a campaign is learned from its own seeds."""

    def stage(run: Run) -> Trained:
        dataset = with_lengths(run.dataset)[0] if lengths else run.dataset
        table = jnp.zeros((dataset.num_rows, LINEAR_WIDTH))
        return Trained({"network": {"bias": jnp.zeros(())}, "table": table})

    return stage


def _build_regressions(*, lengths: bool) -> Adapt:
    """Builds the online stage: a regression per campaign, on its examples only.

    With 0 online epochs, all models equal the general model.
    """

    def stage(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        added = None
        if lengths:
            run, campaigns, added = lengthened(run, campaigns)
        weights, dataset, models = Weights(**state), run.dataset, list[Scorer]()
        pool = compiled_scorer(LINEAR, dataset.layout)
        for number, campaign in enumerate(campaigns):
            fit = np.zeros(dataset.num_rows), 0.0
            if run.settings.online_epochs:
                counts = value_counts(dataset.user_rows[campaign.users], dataset.num_rows)
                fit = fit_regression(counts, campaign.labels, run.settings.penalty)
            adapted = _adapted(*fit)
            models.append(AdaptedScorer(pool, weights, adapted, campaign.rows, added))
            run.progress("customise", number + 1, len(campaigns))
        return models

    return stage


def _adapted(weights: np.ndarray, bias: float) -> AdaptedWeights:
    """The (R,) weights and the bias of a regression as adapted weights."""
    rows = np.flatnonzero(weights).astype(np.int32)
    missing = usual_size(len(rows)) - len(rows)
    values = np.pad(weights[rows], (0, missing)).astype(np.float32)[:, None]
    rows = np.pad(rows, (0, missing), constant_values=len(weights))
    return AdaptedWeights({"bias": jnp.asarray(bias, jnp.float32)}, rows, jnp.asarray(values))
