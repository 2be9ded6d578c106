"""Checkpoints of trainings on several devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from metaheac_jax.processes import from_first
from metaheac_jax.training.checkpoint import Checkpoints, help_to_restore, help_to_save
from metaheac_jax.training.sharding import Placement


class MeshCheckpoints:
    """`Checkpoints` of states on a mesh; on disk they are the same as without a mesh.

    The first process writes and verifies them. The others must see the same directory.
    """

    def __init__(
        self, checkpoints: Checkpoints | None, directory: Path, placement: Placement
    ) -> None:
        """Args:
        checkpoints: those in the directory; None in all processes but the first.
        directory: the same in all processes.
        placement: where the arrays of states live.
        """
        self._checkpoints, self._directory, self._placement = checkpoints, directory, placement

    @property
    def latest(self) -> int | None:
        """As `Checkpoints.latest`."""
        return from_first(None if self._checkpoints is None else self._checkpoints.latest)

    def save(self, step: int, state: Any) -> None:
        """As `Checkpoints.save`."""
        if self.latest == step:
            return
        state = self._placement.fetch(state)
        if self._checkpoints is not None:
            self._checkpoints.save(step, state)
        else:
            help_to_save(self._directory, step, state)

    def restore(self, like: Any) -> Any:
        """As `Checkpoints.restore`."""
        like = self._placement.like(like)
        if self._checkpoints is not None:
            state = self._checkpoints.restore(like, announce=from_first)
        else:
            state = help_to_restore(self._directory, from_first(0), like)
        return jax.tree.map(jnp.asarray, self._placement.place(state))
