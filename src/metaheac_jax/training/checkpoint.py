"""Checkpoints: complete and verified states of a run, in orbax's format.

``DIRECTORY/STEP/`` has ``state/``, orbax's files, and ``checkpoint.json`` with notes and a digest
of each file. Orbax reads a damaged file without noticing, or ends in the middle of its own threads,
so the digests are compared before it reads.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from metaheac_jax.errors import InputError
from metaheac_jax.files import new_directory
from metaheac_jax.processes import from_first, is_first
from metaheac_jax.removing import CHECKPOINT, remove, remove_unlisted
from metaheac_jax.sealed import read_sealed, seal

FORMAT = "metaheac_jax checkpoint 2"
_STATE = "state"
_KEPT = 2  # one is left if the newest is damaged
_SHOWN = 160  # characters of another library's error message


class Checkpoints:
    """The last two checkpoints of a run in a directory, whose lock the caller has.

    A checkpoint appears complete or not at all. All processes of a job call the same methods: each
    writes and reads what its devices hold, and the first one verifies, and writes the digests.
    """

    def __init__(self, directory: Path) -> None:
        """Args:
        directory: created if it does not exist; the same in all processes, which must see the same
          files.
        """
        self.directory = Path(directory).absolute()
        if is_first():
            self.directory.mkdir(parents=True, exist_ok=True)
            remove_unlisted(self.directory)  # of a process that was killed while saving

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint; None if there is no checkpoint."""
        return from_first(max(self._folders(), default=None) if is_first() else None)

    def save(self, step: int, state: Any, notes: Any = None) -> None:
        """Saves the pytree of arrays of ``step``, and ``notes``, a value that JSON can hold.

        Raises:
          OSError: the checkpoint could not be saved.
        """
        if self.latest == step:
            return
        folder = self.directory / str(step)
        try:
            writes = is_first()
            whole = new_directory(folder, marker=CHECKPOINT) if writes else nullcontext(folder)
            with whole as new:
                ocp.save(str(from_first(new) / _STATE), state)
                if writes:
                    files = [path for path in sorted(new.rglob("*")) if path.is_file()]
                    seal(new, CHECKPOINT, {"format": FORMAT, "notes": notes}, files)
            for old in sorted(self._folders())[:-_KEPT] if writes else ():
                remove(self.directory / str(old))
        except Exception as error:
            reason = " ".join(str(error).split())[:_SHOWN]
            raise OSError(
                f"{self.directory}: the checkpoint of step {step} could not be saved ({reason}); "
                "make room for it, then resume"
            ) from error

    def restore(self, like: Any) -> tuple[Any, Any]:
        """The newest checkpoint, of which there is one, with the places of ``like``; its notes.

        Args:
          like: has the structure, shapes and dtypes of the state; a table may be padded otherwise.

        Raises:
          InputError: it is damaged, or has another state.
        """
        folder = self.directory / str(self.latest)
        remedy = f"delete {folder}, and resume from the checkpoint before it, if there is one"
        manifest: Any = None
        if is_first():
            options: Any = {"format": FORMAT, "remedy": remedy, "content": {}}
            manifest = read_sealed(folder, CHECKPOINT, **options)
        manifest = from_first(manifest)
        context = ocp.Context()  # another mesh pads tables to another number of rows
        context.array_options.loading.enable_padding_and_truncation = True
        places = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
        )
        try:
            with context:
                return ocp.load(str(folder / _STATE), places), manifest.get("notes")
        except (ValueError, TypeError, KeyError, OSError) as error:
            reason = " ".join(str(error).split())[:_SHOWN]
            raise InputError(f"{folder}: cannot be read ({reason}); {remedy}") from error

    def _folders(self) -> list[int]:
        """The steps of the checkpoints."""
        return [int(path.name) for path in self.directory.iterdir() if path.name.isdecimal()]


def named_leaves(tree: Any) -> dict[str, Any]:
    """Each leaf of a tree by its path of names."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
