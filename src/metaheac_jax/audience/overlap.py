"""How many users several audiences share.

Axes: A audiences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaheac_jax.data.campaign import UserIds, check_user_ids
from metaheac_jax.errors import InputError


@dataclass(frozen=True)
class Overlap:
    """The users that pairs of audiences share.

    Attributes:
      names: names of the audiences.
      count: (A, A) int64, number of users in both audiences; the diagonal holds the sizes.
    """

    names: tuple[str, ...]
    count: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """(A,) number of users in each audience."""
        return self.count.diagonal()

    @property
    def share(self) -> np.ndarray:
        """(A, A) fraction of the users of the first audience who are also in the second."""
        return self.count / self.sizes[:, None]

    @property
    def jaccard(self) -> np.ndarray:
        """(A, A) number of users in both audiences, divided by the number in either."""
        return self.count / (self.sizes[:, None] + self.sizes - self.count)


def audience_overlap(names: Sequence[str], audiences: Sequence[UserIds]) -> Overlap:
    """Counts the users that each pair of audiences shares.

    Args:
      names: names of the audiences, for tables.
      audiences: user ids of each audience; a repeated id counts once.

    Raises:
      InputError: an audience has no users, or ids are neither all whole numbers nor all text.
    """
    text = any(np.asarray(audience).dtype.kind in "SU" for audience in audiences)
    members = [np.unique(check_user_ids(audience, text=text)) for audience in audiences]
    for name, own in zip(names, members, strict=True):
        if not len(own):
            raise InputError(f"{name}: no users")
    count = [[np.isin(one, other).sum() for other in members] for one in members]
    return Overlap(tuple(names), np.array(count, np.int64))
