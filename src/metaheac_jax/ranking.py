"""Quality of the ranking of a campaign's candidates (paper section 4.1), in float64 on the host.

Axes: P candidates of a campaign.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

#: A campaign with fewer candidates, or with a single class, cannot be judged.
MIN_CANDIDATES = 20


class Metrics(NamedTuple):
    """Metrics of one campaign: AUC, and precision and recall of its top K% of candidates."""

    auc: float
    precision: float
    recall: float


def percent_of(count: int, percent: float) -> int:
    """floor(count percent / 100), exact for the decimal number that ``percent`` is written as."""
    return int(count * Fraction(str(percent)) / 100)


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Area under the ROC curve: P(positive above negative) + P(tie) / 2.

    Args:
      scores: (P,) scores, of which only the order matters.
      labels: (P,) 1 or 0; both must occur.
      weights: (P,) above 0, how much each candidate counts; None if all count 1.

    Raises:
      ValueError: there is a single class, or a score is not a number.
    """
    labels = np.asarray(labels, bool)
    positives = int(labels.sum())
    pairs = positives * (len(labels) - positives)
    if not pairs or np.isnan(scores).any():
        raise ValueError("AUC needs both classes, and scores that are numbers")
    values, position = np.unique(scores, return_inverse=True)
    some = None if weights is None else weights[labels]
    total = np.bincount(position, weights, minlength=len(values))
    positive = np.bincount(position[labels], some, minlength=len(values))
    negative = total - positive
    below = np.cumsum(negative) - negative
    # Without weights, counts of half pairs are integers, so only the division rounds.
    halves = (positive * (2 * below + negative)).sum()
    return float(halves / (2 * positive.sum() * negative.sum()))


def top(scores: np.ndarray, ids: np.ndarray, size: int) -> np.ndarray:
    """Positions of the ``size`` highest scores, best first; the smaller id wins a tie.

    Args:
      scores: (P,).
      ids: (P,) user ids.
      size: number of positions; all P if it is larger.
    """
    size = min(size, len(scores))
    if size == 0:
        return np.empty(0, np.int64)
    able = np.flatnonzero(scores >= np.partition(scores, -size)[-size])
    return able[np.lexsort((ids[able], -scores[able]))[:size]]


def campaign_metrics(
    scores: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
    percent: float = 5.0,
    weights: np.ndarray | None = None,
) -> Metrics | str:
    """Metrics of a campaign, or the reason why it cannot be judged.

    Args:
      scores, labels, ids: (P,) scores, 1 or 0, user ids.
      percent: K; the top has floor(P K / 100) candidates, at least one.
      weights: (P,) how much each candidate counts in the metrics; None if all count 1.
    """
    positives = int(labels.sum())
    if len(labels) < MIN_CANDIDATES:
        return f"{len(labels)} candidates, fewer than {MIN_CANDIDATES}"
    if positives in (0, len(labels)):
        return f"{positives} positives among {len(labels)} candidates"
    best = top(scores, ids, max(1, percent_of(len(labels), percent)))
    counts = np.ones(len(labels)) if weights is None else weights
    hits = float(counts[best] @ labels[best])
    shares = hits / float(counts[best].sum()), hits / float(counts @ labels)
    return Metrics(auc(scores, labels, weights), *shares)
