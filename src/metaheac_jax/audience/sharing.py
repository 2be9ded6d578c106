"""Who is in which audience if nobody may be in more than so many.

Axes: G campaigns, n candidates of a campaign.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_TOLERANCE = 1e-9  # of a probability
_SCALE = 1000.0  # of the largest coefficient of the linear program


class Candidates(NamedTuple):
    """Users for one campaign, best first.

    Attributes:
      chances: (n,) probabilities of converting, descending.
      ids: (n,) their ids.
      size: number of users in the audience.
      complete: whether there are no others.
    """

    chances: np.ndarray
    ids: np.ndarray
    size: int
    complete: bool


def share_users(campaigns: Sequence[Candidates], per_user: int) -> list[np.ndarray] | None:
    """Chooses audiences with the most expected conversions.

    This is a transportation problem, so the linear program has a whole solution. Its prices of the
    places in audiences tell whether other candidates could be in a better one.

    Args:
      campaigns: G.
      per_user: number of audiences that a user may be in.

    Returns:
      The positions of the users in each audience, ascending; None if candidates that were left out
      may be needed.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix, vstack

    sizes, campaign, user = _pairs(campaigns)
    chances = np.concatenate([campaign.chances for campaign in campaigns]).astype(float)
    count, pair = np.bincount(user), np.arange(len(user))
    wanted = count[user] > per_user  # no other user's limit can bind
    row = np.unique(user[wanted], return_inverse=True)[1]
    ones = np.ones(len(pair))
    places = csr_matrix((ones, (campaign, pair)), (len(campaigns), len(pair)))
    limits = csr_matrix((ones[wanted], (row, pair[wanted])), (row.max(initial=-1) + 1, len(pair)))
    most = np.concatenate([sizes, np.full(limits.shape[0], per_user)])
    unit = chances.max() / _SCALE  # the solver's tolerance is absolute
    found = linprog(
        -chances / unit, vstack([places, limits]), most, bounds=(0, 1), method="highs-ds"
    )
    if found.status:
        raise RuntimeError(f"audiences cannot be shared out: {found.message}")
    prices = -unit * found.ineqlin.marginals[: len(campaigns)]
    for campaign, price in zip(campaigns, prices, strict=True):
        if not campaign.complete and campaign.chances[-1] > price + _TOLERANCE:
            return None
    parts = np.split(found.x > 0.5, np.cumsum([len(campaign.ids) for campaign in campaigns])[:-1])
    return [np.flatnonzero(part) for part in parts]


def share_in_order(campaigns: Sequence[Candidates], per_user: int) -> list[np.ndarray] | None:
    """Chooses audiences one after another, each without users who are in enough earlier ones.

    The arguments and the result are those of `share_users`.
    """
    _, campaign, user = _pairs(campaigns)
    count, chosen = np.zeros(user.max(initial=-1) + 1, int), list[np.ndarray]()
    for number, own in enumerate(campaigns):
        users = user[campaign == number]
        free = np.flatnonzero(count[users] < per_user)[: own.size]
        if len(free) < own.size and not own.complete:
            return None
        count[users[free]] += 1
        chosen.append(free)
    return chosen


def _pairs(campaigns: Sequence[Candidates]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The sizes, and of all candidates the number of the campaign, and a number of the user."""
    lengths = [len(campaign.ids) for campaign in campaigns]
    _, user = np.unique(
        np.concatenate([campaign.ids for campaign in campaigns]), return_inverse=True
    )
    return (
        [campaign.size for campaign in campaigns],
        np.repeat(np.arange(len(lengths)), lengths),
        user,
    )
