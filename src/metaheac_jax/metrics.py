"""How good a ranking of a campaign's candidates is (paper section 4.1), in float64 on the host.

Axes: P candidates of a campaign.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: A campaign with fewer candidates, or with one class only, cannot be judged: it is named instead.
LEAST_CANDIDATES = 20


class Judgement(NamedTuple):
    """One campaign's figures: AUC, precision and recall of its top K% of candidates."""

    auc: float
    precision: float
    recall: float


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: P(positive above negative) + P(tie) / 2; exact under ties.

    Args:
      scores: (P,) any order-preserving score.
      labels: (P,) 1 or 0, both present.

    Raises:
      ValueError: a single class, or a score that is not a number.
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
    # Counts of half pairs are integers: nothing is rounded before the division.
    halves = int((positive * (2 * below + (total - positive))).sum())
    return halves / (2 * pairs)


def top(scores: np.ndarray, keys: np.ndarray, size: int) -> np.ndarray:
    """Positions of the ``size`` highest scores, best first; ties go to the smaller key.

    Args:
      scores: (P,).
      keys: (P,) user ids.
      size: at most P are returned.
    """
    size = min(size, len(scores))
    if size == 0:
        return np.empty(0, np.int64)
    # All that tie with the last one in stay in for the sort, which then breaks the ties.
    threshold = np.partition(scores, len(scores) - size)[len(scores) - size]
    able = np.flatnonzero(scores >= threshold)
    return able[np.lexsort((keys[able], -scores[able]))][:size]


def judge(
    scores: np.ndarray, labels: np.ndarray, keys: np.ndarray, percent: float = 5.0
) -> Judgement | str:
    """A campaign's figures, or why it cannot be judged.

    Args:
      scores, labels, keys: (P,) scores, 1 or 0, user ids.
      percent: K; the top holds floor(P K / 100) candidates, at least one.
    """
    positives = int(labels.sum())
    if len(labels) < LEAST_CANDIDATES:
        return f"{len(labels)} candidates, fewer than {LEAST_CANDIDATES}"
    if positives in (0, len(labels)):
        return f"{positives} positives among {len(labels)} candidates"
    best = top(scores, keys, max(1, int(len(labels) * percent / 100)))
    hits = int(labels[best].sum())
    return Judgement(auc(scores, labels), hits / len(best), hits / positives)
