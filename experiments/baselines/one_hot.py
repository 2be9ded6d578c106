"""LR per campaign on every single campaign of a user's history: what a reader would try first.

It is not in the paper.

Axes: H training campaigns, E examples of stage 2.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, hstack

from experiments.baselines.cross_validated import FOLDS, best_penalty
from metaheac_jax.data.batches import generator
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.dataset import Dataset, Split
from metaheac_jax.data.history import History
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.summary import Summary
from metaheac_jax.table.sparse import value_counts

ONE_HOT = "LR on one-hot histories"  # in a comparison


def one_hot_scores(dataset: Dataset, split: Split) -> np.ndarray:
    """(E,) scores of the examples of stage 2; 0 in training campaigns.

    A user has indicators of her values, of the training campaigns in which she converted, and of
    those which she was shown in vain, and the logarithms of both counts.

    Args:
      dataset: the examples; users have histories.
      split: each campaign that is not for training gets a regression on its own stage 1.
    """
    assert dataset.by_user is not None
    count, judged = len(split.train), dataset.stage2
    each = np.eye(2 * count, dtype=np.float32).reshape(2, count, 2 * count)
    names = np.array([str(plain_id(own)) for own in dataset.campaign_ids])
    summary = Summary(names[split.train], each, np.zeros(2 + 2 * count), np.ones(2 + 2 * count))
    history = History.of(dataset.by_user, summary, names)

    def features(users: np.ndarray, c: int, times: np.ndarray | None) -> csr_matrix:
        values = value_counts(dataset.layout, dataset.user_rows[users], dataset.num_rows)
        return csr_matrix(hstack([values, csr_matrix(history(users, c, times))]))

    scores = np.zeros(len(judged.user))
    for c in split.test.tolist():
        campaign, of = dataset.campaign(c), judged.of(c)
        x, y = features(campaign.users, c, campaign.times), campaign.labels.astype(float)
        penalty = best_penalty(x, y, generator(0, 0).permutation(len(y)) % FOLDS)
        weights, bias = fit_regression(x, y, penalty)
        times = None if judged.time is None else judged.time[of]
        scores[of] = features(judged.user[of], c, times) @ weights + bias
    return scores
