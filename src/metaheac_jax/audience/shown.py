"""How many of the users who were shown a campaign and did not convert become non-seeds.

The examples of a campaign are seeds and users drawn from the pool, so in them the odds of being a
seed are a user's relative rate of converting times the number of seeds per non-seed. Among users
who were shown the campaign they are the odds of converting, which are far lower where few users
convert. If all of them became examples, users like those in an audience would sink below users who
were never shown the campaign. A random part of those who did not convert therefore becomes
non-seeds, so large that both samples agree on how many convert (King and Zeng, "Logistic regression
in rare events data", 2001, on the odds of such samples).

Axes: F users who were shown the campaign, n held-out examples.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import expit

_CERTAIN = 50.0  # log-odds whose probability is 1 in double precision


def share_to_keep(
    scores: np.ndarray, converted: np.ndarray, held_out: np.ndarray, labels: np.ndarray
) -> float:
    """The fraction of the users without conversion who become non-seeds, at most 1.

    With this fraction, the converts are as many as the model expects among the users who are kept.
    Whether users who were shown the campaign convert more often than others is then as the model
    has it; who of them does is learned from the feedback.

    Args:
      scores: (F,) finite scores by a model that has not learned from these users, which differ from
        log-odds at the ratio of its examples by a constant at most.
      converted: (F,) bool.
      held_out: (n,) its scores of examples that it has not learned from, at the same ratio. They
        give the constant; a model has remembered those that it has learned from.
      labels: (n,) 1 for a seed and 0 for a non-seed; both occur.
    """
    constant = _shift(held_out, float(labels.sum()))
    # Half a convert more, so that some users remain where nobody has converted.
    expected = min(converted.sum() + 0.5, len(scores) - 0.5)
    return float(min(1.0, np.exp(_shift(scores + constant, expected))))


def _shift(scores: np.ndarray, total: float) -> float:
    """The constant that, added to (n,) log-odds, makes their probabilities add up to ``total``."""
    own = scores.astype(float)
    bounds = -_CERTAIN - own.max(), _CERTAIN - own.min()
    return root_scalar(lambda constant: expit(own + constant).sum() - total, bracket=bounds).root
