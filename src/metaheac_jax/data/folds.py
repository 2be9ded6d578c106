"""Divides a campaign's examples at random, the seeds and the non-seeds alike.

Axes: n examples of a campaign.
"""

from __future__ import annotations

import numpy as np


def shuffle_classes(
    labels: np.ndarray, rng: np.random.Generator, *, first: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Shuffles the positions of each label, (n,) 1 for a seed and 0 for a non-seed.

    Those of the label ``first`` are drawn and returned first.
    """
    one, other = (rng.permutation(np.flatnonzero(labels == label)) for label in (first, 1 - first))
    return one, other


def folds(labels: np.ndarray, num_folds: int, order: np.ndarray) -> np.ndarray:
    """Deals the seeds and the non-seeds to folds, so that the folds have about as many of each.

    Args:
      labels: (n,) 1 for a seed, 0 for a non-seed.
      num_folds: number of folds.
      order: (n,) all positions, in the order in which they are dealt.

    Returns:
      (n,) the fold of each example.
    """
    fold = np.empty(len(labels), int)
    for label in (0, 1):
        places = order[labels[order] == label]
        fold[places] = np.arange(len(places)) % num_folds
    return fold


def hold_out(
    labels: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a fraction of the seeds and of the non-seeds, but at least one of each.

    Without a held-out seed, the model with the smallest predictions would have the lowest held-out
    loss. So if a class has a single example, nothing is held out.

    Args:
      labels: (n,) 1 for a seed, 0 for a non-seed.
      fraction: 0 holds nothing out.
      rng: draws the held-out examples.

    Returns:
      Positions to fit, in their order, and positions held out; together n.
    """
    num_seeds = np.count_nonzero(labels)
    if not fraction or min(num_seeds, len(labels) - num_seeds) < 2:
        return np.arange(len(labels)), np.empty(0, int)
    classes = shuffle_classes(labels, rng, first=0)
    out = np.concatenate([part[: max(1, int(fraction * len(part)))] for part in classes])
    return np.setdiff1d(np.arange(len(labels)), out), out
