"""A pooled logistic regression with crosses of campaign and user values, and effects of campaigns.

GLMix (Zhang et al. 2016, LinkedIn): the weights of users' values in a campaign are

    w_c = sum over the values z of the campaign, and a constant, of f_z + e_c

with fixed effects f, which all campaigns share, and random effects e; both have an L2 penalty. So
campaigns' weights have the prior covariance K = A A' / fixed + I / random, where A (C, Z + 1) says
which values campaigns have, and f never has to be stored. A new campaign has the sum of its fixed
effects as an offset, and random effects from its own examples. It is not in the paper.

Axes: C training campaigns, Z campaign values, R table rows, P examples of a campaign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit
from threadpoolctl import threadpool_limits

from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.views import UserRows
from metaheac_jax.methods import Config, Method, Offline, Online, Trained, register
from metaheac_jax.methods.config import setting
from metaheac_jax.methods.held_out_campaigns import (
    halve_each,
    mean_judgement,
    quality_of,
    score_halves,
)
from metaheac_jax.model import Scorer, State
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.sparse import value_counts

#: Penalties that are tried, each fixed one with each random one.
PENALTIES = (10.0, 100.0, 1000.0)
_ITERATIONS = 200


@dataclass(frozen=True)
class MixedModelConfig(Config):
    """Settings of the mixed model."""

    list_lengths: bool = setting(True, shapes=True)
    """Whether list lengths are values too; see `data.list_lengths`."""


@register
class MixedModel(Method[MixedModelConfig]):
    """GLMix, with the penalties that are best on held-out campaigns."""

    name, label, default = "mixed-model", "Pooled LR with crosses (GLMix)", MixedModelConfig()

    @property
    def holds_out(self) -> bool:
        """Held-out campaigns choose the penalties."""
        return True

    def train(self, offline: Offline) -> Trained:
        """Chooses penalties by the loss on held-out campaigns, which then teach, too.

        The state has ``effects`` (C, R), from which fixed effects follow, ``values`` (C, Z + 1),
        and ``random``.
        """
        pairs, halves, found = list(product(PENALTIES, repeat=2)), halve_each(offline), []
        for number, pair in enumerate(pairs if halves else ()):
            state = _fit(offline.dataset, offline.campaigns, *pair)
            scores = score_halves(self.adapt, offline, halves, state)
            judged = [quality_of(*each) for each in zip(halves, scores, strict=True)]
            found.append((mean_judgement(number, halves, judged).loss, pair))
            offline.progress(f"{offline.label}: penalties", number + 1, len(pairs))
        chosen = min(found)[1] if found else (PENALTIES[1], PENALTIES[1])
        campaigns = np.union1d(offline.campaigns, offline.held_out)
        return Trained(_fit(offline.dataset, campaigns, *chosen))

    def adapt(self, online: Online, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Fits the random effects of each campaign to its examples."""
        models, num_rows = list[Scorer](), online.dataset.num_rows
        known, effects, penalty = (np.asarray(state[n]) for n in ("values", "effects", "random"))
        for number, campaign in enumerate(campaigns):
            fixed = _values(online.dataset, campaign.rows[None])[0] @ known.T @ effects
            examples = campaign_examples(online.dataset, campaign)
            counts, labels = (
                value_counts(online.dataset.layout, examples.ids.user, num_rows),
                examples.label,
            )
            given = {"offset": counts @ fixed, "weights": examples.weight}
            own, bias = fit_regression(counts, labels, float(penalty), **given)
            models.append(_scorer(online.dataset.layout, fixed + own, bias))
            online.progress("customise", number + 1, len(campaigns))
        return models


def _scorer(layout: Layout, weights: np.ndarray, bias: float) -> Scorer:
    def score(users: UserRows) -> np.ndarray:
        return value_counts(layout, np.asarray(users[:]), len(weights)) @ weights + bias

    return score


def _values(dataset: Dataset, campaigns: np.ndarray) -> np.ndarray:
    """(C, N) table rows of campaigns -> (C, Z + 1), 1 for a value of a campaign, and a constant."""
    first = dataset.vocabulary.offsets[len(dataset.schema.user)]
    there = np.zeros((len(campaigns), dataset.num_rows - first + 1))
    known = campaigns < dataset.num_rows
    there[np.nonzero(known)[0], campaigns[known] - first] = 1
    there[:, -1] = 1
    return there


def _fit(dataset: Dataset, campaigns: np.ndarray, fixed: float, random: float) -> State:
    """Finds the most probable weights of all campaigns, given by index; see `MixedModel.train`."""
    values, each = _values(dataset, dataset.campaign_rows[campaigns]), list[csr_matrix]()
    labels = list[np.ndarray]()
    for c in campaigns.tolist():
        examples = campaign_examples(dataset, dataset.campaign(c))
        each.append(
            value_counts(dataset.layout, examples.ids.user, dataset.num_rows).astype(np.float64)
        )
        labels.append(examples.label)
    covariance = values @ values.T / fixed + np.eye(len(campaigns)) / random
    root = np.linalg.cholesky(covariance)
    shape, count = (len(campaigns), dataset.num_rows), len(campaigns)

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        standard, bias = parameters[count:].reshape(shape), parameters[:count]
        weights, gradient, loss = root @ standard, np.empty_like(parameters), 0.0
        errors = np.empty(shape)
        for c, (counts, label) in enumerate(zip(each, labels, strict=True)):
            log_odds = counts @ weights[c] + bias[c]
            loss += np.sum(np.logaddexp(0, log_odds) - label * log_odds)
            error = expit(log_odds) - label
            errors[c], gradient[c] = counts.T @ error, error.sum()
        gradient[count:] = (root.T @ errors + standard).ravel()
        return float(loss + np.sum(standard**2) / 2), gradient

    start = np.zeros(count + shape[0] * shape[1])
    rates = [np.clip(np.mean(label), 0.5 / len(label), 1 - 0.5 / len(label)) for label in labels]
    start[:count] = np.log(rates) - np.log1p(-np.array(rates))
    with threadpool_limits(1, "blas"):
        options = {"maxiter": _ITERATIONS}
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    standard = found.x[count:].reshape(shape)
    # The fixed effects of values A* are A* A' K^-1 w / fixed, and w = root @ standard.
    effects = np.linalg.solve(root.T, standard) / fixed
    return {"effects": effects, "values": values, "random": np.array(random)}
