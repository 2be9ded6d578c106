"""Who converts in a simulated world.

Axes: U users, C campaigns, E examples, D persona dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np


class Truth(NamedTuple):
    """What decides conversions, for pairs that the files have no line of, too.

    Attributes:
      key: (U,) uid of every user, ascending; ``aid``: (C,) of every campaign, ascending.
      traits: (U, D) float32, x of every user, in the order of `PERSONA`.
      pairs: (2, D, PAIRS) the directions whose products are the pairwise terms.
      weights: (D + PAIRS, C) of the linear and pairwise terms.
      intercept: (C,).
    """

    key: np.ndarray
    aid: np.ndarray
    traits: np.ndarray
    pairs: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray

    def probability(self, user: np.ndarray, campaign: np.ndarray) -> np.ndarray:
        """(E,) true conversion probability of users (E,) and campaigns (E,), by position."""
        terms = terms_of(self.traits[user], self.pairs)
        odds = np.einsum("et,te->e", terms, self.weights[:, campaign])
        return sigmoid(odds + self.intercept[campaign])


def read_truth(directory: Path) -> Truth:
    """What decides conversions in a world that `write_world` has written."""
    with np.load(directory / "truth.npz", allow_pickle=False) as file:
        return Truth(**file)


def terms_of(x: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(E, D) x of users -> (E, D + PAIRS) linear and pairwise terms."""
    x = x.astype(np.float64)
    left, right = directions
    return np.concatenate([x, (x @ left) * (x @ right)], axis=1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Of log-odds."""
    return 1 / (1 + np.exp(-x))


def intercepts_of(log_odds: np.ndarray, campaign: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """(C,) intercepts that give every campaign its rate, by bisection."""
    count = np.maximum(np.bincount(campaign, minlength=len(rate)), 1)
    low, high = np.full(len(rate), -40.0), np.full(len(rate), 40.0)
    for _ in range(40):
        middle = (low + high) / 2
        mean = np.bincount(campaign, sigmoid(log_odds + middle[campaign]), len(rate)) / count
        low, high = np.where(mean < rate, middle, low), np.where(mean < rate, high, middle)
    return (low + high) / 2


def scale_of(like: np.ndarray, campaign: np.ndarray, rate: np.ndarray, auc: float) -> float:
    """The factor of all likings at which the expected AUC, mean over campaigns, is ``auc``."""
    order = np.lexsort((like, campaign))
    like, campaign = like[order], campaign[order]
    start = np.searchsorted(campaign, np.arange(len(rate)))[campaign]

    def reached(scale: float) -> float:
        p = sigmoid(scale * like + intercepts_of(scale * like, campaign, rate)[campaign])
        below = np.cumsum(1 - p) - (1 - p)
        below -= below[start]  # non-converting mass below a row, in its campaign
        pairs = [np.bincount(campaign, x, len(rate)) for x in (p * below, p, 1 - p, p * (1 - p))]
        return float(np.mean(pairs[0] / (pairs[1] * pairs[2] - pairs[3])))

    low, high = 0.0, 5.0
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < auc else (low, middle)
    return (low + high) / 2


def draw_labels(
    probability: np.ndarray, campaign: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(E,) 1 or -1: in a random order, wherever the running sum of p passes a whole number."""
    order = np.lexsort((rng.random(len(campaign)), campaign))
    passed = np.cumsum(probability[order])
    first = np.searchsorted(campaign[order], np.arange(campaign.max() + 1))
    offset = rng.random(campaign.max() + 1) - (passed - probability[order])[first]
    passed += offset[campaign[order]]
    label = np.empty(len(campaign), np.int64)
    label[order] = np.where(np.floor(passed) > np.floor(passed - probability[order]), 1, -1)
    return label
