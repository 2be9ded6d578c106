"""Tells what this package has written from what it has not, and removes the former alone.

A folder of this package has a manifest at its top: a JSON file with a ``format``, the ``files`` of
the folder by name, and a ``digest`` of all this. The package's own are the files that a manifest
lists, the manifest, temporary names such as ``.NAME.metaheac-new``, and columns with their SHA-256
in the name. The folder of a training also has folders of checkpoints, which have own manifests.
Anything else is foreign, and so is any link; none is followed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metaheac_jax.errors import InputError

#: Manifest of a training's folder, which has the training's configuration; and its format.
RUN_MANIFEST, RUN = "run.json", "metaheac_jax run 1"
#: Manifest of a checkpoint.
CHECKPOINT = "checkpoint.json"
#: Endings of temporary names: the lock; what is written or removed; and what is being replaced.
LOCK, NEW, OLD = "lock", "metaheac-new", "metaheac-old"
_TEMPORARY = re.compile(rf"\.(?P<of>.+)\.(?P<ending>{LOCK}|{NEW}|{OLD})")
_COLUMN = re.compile(r".+-(?P<digest>[0-9a-f]{16})\.npy")


def beside(target: Path, ending: str) -> Path:
    """A temporary name beside a file or folder."""
    return target.with_name(f".{target.name}.{ending}")


def digest_of(body: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, which does not depend on the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def remove(path: Path) -> bool:
    """Removes a file, a link, or a folder of this package as a whole; else it stays as it is.

    A folder is first renamed, so it vanishes at once.

    Args:
      path: has a temporary name, or is a folder, which is removed if nothing in it is `foreign`.

    Returns:
      Whether the path is free.
    """
    new = beside(path, NEW)
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    elif path.name.endswith(NEW):
        shutil.rmtree(path, ignore_errors=True)  # a reader may still have a file open
    elif foreign(path) is None and remove(new):
        path.rename(new)
        if foreign(new) is None:  # nobody can put anything into it any more
            remove(new)
        else:
            new.rename(path)
    return not os.path.lexists(path)


def remove_unlisted(folder: Path) -> None:
    """Removes own files that no manifest lists: of earlier data, or of a killed process."""
    for path, kind in [*_sorted(folder, _manifests(folder))]:
        if kind == "unlisted":
            remove(path)


def check_own(folder: Path, manifest: str | None = None) -> None:
    """Refuses a folder with anything `foreign`; it may be empty, or not exist.

    Raises:
      InputError: it has something foreign, which the message names, or is no folder.
    """
    if os.path.lexists(folder) and (found := foreign(folder, manifest)) is not None:
        raise InputError(
            f"{found}: is listed in no intact {manifest or 'manifest'} of this package, so "
            f"{folder} is left as it is; move that away, or choose another folder"
        )


def foreign(folder: Path, manifest: str | None = None) -> Path | None:
    """The first file, folder or link in a folder that is not of this package, or None.

    It is the folder itself if that is a link or no folder.

    Args:
      folder: where to look.
      manifest: name of the only manifest that counts; by default all at the top of the folder do.
    """
    if folder.is_symlink() or not folder.is_dir():
        return folder
    parts = _sorted(folder, _manifests(folder, manifest))
    return next((path for path, kind in parts if kind == "foreign"), None)


def _manifests(folder: Path, name: str | None = None) -> dict[str, dict[str, Any]]:
    """The manifests of this package at the top of a folder, by name."""
    found = {}
    for path in folder.glob("*.json") if name is None else [folder / name]:
        if path.is_symlink() or not path.is_file():
            continue
        try:
            body = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError, RecursionError):
            continue
        digest = body.pop("digest", None)
        ours = str(body.get("format")).startswith("metaheac_jax ") and digest == digest_of(body)
        if ours and isinstance(body.setdefault("files", {}), dict):
            found[path.name] = body
    return found


def _sorted(folder: Path, manifests: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """What is in a folder: each path is listed, unlisted (though it is own), or foreign."""
    names = {*manifests, *(name for body in manifests.values() for name in body["files"])}
    parents = {str(parent) for name in names for parent in Path(name).parents}
    trains = any(body["format"] == RUN for body in manifests.values())

    def kinds(inner: Path) -> Iterator[tuple[Path, str]]:
        for path in sorted(inner.iterdir()):
            name = str(path.relative_to(folder))
            if _is_temporary(path.name, names):
                yield path, "unlisted"
            elif path.is_symlink() or not (path.is_dir() or path.is_file()):
                yield path, "foreign"
            elif path.is_dir() and name in parents:
                yield from kinds(path)
            elif path.is_dir() and trains:
                manifests = _manifests(path, CHECKPOINT)
                yield from _sorted(path, manifests) if manifests else kinds(path)
            elif path.is_file() and name in names:
                yield path, "listed"
            else:
                yield path, "unlisted" if _is_column(path) else "foreign"

    return kinds(folder)


def _is_temporary(name: str, names: set[str]) -> bool:
    found = _TEMPORARY.fullmatch(name)
    if found is None or found["ending"] != LOCK:  # other programs have locks, too
        return found is not None
    return found["of"] in names or found["of"].isdecimal()


def _is_column(path: Path) -> bool:
    """Whether a file has its own digest in its name, as columns do."""
    found = _COLUMN.fullmatch(path.name)
    if found is None or not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(found["digest"])
