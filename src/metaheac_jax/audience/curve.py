"""How large an audience should be: the lift of each size, measured on held-out seeds.

Axes: U users of the data, P users of the pool whom a fold's model does not know, H held-out seeds
of a fold, K sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from metaheac_jax.audience.held_out import Fold
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress, silent

#: Sizes of an audience, in percent of the pool.
PERCENTS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0)
CONFIDENCE = 0.95  # level of all intervals
#: Why held-out seeds cannot be compared with anybody.
NOBODY_NEW = "all users of the pool are seeds or learned from; use a larger pool"
_BLOCK = 1 << 17  # users scored at a time


@dataclass(frozen=True)
class Estimate:
    """An estimate and the bounds of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SizePoint:
    """An audience of one size.

    Attributes:
      size: number of users.
      share: size as a fraction of the candidates.
      recall: fraction of the held-out seeds that are in it.
      lift: how many times the average rate of the pool its users convert at, if converts are like
        the seeds.
    """

    size: int
    share: float
    recall: Estimate
    lift: Estimate


def size_curve(
    folds: Sequence[Fold],
    data: Dataset,
    pool: np.ndarray,
    sizes: Sequence[int],
    *,
    progress: Progress = silent,
) -> list[SizePoint]:
    """Estimates recall and lift of audiences of several sizes.

    Scores of different models are not comparable. Each held-out seed is therefore ranked within the
    scores of its own fold's model: it is added alone to the users of `Fold.unknown`, who represent
    the whole pool, and is in an audience if its rank is within the audience's share of the pool. A
    seed that ties at the edge counts by the chance that it is in. Recall is the mean over the seeds
    of all folds. Its interval is Wilson's, with the seeds of all folds as independent trials; it
    covers which users became seeds, and not that a fold's model learns from fewer seeds than the
    model of the audience.

    Lift is recall, divided by the fraction of the pool that scores as high. The pool has the seeds
    here, of whom the same recall scores as high: where many users convert, seeds are a large part
    of those at the top.

    Memory holds one float32 score per user.

    Args:
      folds: from `held_out.cross_fit`.
      data: the data with the users.
      pool: (U,) bool, the users who may be in an audience, and seeds.
      sizes: K sizes, each at most the number of candidates: users of the pool who are no seeds.
      progress: receives the number of users scored.

    Returns:
      A point per size, in the same order.

    Raises:
      InputError: a size is out of range, or the pool has only users that a model has learned from.
      Diverged: a score is not a number.
    """
    seeds = np.zeros(data.num_users, bool)
    for fold in folds:
        seeds[fold.seeds] = seeds[fold.model.campaign.seeds] = True
    num_seeds, count = int((seeds & pool).sum()), int((pool & ~seeds).sum())
    if not all(1 <= size <= count for size in sizes):
        raise InputError(f"sizes: expected whole numbers from 1 to {count}, got {[*sizes]}")
    shares, inside = np.array(sizes) / count, []
    for number, fold in enumerate(folds):
        scores = np.empty(data.num_users, np.float32)
        for start in range(0, data.num_users, _BLOCK):
            rows = np.asarray(data.user_rows[start : start + _BLOCK])
            scores[start : start + len(rows)] = fold.model.score(rows)
            done = number * data.num_users + start + len(rows)
            progress("curve of sizes", done, len(folds) * data.num_users)
        new = np.sort(scores[fold.unknown(pool)])
        if not len(new):
            raise InputError(f"{data.where}: {NOBODY_NEW}")
        inside.append(chances(new, scores[fold.seeds], shares))
    points = []
    for size, own in zip(sizes, np.concatenate(inside, axis=1), strict=True):
        recall = wilson_estimate(float(own.mean()), len(own))
        parts = recall.value, recall.low, recall.high
        lift = (part * (count + num_seeds) / (size + part * num_seeds) for part in parts)
        points.append(SizePoint(size, size / count, recall, Estimate(*lift)))
    return points


def chances(new: np.ndarray, held: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(K, H) chance that each seed, added alone to other users, is in each audience of them.

    Args:
      new: (P,) ascending scores of the other users.
      held: (H,) scores of the seeds.
      shares: (K,) fractions of the users who are in the audience.
    """
    up_to = np.searchsorted(new, held, side="right")
    ties = 1 + up_to - np.searchsorted(new, held, side="left")
    places = (1 + len(new)) * shares[:, None]
    return np.clip((places - (len(new) - up_to)) / ties, 0, 1)


def wilson_estimate(fraction: float, count: int) -> Estimate:
    """A fraction of ``count`` independent trials, with its 95% interval (Wilson, 1927)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = fraction + z**2 / (2 * count)
    half = z * math.sqrt(fraction * (1 - fraction) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    low = 0.0 if fraction == 0 else (centre - half) / scale  # these bounds are exact
    return Estimate(fraction, low, 1.0 if fraction == 1 else (centre + half) / scale)
