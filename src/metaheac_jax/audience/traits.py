"""What characterises an audience: fractions of users with each value, against seeds and pool.

The pool consists of the users who could be in the audience: all users without the excluded ones,
and without the seeds if these were left out.

Axes: U users of the data, S slots of a user, V values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from metaheac_jax.data.campaign import UserIds
from metaheac_jax.data.dataset import Dataset, UserRows
from metaheac_jax.errors import InputError

#: Fractions of fewer users than this are not shown: they are uncertain, and may reveal something
#: about individual users. Where all other values of a field are shown, the hidden one follows.
MIN_CELL = 50
#: Ratios outside these bounds are flagged: the four-fifths rule, and its reciprocal.
FAIR = (0.8, 1.25)
_BLOCK = 1 << 18  # users counted at a time


@dataclass(frozen=True)
class Trait:
    """A value of a user field.

    Attributes:
      field: name of the field.
      value: the value; for a field with buckets, the bucket's range of numbers.
      audience, seeds, pool: fraction of the users who have it; ``seeds`` is None if too few do.
      num_audience: number of users in the audience who have it.
    """

    field: str
    value: str
    audience: float
    seeds: float | None
    pool: float
    num_audience: int

    @property
    def lift(self) -> float:
        """How many times as common the value is in the audience as in the pool."""
        return self.audience / self.pool


@dataclass(frozen=True)
class SensitiveShare:
    """A value of a sensitive field, which no model sees.

    The selection rate of a group of users of the pool is the fraction of them who are in the
    audience. A ratio is the selection rate of the users with the value, divided by the rate that it
    is compared with. If too few users of the audience have the value, ratios are upper bounds.
    Values with too few users in the pool count neither as groups nor for the highest rate.

    Attributes:
      field: name of the field.
      value: the value.
      audience, pool: fraction of the users who have it; ``audience`` is None if too few do.
      ratio: ratio to the selection rate of the whole pool; it equals audience / pool.
      impact: the adverse-impact ratio, to the highest selection rate among the field's values
        (four-fifths rule: Uniform Guidelines on Employee Selection Procedures, 29 CFR 1607.4 D).
      bounded: whether ``impact`` is an upper bound, since too few users of the audience have the
        value, or another one whose rate may be the highest.
    """

    field: str
    value: str
    audience: float | None
    pool: float
    ratio: float
    impact: float
    bounded: bool

    @property
    def flag(self) -> str:
        """``under`` or ``over`` if the audience has the value too rarely or too often."""
        if min(self.ratio, self.impact) < FAIR[0]:
            return "under"
        return "over" if self.audience is not None and self.ratio > FAIR[1] else ""


def audience_traits(
    data: Dataset,
    audience: UserIds,
    seeds: UserIds,
    *,
    exclude: UserIds = (),
    min_cell: int = MIN_CELL,
) -> list[Trait]:
    """The values of user fields, from the most to the least over-represented in an audience.

    Args:
      data: the data with the users.
      audience: user ids of the audience.
      seeds: user ids of the campaign's seeds.
      exclude: ids of users who are not in the pool, including the seeds if they were left out of
        the audience; unknown ids are ignored.
      min_cell: values with fewer users in the audience or in the pool are left out; `Trait.seeds`
        is None for values with fewer seeds.

    Raises:
      InputError: the ids are invalid, or none of them is a user of the data.
    """
    members, known_seeds = _find(data, "audience", audience), _find(data, "seeds", seeds)
    in_audience = _count(data.user_rows, _blocks(members), data.num_rows)
    in_seeds = _count(data.user_rows, _blocks(known_seeds), data.num_rows)
    pool, num_pool = _count_pool(data, data.user_rows, exclude, data.num_rows)
    traits = []
    for number, field in enumerate(data.schema.user):
        first = data.vocabulary.offsets[number]
        for row, value in enumerate(data.vocabulary.values[number], start=first):
            if min(in_audience[row], pool[row]) >= min_cell:
                few = in_seeds[row] < min_cell
                trait = Trait(
                    field=field.name,
                    value=field.text(value),
                    audience=in_audience[row] / len(members),
                    seeds=None if few else in_seeds[row] / len(known_seeds),
                    pool=pool[row] / num_pool,
                    num_audience=int(in_audience[row]),
                )
                traits.append(trait)
    return sorted(traits, key=lambda trait: -trait.lift)


def sensitive_shares(
    data: Dataset, audience: UserIds, *, exclude: UserIds = (), min_cell: int = MIN_CELL
) -> list[SensitiveShare]:
    """How an audience selects users by sensitive fields, in the order of fields and values.

    Args:
      data: the data with the users.
      audience: user ids of the audience.
      exclude: as in `audience_traits`.
      min_cell: values with fewer users in the pool are left out. For values with fewer users in the
        audience, ratios are upper bounds, so a value that is missing from the audience is still
        reported.

    Raises:
      InputError: the ids are invalid, or none of them is a user of the data.
    """
    members, shares = _find(data, "audience", audience), []
    for name, field in data.sensitive.items():
        count = len(field.values)
        in_audience = _count(field.codes, _blocks(members), count)
        pool, num_pool = _count_pool(data, field.codes, exclude, count)
        shown = [v for v in range(count) if pool[v] >= min_cell]
        least = min(min_cell - 1, len(members))
        fraction = {v: max(in_audience[v], least) / len(members) for v in shown}
        ratio = {v: fraction[v] / (pool[v] / num_pool) for v in shown}
        enough = [v for v in shown if in_audience[v] >= min_cell]
        highest = max((ratio[v] for v in enough), default=0.0)  # 0: it is not known
        unsure = any(ratio[v] > highest for v in shown if v not in enough)
        for v in shown:
            share = SensitiveShare(
                field=name,
                value=str(field.values[v]),
                audience=fraction[v] if v in enough else None,
                pool=pool[v] / num_pool,
                ratio=ratio[v],
                impact=min(1.0, ratio[v] / highest) if highest else 1.0,
                bounded=unsure or v not in enough,
            )
            shares.append(share)
    return shares


def _find(data: Dataset, name: str, ids: UserIds) -> np.ndarray:
    """Indices of the users with these ids, without duplicates."""
    found = np.unique(data.find_users(ids))
    found = found[found >= 0]
    if not len(found):
        raise InputError(f"{name}: no id is a user of {data.where}")
    return found


def _count_pool(
    data: Dataset, rows: UserRows, exclude: UserIds, num_values: int
) -> tuple[np.ndarray, int]:
    """As `_count`, for the pool of all users not in ``exclude``; and the size of that pool."""
    excluded = np.unique(data.find_users(exclude))
    excluded = excluded[excluded >= 0]
    every = _count(rows, _slices(data.num_users), num_values)
    return every - _count(rows, _blocks(excluded), num_values), data.num_users - len(excluded)


def _count(rows: UserRows, blocks: Iterable[Any], num_values: int) -> np.ndarray:
    """(V + 1,) number of users who have each value; a user counts once per value.

    Args:
      rows: (U, S) values of all users; V where a slot is empty.
      blocks: indices or slices of the users to count.
      num_values: V.
    """
    counts = np.zeros(num_values + 1, np.int64)
    for block in blocks:
        own = np.sort(rows[block], axis=1)
        first = np.ones(own.shape, bool)
        first[:, 1:] = own[:, 1:] != own[:, :-1]
        counts += np.bincount(own[first], minlength=num_values + 1)
    return counts


def _slices(count: int) -> Iterable[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


def _blocks(users: np.ndarray) -> Iterable[np.ndarray]:
    return (users[block] for block in _slices(len(users)))
