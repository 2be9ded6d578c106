"""How many of a campaign's seeds an audience of each size finds, measured on held-out seeds.

Axes: H held-out seeds, U users of the pool, K sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.methods import Method
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, silent

#: Sizes of an audience, in percent of the pool.
PERCENTS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0)
HELD_OUT = 0.2  # of the seeds
MIN_HELD_OUT = 10
_CONFIDENCE = 0.95
_BLOCK = 1 << 17  # users scored at a time


@dataclass(frozen=True)
class SizePoint:
    """An audience of one size.

    Attributes:
      percent: of the pool.
      size: number of users.
      edge: the score of the last user in it.
      recall: fraction of the held-out seeds that it has.
      low, high: bounds of the 95% interval of the recall (Wilson).
    """

    percent: float
    size: int
    edge: float
    recall: float
    low: float
    high: float

    @property
    def lift(self) -> float:
        """How many times as many held-out seeds as a random audience of this size."""
        return self.recall / (self.percent / 100)


def size_curve(
    method: Method,
    general: General,
    data: Dataset,
    campaign: Campaign,
    *,
    percents: Sequence[float] = PERCENTS,
    seed: int = 0,
    progress: Progress = silent,
) -> list[SizePoint]:
    """The recall of held-out seeds over the size of the audience.

    A fifth of the seeds is held out. The general model is customised to the rest, and scores the
    pool: all users but the seeds it was customised on.

    Args:
      method: that trained the general model.
      general: the general model.
      data: the pool.
      campaign: with its seeds and non-seeds.
      percents: sizes, in percent of the pool.
      seed: of the choice of held-out seeds, and of customising.
      progress: receives what is under way.

    Raises:
      InputError: too few seeds to hold some out, or a percentage is out of range.
    """
    check_whole("seed", seed, 0)
    if not percents or not all(0 < percent <= 100 for percent in percents):
        raise InputError(f"percents: expected numbers above 0 and up to 100, got {percents}")
    kept, held = _hold_out(campaign, seed)
    [model] = method.customise(general, data, [kept], seed=seed, progress=progress)
    scores = []
    for start in range(0, data.num_users, _BLOCK):
        scores.append(model.score(np.asarray(data.user_rows[start : start + _BLOCK])))
        progress("score the pool", min(start + _BLOCK, data.num_users), data.num_users)
    score = np.concatenate(scores)
    pool = np.ones(data.num_users, bool)
    pool[kept.seeds] = False
    ordered = np.sort(score[pool])[::-1]
    # Half of the users who tie with a seed count as being before it.
    above = np.searchsorted(-ordered, -score[held], side="left")
    equal = np.searchsorted(-ordered, -score[held], side="right") - above
    rank = above + (equal - 1) / 2
    return [_point(percent, ordered, rank) for percent in sorted(percents)]


def _hold_out(campaign: Campaign, seed: int) -> tuple[Campaign, np.ndarray]:
    """The campaign without some of its seeds, and these seeds (H,)."""
    seeds = np.flatnonzero(campaign.labels == 1)
    count = int(HELD_OUT * len(seeds))
    if count < MIN_HELD_OUT:
        needed = math.ceil(MIN_HELD_OUT / HELD_OUT)
        raise InputError(
            f"{campaign.name}: {len(seeds)} seeds, too few to hold a fifth out; give {needed}"
        )
    held = np.random.Generator(np.random.Philox(seed)).choice(seeds, count, replace=False)
    rest = np.setdiff1d(np.arange(len(campaign.users)), held)
    kept = replace(campaign, users=campaign.users[rest], labels=campaign.labels[rest])
    return kept, campaign.users[held]


def _point(percent: float, ordered: np.ndarray, rank: np.ndarray) -> SizePoint:
    size = max(1, math.floor(len(ordered) * percent / 100))
    recall = float((rank < size).mean())
    low, high = wilson_interval(recall, len(rank))
    return SizePoint(percent, size, float(ordered[size - 1]), recall, low, high)


def wilson_interval(fraction: float, count: int) -> tuple[float, float]:
    """The 95% interval of a fraction of ``count`` independent trials (Wilson, 1927)."""
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    centre = fraction + z**2 / (2 * count)
    half = z * math.sqrt(fraction * (1 - fraction) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
