"""Files and directories that are written completely or not at all, by one process at a time."""

from __future__ import annotations

import csv
import ctypes
import errno
import fcntl
import json
import os
import platform
import re
import shlex
import shutil
import stat
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import DTypeLike

from metaheac_jax.errors import Busy, InputError
from metaheac_jax.progress import Progress

_WAIT_SECONDS = 0.5  # between two attempts to get a lock
_LOOK_SECONDS = 0.02  # more than `writer_of` takes
_SHOWN = 120  # characters of a command that are recorded in a lock file
_EXCHANGE = 2  # Linux's RENAME_EXCHANGE
_HERE = -100  # Linux's AT_FDCWD
_PACKAGE = b'"metaheac_jax '  # begins the format in every manifest
#: Names of files and directories that a killed process leaves beside its target.
LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}(\.old)?")
_held = threading.local()  # `paths`: the targets that the thread has locked


@contextmanager
def locked(target: Path, *, wait: Progress | None = None) -> Iterator[None]:
    """Gives the block the sole right to write a file or folder, in this thread of this process.

    The file ``.NAME.lock`` beside the target is locked, and names the process. The lock of a dead
    process is free, and the next process to take it removes the half-written files of the dead one.
    A thread may lock a target again. Readers take no lock. If the file system does not support
    locks, a warning is issued and nothing is locked.

    Args:
      target: the file or folder; its parents are made, and removed again if they stay empty.
      wait: called with a line that names the process that the caller waits for; None does not wait.

    Raises:
      Busy: another process is writing the target, and ``wait`` is None; the message names it.
    """
    target = Path(target).resolve()
    if not target.name:
        raise InputError(f"{target}: the root of a file system cannot be written; choose a folder")
    paths: set[Path] = vars(_held).setdefault("paths", set())
    if target in paths:
        yield
        return
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _take_lock(target, wait)
    paths.add(target)
    try:
        yield
    finally:
        paths.remove(target)
        _lock_file(target).unlink(missing_ok=True)  # while it is still locked
        os.close(descriptor)
        with suppress(OSError):  # not empty
            for parent in made:
                parent.rmdir()


def make_once(target: Path, make: Callable[[], object], *, progress: Progress) -> None:
    """Makes a file or folder of a cache if it is missing, or waits while another process makes it.

    Args:
      target: the file or folder.
      make: writes it.
      progress: called with a line that names the process that the caller waits for.
    """
    if not target.exists():
        with locked(target, wait=progress):
            if not target.exists():
                make()


