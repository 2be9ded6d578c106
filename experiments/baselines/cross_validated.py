"""LR whose penalty is chosen for each campaign, by cross-validation on its own examples.

Axes: B examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy.sparse import csr_matrix

from metaheac_jax.data.batches import campaign_examples, generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import UserRows
from metaheac_jax.data.regression import fit_regression
from metaheac_jax.methods import Config, Method, Run, Trained, register
from metaheac_jax.model import FunctionScorer, Scorer, State
from metaheac_jax.table.sparse import value_counts

_FOLDS = 5
PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)


@register
class CrossValidated(Method[Config]):
    """LR with the penalty of the lowest loss on examples that were left out."""

    name, label, default = "lr-cross-validated", "LR, penalty by cross-validation", Config()

    def fit(self, run: Run) -> Trained:
        """The offline stage, which has nothing to learn."""
        del run
        return Trained({})

    def customise(self, run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Chooses a penalty for each campaign, then fits LR to its examples."""
        del state
        num_rows, models = run.dataset.num_rows, list[Scorer]()
        for number, campaign in enumerate(campaigns):
            examples = campaign_examples(run.dataset, campaign)
            order = generator(run.seed, 0).permutation(len(examples.label))
            labels = examples.label[order]
            features = value_counts(examples.ids.user[order], num_rows)
            penalty = best_penalty(features, labels)
            weights, bias = fit_regression(features, labels, penalty)

            models.append(FunctionScorer(partial(_score, weights=weights, bias=bias)))
            run.progress("customise", number + 1, len(campaigns))
        return models


def _score(users: UserRows, *, weights: np.ndarray, bias: float) -> np.ndarray:
    return value_counts(np.asarray(users[:]), len(weights)) @ weights + bias


def folds_of(labels: np.ndarray, count: int) -> np.ndarray:
    """(B,) labels in random order -> (B,) a fold of each; a fold has both, if there are enough."""
    fold = np.empty(len(labels), int)
    for label in (0, 1):
        of = labels == label
        fold[of] = np.arange(of.sum()) % count
    return fold


def best_penalty(features: csr_matrix, labels: np.ndarray) -> float:
    """The penalty with the lowest loss of (B,) examples under regressions without their fold."""
    fold = folds_of(labels, _FOLDS)

    def loss(penalty: float) -> float:
        total = 0.0
        for left_out in range(_FOLDS):
            out = fold == left_out
            weights, bias = fit_regression(csr_matrix(features[~out]), labels[~out], penalty)
            odds = features[out] @ weights + bias
            total += float(np.sum(np.logaddexp(0, odds) - labels[out] * odds))
        return total

    return min(PENALTIES, key=loss)
