"""Gains tables: who converts, by tenth of the users, best first; and tables of text.

Axes: P users of a group, such as a campaign's pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class TextTable(NamedTuple):
    """A table of text.

    Attributes:
      title: title of the table.
      header: names of the columns.
      rows: cells of each row.
      num_names: number of leading columns that hold names; the others hold numbers.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int = 0


@dataclass(frozen=True)
class Gain:
    """A row of a gains table: one tenth of the users of each group, by score.

    Attributes:
      decile: 1 to 10, where 1 has the highest scores.
      users: number of users.
      converts: number of these users who convert.
      rate: fraction of the users who convert.
      lift: their conversion rate, divided by that of all users.
      share: fraction of all converts that are in this decile or a better one.
    """

    decile: int
    users: int
    converts: int
    rate: float
    lift: float
    share: float


def gains_of(groups: Iterable[np.ndarray]) -> list[Gain]:
    """Users and converts by decile, summed over groups, each of which is divided separately.

    A decile without users (if every group has fewer than 10) is not returned.

    Args:
      groups: (P,) labels of each group's users, best user first: 1 for converts and 0 for others.

    Returns:
      The deciles; none if no user converts.
    """
    users, converts = np.zeros(10, int), np.zeros(10, int)
    for labels in groups:
        decile = 10 * np.arange(len(labels)) // max(1, len(labels))
        users += np.bincount(decile, minlength=10)
        converts += np.bincount(decile, labels, minlength=10).astype(int)
    if not converts.any():
        return []
    overall = converts.sum() / users.sum()
    shares = np.cumsum(converts) / converts.sum()
    return [
        Gain(d + 1, int(n), int(hits), float(hits / n), float(hits / n / overall), float(share))
        for d, (n, hits, share) in enumerate(zip(users, converts, shares, strict=True))
        if n
    ]


def gains_table(gains: Sequence[Gain], title: str = "") -> TextTable:
    """A gains table as text."""
    rows = []
    for own in gains:
        counts = (f"{own.decile}", f"{own.users:,}", f"{own.converts:,}")
        rows.append([*counts, f"{own.rate:.4f}", f"{own.lift:.2f}", f"{own.share:.3f}"])
    return TextTable(title, ["tenth", "users", "converts", "rate", "lift", "share of all"], rows)
