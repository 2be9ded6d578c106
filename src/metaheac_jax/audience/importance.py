"""Which user fields a customised model uses to find seeds.

Axes: M user fields, U users of the data, H held-out seeds, P other users, S slots of a user.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from metaheac_jax.audience.curve import NOBODY_NEW
from metaheac_jax.audience.held_out import Fold
from metaheac_jax.data.batches import generator
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress, silent

NUM_COMPARED = 10_000  # users of the pool that held-out seeds are compared with
NUM_PERMUTATIONS = 5


@dataclass(frozen=True)
class Importance:
    """How much a model loses without a user field.

    Attributes:
      field: name of the field.
      drop: drop of the AUC of held-out seeds against other users when the field's values are
        permuted among users. It is close to zero for a field that the model does not use, or that
        another field can replace.
      error: standard error of the drop, over the held-out seeds, the other users and the
        permutations of both.
    """

    field: str
    drop: float
    error: float


class Importances(NamedTuple):
    """Every user field, largest drop first, and the AUC with all fields intact."""

    auc: float
    fields: list[Importance]


def field_importance(
    fold: Fold,
    data: Dataset,
    pool: np.ndarray,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Importances:
    """Permutation importance of every user field (Breiman, Random Forests, 2001, section 10).

    A field's slots are permuted together among the held-out seeds and `NUM_COMPARED` random users
    of `Fold.unknown`. This keeps the frequencies of its values and breaks their
    relation to the user. Errors are those of a difference between AUCs of the same users
    (DeLong et al., 1988, Biometrics 44).

    Args:
      fold: the model and the seeds that it has not learned from.
      data: the data with the users.
      pool: (U,) bool, the users who may be in an audience.
      seed: random seed for the other users and the permutations.
      progress: receives the number of fields done.

    Raises:
      InputError: the pool has only users that the model has learned from.
      Diverged: a score is not a number.
    """
    rng, new = generator(seed, 0), np.flatnonzero(fold.unknown(pool))
    if not len(new):
        raise InputError(f"{data.where}: {NOBODY_NEW}")
    others = rng.choice(new, min(NUM_COMPARED, len(new)), replace=False)
    users = np.asarray(data.user_rows[np.concatenate([fold.seeds, others])])
    num_held, fields = len(fold.seeds), data.schema.user

    def placements(rows: np.ndarray) -> np.ndarray:
        """(H + P, S) rows -> (H + P,); the mean of the first H, and that of the last P, is the AUC.

        They are the fraction of other users below each seed, and of seeds above each other user.
        """
        held, rest = np.split(fold.model.score(rows), [num_held])
        above = 1 - _fractions_below(rest, np.sort(held))
        return np.concatenate([_fractions_below(held, np.sort(rest)), above])

    whole, found = placements(users), []
    for number, (field, start) in enumerate(zip(fields, data.schema.user_starts, strict=True)):
        slots = slice(start, start + field.slots)
        drops = np.zeros(len(users))
        for _ in range(NUM_PERMUTATIONS):
            permuted = users.copy()
            permuted[:, slots] = users[rng.permutation(len(users)), slots]
            drops += (whole - placements(permuted)) / NUM_PERMUTATIONS
        error = math.sqrt(sum(_squared_error(part) for part in np.split(drops, [num_held])))
        found.append(Importance(field.name, float(drops[:num_held].mean()), error))
        progress("what the model uses", number + 1, len(fields))
    return Importances(float(whole[:num_held].mean()), sorted(found, key=lambda field: -field.drop))


def _squared_error(values: np.ndarray) -> float:
    """The squared standard error of the mean of values; zero for a single value."""
    return float(values.var()) / max(1, len(values) - 1)


def _fractions_below(scores: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """The fraction of the ascending scores ``ordered`` below each score; ties count half."""
    below = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return below / (2 * len(ordered))
