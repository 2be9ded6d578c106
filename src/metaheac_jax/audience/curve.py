"""How large an audience should be: the recall of each size, measured on held-out seeds.

Axes: H held-out seeds, U users of the data, P users of the pool that the model does not know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from metaheac_jax.audience.held_out_seeds import NOBODY_NEW, HeldOutSeeds
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import percent_of

#: Sizes of an audience, in percent of the pool.
PERCENTS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0)
CONFIDENCE = 0.95  # level of all intervals
_BLOCK = 1 << 17  # users scored at a time


class Estimate(NamedTuple):
    """An estimate and the bounds of its 95% interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float, *, most: float = math.inf) -> Estimate:
        """The estimate and its bounds times ``factor``, each at most ``most``."""
        return Estimate(*(min(factor * bound, most) for bound in self))


@dataclass(frozen=True)
class SizePoint:
    """An audience of one size.

    Attributes:
      percent: size in percent of the pool.
      size: number of users.
      edge: score of its last user. The interval is for this quantile of all users like the pool's,
        between two order statistics of P users (David and Nagaraja, Order Statistics, section 7.1).
        A bound is infinite if P is too small for it.
      recall: fraction of the held-out seeds that are in it. The interval is Wilson's.
      lift: recall divided by that of a random audience of this size.
      conversions: expected number of converts in it if the base rate holds: recall times the
        number of converts in the pool, at most ``size``.
    """

    percent: float
    size: int
    edge: Estimate
    recall: Estimate
    lift: Estimate
    conversions: Estimate


def seed_rate(num_seeds: int, data: Dataset) -> float:
    """The default base rate of a campaign: the fraction of all users who are its seeds.

    Seeds from feedback do not count, so that a campaign's default does not change with its
    audiences.
    """
    return num_seeds / data.num_users


def size_curve(
    held_out: HeldOutSeeds,
    data: Dataset,
    *,
    percents: Sequence[float] = PERCENTS,
    base_rate: float | None = None,
    progress: Progress = silent,
) -> list[SizePoint]:
    """Estimates the recall of audiences of several sizes.

    The pool consists of all users without seeds and excluded users. Each held-out seed is added to
    it alone, and compared with its users who are not in `HeldOutSeeds.known`. They are as new to
    the model as the seed, and represent the whole pool. Users who tie at the edge of an audience
    are in it with equal probability. Memory holds one float32 score per user.

    Args:
      held_out: the model and the seeds that it has not seen.
      data: the data with the users.
      percents: sizes, in percent of the pool.
      base_rate: fraction of the pool that would convert if all of it were reached; `seed_rate` by
        default. Only expected conversions depend on it.
      progress: receives the number of users scored.

    Raises:
      InputError: a percentage or the base rate is out of range, or all users are seeds, learned
        from or excluded.
      Diverged: a score is not a number.
    """
    if not percents or not all(0 < percent <= 100 for percent in percents):
        raise InputError(f"percents: expected numbers above 0 and up to 100, got {percents}")
    if base_rate is None:
        base_rate = seed_rate(held_out.num_given_seeds, data)
    if not 0 < base_rate <= 1:
        raise InputError(f"base rate: expected more than 0 and at most 1, got {base_rate}")
    scores = np.empty(data.num_users, np.float32)
    for start in range(0, data.num_users, _BLOCK):
        rows = np.asarray(data.user_rows[start : start + _BLOCK])
        scores[start : start + len(rows)] = held_out.model.score(rows)
        progress("score the pool", start + len(rows), data.num_users)
    held, known = scores[held_out.users], held_out.known
    if len(known) == data.num_users:
        raise InputError(f"{data.where}: {NOBODY_NEW}")
    scores[known] = -np.inf
    scores.sort()
    new, num_pool = scores[len(known) :], data.num_users - len(held_out.left_out)
    return [_point(percent, new, held, num_pool, base_rate) for percent in sorted(percents)]


def _point(
    percent: float, new: np.ndarray, held: np.ndarray, num_pool: int, base_rate: float
) -> SizePoint:
    """The point, from (P,) ascending scores of new users and (H,) scores of held-out seeds."""
    size = max(1, percent_of(num_pool, percent))
    up_to = np.searchsorted(new, held, side="right")
    ties = 1 + up_to - np.searchsorted(new, held, side="left")
    places = (1 + len(new)) * size / num_pool
    inside = np.clip((places - (len(new) - up_to)) / ties, 0, 1)
    fraction = float(inside.mean())
    recall = Estimate(fraction, *wilson_interval(fraction, len(held)))
    return SizePoint(
        percent=percent,
        size=size,
        edge=_edge(new, size, num_pool),
        recall=recall,
        lift=recall.scaled(num_pool / size),
        conversions=recall.scaled(base_rate * num_pool, most=size),
    )


def _edge(new: np.ndarray, size: int, num_pool: int) -> Estimate:
    """The score that ``size`` of ``num_pool`` users reach, from (P,) ascending scores."""
    count, tail = len(new), (1 - CONFIDENCE) / 2
    # Bounds of the number of users, in a pool like this one, who score above the true quantile.
    fewest, most = binom.ppf([tail, 1 - tail], count, size / num_pool).astype(int)
    low = float(new[count - most - 1]) if most < count else -math.inf
    high = float(new[count - fewest]) if fewest else math.inf
    return Estimate(float(new[count - math.ceil(size * count / num_pool)]), low, high)


def wilson_interval(fraction: float, count: int) -> tuple[float, float]:
    """The 95% interval of a fraction of ``count`` independent trials (Wilson, 1927)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = fraction + z**2 / (2 * count)
    half = z * math.sqrt(fraction * (1 - fraction) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    low = 0.0 if fraction == 0 else (centre - half) / scale  # these bounds are exact
    return low, 1.0 if fraction == 1 else (centre + half) / scale
