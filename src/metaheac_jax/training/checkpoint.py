"""Checkpoints: complete and verified states of a run, with orbax's manager.

``DIRECTORY/STEP/`` holds the files of orbax, and ``checkpoint.json`` with a digest of each file,
the dtype and shape of each array, and notes. Orbax reads a damaged file without noticing, or ends
in the middle of its own threads, so the digests are compared before it reads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from jax import Array
from orbax.checkpoint import v1 as ocp

from metaheac_jax.errors import InputError
from metaheac_jax.files import locked
from metaheac_jax.processes import from_first, is_first
from metaheac_jax.sealed import read_sealed, seal
from metaheac_jax.training.sharding import Placement

FORMAT = "metaheac_jax checkpoint 1"
MANIFEST = "checkpoint.json"
_KEPT = ocp.training.preservation_policies.LatestN(2)  # one is left if the newest is damaged
_SHOWN = 160  # characters of another library's error message


class Checkpoints:
    """The last two checkpoints of a run in a directory, which is locked; use as a context manager.

    A checkpoint is written in the background. It appears complete or not at all. All processes of a
    job call the same methods: each writes and reads what its devices hold, and the first one
    verifies, and writes the digests.
    """

    def __init__(self, directory: Path, placement: Placement | None = None) -> None:
        """Args:
        directory: created if it does not exist; the same in all processes, which must see the same
          files.
        placement: where the arrays of states live; a checkpoint can be restored to another place.

        Raises:
          Busy: another process has locked the directory.
        """
        self.directory = Path(directory).resolve()
        self._unpadded = (lambda tree: tree) if placement is None else placement.unpadded
        self._saving: Future[None] | None = None
        self._manager: ocp.training.Checkpointer | None = None
        with ExitStack() as stack:
            if is_first():
                stack.enter_context(locked(self.directory))
                self.directory.mkdir(exist_ok=True)
                for step in self._folders():
                    if not (self.directory / str(step) / MANIFEST).exists():  # killed while saving
                        shutil.rmtree(self.directory / str(step))
            self._thread = ThreadPoolExecutor(1, "checkpoint")
            self._stack = stack.pop_all()

    @classmethod
    def at(
        cls, directory: Path | None, placement: Placement | None = None
    ) -> AbstractContextManager[Self | None]:
        """A context of the checkpoints in a directory, or of None if the directory is None."""
        return nullcontext() if directory is None else cls(directory, placement)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Orbax would wait for a process that has ended.
        lost = jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError)
        with self._stack:
            try:
                if not lost:
                    self.wait()
                    if self._manager is not None:
                        self._manager.close()
            finally:
                self._thread.shutdown(wait=not lost)

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, once it is on disk; None if there is no checkpoint."""
        self.wait()
        return from_first(max(self._folders(), default=None) if is_first() else None)

    def save(self, step: int, state: Any, notes: Any = None) -> None:
        """Starts to save the pytree of arrays of ``step``, which may then be consumed at once.

        By then, the checkpoint before it is on disk. ``notes`` is a value that JSON can hold.

        Raises:
          OSError: this checkpoint or the one before could not be saved.
        """
        if self.latest == step:
            return
        arrays = {name: _kind(leaf) for name, leaf in named_leaves(self._unpadded(state)).items()}
        manifest = {"format": FORMAT, "step": step, "arrays": arrays, "notes": notes}
        with self._saving_of(step):
            if self._manager is None:
                context = ocp.Context()  # a failure to make a folder would show minutes later
                context.async_options.create_directories_asynchronously = False
                self._manager = ocp.training.Checkpointer(
                    str(self.directory),
                    context=context,
                    preservation_policy=_KEPT,  # pyrefly: ignore[bad-argument-type]
                    cleanup_tmp_directories=True,
                )
            saving = self._manager.save_async(step, state, force=True)
        self._saving = self._thread.submit(self._finish, saving, step, manifest)

    def _finish(self, saving: Any, step: int, manifest: dict[str, Any]) -> None:
        with self._saving_of(step):
            saving.result()
            if is_first():
                folder = self.directory / str(step)
                files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
                seal(folder, MANIFEST, manifest, files)

    def wait(self) -> None:
        """Waits until the checkpoint being saved, if any, is on disk.

        Raises:
          OSError: it could not be saved.
        """
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    @contextmanager
    def _saving_of(self, step: int) -> Iterator[None]:
        """Turns whatever orbax raises into a one-line error."""
        try:
            yield
        except Exception as error:
            raise OSError(
                f"{self.directory}: the checkpoint of step {step} could not be saved "
                f"({_short(error)}); make room for it, then resume"
            ) from error

    def restore(self, like: Any) -> tuple[Any, Any]:
        """The newest checkpoint, with the structure, shapes, dtypes and places of ``like``; notes.

        If the newest checkpoint is damaged, it is removed with a warning, and the one before it is
        the newest.

        Raises:
          InputError: there is no checkpoint, it differs from ``like``, or all are damaged; the
            message names the difference or the damage.
        """
        self.wait()
        manifest, damaged = from_first(self._newest_whole() if is_first() else ({}, {}))
        if manifest is None:
            if not damaged:
                raise InputError(f"{self.directory}: no checkpoint; run without --resume first")
            faults = ", and ".join(damaged.values())
            raise InputError(f"{faults}; delete {self.directory} and train again")
        step, kinds = manifest["step"], manifest["arrays"]
        where, wanted = f"{self.directory}: checkpoint of step {step}", self._unpadded(like)
        wanted = named_leaves(wanted)
        for name in sorted({*kinds, *wanted}):
            # Orbax can silently omit or cast leaves when loading into a different tree.
            stored = kinds.get(name, "nothing")
            expected = _kind(wanted[name]) if name in wanted else "nothing"
            if stored != expected:
                raise InputError(f"{where} has {stored} as {name}, this run has {expected}")
        context = ocp.Context()  # another mesh pads tables to another number of rows
        context.array_options.loading.enable_padding_and_truncation = True
        try:
            with context:
                state = ocp.load(str(self.directory / str(step)), jax.tree.map(_abstract, like))
        except Exception as error:
            raise InputError(
                f"{where} cannot be read ({_short(error)}); resume with the versions that wrote "
                f"it, or delete {self.directory} and train again"
            ) from error
        if is_first():
            for bad, fault in damaged.items():
                shutil.rmtree(self.directory / str(bad))
                warnings.warn(f"{fault}; the checkpoint of step {step} is used", stacklevel=2)
        return state, manifest["notes"]

    def _newest_whole(self) -> tuple[dict[str, Any] | None, dict[int, str]]:
        """The manifest of the newest whole checkpoint, and the faults of those after it."""
        damaged: dict[int, str] = {}
        for step in sorted(self._folders(), reverse=True):
            folder, remedy = self.directory / str(step), "the checkpoint is damaged"
            try:
                body = read_sealed(folder, MANIFEST, format=FORMAT, remedy=remedy)
                if body["step"] != step:
                    raise InputError(f"{folder}: is that of step {body['step']}; {remedy}")
                return body, damaged
            except (InputError, OSError) as error:
                damaged[step] = str(error)
        return None, damaged

    def _folders(self) -> list[int]:
        """The steps of the checkpoints."""
        return [int(path.name) for path in self.directory.iterdir() if path.name.isdecimal()]


def _abstract(leaf: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Each leaf of a tree by its path of names.

    Orbax does not distinguish between a field of a named tuple, a key and a position.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _kind(leaf: Any) -> str:
    """Dtype and shape of an array."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def array_digest(leaf: Any) -> str:
    """SHA-256 of an array's bytes, in the order of its elements."""
    return hashlib.sha256(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data).hexdigest()


def _short(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__
