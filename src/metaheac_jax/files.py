"""Files and directories that are written completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress, silent

_BLOCK = 1 << 24  # bytes read at a time for a checksum


@contextmanager
def new_directory(target: Path, *, marker: str) -> Iterator[Path]:
    """A temporary directory that becomes ``target`` if the block succeeds, and is deleted if not.

    An existing target is replaced on success only. Everything is flushed to disk before the rename.
    A killed process leaves ``.NAME.<digits>`` beside the target.

    Args:
      target: the directory to make; its parents are made too.
      marker: a file that every directory of this kind has. An existing target without it is not
        replaced, unless it is empty.

    Raises:
      InputError: the target exists and may not be replaced.
    """
    target = Path(target).resolve()
    taken = target.exists() and not (target / marker).is_file()
    if taken and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(
            f"{target}: exists and has no {marker}, so it is not replaced; choose another target"
        )
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)  # with the permissions of the umask, unlike tempfile's
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            fsync(path)
        if target.exists():
            old = temporary.with_name(temporary.name + ".old")
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
        fsync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fsync(path: Path) -> None:
    """Flushes a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def write_whole(path: Path) -> Iterator[TextIO]:
    """A text file that is created only if the block succeeds.

    It is on disk when the block has ended. An existing file is replaced on success only.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file completely or not at all; see `write_whole`."""
    with write_whole(path) as file:
        file.write(text)


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file completely or not at all; see `write_whole`."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def digests(paths: Sequence[Path], progress: Progress) -> list[str]:
    """SHA-256 of each file; ``progress`` receives the bytes read."""
    results, done, total = [], 0, sum(path.stat().st_size for path in paths)
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                done += len(block)
                progress("checksums", done, total)
        results.append(digest.hexdigest())
    return results


def seal(
    directory: Path,
    manifest: str,
    content: Mapping[str, Any],
    files: Sequence[Path],
    *,
    progress: Progress = silent,
) -> None:
    """Writes a manifest that `read_sealed` checks the files of a directory against.

    Args:
      directory: contains the files.
      manifest: its file name.
      content: plain data, to which ``files`` and ``digest`` are added.
      files: paths in the directory.
      progress: receives the bytes checksummed.
    """
    checksums = zip(files, digests(files, progress), strict=True)
    entries = {
        str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in checksums
    }
    body = json.loads(json.dumps({**content, "files": entries}))
    write_json(directory / manifest, {**body, "digest": _digest_of(body)})


def read_sealed(
    directory: Path,
    manifest: str,
    *,
    format: str,
    remedy: str,
    verify: bool = True,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Reads a manifest and checks the files that it names.

    Args:
      directory: as written by `seal`.
      manifest: its file name.
      format: required value of ``format`` in the manifest.
      remedy: advice to the user, for messages.
      verify: also compare the SHA-256 of each file, which reads all files.
      progress: receives the bytes read.

    Raises:
      InputError: there is no manifest, it was altered or has another format, or a file is missing,
        truncated or altered; the message names it.
    """
    path = directory / manifest
    if not path.is_file():
        raise InputError(f"{directory}: has no {manifest}; {remedy}")
    try:
        body = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not valid JSON; {remedy}") from error
    if body.get("format") != format:
        raise InputError(f"{path}: format {body.get('format')!r}, expected {format!r}; {remedy}")
    if body.pop("digest", None) != _digest_of(body):
        raise InputError(f"{path}: altered since it was written; {remedy}")
    files = {directory / name: entry for name, entry in body["files"].items()}
    for file, entry in files.items():
        if not file.is_file():
            raise InputError(f"{file}: missing, though {manifest} names it; {remedy}")
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise InputError(f"{file}: {size} bytes, expected {entry['bytes']}; {remedy}")
    if verify:
        checksums = digests(list(files), progress)
        for (file, entry), digest in zip(files.items(), checksums, strict=True):
            if digest != entry["sha256"]:
                raise InputError(f"{file}: altered since it was written; {remedy}")
    return body


def _digest_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
