"""LR whose penalty is chosen for each campaign, by cross-validation on its own examples.

Axes: B examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from metaheac_jax.customising.score import ProgramScorer
from metaheac_jax.data.batches import campaign_examples, generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.folds import folds
from metaheac_jax.methods import LogisticRegression, Online, register
from metaheac_jax.model import State
from metaheac_jax.progress import silent
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.table.sparse import value_counts

FOLDS = 5
PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)


@register
class CrossValidated(LogisticRegression):
    """LR with the penalty of the lowest loss on examples that were left out."""

    name, label = "lr-cross-validated", "LR, penalty by cross-validation"

    def adapt(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[ProgramScorer]:
        """Chooses a penalty for each campaign, then fits LR to its examples."""
        models, quiet = list[ProgramScorer](), replace(online, progress=silent)
        for number, campaign in enumerate(campaigns):
            examples = campaign_examples(online.dataset, campaign)
            order = generator(online.seed, 0).permutation(len(examples.label))
            features = value_counts(
                online.dataset.layout, examples.ids.user[order], online.dataset.num_rows
            )
            labels = examples.label[order]
            penalty = best_penalty(features, labels, folds(labels, FOLDS, np.arange(len(labels))))
            method = LogisticRegression(self.config.changed({"penalty": penalty}))
            models += method.adapt(quiet, state, [campaign])
            online.progress("customise", number + 1, len(campaigns))
        return models


def best_penalty(features: csr_matrix, labels: np.ndarray, fold: np.ndarray) -> float:
    """The penalty with the lowest loss of (B,) examples under regressions without their fold."""
    losses = np.zeros(len(PENALTIES))
    for left_out in range(fold.max() + 1):
        out = fold == left_out
        rest, own = csr_matrix(features[~out]), features[out]
        for number, penalty in enumerate(PENALTIES):
            weights, bias = fit_regression(rest, labels[~out], penalty)
            odds = own @ weights + bias
            losses[number] += np.sum(np.logaddexp(0, odds) - labels[out] * odds)
    return PENALTIES[int(np.argmin(losses))]
