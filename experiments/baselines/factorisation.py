"""Matrix factorisation of what users did in the training campaigns, and a regression per campaign.

It needs users who meet many campaigns, as in MovieLens: what a reader would try first there. It is
not in the paper.

Axes: U users, H training campaigns, d factors, P examples of a campaign, E examples of stage 2.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from experiments.baselines.cross_validated import FOLDS, best_penalty
from metaheac_jax.data.batches import generator
from metaheac_jax.data.dataset import Dataset, Split
from metaheac_jax.solvers.regression import fit_regression

#: Rank and penalty were chosen on held-out training movies of the first split of MovieLens-1M.
_RANK, _PENALTY, _ROUNDS = 4, 10.0, 15


def user_factors(label: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(U, d + 1) factors of users, and each user's mean deviation, by alternating least squares.

    Args:
      label: (U, H) 1 for a seed, 0 for a non-seed or a pair that was not seen.
      seen: (U, H) bool, whether a user is an example of a campaign.
    """
    mean = label.sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    rest = np.where(seen, label - mean, 0)
    bias = rest.sum(axis=1) / (seen.sum(axis=1) + _PENALTY)
    rest = np.where(seen, rest - bias[:, None], 0)
    rng = np.random.default_rng(0)
    campaigns = rng.standard_normal((seen.shape[1], _RANK)) / np.sqrt(_RANK)
    users = np.empty((len(seen), _RANK))
    for _ in range(_ROUNDS):
        users = _least_squares(rest, seen, campaigns)
        campaigns = _least_squares(rest.T, seen.T, users)
    return np.column_stack([users, bias])


def _least_squares(rest: np.ndarray, seen: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Rows of the first factor, given those of the other, with an L2 penalty."""
    squares = seen @ np.einsum("ij,ik->ijk", others, others).reshape(len(others), -1)
    squares = squares.reshape(-1, _RANK, _RANK) + _PENALTY / _RANK * np.eye(_RANK)
    return np.linalg.solve(squares, (rest @ others)[..., None])[..., 0]


def factorisation_scores(dataset: Dataset, split: Split) -> np.ndarray:
    """(E,) scores of the examples of stage 2; 0 in training campaigns.

    Args:
      dataset: the examples.
      split: the training campaigns, whose stage 1 is factorised, and the others, each of which gets
        a regression on its own stage 1.
    """
    stage, judged = dataset.stage1, dataset.stage2
    place = np.full(dataset.num_campaigns, -1)
    place[split.train] = np.arange(len(split.train))
    known = place[stage.campaign] >= 0
    pairs = stage.user[known], place[stage.campaign[known]]
    shape = dataset.num_users, len(split.train)
    label, seen = np.zeros(shape, np.float32), np.zeros(shape, bool)
    label[pairs], seen[pairs] = stage.label[known], True
    factors = user_factors(label, seen)
    factors = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    scores = np.zeros(len(judged.user))
    for c in split.test.tolist():
        of, own = judged.of(c), stage.of(c)
        x, y = csr_matrix(factors[stage.user[own]]), stage.label[own].astype(float)
        penalty = best_penalty(x, y, generator(0, 0).permutation(len(y)) % FOLDS)
        weights, bias = fit_regression(x, y, penalty)
        scores[of] = factors[judged.user[of]] @ weights + bias
    return scores
