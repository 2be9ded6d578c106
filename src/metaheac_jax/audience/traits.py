"""What characterises an audience: fractions of users with each value, against the pool.

Axes: U users of the data, S slots of a user, V values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaheac_jax.data.dataset import Dataset, UserRows

#: Fractions of fewer users than this are not shown: they are uncertain, and may reveal something
#: about individual users. Where all other values of a field are shown, the hidden one follows.
MIN_CELL = 50
#: The least adverse-impact ratio that is fair: the four-fifths rule.
FAIR = 0.8
_BLOCK = 1 << 18  # users counted at a time


@dataclass(frozen=True)
class Trait:
    """A value of a user field.

    Attributes:
      field: name of the field.
      value: the value; for a field with buckets, the bucket's range of numbers.
      audience, pool: fraction of the users who have it.
    """

    field: str
    value: str
    audience: float
    pool: float

    @property
    def lift(self) -> float:
        """How many times as common the value is in the audience as in the pool."""
        return self.audience / self.pool


@dataclass(frozen=True)
class SensitiveShare:
    """A value of a sensitive field, which no model sees.

    Values with too few users in the pool are left out.

    Attributes:
      field: name of the field.
      value: the value.
      audience, pool: fraction of the users who have it; ``audience`` is None if too few do.
      impact: the adverse-impact ratio: the chance of users of the pool with this value to be in the
        audience, divided by the highest one among the field's values (four-fifths rule: Uniform
        Guidelines on Employee Selection Procedures, 29 CFR 1607.4 D).
      bounded: whether ``impact`` is an upper bound, since too few users of the audience have the
        value, or another one whose chance may be the highest.
    """

    field: str
    value: str
    audience: float | None
    pool: float
    impact: float
    bounded: bool

    @property
    def is_rare(self) -> bool:
        """Whether the audience has the value too rarely by this rule."""
        return self.impact < FAIR


def audience_traits(data: Dataset, audience: np.ndarray, pool: np.ndarray) -> list[Trait]:
    """The values of user fields, from the most to the least over-represented in an audience.

    Values with fewer than `MIN_CELL` users in the audience or in the pool are left out.

    Args:
      data: the data with the users.
      audience: (U,) bool, the users of the audience, at least one.
      pool: (U,) bool, the users who could be in the audience.
    """
    in_audience, in_pool = _counts(data.user_rows, (audience, pool), data.num_rows)
    traits = []
    for number, field in enumerate(data.schema.user):
        first = data.vocabulary.offsets[number]
        for row, value in enumerate(data.vocabulary.values[number], start=first):
            if min(in_audience[row], in_pool[row]) >= MIN_CELL:
                shares = in_audience[row] / audience.sum(), in_pool[row] / pool.sum()
                traits.append(Trait(field.name, field.text(value), *shares))
    return sorted(traits, key=lambda trait: -trait.lift)


def sensitive_shares(data: Dataset, audience: np.ndarray, pool: np.ndarray) -> list[SensitiveShare]:
    """How an audience selects users by sensitive fields, in the order of fields and values.

    Values with fewer than `MIN_CELL` users in the pool are left out. For values with fewer users in
    the audience, the ratio is an upper bound, so a value that is missing from the audience is
    still reported.

    Args:
      data, audience, pool: as in `audience_traits`.
    """
    num_audience, num_pool = int(audience.sum()), int(pool.sum())
    shares = []
    for name, field in data.sensitive.items():
        count = len(field.values)
        in_audience, in_pool = _counts(field.codes, (audience, pool), count)
        shown = [v for v in range(count) if in_pool[v] >= MIN_CELL]
        least = min(MIN_CELL - 1, num_audience)
        fraction = {v: max(in_audience[v], least) / num_audience for v in shown}
        ratio = {v: fraction[v] / (in_pool[v] / num_pool) for v in shown}
        enough = [v for v in shown if in_audience[v] >= MIN_CELL]
        highest = max((ratio[v] for v in enough), default=0.0)  # 0: it is not known
        unsure = any(ratio[v] > highest for v in shown if v not in enough)
        for v in shown:
            share = SensitiveShare(
                field=name,
                value=str(field.values[v]),
                audience=fraction[v] if v in enough else None,
                pool=in_pool[v] / num_pool,
                impact=min(1.0, ratio[v] / highest) if highest else 1.0,
                bounded=unsure or v not in enough,
            )
            shares.append(share)
    return shares


def _counts(rows: UserRows, groups: Sequence[np.ndarray], num_values: int) -> list[np.ndarray]:
    """(V + 1,) number of users of each group who have each value; a user counts once per value.

    Args:
      rows: (U, S) values of all users; V where a slot is empty.
      groups: (U,) bool each.
      num_values: V.
    """
    counts = [np.zeros(num_values + 1, np.int64) for _ in groups]
    for start in range(0, len(rows), _BLOCK):
        own = np.sort(rows[start : start + _BLOCK], axis=1)
        first = np.ones(own.shape, bool)
        first[:, 1:] = own[:, 1:] != own[:, :-1]
        for count, group in zip(counts, groups, strict=True):
            members = group[start : start + _BLOCK]
            count += np.bincount(own[members][first[members]], minlength=num_values + 1)
    return counts
