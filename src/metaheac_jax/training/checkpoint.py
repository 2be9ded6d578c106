"""Checkpoints: complete and verified states of a run, with orbax.

``DIRECTORY/STEP/`` holds the files of orbax, and ``checkpoint.json`` with a digest of each file and
each array. Orbax verifies only its index, so digests are compared before and after it reads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from metaheac_jax.errors import InputError
from metaheac_jax.files import fsync, locked
from metaheac_jax.sealed import read_sealed, seal

FORMAT = "metaheac_jax checkpoint 1"
MANIFEST = "checkpoint.json"
_SAVING = ".saving"
_KEPT = 2  # so that one is left if the newest is damaged
_SHOWN = 160  # characters of another library's error message


class Checkpoints:
    """The last two checkpoints of a run in a directory, which is locked; use as a context manager.

    A checkpoint is written in the background. It appears complete or not at all.
    """

    def __init__(self, directory: Path) -> None:
        """Args:
        directory: created if it does not exist.

        Raises:
          Busy: another process has locked the directory.
        """
        self.directory = Path(directory).resolve()
        self._saving: Future[None] | None = None
        with ExitStack() as stack:
            stack.enter_context(locked(self.directory))
            self.directory.mkdir(exist_ok=True)
            for half in self.directory.glob(f"*{_SAVING}*"):  # left by a killed process
                shutil.rmtree(half)
            self._thread = ThreadPoolExecutor(1, "checkpoint")
            self._stack = stack.pop_all()

    @staticmethod
    def at(directory: Path | None) -> AbstractContextManager[Checkpoints | None]:
        """A context of the checkpoints in a directory, or of None if the directory is None."""
        return nullcontext() if directory is None else Checkpoints(directory)

    def __enter__(self) -> Checkpoints:
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
            finally:
                self._thread.shutdown(wait=not lost)

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, the newest first."""
        names = [path.name for path in self.directory.iterdir()]
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, once it is on disk; None if there is no checkpoint."""
        self.wait()
        return next(iter(self.steps), None)

    def save(self, step: int, state: Any) -> None:
        """Starts to save the pytree of arrays of ``step``, which may then be consumed at once.

        By then, the checkpoint before it is on disk.

        Raises:
          OSError: this checkpoint or the one before could not be saved.
        """
        if self.latest == step:
            return
        arrays = {
            name: [_kind(leaf), array_digest(leaf)] for name, leaf in named_leaves(state).items()
        }
        with self._saving_of(step), _waiting_for_directories():
            saving = ocp.save_async(str(self.directory / f"{step}{_SAVING}"), state)
        self._saving = self._thread.submit(self._finish, saving, step, arrays)

    def _finish(self, saving: Any, step: int, arrays: dict[str, list[str]]) -> None:
        with self._saving_of(step):
            saving.result()
            folder = self.directory / f"{step}{_SAVING}"
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            for path in [*folder.rglob("*"), folder]:
                fsync(path)
            seal(folder, MANIFEST, {"format": FORMAT, "step": step, "arrays": arrays}, files)
            folder.rename(self.directory / str(step))
            fsync(self.directory)
            for old in self.steps[_KEPT:]:
                shutil.rmtree(self.directory / str(old))

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

    def restore(self, like: Any, *, announce: Callable[[int], Any] = lambda step: step) -> Any:
        """The newest checkpoint, with the structure, shapes, dtypes and devices of ``like``.

        Where ``like`` has a numpy array, the result has one too. ``announce`` is called with the
        step before its arrays are read.

        If the newest checkpoint is damaged, it is renamed to ``damaged-STEP`` with a warning, and
        the one before it is the newest.

        Raises:
          InputError: there is no checkpoint, it differs from ``like``, or all are damaged; the
            message names the difference or the damage.
        """
        self.wait()
        damaged: dict[int, str] = {}
        for step in self.steps:
            try:
                arrays = self._arrays(step)
            except (InputError, OSError) as error:
                damaged[step] = str(error)
                continue
            state = self._load(step, arrays, like, announce)
            for bad, fault in damaged.items():
                aside = self.directory / f"damaged-{bad}"
                shutil.rmtree(aside, ignore_errors=True)
                (self.directory / str(bad)).rename(aside)
                warnings.warn(
                    f"{fault}; it was set aside as {aside.name}, and the checkpoint of step {step} "
                    "is used",
                    stacklevel=2,
                )
            return state
        if not damaged:
            raise InputError(f"{self.directory}: no checkpoint; run without --resume first")
        faults = ", and ".join(damaged.values())
        raise InputError(f"{faults}; delete {self.directory} and train again")

    def _arrays(self, step: int) -> dict[str, list[str]]:
        """Kind and digest of each array of a checkpoint, whose files are verified first."""
        folder, remedy = self.directory / str(step), "the checkpoint is damaged"
        body = read_sealed(folder, MANIFEST, format=FORMAT, remedy=remedy)
        if body["step"] != step:
            raise InputError(f"{folder}: contains the checkpoint of step {body['step']}; {remedy}")
        return body["arrays"]

    def _load(
        self,
        step: int,
        arrays: dict[str, list[str]],
        like: Any,
        announce: Callable[[int], Any],
    ) -> Any:
        where, wanted = f"{self.directory}: checkpoint of step {step}", named_leaves(like)
        for name in sorted({*arrays, *wanted}):
            # Orbax can silently omit or cast leaves when loading into a different tree.
            stored = arrays[name][0] if name in arrays else "nothing"
            expected = _kind(wanted[name]) if name in wanted else "nothing"
            if stored != expected:
                raise InputError(f"{where} has {stored} as {name}, this run has {expected}")

        announce(step)
        state = ocp.load(str(self.directory / str(step)), jax.tree.map(_abstract, like))
        for name, leaf in named_leaves(state).items():
            if [_kind(leaf), array_digest(leaf)] != arrays[name]:
                raise InputError(
                    f"{where}: orbax does not restore {name} as it was saved; resume with the "
                    f"versions that wrote it, or delete {self.directory} and train again"
                )
        return state


def help_to_save(directory: Path, step: int, state: Any) -> None:
    """Takes part while the first process of a job saves, since orbax waits for all processes.

    Raises:
      OSError: the checkpoint could not be saved.
    """
    try:
        with _waiting_for_directories():
            ocp.save(str(Path(directory).resolve() / f"{step}{_SAVING}"), state)
    except Exception as error:
        raise OSError(f"{directory}: step {step} could not be saved ({_short(error)})") from error


def help_to_restore(directory: Path, step: int, like: Any) -> Any:
    """Takes part while the first process of a job restores, by reading the same arrays."""
    return ocp.load(str(Path(directory).resolve() / str(step)), jax.tree.map(_abstract, like))


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _waiting_for_directories() -> ocp.Context:
    """A context in which orbax creates directories at once; else a failure shows minutes later."""
    context = ocp.Context()
    context.async_options.create_directories_asynchronously = False
    return context


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
    """SHA-256 of an array's bytes, in the order of its elements; of a typed key, of its data."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return hashlib.sha256(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data).hexdigest()


def _short(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__