def _lock_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _take_lock(target: Path, wait: Progress | None) -> int:
    """Locks the lock file and returns its descriptor."""
    path, looked = _lock_file(target), False
    while True:
        with _failing_as(target, path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            writer = os.pread(descriptor, 4096, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            if not looked:  # perhaps by `writer_of`, for a moment
                looked = True
                time.sleep(_LOOK_SECONDS)
                continue
            if wait is None:
                raise Busy(
                    f"{target}: {writer} is writing it; wait for it, or choose another one"
                ) from None
            wait(f"wait for {writer}, which is writing {target.name}", 0, 1)
            time.sleep(_WAIT_SECONDS)
            continue
        except OSError as error:
            warnings.warn(
                f"{target}: its file system has no locks ({error.strerror}); let only one command "
                "at a time write it",
                stacklevel=4,
            )
        else:
            # The process that had the lock may have removed the file before this one got it.
            if not _is_at(descriptor, path):
                os.close(descriptor)
                continue
            try:
                _remove_leftovers(target)
            except OSError:
                os.close(descriptor)
                raise
        try:
            with _failing_as(target, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _this_process().encode(errors="replace"), 0)
        except OSError:  # a full disk
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return descriptor


def writer_of(target: Path) -> str | None:
    """The process that is writing a file or folder, or None.

    The lock is shared for a moment, which fails if a process has it. A lock file that a killed
    process has left, here or on another machine, is free. If the file system does not support
    locks, a file that is left counts as that of a writer.
    """
    try:
        with _lock_file(Path(target).resolve()).open(errors="replace") as file:
            writer = file.read() or "another process"
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
    except OSError:
        return None
    return writer


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _this_process() -> str:
    words = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    shown = "".join(c if c.isprintable() else "?" for c in words[:_SHOWN])
    more = "..." if len(words) > _SHOWN else ""
    return f"process {os.getpid()} on {platform.node()} ({shown}{more})"


def _remove_leftovers(target: Path) -> None:
    """Removes files and directories that killed processes left beside a locked target.

    A directory that was moved away for its successor is moved back if it was never replaced.
    """
    for path in target.parent.iterdir():
        leftover = LEFTOVER.fullmatch(path.name)
        if leftover is None or leftover["name"] != target.name:
            continue
        if path.suffix == ".old" and not target.exists():
            path.rename(target)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # a reader may still have it open
        else:
            with suppress(OSError):
                path.unlink()


def is_marked(directory: Path, marker: str) -> bool:
    """Whether a directory has a marker of this package; others also name files model.json.

    A damaged one counts if its beginning is whole.
    """
    path = directory / marker
    if path.suffix != ".json" or not path.is_file():
        return path.is_file()
    with path.open("rb") as file:
        return _PACKAGE in file.read(4096)


def is_replaceable(directory: Path, marker: str) -> bool:
    """Whether a directory has a marker of this package, and one in JSON lists the files.

    Of a damaged one it is not known which files were somebody else's.
    """
    if not is_marked(directory, marker):
        return False
    return not marker.endswith(".json") or bool(_listed(directory, marker))


def foreign_file(directory: Path, marker: str) -> Path | None:
    """A file that would be lost if a marked directory were replaced, since it is not of its kind.

    None if there is none or if the marker does not list the files. Hidden files do not count. A
    subfolder may have a manifest of its own, with the subfolder's name.
    """
    known = _listed(directory, marker)
    if not known:
        return None
    for folder, folders, names in os.walk(directory):
        here = Path(folder)
        place, own = here.relative_to(directory), f"{here.name}.json"
        if here != directory and is_marked(here, own):
            known |= {str(place / name) for name in _listed(here, own)}
        others = [n for n in names if not n.startswith(".") and str(place / n) not in known]
        if others:
            return here / min(others)
        folders[:] = [name for name in folders if not name.startswith(".")]
    return None


def _listed(directory: Path, manifest: str) -> set[str]:
    """A manifest and the files that it lists; empty if it lists none."""
    try:
        return {manifest, *json.loads((directory / manifest).read_bytes())["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


@contextmanager
def new_directory(target: Path, *, marker: str) -> Iterator[Path]:
    """A temporary directory that becomes ``target`` if the block succeeds, and is deleted if not.

    An existing target is replaced only on success, on Linux atomically. Everything is flushed to
    disk first. The target is `locked` meanwhile. A killed process leaves ``.NAME.<digits>`` beside
    the target, and the next process that writes the target removes it.

    Args:
      target: the directory to make; its parents are made too.
      marker: a file that every directory of this kind has; one in JSON lists the others. An
        existing target is not replaced unless it `is_replaceable` or empty; nor is one with a
        `foreign_file`.

    Raises:
      InputError: the target exists and may not be replaced.
      Busy: another process is writing it.
    """
    target = Path(target).resolve()
    with locked(target):
        taken = target.exists() and not is_replaceable(target, marker)
        if taken and not (target.is_dir() and not any(target.iterdir())):
            raise InputError(
                f"{target}: exists and has no {marker} of this package, or a damaged one, so it is "
                "not replaced; remove it, or choose another target"
            )
        foreign = foreign_file(target, marker)
        if foreign is not None:
            raise InputError(f"{foreign}: would be lost, since {target} is replaced; move it away")
        temporary = _temporary(target)
        old = temporary.with_name(temporary.name + ".old")
        try:
            with _failing_as(target, temporary):
                temporary.mkdir()  # with the permissions of the umask, unlike tempfile
                if target.exists():  # the owner may write, or nothing could be written into it
                    temporary.chmod(stat.S_IMODE(target.stat().st_mode) | stat.S_IRWXU)
                yield temporary
                for path in [*temporary.rglob("*"), temporary]:
                    fsync(path)
                if not target.exists():
                    temporary.rename(target)
                elif not _exchange(temporary, target):
                    target.rename(old)
                    temporary.rename(target)
                    old.rename(temporary)
                fsync(target.parent)
        finally:
            if old.exists() and not target.exists():  # stopped between two renames
                old.rename(target)
            shutil.rmtree(temporary, ignore_errors=True)


def list_files(directory: Path, marker: str, form: str, *, more: Sequence[str] = ()) -> None:
    """Writes a marker that lists all files in a directory, so that foreign ones are known.

    Args:
      directory: contains the files.
      marker: name of the marker.
      form: its format.
      more: names of files that will be written later.
    """
    found = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    names = sorted({*map(str, found), *more} - {marker})
    write_json(directory / marker, {"format": form, "files": names})


def remove_at_once(directory: Path, target: Path) -> None:
    """Removes a directory so that no part of it stays under its name if the process is killed.

    It becomes a leftover of the target, which is `locked` by the caller; see `LEFTOVER`.
    """
    with suppress(OSError):
        directory = directory.rename(_temporary(target.resolve()))
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _failing_as(target: Path, temporary: Path) -> Iterator[None]:
    """Makes a write error name the target, which the user knows, and not the temporary path."""
    try:
        yield
    except OSError as error:
        name = None if error.filename is None else Path(os.fsdecode(error.filename))
        if name is not None and temporary not in (name, *name.parents):
            raise
        # The error of a write that was cut short has no number: numpy and polars give only a text.
        number = error.errno or errno.ENOSPC
        raise OSError(
            number,
            f"cannot be written ({os.strerror(number)}); make room, or choose another place, and "
            "run the command again",
            str(target),
        ) from error


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}")


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two directories atomically; returns whether it did, since not all systems can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def fsync(path: Path) -> None:
    """Flushes a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to which the block writes a file, which becomes ``path`` if it succeeds.

    The file is on disk once the ``with`` statement has ended. An existing file is replaced only on
    success; if the path is a symbolic link, the file that it points to. It is `locked` meanwhile.

    Raises:
      InputError: the path is a folder, a pipe or a device.
      Busy: another process is writing it.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    path.parent.stat()  # fails for a missing parent, which is not made
    if path.exists() and not path.is_file():
        raise InputError(
            f"{path}: is not a regular file, so it is not replaced; choose another place"
        )
    with locked(path):
        temporary = _temporary(path)
        try:
            with _failing_as(path, temporary):
                if path.exists():  # others may not read the new content before
                    temporary.touch()
                    temporary.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IWUSR)
                yield temporary
                fsync(temporary)
                if path.exists():
                    shutil.copymode(path, temporary)
                temporary.replace(path)
                fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def write_whole(path: Path) -> Iterator[TextIO]:
    """A text file that is created only if the block succeeds; see `whole_file`."""
    with (
        whole_file(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        yield file


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file completely or not at all; see `write_whole`."""
    with write_whole(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_text(path: Path, text: str) -> None:
    """Writes a text file completely or not at all; see `write_whole`."""
    with write_whole(path) as file:
        file.write(text)


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file completely or not at all; see `write_whole`."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def check_regular(path: Path) -> None:
    """Refuses a path to anything but a regular file: reading from a pipe could block for ever.

    Raises:
      InputError: the path is a folder, a pipe or a device; a missing file is not refused.
    """
    if path.exists() and not path.is_file():
        raise InputError(
            f"{path}: is not a regular file, so it cannot be read; give a regular file"
        )


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
      InputError: the file is not valid JSON, is nested too deeply, or has half a surrogate pair.
      OSError: the file cannot be read.
    """
    check_regular(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        json.dumps(content, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); fix the file") from error
    return content


def new_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """A new ``.npy`` file as a writable memory map, with its space on the disk allocated.

    Without that space, writing to the map on a full disk would kill the process.

    Raises:
      OSError: the disk is full.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
