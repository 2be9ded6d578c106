"""Manifests: of folders, whose files they check for damage, and of runs, which are resumed."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from metaheac_jax.boundary import COUNT, check_plain
from metaheac_jax.errors import InputError
from metaheac_jax.files import is_settled, write_json
from metaheac_jax.progress import Progress, silent
from metaheac_jax.removing import RUN, digest_of

T = TypeVar("T")

_ENTRY = {"bytes": COUNT, "sha256": str}  # of a file in a manifest


def entries_of(
    directory: Path, files: Iterable[Path], progress: Progress = silent
) -> dict[str, dict[str, Any]]:
    """The size and SHA-256 of files in a directory, by name; ``progress`` receives bytes read."""
    sizes = {path: path.stat().st_size for path in files}
    entries, done = {}, 0
    for path, size in sizes.items():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        done += size
        progress("checksums", done, sum(sizes.values()))
        entries[str(path.relative_to(directory))] = {"bytes": size, "sha256": digest}
    return entries


def seal(
    directory: Path,
    manifest: str,
    content: Mapping[str, Any],
    files: Sequence[Path],
    *,
    progress: Progress = silent,
) -> str:
    """Writes a manifest against which `read_sealed` checks the files of a directory.

    It has the plain ``content``, ``files`` and ``digest``. The digest, which covers all files, is
    returned. ``progress`` receives the bytes checksummed.
    """
    entries = entries_of(directory, files, progress)
    return write_manifest(directory / manifest, {**content, "files": entries})


def write_manifest(path: Path, content: Mapping[str, Any]) -> str:
    """Writes plain data with their digest, which it returns; `read_manifest` reads them."""
    digest = digest_of(content)
    write_json(path, {**content, "digest": digest})
    return digest


def read_manifest(
    path: Path, *, format: str, remedy: str, content: Mapping[str, Any]
) -> dict[str, Any]:
    """Reads a manifest, but not the files that it names; see `read_sealed`.

    Raises:
      InputError: there is no manifest, it was altered, or has another format or content.
    """
    if not path.is_file():
        raise InputError(f"{path.parent}: has no {path.name}; {remedy}")
    try:
        body = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON; {remedy}") from error
    if body.get("format") != format:
        raise InputError(f"{path}: format {body.get('format')!r}, expected {format!r}; {remedy}")
    digest = body.pop("digest", None)
    if digest != digest_of(body):
        raise InputError(f"{path}: altered since it was written; {remedy}")
    check_plain(body, dict(content), f"{path}", remedy)
    return {**body, "digest": digest}


def read_sealed(
    directory: Path,
    manifest: str,
    *,
    format: str,
    remedy: str,
    content: Mapping[str, Any],
    verify: bool | Callable[[str], bool] = True,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Reads a manifest and checks the files that it names.

    Args:
      directory, manifest: as `seal` takes.
      format: required value of ``format`` in the manifest.
      remedy: advice to the user, for messages.
      content: what else the manifest must have, see `boundary`; ``files`` has names of files.
      verify: whether to compare the SHA-256 of each file, which reads it; or of which, by name.
      progress: receives the bytes read.

    Returns:
      The content given to `seal`, with ``files`` and ``digest``. The digest covers all files.

    Raises:
      InputError: there is no manifest, it was altered, or has another format or content, or a file
        is missing, truncated, altered or outside of the directory; the message names it.
    """
    content = {**content, "files": dict.fromkeys((str, *content.get("files", ())), _ENTRY)}
    body = read_manifest(directory / manifest, format=format, remedy=remedy, content=content)
    entries, home = body["files"], directory.resolve()
    for name, entry in entries.items():
        file, parts = directory / name, PurePosixPath(name).parts
        inside = str(PurePosixPath(*parts)) == name and not {"..", "/"} & {*parts}
        if not inside or not file.resolve().is_relative_to(home):
            raise InputError(f"{directory / manifest}: names a file elsewhere, {name!r}; {remedy}")
        if not file.is_file():
            raise InputError(f"{file}: missing, though {manifest} names it; {remedy}")
        if (size := file.stat().st_size) != entry["bytes"]:
            raise InputError(f"{file}: {size} bytes, expected {entry['bytes']}; {remedy}")
    verified = [directory / n for n in entries if (verify(n) if callable(verify) else verify)]
    for name, entry in entries_of(directory, verified, progress).items():
        if entry != entries[name]:
            raise InputError(f"{directory / name}: altered since it was written; {remedy}")
    return body


def read_undisturbed(directory: Path, manifest: str, read: Callable[[], T]) -> T:
    """Reads a directory that another process may be replacing or changing.

    If the manifest has changed after reading, or was absent for a moment, the directory is read
    again. Until then ``read`` may fail, or mix files of two directories.
    """

    def version() -> bytes | None:
        try:
            return (directory / manifest).read_bytes()
        except OSError:
            return None

    while True:
        before = version()
        try:
            result = read()
        except (ValueError, OSError):
            if is_settled(directory) and version() == before:
                raise
        else:
            if version() == before:
                return result


def keep_config(
    path: Path, config: Mapping[str, Any], place: Mapping[str, Any], *, restart: str
) -> None:
    """Records the configuration of some work, or compares it with the recorded one.

    Args:
      path: the file.
      config: what must be the same when the work goes on.
      place: where it is done, on which rounding alone depends; another one is a warning.
      restart: how to start afresh, for messages.

    Raises:
      InputError: the file is damaged, or the work began with another configuration; the message
        names the differences.
    """
    config = json.loads(json.dumps({"format": RUN, **config, **place}))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(path, config)
        return
    before = read_manifest(path, format=RUN, remedy=restart, content={})
    names = sorted({*before, *config} - {"digest"})
    changes = {
        name: f"{name} ({before.get(name)!s:.80}, now {config.get(name)!s:.80})"
        for name in names
        if before.get(name) != config.get(name)
    }
    for change in [changes.pop(name) for name in place if name in changes]:
        told = f"{path}: started on another {change}; the last digits of results may differ"
        warnings.warn(told, stacklevel=2)
    if changes:
        told = ", ".join(changes.values())
        raise InputError(f"{path}: started with another {told}; use the same, or {restart}")
