"""Splits of the campaigns into training and test campaigns, and by size of the seed set.

Axis: C campaigns, in the order of ``Dataset.campaign_ids`` (raw ids, ascending).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError

#: Largest number of positives, over both stages, of the authors' small seed sets.
OFFICIAL_THRESHOLD = 2000


@dataclass(frozen=True)
class Split:
    """A division of the campaigns.

    Attributes:
      train: indices of the training campaigns, ascending, int64.
      test: indices of the test campaigns, ascending, int64.
      small: (C,) bool, whether the seed set is small.
      threshold: T, the largest number of seeds of a small seed set.
    """

    train: np.ndarray
    test: np.ndarray
    small: np.ndarray
    threshold: int


def paper_split(
    dataset: Dataset,
    seed: int,
    *,
    train_fraction: float = 0.6,
    threshold: int | None = None,
    known: Sequence[int] | np.ndarray = (),
) -> Split:
    """The paper's split (section 4.1): campaigns divided 60:40 at random.

    A seed set is small if it has at most T seeds (positives of stage 1). In the paper, the ratio of
    small to large seed sets is 8:2.

    Args:
      dataset: the campaigns to divide.
      seed: random seed; it determines the division together with C, ``train_fraction`` and
        ``known`` only.
      train_fraction: fraction of the campaigns to train on.
      threshold: T; by default the smallest number of seeds that at least 80% of all campaigns do
        not exceed.
      known: indices of campaigns that a model has seen, with which training continues. They are
        training campaigns, also if that is more than the fraction.

    Raises:
      InputError: there would be no training or no test campaign.
    """
    count, known = dataset.num_campaigns, np.unique(np.asarray(known, int))
    num_train = round(train_fraction * count)
    if not 0 < num_train < count:
        raise InputError(
            f"split: {count} campaigns at train_fraction {train_fraction} leave {num_train} for "
            f"training and {count - num_train} for testing; at least one of each is needed"
        )
    if len(known) == count:
        raise InputError(
            f"{dataset.where}: the model has seen all campaigns, so none is left to test; add "
            "campaigns, or train on all"
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    order = order[np.argsort(~np.isin(order, known), kind="stable")]  # known ones first
    num_train = max(num_train, len(known))
    small, threshold = small_campaigns(dataset, threshold)
    return Split(np.sort(order[:num_train]), np.sort(order[num_train:]), small, threshold)


def small_campaigns(dataset: Dataset, threshold: int | None = None) -> tuple[np.ndarray, int]:
    """(C,) bool, whether each seed set is small, and T; see `paper_split`."""
    seeds = dataset.stage1.positives
    threshold = smallest_threshold(seeds) if threshold is None else threshold
    return seeds <= threshold, threshold


def smallest_threshold(seeds: np.ndarray) -> int:
    """The smallest number of seeds that at least 80% of the campaigns do not exceed.

    Args:
      seeds: (C,) number of seeds of each campaign.
    """
    # ceil(0.8 C) in integers, since 0.8 C is not exact in floating point.
    return int(np.sort(seeds)[-(-4 * len(seeds) // 5) - 1])


def official_split(dataset: Dataset) -> Split:
    """The split of the authors' program: half of the campaigns, drawn by `random` with seed 2021.

    On the Tencent data, the training campaigns are those of the authors' program. A seed set is
    small if both stages together have at most `OFFICIAL_THRESHOLD` positives.

    Raises:
      InputError: there are fewer than two campaigns.
    """
    count = dataset.num_campaigns
    if count < 2:
        raise InputError(f"split: {count} campaigns; training and testing need one each")
    train = np.sort(random.Random(2021).sample(range(count), count // 2))
    test = np.setdiff1d(np.arange(count), train)
    positives = dataset.stage1.positives + dataset.stage2.positives
    return Split(train, test, positives <= OFFICIAL_THRESHOLD, OFFICIAL_THRESHOLD)
