"""Held-out seeds, on which a customised model is judged before its audience is used.

The seeds are divided into folds. Each fold is scored by a model that is customised without it, so
all seeds are judged, none by a model that knows it (cross-fitting).

Axes: U users of the data, H seeds of a fold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metaheac_jax.data.batches import generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.methods import customise
from metaheac_jax.model import Customised, General
from metaheac_jax.progress import Progress, silent

FOLDS = 5
#: Seeds needed to hold out ten at a time. Converts of an audience do not count.
MIN_SEEDS = 50


@dataclass(frozen=True, eq=False)
class Fold:
    """Seeds, and a model that has not learned from them.

    Attributes:
      seeds: (H,) user indices of the held-out seeds.
      model: the model that is customised to the other examples of the campaign.
    """

    seeds: np.ndarray
    model: Customised

    def unknown(self, pool: np.ndarray) -> np.ndarray:
        """(U,) bool, the users of a pool, (U,) bool, who are as new to the model as its seeds.

        These are the users that it has not learned from. Those who were shown an audience count as
        new: it has learned from them, but they had high scores, so without them the others would
        not represent the pool.
        """
        campaign, new = self.model.campaign, pool.copy()
        new[campaign.users[~campaign.is_found | (campaign.labels == 1)]] = False
        new[self.seeds] = False
        return new


def cross_fit(
    general: General,
    data: Dataset,
    campaign: Campaign,
    *,
    pool: np.ndarray | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Fold]:
    """Divides the seeds at random into `FOLDS` folds, and customises a model without each.

    A fold of the non-seeds is held out with a fold of the seeds, so that there are users to compare
    with who are equally new to the model. Users of an audience are never held out: an earlier model
    found them, so they do not show how well a model finds others. Nor are seeds outside the pool,
    which say little of converts in it, unless fewer than `MIN_SEEDS` are in it.

    Args:
      general: the general model.
      data: the data with the campaign's users.
      campaign: the campaign with its seeds and non-seeds.
      pool: (U,) bool, the users who may be in an audience; None for all.
      seed: random seed of the folds and of customising.
      progress: receives the progress of customising.

    Returns:
      The folds; none if fewer than `MIN_SEEDS` seeds can be held out.

    Raises:
      InputError: as in `Method.customise`.
      Diverged: weights are not finite.
    """
    given = ~campaign.is_found
    seeds = np.flatnonzero(given & (campaign.labels == 1))
    others = np.flatnonzero(given & (campaign.labels == 0))
    if pool is not None:
        within = seeds[pool[campaign.users[seeds]]]
        seeds = within if len(within) >= MIN_SEEDS else seeds
    if len(seeds) < MIN_SEEDS:
        return []
    rng = generator(seed, 0)
    fold_of = np.full(len(campaign.users), -1)
    for examples in (seeds, others):
        fold_of[rng.permutation(examples)] = np.arange(len(examples)) % FOLDS
    kept = [campaign.pick(fold_of != fold) for fold in range(FOLDS)]
    models = customise(general, data, kept, seed=seed, progress=progress)
    held = [campaign.users[(fold_of == fold) & (campaign.labels == 1)] for fold in range(FOLDS)]
    return [Fold(users, model) for users, model in zip(held, models, strict=True)]
