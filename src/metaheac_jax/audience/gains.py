"""Gains tables: who converts, by tenth of the users, best first.

Axes: P users of a group, such as a campaign's pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gain:
    """A row of a gains table: one tenth of the users of each group, by score.

    Attributes:
      decile: 1 to 10, where 1 has the highest scores.
      users: number of users.
      converts: number of these users who convert.
      lift: their conversion rate, divided by that of all users.
      share: fraction of all converts that are in this decile or a better one.
    """

    decile: int
    users: int
    converts: int
    lift: float
    share: float

    @property
    def rate(self) -> float:
        """Fraction of the users who convert."""
        return self.converts / self.users


def gains_of(groups: Iterable[np.ndarray]) -> list[Gain]:
    """Users and converts by decile, summed over groups, each of which is divided separately.

    A decile without users (if every group has fewer than 10) is not returned.

    Args:
      groups: (P,) labels of each group's users, best user first: 1 for converts and 0 for others.

    Raises:
      ValueError: no user converts.
    """
    users, converts = np.zeros(10, int), np.zeros(10, int)
    for labels in groups:
        decile = 10 * np.arange(len(labels)) // len(labels)
        users += np.bincount(decile, minlength=10)
        converts += np.bincount(decile, labels, minlength=10).astype(int)
    if not converts.any():
        raise ValueError("a gains table needs a user who converts")
    overall = converts.sum() / users.sum()
    shares = np.cumsum(converts) / converts.sum()
    return [
        Gain(d + 1, int(n), int(hits), float(hits / n / overall), float(share))
        for d, (n, hits, share) in enumerate(zip(users, converts, shares, strict=True))
        if n
    ]
