"""Who is in which audience if nobody may be in more than so many.

Axes: G campaigns, n candidates of a campaign, U users of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_TOLERANCE = 1e-9  # of a probability
_SCALE = 1000.0  # of the largest coefficient of the linear program
_FEW = 200_000  # candidates of a program that is solved at once
_FRACTION = 16  # one in so many users tells the first prices of a larger program
_SPARE = 1.25  # first candidates of a larger program per place in an audience


class Candidates(NamedTuple):
    """Users for one campaign, best first.

    Attributes:
      chances: (n,) probabilities of converting, descending.
      users: (n,) their numbers among U.
      size: number of places in the audience.
    """

    chances: np.ndarray
    users: np.ndarray
    size: float

    def among(self, some: np.ndarray) -> Candidates:
        """Those of (n,) bool."""
        return Candidates(self.chances[some], self.users[some], self.size)


def num_needed(sizes: Sequence[int], per_user: int) -> list[int]:
    """(G,) how many of its best candidates each campaign may need, for either way of sharing.

    A user is out of reach only if she is in ``per_user`` other audiences, which have so many
    places; any other user is taken before those who rank lower.
    """
    return [size + (sum(sizes) - size) // per_user for size in sizes]


def share_users(campaigns: Sequence[Candidates], per_user: int) -> list[np.ndarray]:
    """Chooses audiences with the most expected conversions.

    This is a transportation problem, so the linear program has a whole solution.

    Args:
      campaigns: G, each with as many candidates as `num_needed`, or all.
      per_user: number of audiences that a user may be in.

    Returns:
      The positions of the users in each audience, ascending.
    """
    return [np.flatnonzero(own) for own in _solve(campaigns, per_user)[0]]


def share_in_order(campaigns: Sequence[Candidates], per_user: int) -> list[np.ndarray]:
    """Chooses audiences one after another, each without users who are in enough earlier ones.

    The arguments and the result are those of `share_users`.
    """
    count, chosen = np.zeros(_num_users(campaigns), int), list[np.ndarray]()
    for own in campaigns:
        free = np.flatnonzero(count[own.users] < per_user)[: int(own.size)]
        count[own.users[free]] += 1
        chosen.append(free)
    return chosen


def _solve(campaigns: Sequence[Candidates], per_user: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Of each campaign (n,) bool, who is chosen, and (G,) the prices of a place in its audience.

    A large program is solved with few candidates, whom prices in a sample of users tell, and again
    with those who are better at its own prices, until there are none.
    """
    if sum(len(own.users) for own in campaigns) <= _FEW:
        return _solve_whole(campaigns, per_user)
    sample = []
    for chances, users, size in campaigns:
        some = users % _FRACTION == 0
        sample.append(Candidates(chances[some], users[some] // _FRACTION, size / _FRACTION))
    prices = _solve(sample, per_user)[1]
    gain = _needed_gain(campaigns, prices, per_user)
    kept, num_users = list[np.ndarray](), len(gain)
    for (chances, users, size), price in zip(campaigns, prices, strict=True):
        short, first = gain[users] - (chances - price), int(_SPARE * size)
        kept.append(short <= (np.partition(short, first)[first] if first < len(short) else np.inf))
    while True:
        some = [own.among(which) for own, which in zip(campaigns, kept, strict=True)]
        chosen, prices = _solve_whole(some, per_user)
        gain = _needed_gain(some, prices, per_user, num_users) + _TOLERANCE
        better = [
            ~which & (own.chances - price > gain[own.users])
            for own, price, which in zip(campaigns, prices, kept, strict=True)
        ]
        if not any(own.any() for own in better):
            break
        kept = [which | more for which, more in zip(kept, better, strict=True)]
    for which, own in zip(kept, chosen, strict=True):
        which[which] = own
    return kept, prices


def _solve_whole(
    campaigns: Sequence[Candidates], per_user: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """The result of `_solve`, by one linear program."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix, vstack

    lengths = [len(own.users) for own in campaigns]
    chances = np.concatenate([own.chances for own in campaigns]).astype(float)
    user = np.concatenate([own.users for own in campaigns])
    ones, pair = np.ones(len(user)), np.arange(len(user))
    campaign = np.repeat(np.arange(len(lengths)), lengths)
    places = csr_matrix((ones, (campaign, pair)), (len(lengths), len(pair)))
    wanted = np.bincount(user)[user] > per_user  # no other user's limit can bind
    row = np.unique(user[wanted], return_inverse=True)[1]
    limits = csr_matrix((ones[wanted], (row, pair[wanted])), (row.max(initial=-1) + 1, len(pair)))
    most = np.append([own.size for own in campaigns], np.full(limits.shape[0], per_user))
    unit = chances.max() / _SCALE  # the solver's tolerance is absolute
    found = linprog(
        -chances / unit, vstack([places, limits]), most, bounds=(0, 1), method="highs-ds"
    )
    if found.status:
        raise RuntimeError(f"audiences cannot be shared out: {found.message}")
    prices = -unit * found.ineqlin.marginals[: len(campaigns)]
    return np.split(found.x > 0.5, np.cumsum(lengths)[:-1]), prices


def _needed_gain(
    campaigns: Sequence[Candidates], prices: np.ndarray, per_user: int, num_users: int | None = None
) -> np.ndarray:
    """(U,) the gain, chance less price, of the last audience that each user chooses, or 0."""
    best = np.zeros((min(per_user, len(campaigns)), num_users or _num_users(campaigns)))
    for (chances, users, _), price in zip(campaigns, prices, strict=True):
        gain = chances - price
        for level in best:  # descending
            before = level[users]
            level[users], gain = np.maximum(before, gain), np.minimum(before, gain)
    return best[-1]


def _num_users(campaigns: Sequence[Candidates]) -> int:
    return 1 + max((int(own.users.max()) for own in campaigns if len(own.users)), default=-1)
