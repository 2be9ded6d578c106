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


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: P(positive above negative) + P(tie) / 2.

    Args:
      scores: (P,) scores, of which only the order matters.
      labels: (P,) 1 or 0; both must occur.

    Raises:
      ValueError: there is a single class, or a score is not a number.
    """
    labels = np.asarray(labels, bool)
    positives = int(labels.sum())
    pairs = positives * (len(labels) - positives)
    if not pairs or np.isnan(scores).any():
        raise ValueError("AUC needs both classes, and scores that are numbers")
    values, position = np.unique(scores, return_inverse=True)
    total = np.bincount(position, minlength=len(values))
    positive = np.bincount(position[labels], minlength=len(values))
    below = np.cumsum(total - positive) - (total - positive)
    # Counts of half pairs are integers, so only the division rounds.
    halves = int((positive * (2 * below + (total - positive))).sum())
    return halves / (2 * pairs)


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
    scores: np.ndarray, labels: np.ndarray, ids: np.ndarray, percent: float = 5.0
) -> Metrics | str:
    """Metrics of a campaign, or the reason why it cannot be judged.

    Args:
      scores, labels, ids: (P,) scores, 1 or 0, user ids.
      percent: K; the top has floor(P K / 100) candidates, at least one.
    """
    positives = int(labels.sum())
    if len(labels) < MIN_CANDIDATES:
        return f"{len(labels)} candidates, fewer than {MIN_CANDIDATES}"
    if positives in (0, len(labels)):
        return f"{positives} positives among {len(labels)} candidates"
    best = top(scores, ids, max(1, percent_of(len(labels), percent)))
    hits = int(labels[best].sum())
    return Metrics(auc(scores, labels), hits / len(best), hits / positives)
