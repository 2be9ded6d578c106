"""Checkpoints: complete and verified states of a run, with orbax."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from metaheac_jax.errors import InputError


class Checkpoints:
    """The last two checkpoints of a run in a directory; use as a context manager.

    A save is on disk when it returns. `restore` never sees an interrupted save.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory).resolve()
        policies = ocp.training.save_decision_policies, ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            str(self.directory),
            # The caller decides when to save. (Orbax's policies do not match its annotations.)
            save_decision_policy=policies[0].FixedIntervalPolicy(1),  # pyrefly: ignore
            preservation_policy=policies[1].LatestN(2),  # pyrefly: ignore
            cleanup_tmp_directories=True,
        )

    @staticmethod
    def at(directory: Path | None) -> AbstractContextManager[Checkpoints | None]:
        """A context of the checkpoints in a directory; of None if the directory is None."""
        return nullcontext() if directory is None else Checkpoints(directory)

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
        """Step of the newest checkpoint; None if there is none."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: Any) -> None:
        """Saves a pytree of arrays as of ``step``.

        Raises:
          OSError: orbax did not save it.
        """
        if self.latest != step and not self._checkpointer.save(step, state, force=True):
            raise OSError(f"{self.directory}: checkpoint of step {step} was not saved")

    def restore(self, like: Any) -> Any:
        """The newest checkpoint, with the structure, shapes and dtypes of ``like``.

        Raises:
          InputError: there is none, or it differs from ``like``; the message names the difference.
        """
        step = self.latest
        if step is None:
            raise InputError(f"{self.directory}: no checkpoint; run without --resume first")
        where = f"{self.directory}: checkpoint of step {step}"
        try:
            # Orbax can silently omit or cast leaves when loading into a different tree.
            saved, wanted = _leaves(self._checkpointer.metadata(step).metadata), _leaves(like)
            for name in sorted({*saved, *wanted}):
                if saved.get(name) != wanted.get(name):
                    stored, expected = saved.get(name, "nothing"), wanted.get(name, "nothing")
                    raise InputError(f"{where} has {stored} as {name}, this run has {expected}")
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
            )
            return self._checkpointer.load(step, abstract)
        except (ValueError, KeyError, OSError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where} is damaged; delete it and resume: {error}") from error


def _leaves(tree: Any) -> dict[str, str]:
    """Shape and dtype of each leaf, by its path of names.

    Orbax does not distinguish a field of a named tuple, a key and a position.
    """
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = (getattr(p, "key", getattr(p, "name", getattr(p, "idx", p))) for p in path)
        leaves["/".join(map(str, names))] = f"{leaf.dtype}{list(leaf.shape)}"
    return leaves
