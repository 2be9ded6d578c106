"""Early stopping: the model with the lowest held-out loss for each campaign of a group.

Axes: G campaigns adapted together, n examples of a campaign.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def hold_out(
    label: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to fit and positions held out: a fraction of each class, at least one of each.

    Without a held-out seed, the model with the smallest predictions would have the lowest held-out
    loss. So if a class has a single example, nothing is held out.

    Args:
      label: (n,) labels.
      fraction: fraction of the seeds, and of the non-seeds; 0 holds nothing out.
      rng: draws the held-out examples.
    """
    classes = [np.flatnonzero(label == kind) for kind in (0, 1)]
    if not fraction or min(map(len, classes)) < 2:
        return np.arange(len(label)), np.empty(0, int)
    held = [rng.permutation(of)[: max(1, int(fraction * len(of)))] for of in classes]
    out = np.concatenate(held)
    return np.setdiff1d(np.arange(len(label)), out), out


class EarlyStopping:
    """Keeps the best models of a group and decides which campaigns go on."""

    def __init__(
        self,
        models: Any,
        losses: np.ndarray,
        *,
        patience: int,
        select: Callable[[np.ndarray, Any, Any], Any],
    ) -> None:
        """Args:
        models: the models before the first epoch, stacked over G.
        losses: (G,) their held-out losses; NaN counts as infinite.
        patience: number of epochs without a lower loss after which a campaign stops.
        select: ``select(better, new, old)`` takes new models where (G,) ``better`` holds; it may
          reuse the memory of the old ones.
        """
        self.best = models
        self._least, self._worse = _numbers(losses), np.zeros(len(losses), int)
        self.improved = np.zeros(len(losses), bool)  # (G,) whether an epoch beat the start
        self._patience, self._select = patience, select

    def update(self, models: Any, losses: np.ndarray) -> None:
        """Takes the models and their held-out losses after one more epoch."""
        losses = _numbers(losses)
        better = losses < self._least
        self.best = self._select(better, models, self.best)
        self.improved |= better
        self._worse = np.where(better, 0, self._worse + 1)
        self._least = np.minimum(losses, self._least)

    @property
    def going(self) -> np.ndarray:
        """(G,) bool, which campaigns go on."""
        return self._worse < self._patience


def _numbers(losses: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(losses), np.inf, losses)
