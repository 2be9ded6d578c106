"""Directories with a manifest of checksums, which shows whether a file was altered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from metaheac_jax.errors import InputError
from metaheac_jax.files import write_json
from metaheac_jax.progress import Progress, silent

T = TypeVar("T")

_BLOCK = 1 << 24  # bytes read at a time for a checksum


class Parent(NamedTuple):
    """Something that a directory or file was made from.

    Attributes:
      name: name of its folder at that time; empty if not known.
      digest: digest of its manifest; empty if not known.
    """

    name: str
    digest: str

    @classmethod
    def of(cls, folder: Path, digest: str | None) -> Parent:
        """The content of a folder."""
        return cls(folder.resolve().name, digest or "")


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
) -> str:
    """Writes a manifest against which `read_sealed` checks the files of a directory.

    Args:
      directory: contains the files.
      manifest: file name of the manifest.
      content: plain data, to which ``files`` and ``digest`` are added.
      files: paths in the directory.
      progress: receives the bytes checksummed.

    Returns:
      The digest, which covers all files.
    """
    checksums = zip(files, digests(files, progress), strict=True)
    entries = {
        str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in checksums
    }
    body = json.loads(json.dumps({**content, "files": entries}))
    digest = digest_of(body)
    write_json(directory / manifest, {**body, "digest": digest})
    return digest


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
      directory: a directory with a manifest that `seal` wrote.
      manifest: file name of the manifest.
      format: required value of ``format`` in the manifest.
      remedy: advice to the user, for messages.
      verify: also compare the SHA-256 of each file, which requires reading all files.
      progress: receives the bytes read.

    Returns:
      The content given to `seal`, with ``files`` and ``digest``. The digest covers all files.

    Raises:
      InputError: there is no manifest, it was altered or has another format, or a file is missing,
        truncated or altered; the message names it.
    """
    body = read_manifest(directory / manifest, format=format, remedy=remedy)
    files = {directory / name: entry for name, entry in body["files"].items()}
    for file, entry in files.items():
        if not file.is_file():
            raise InputError(f"{file}: missing, though {manifest} names it; {remedy}")
        check_size(file, entry, remedy=remedy)
    if verify:
        checksums = digests(list(files), progress)
        for (file, entry), checksum in zip(files.items(), checksums, strict=True):
            if checksum != entry["sha256"]:
                raise InputError(f"{file}: altered since it was written; {remedy}")
    return body


def read_manifest(path: Path, *, format: str, remedy: str) -> dict[str, Any]:
    """Reads a manifest, but not the files that it names; see `read_sealed`.

    Raises:
      InputError: there is no manifest, it was altered or has another format.
    """
    if not path.is_file():
        raise InputError(f"{path.parent}: has no {path.name}; {remedy}")
    try:
        body = dict(json.loads(path.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON; {remedy}") from error
    if body.get("format") != format:
        raise InputError(f"{path}: format {body.get('format')!r}, expected {format!r}; {remedy}")
    digest = body.pop("digest", None)
    if digest != digest_of(body):
        raise InputError(f"{path}: altered since it was written; {remedy}")
    return {**body, "digest": digest}


def check_size(file: Path, entry: Mapping[str, Any], *, remedy: str) -> None:
    """Refuses a file whose size is not that of its entry in ``files`` of a manifest.

    Raises:
      InputError: it has another size.
    """
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise InputError(f"{file}: {size} bytes, expected {entry['bytes']}; {remedy}")


def read_undisturbed(directory: Path, manifest: str, read: Callable[[], T]) -> T:
    """Reads a directory that another process may be replacing; see `files.new_directory`.

    If the manifest has changed after reading, the directory was replaced, and is read again.

    Args:
      directory: the directory that ``read`` reads.
      manifest: file name of the manifest.
      read: may fail, or mix files of two directories, if the directory is replaced meanwhile.
    """
    while True:
        before = _content(directory / manifest)
        try:
            result = read()
        except (ValueError, OSError):
            if _content(directory / manifest) == before:
                raise
        else:
            if _content(directory / manifest) == before:
                return result


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def digest_of(body: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, which does not depend on the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
