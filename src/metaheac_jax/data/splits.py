"""Splits of the campaigns into training and test campaigns, and by size of the seed set.

Axis: C campaigns, in the order of ``Dataset.campaign_ids`` (raw ids, ascending).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaheac_jax.data.dataset import COLUMN_FIELDS, Dataset
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

    Campaigns of one question stay together, see `questions_of`, if there are several questions. The
    fraction is then approximate.

    A seed set is small if it has at most T seeds (positives of stage 1). In the paper, the ratio of
    small to large seed sets is 8:2.

    Args:
      dataset: the campaigns to divide.
      seed: random seed; it determines the division together with the questions, C,
        ``train_fraction`` and ``known`` only.
      train_fraction: fraction of the campaigns to train on.
      threshold: T; by default the smallest number of seeds that at least 80% of all campaigns do
        not exceed.
      known: indices of campaigns that a model has seen, with which training continues. They and,
        if there are several questions, all others of theirs are training campaigns, also if that is
        more than the fraction.

    Raises:
      InputError: there would be no training or no test campaign.
    """
    count = dataset.num_campaigns
    num_train = round(train_fraction * count)
    if not 0 < num_train < count:
        raise InputError(
            f"split: {count} campaigns at train_fraction {train_fraction} leave {num_train} for "
            f"training and {count - num_train} for testing; at least one of each is needed"
        )
    question = questions_of(dataset)
    if question.max() == 0:
        question = np.arange(count)
    place = np.random.Generator(np.random.Philox(seed)).permutation(question.max() + 1)
    first = np.isin(question, question[np.asarray(known, int)])
    order = np.lexsort((np.argsort(place)[question], ~first))
    ends = 1 + np.flatnonzero(np.diff(question[order]))
    if first.any():
        ends = ends[ends >= first.sum()]
        if not len(ends):
            raise InputError(
                f"{dataset.where}: the model has seen all campaigns, or one of every question, so "
                "none is left to test; add campaigns, or train on all"
            )
    elif np.abs(count - ends - num_train).min() < np.abs(ends - num_train).min():
        order, ends = order[::-1], count - ends  # the last questions are closer to the fraction
    num_train = ends[np.argmin(np.abs(ends - num_train))]
    small, threshold = small_campaigns(dataset, threshold)
    return Split(np.sort(order[:num_train]), np.sort(order[num_train:]), small, threshold)


def questions_of(dataset: Dataset) -> np.ndarray:
    """(C,) number of each campaign's question, from 0.

    Campaigns made from one column of users ("campaigns_from" of a schema) are answers to one
    question by the same users. A model that was trained on some of them has seen what these users
    answered. All other campaigns have a question each.
    """
    if tuple(field.name for field in dataset.schema.campaign) != COLUMN_FIELDS:
        return np.arange(dataset.num_campaigns)
    return np.unique(dataset.campaign_rows[:, 0], return_inverse=True)[1]


def small_campaigns(dataset: Dataset, threshold: int | None = None) -> tuple[np.ndarray, int]:
    """(C,) bool, whether each seed set is small, and T; see `paper_split`."""
    seeds = dataset.stage1.positives
    if threshold is None:
        threshold = smallest_threshold(seeds)
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
