"""Exposures of a simulated world: drawn by targeting, and balanced to meet quotas.

Axes: U users (of a chunk), C campaigns, E exposures.
"""

from __future__ import annotations

import numpy as np

from metaheac_jax.data.simulation.campaigns import Campaigns
from metaheac_jax.data.simulation.users import Users


def appeal(campaigns: Campaigns, users: Users) -> np.ndarray:
    """(U, C) log-weight of showing a campaign to a user."""
    soft = users.persona @ campaigns.tilt
    hard = campaigns.gender[users.fields["gender"]] + campaigns.age[users.fields["age"]]
    return soft + hard


def balance_exposure(
    weights: np.ndarray, quota: np.ndarray, factor: np.ndarray, rounds: int
) -> np.ndarray:
    """(C,) factors of the weights at which expected exposures are proportional to the quota.

    Args:
      weights: (U, C) weights of showing a campaign to a user.
      quota: (C,) number of exposures.
      factor: (C,) initial factors.
      rounds: number of fixed-point iterations.
    """
    for _ in range(rounds):
        shown = (factor / (weights @ factor)[:, None] * weights).mean(0)
        factor = factor * quota / quota.sum() / np.maximum(shown, 1e-9)
    return factor


def expose(
    weights: np.ndarray, occur: float, examples_per_user: float, rng: np.random.Generator
) -> np.ndarray:
    """(2, E) random pairs of users and campaigns.

    Args:
      weights: (U, C) weights of showing a campaign to a user.
      occur: fraction of users who occur.
      examples_per_user: mean number of distinct campaigns, 1 to 3, of a user who occurs.
      rng: makes all draws.
    """
    more = examples_per_user - 1
    dart = rng.random(len(weights))
    user = np.flatnonzero(dart < occur)
    race = rng.standard_exponential((len(user), weights.shape[1]))
    race = weights[user] / np.maximum(race, 1e-30)
    pairs = []
    for fraction in (1.0, 0.9 * more, 0.1 * more):  # a first, second and third campaign
        remaining = np.flatnonzero(dart[user] < occur * fraction)
        winner = race[remaining].argmax(1)
        race[remaining, winner] = 0
        pairs.append(np.stack([user[remaining], winner]))
    return np.concatenate(pairs, axis=1)
