"""LR whose penalty is chosen for each campaign by cross-validation; it is not in the paper.

Axes: P examples, R features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from metaheac_jax.customising.score import AdaptedScorer
from metaheac_jax.data.batches import campaign_examples, generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.regression import fit_regression
from metaheac_jax.methods import LogisticRegression, Run, register
from metaheac_jax.methods.logistic_regression import RegressionConfig
from metaheac_jax.methods.method import lengthened
from metaheac_jax.model import State
from metaheac_jax.table.sparse import value_counts

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)
FOLDS = 5


@register
class CrossValidatedRegression(LogisticRegression):
    """LR with list lengths and, of five penalties, the one with the lowest loss in five folds."""

    name, label = "lr-cross-validated", "LR, penalty by cross-validation"
    default = RegressionConfig(list_lengths=True)

    def customise(
        self, run: Run, state: State, campaigns: Sequence[Campaign]
    ) -> list[AdaptedScorer]:
        """Chooses a campaign's penalty, and fits a regression with it to all its examples."""
        models = list[AdaptedScorer]()
        for number, campaign in enumerate(campaigns):
            method = LogisticRegression(self.config.changed({"penalty": self._best(run, campaign)}))
            models += method.customise(run, state, [campaign])
            run.progress("customise", number + 1, len(campaigns))
        return models

    def _best(self, run: Run, campaign: Campaign) -> float:
        run, (campaign,) = lengthened(run, self.config.list_lengths, [campaign])
        examples = campaign_examples(run.dataset, campaign)
        counts = value_counts(examples.ids.user, run.dataset.num_rows)
        return best_penalty(counts, examples.label, run.seed)


def best_penalty(features: csr_matrix, label: np.ndarray, seed: int) -> float:
    """The penalty whose regressions have the lowest loss on folds that they have not seen.

    Args:
      features: (P, R).
      label: (P,) 1 for a seed, 0 for a non-seed.
      seed: seed of the folds.
    """
    fold, losses = generator(seed, 0).permutation(len(label)) % FOLDS, np.zeros(len(PENALTIES))
    for number, penalty in enumerate(PENALTIES):
        for own in range(FOLDS):
            rest = fold != own
            weights, bias = fit_regression(csr_matrix(features[rest]), label[rest], penalty)
            log_odds = features[~rest] @ weights + bias
            losses[number] += np.sum(np.logaddexp(0, log_odds) - label[~rest] * log_odds)
    return PENALTIES[int(np.argmin(losses))]
