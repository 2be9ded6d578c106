"""Which campaigns are trained on, which are tested on, and which have a small seed set.

Axis: C campaigns, in the order of ``Dataset.campaign_key`` (raw ids, ascending).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError


@dataclass(frozen=True)
class Split:
    """A division of the campaigns.

    Attributes:
      train: indices of the training campaigns, ascending, int64.
      test: indices of the test campaigns, ascending, int64.
      small: (C,) bool, whether the seed set is small.
      threshold: T, the largest number of seeds (or positives) that counts as small.
    """

    train: np.ndarray
    test: np.ndarray
    small: np.ndarray
    threshold: int


def paper_split(
    dataset: Dataset, seed: int, *, train_fraction: float = 0.6, threshold: int | None = None
) -> Split:
    """The paper's split (section 4.1): campaigns divided 60:40 at random.

    A seed set is small when it has at most T seeds (positives of stage 1). The paper takes T so
    that small and large stand 8 : 2. Without a ``threshold``, T is therefore the smallest seed
    count such that at least 80% of all campaigns have no more; the paper rounds to 4000 (Tencent).

    Args:
      seed: of the division, which depends on nothing else but C and ``train_fraction``.

    Raises:
      InputError: one of the two sides would have no campaign.
    """
    count = dataset.campaigns
    trained = round(train_fraction * count)
    if not 0 < trained < count:
        raise InputError(
            f"split: {count} campaigns at train_fraction {train_fraction} leave {trained} for "
            f"training and {count - trained} for testing; at least one of each is needed"
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    seeds = dataset.stage1.positives
    if threshold is None:
        # ceil(0.8 C) in whole numbers: 0.8 * 5 is not exact in floating point.
        threshold = int(np.sort(seeds)[-(-4 * count // 5) - 1])
    return Split(np.sort(order[:trained]), np.sort(order[trained:]), seeds <= threshold, threshold)


def official_split(dataset: Dataset, *, threshold: int = 2000) -> Split:
    """The official program's split: half of the campaigns, drawn by Python's generator at 2021.

    On the Tencent data the 86 training campaigns are those of the official program. A seed set is
    small when both stages together have at most ``threshold`` positives.

    Raises:
      InputError: there are fewer than two campaigns.
    """
    count = dataset.campaigns
    if count < 2:
        raise InputError(f"split: {count} campaign; training and testing need one each")
    train = np.sort(random.Random(2021).sample(range(count), count // 2))
    test = np.setdiff1d(np.arange(count), train)
    positives = dataset.stage1.positives + dataset.stage2.positives
    return Split(train, test, positives <= threshold, threshold)
