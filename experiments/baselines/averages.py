"""The ensemble with a second solved head in place of the learned prior.

It costs as much, so it shows what averaging gains without another kind of model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metaheac_jax.methods import EnsembleMethod, Offline, SolvedHeadMethod, Trained, register

_SEEDS = 1000  # the two heads are this many seeds apart


@register
class SecondHead(SolvedHeadMethod):
    """A solved head from other initial values and batches."""

    name, label = "second-head", "Second solved head"

    def train(self, offline: Offline) -> Trained:
        """Trains it with a seed of its own."""
        return super().train(replace(offline, seed=offline.seed + _SEEDS))


@register
class TwoHeads(EnsembleMethod):
    """The weighted sum of the log-odds of two solved heads and LR."""

    name, label = "two-heads", "Two solved heads and LR"

    @property
    def members(self) -> tuple[Any, ...]:
        """The methods whose models are added."""
        head, _, regression = super().members
        return head, SecondHead(self.config.head), regression
