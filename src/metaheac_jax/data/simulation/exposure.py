"""Who is shown what in a simulated world: by targeting, and balanced so that quotas are kept.

Axes: U users (of a chunk), C campaigns, E exposures.
"""

from __future__ import annotations

import numpy as np

from metaheac_jax.data.simulation.campaigns import Campaigns
from metaheac_jax.data.simulation.users import Users


def appeal(campaigns: Campaigns, users: Users) -> np.ndarray:
    """(U, C) log-weight with which a campaign is shown to a user."""
    soft = users.persona @ campaigns.tilt.astype(np.float32)
    hard = campaigns.gender[users.fields["gender"]] + campaigns.age[users.fields["age"]]
    return soft + hard.astype(np.float32)


def balance_exposure(
    weights: np.ndarray, quota: np.ndarray, factor: np.ndarray, rounds: int
) -> np.ndarray:
    """(C,) factors of the (U, C) weights that share users' exposures out as the quota does."""
    for _ in range(rounds):
        shown = (factor / (weights @ factor)[:, None] * weights).mean(0)
        factor = (factor * quota / quota.sum() / np.maximum(shown, 1e-9)).astype(np.float32)
    return factor


def expose(
    weights: np.ndarray, occur: float, rows_per_user: float, rng: np.random.Generator
) -> np.ndarray:
    """(2, E) users and campaigns: a user's one to three distinct campaigns, by weight."""
    more = rows_per_user - 1
    dart = rng.random(len(weights))
    user = np.flatnonzero(dart < occur)
    race = rng.standard_exponential((len(user), weights.shape[1]), np.float32)
    race = weights[user] / np.maximum(race, 1e-30)
    pairs = []
    for share in (1.0, 0.9 * more, 0.1 * more):  # 1 + .9 more + .1 more rows on average
        still = np.flatnonzero(dart[user] < occur * share)
        first = race[still].argmax(1)
        race[still, first] = 0
        pairs.append(np.stack([user[still], first]))
    return np.concatenate(pairs, axis=1)
