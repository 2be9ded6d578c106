"""What characterises an audience: fractions of users with each value, beside seeds and pool.

Axes: U users of the data, S slots of a user, R table rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError

#: Values with fewer users than this in the audience or in the pool are left out: their fractions
#: are uncertain, and may say something about single users.
MIN_CELL = 50
_BLOCK = 1 << 18  # users counted at a time


@dataclass(frozen=True)
class Trait:
    """A value of a user field.

    Attributes:
      field: name of the field.
      value: the value; of a field with buckets, its range of numbers.
      audience, seeds, pool: fraction of the users who have it.
      num_audience: number of users of the audience who have it.
    """

    field: str
    value: str
    audience: float
    seeds: float
    pool: float
    num_audience: int

    @property
    def lift(self) -> float:
        """How many times as common as in the pool."""
        return self.audience / self.pool


def audience_traits(
    data: Dataset, audience: Any, seeds: Any, *, min_cell: int = MIN_CELL
) -> list[Trait]:
    """The values that are most over-represented in an audience, then less and less.

    Args:
      data: the pool.
      audience: user ids of the audience.
      seeds: user ids of the campaign's seeds.
      min_cell: values with fewer users in the audience or in the pool are left out.

    Raises:
      InputError: the ids are wrong, or none is a user of the data.
    """
    pool = _count_rows(data, np.arange(data.num_users))
    counts = []
    for name, ids in (("audience", audience), ("seeds", seeds)):
        found = np.unique(data.find_users(ids))
        found = found[found >= 0]
        if not len(found):
            raise InputError(f"{name}: no id is a user of {data.name!r}")
        counts.append((_count_rows(data, found), len(found)))
    (in_audience, num_audience), (in_seeds, num_seeds) = counts
    traits = []
    for number, field in enumerate(data.schema.user):
        first = data.vocabulary.offsets[number]
        for i, value in enumerate(data.vocabulary.values[number]):
            row = first + i
            if min(in_audience[row], pool[row]) >= min_cell:
                trait = Trait(
                    field=field.name,
                    value=field.text(value),
                    audience=in_audience[row] / num_audience,
                    seeds=in_seeds[row] / num_seeds,
                    pool=pool[row] / data.num_users,
                    num_audience=int(in_audience[row]),
                )
                traits.append(trait)
    return sorted(traits, key=lambda trait: -trait.lift)


def _count_rows(data: Dataset, users: np.ndarray) -> np.ndarray:
    """(R + 1,) number of users, by index, who have each table row; each counts once per row."""
    counts = np.zeros(data.num_rows + 1, np.int64)
    for start in range(0, len(users), _BLOCK):
        rows = np.sort(data.user_rows[users[start : start + _BLOCK]], axis=1)
        first = np.ones(rows.shape, bool)
        first[:, 1:] = rows[:, 1:] != rows[:, :-1]
        counts += np.bincount(rows[first], minlength=data.num_rows + 1)
    return counts
