"""The splits of the paper and of the authors' program into training and test campaigns."""

from __future__ import annotations

import random

import numpy as np

from metaheac_jax.data.dataset import Dataset, Split, small_campaigns
from metaheac_jax.errors import InputError

TRAIN_FRACTION = 0.6
#: Largest number of positives, over both stages, of the authors' small seed sets.
OFFICIAL_THRESHOLD = 2000


def paper_split(dataset: Dataset, seed: int) -> Split:
    """The paper's split (section 4.1): campaigns divided 60:40 at random.

    In the paper, the ratio of small to large seed sets is 8:2. The division depends on the seed and
    on the number of campaigns only.

    Raises:
      InputError: there would be no training or no test campaign.
    """
    count = dataset.num_campaigns
    num_train = round(TRAIN_FRACTION * count)
    if not 0 < num_train < count:
        raise InputError(f"split: {count} campaigns; training and testing need one each")
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    small, threshold = small_campaigns(dataset.stage1.positives)
    return Split(np.sort(order[:num_train]), np.sort(order[num_train:]), small, threshold)


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
