"""Checkpoints: the state of a run, whole and checked, with orbax."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from metaheac_jax.errors import InputError


class Checkpoints:
    """The last two checkpoints of a run in a directory; use as a context manager.

    A save is finished when it returns: an interrupted one is never seen by `restore`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory).resolve()
        policies = ocp.training.save_decision_policies, ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            str(self.directory),
            # The caller decides when. (Orbax's own policies don't match its own annotations.)
            save_decision_policy=policies[0].FixedIntervalPolicy(1),  # pyrefly: ignore
            preservation_policy=policies[1].LatestN(2),  # pyrefly: ignore
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, None if there is none."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: Any) -> None:
        """Saves a pytree of arrays as of ``step``; it is on disk when this returns."""
        if self.latest != step and not self._checkpointer.save(step, state, force=True):
            raise OSError(f"{self.directory}: checkpoint of step {step} was not saved")

    def restore(self, like: Any) -> Any:
        """The newest checkpoint, as a pytree like ``like`` in structure, shapes and dtypes.

        Raises:
          InputError: there is none, or it differs from ``like``; the difference is named.
        """
        step = self.latest
        if step is None:
            raise InputError(f"{self.directory}: no checkpoint; run without --resume first")
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
        where = f"{self.directory}: checkpoint of step {step}"
        try:
            state = self._checkpointer.load(step, abstract)
        except (ValueError, KeyError, OSError, TypeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise InputError(f"{where} does not fit this run, or is damaged: {reason}") from error
        # A partial restore can be silent: compare what came back.
        if jax.tree.structure(state) != jax.tree.structure(like):
            raise InputError(f"{where} has another structure than this run's state")
        for (path, leaf), wanted in zip(
            jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(like), strict=True
        ):
            if np.shape(leaf) != wanted.shape or leaf.dtype != wanted.dtype:
                raise InputError(
                    f"{where}: {jax.tree_util.keystr(path)} is {np.shape(leaf)} {leaf.dtype}, "
                    f"expected {wanted.shape} {wanted.dtype}"
                )
        return state
