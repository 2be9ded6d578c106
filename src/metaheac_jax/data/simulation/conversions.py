"""Conversions of a simulated world.

Axes: C campaigns, E examples, D persona dimensions.
"""

from __future__ import annotations

import numpy as np

from metaheac_jax.progress import Progress, silent

_HALVINGS = 16  # of the interval that contains the scale


def linear_and_pairwise(x: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(E, D) x of users, (2, D, PAIRS) directions -> (E, D + PAIRS) linear and pairwise terms."""
    x = x.astype(np.float64)
    left, right = directions
    return np.concatenate([x, (x @ left) * (x @ right)], axis=1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Log-odds -> probability, of any shape."""
    return 1 / (1 + np.exp(-x))


def find_intercepts(log_odds: np.ndarray, campaign: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """(C,) intercepts that give each campaign its mean probability, by bisection.

    Args:
      log_odds: (E,) log-odds without intercepts.
      campaign: (E,) campaign of each example.
      rate: (C,) mean probability to reach.
    """
    count = np.maximum(np.bincount(campaign, minlength=len(rate)), 1)
    low, high = np.full(len(rate), -40.0), np.full(len(rate), 40.0)
    for _ in range(40):
        middle = (low + high) / 2
        mean = np.bincount(campaign, sigmoid(log_odds + middle[campaign]), len(rate)) / count
        low, high = np.where(mean < rate, middle, low), np.where(mean < rate, high, middle)
    return (low + high) / 2


def find_scale(
    affinity: np.ndarray,
    campaign: np.ndarray,
    rate: np.ndarray,
    auc: float,
    progress: Progress = silent,
) -> float:
    """The common factor of the affinities at which the expected AUC is ``auc``.

    Args:
      affinity: (E,) log-odds before scaling, without intercepts.
      campaign: (E,) campaign of each example.
      rate: (C,) mean probability of each campaign.
      auc: the AUC to reach, as a mean over campaigns.
      progress: receives the number of halvings done.
    """
    order = np.lexsort((affinity, campaign))
    affinity, campaign = affinity[order], campaign[order]
    start = np.searchsorted(campaign, np.arange(len(rate)))[campaign]

    def expected_auc(scale: float) -> float:
        intercepts = find_intercepts(scale * affinity, campaign, rate)
        p = sigmoid(scale * affinity + intercepts[campaign])
        below = np.cumsum(1 - p) - (1 - p)
        below -= below[start]  # expected negatives below an example, in its campaign
        pairs = [np.bincount(campaign, x, len(rate)) for x in (p * below, p, 1 - p, p * (1 - p))]
        return float(np.mean(pairs[0] / (pairs[1] * pairs[2] - pairs[3])))

    low, high = 0.0, 5.0
    for halving in range(_HALVINGS):
        progress("setting the conversions", halving, _HALVINGS)
        middle = (low + high) / 2
        low, high = (middle, high) if expected_auc(middle) < auc else (low, middle)
    return (low + high) / 2


def draw_labels(
    probability: np.ndarray, campaign: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(E,) int8 labels, 1 or 0, by systematic sampling.

    The probabilities are summed in a random order, from a random offset per campaign. An example is
    positive if the running sum passes a whole number there.

    Args:
      probability: (E,).
      campaign: (E,) campaign of each example.
      rng: draws the order and the offsets.
    """
    order = np.lexsort((rng.random(len(campaign)), campaign))
    passed = np.cumsum(probability[order])
    first = np.searchsorted(campaign[order], np.arange(campaign.max() + 1))
    offset = rng.random(campaign.max() + 1) - (passed - probability[order])[first]
    passed += offset[campaign[order]]
    label = np.empty(len(campaign), np.int8)
    label[order] = np.floor(passed) > np.floor(passed - probability[order])
    return label
