"""What held-out seeds tell before an audience is used: how good each size is, which fields matter.

The seeds are divided into folds. Each fold is scored by a model that is customised without it, so
all seeds are judged, none by a model that knows it (cross-fitting).

Axes: U users of the data, M user fields, S slots of a user, H held-out seeds of a fold, P users of
the pool whom a fold's model does not know, K sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaheac_jax.audience.rates import Estimate, wilson_estimate
from metaheac_jax.data.batches import generator, rows_of_examples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.folds import folds, shuffle_classes
from metaheac_jax.errors import InputError
from metaheac_jax.methods import customise
from metaheac_jax.model import Customised, General
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import auc

FOLDS = 5
#: Seeds needed to hold out ten at a time. Converts of an audience do not count.
MIN_SEEDS = 50
#: Sizes of an audience, in percent of the pool.
PERCENTS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0)
NUM_COMPARED = 10_000  # users of the pool that held-out seeds are compared with, for importance
_BLOCK = 1 << 17  # users scored at a time


@dataclass(frozen=True, eq=False)
class Fold:
    """Seeds, and a model that has not learned from them.

    Attributes:
      held: the campaign with the H held-out seeds alone.
      model: the model that is customised to the other examples of the campaign.
    """

    held: Campaign
    model: Customised

    @property
    def seeds(self) -> np.ndarray:
        """(H,) user indices of the held-out seeds."""
        return self.held.users

    @property
    def weights(self) -> np.ndarray:
        """(H,) how much each of them counts."""
        return np.ones(len(self.seeds)) if self.held.weights is None else self.held.weights

    def rows(self, data: Dataset) -> np.ndarray:
        """(H, S) table rows of the seeds, with the histories that they had then."""
        return rows_of_examples(data, self.held)

    def unknown(self, pool: np.ndarray) -> np.ndarray:
        """(U,) bool, the users of a pool, (U,) bool, who are as new to the model as its seeds.

        These are the users that it has not learned from. Those who were shown an audience count as
        new: it has learned from them, but they had high scores, so without them the others would
        not represent the pool.

        Raises:
          InputError: there is no such user.
        """
        campaign, new = self.model.campaign, pool.copy()
        new[campaign.users[~campaign.is_found | (campaign.labels == 1)]] = False
        new[self.seeds] = False
        if not new.any():
            raise InputError("pool: all its users are seeds or learned from; use a larger pool")
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
      pool: (U,) bool, the users who may be in an audience; None for all.
      seed: random seed of the folds and of customising.

    Returns:
      The folds; none if fewer than `MIN_SEEDS` seeds can be held out.

    Raises:
      InputError: as in `Method.customise`.
      Diverged: weights are not finite.
    """
    given, is_seed = ~campaign.is_found, campaign.labels == 1
    if pool is not None:
        within = given & (pool[campaign.users] | ~is_seed)
        given = within if (within & is_seed).sum() >= MIN_SEEDS else given
    if (given & is_seed).sum() < MIN_SEEDS:
        return []
    divided, fold_of = np.flatnonzero(given), np.full(len(campaign.users), -1)
    labels = campaign.labels[divided]
    order = np.concatenate(shuffle_classes(labels, generator(seed, 0)))
    fold_of[divided] = folds(labels, FOLDS, order)
    kept = [campaign.pick(fold_of != fold) for fold in range(FOLDS)]
    models = customise(general, data, kept, seed=seed, progress=progress)
    held = [campaign.pick((fold_of == fold) & (campaign.labels == 1)) for fold in range(FOLDS)]
    return [Fold(*pair) for pair in zip(held, models, strict=True)]


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
      folds: from `cross_fit`.
      pool: (U,) bool, the users who may be in an audience, and seeds.
      sizes: K sizes, each at most the number of candidates: users of the pool who are no seeds.

    Raises:
      InputError: the pool has only users that a model has learned from.
      Diverged: a score is not a number.
    """
    seeds = np.zeros(data.num_users, bool)
    for fold in folds:
        seeds[fold.seeds] = seeds[fold.model.campaign.seeds] = True
    num_seeds, count = int((seeds & pool).sum()), int((pool & ~seeds).sum())
    shares, inside = np.array(sizes) / count, []
    for number, fold in enumerate(folds):
        scores = np.empty(data.num_users, np.float32)
        for start in range(0, data.num_users, _BLOCK):
            rows = np.asarray(data.user_rows[start : start + _BLOCK])
            scores[start : start + len(rows)] = fold.model.score(rows)
            done = number * data.num_users + start + len(rows)
            progress("curve of sizes", done, len(folds) * data.num_users)
        new = np.sort(scores[fold.unknown(pool)])
        inside.append(chances(new, fold.model.score(fold.rows(data)), shares))
    points, weights = [], np.concatenate([fold.weights for fold in folds])
    num_effective = weights.sum() ** 2 / (weights @ weights)  # Kish (1965)
    for size, hits in zip(sizes, np.concatenate(inside, axis=1), strict=True):
        recall = wilson_estimate(num_effective * np.average(hits, weights=weights), num_effective)
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


@dataclass(frozen=True)
class Importance:
    """How much models lose without a user field.

    Attributes:
      field: name of the field.
      drop: drop of the AUC of held-out seeds against other users when the field's values are
        permuted among users; mean of the folds. It is close to zero for a field that the models do
        not use, or that another field can replace.
      error: standard error of the drop, over the folds.
    """

    field: str
    drop: float
    error: float


def field_importance(
    folds: Sequence[Fold],
    data: Dataset,
    pool: np.ndarray,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[float, list[Importance]]:
    """Permutation importance of every user field (Breiman, Random Forests, 2001, section 10).

    A field's slots are permuted together among the held-out seeds of a fold and `NUM_COMPARED`
    random users of `Fold.unknown`. This keeps the frequencies of its values and breaks their
    relation to the user.

    Args:
      folds: from `cross_fit`.
      pool: (U,) bool, the users who may be in an audience.
      seed: random seed for the other users and the permutations.

    Returns:
      The mean AUC with all fields intact, and every user field, largest drop first.

    Raises:
      InputError: the pool has only users that a model has learned from.
      Diverged: a score is not a number.
    """
    rng, fields = generator(seed, 0), data.schema.user
    whole, drops = np.empty(len(folds)), np.empty((len(folds), len(fields)))
    for number, fold in enumerate(folds):
        new = np.flatnonzero(fold.unknown(pool))
        others = rng.choice(new, min(NUM_COMPARED, len(new)), replace=False)
        users = np.concatenate([fold.rows(data), data.user_rows[others]])
        labels = np.arange(len(users)) < len(fold.seeds)
        whole[number] = auc(fold.model.score(users), labels)
        for place, (field, start) in enumerate(zip(fields, data.schema.user_starts, strict=True)):
            permuted, slots = users.copy(), slice(start, start + field.slots)
            permuted[:, slots] = users[rng.permutation(len(users)), slots]
            drops[number, place] = whole[number] - auc(fold.model.score(permuted), labels)
        progress("what the model uses", number + 1, len(folds))
    errors = drops.std(axis=0, ddof=1) / math.sqrt(len(folds))
    columns = zip(fields, drops.mean(axis=0).tolist(), errors.tolist(), strict=True)
    found = [Importance(field.name, drop, error) for field, drop, error in columns]
    return float(whole.mean()), sorted(found, key=lambda importance: -importance.drop)
