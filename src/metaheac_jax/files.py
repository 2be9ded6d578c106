"""Files and folders that are written completely or not at all, by one process at a time.

Beside a target ``NAME`` lie, while it is written: ``.NAME.lock``; ``.NAME.metaheac-new``, which
replaces it once it is complete; and ``.NAME.metaheac-old``, the folder that is replaced. The next
writer removes what a killed process left of these, and it or the next reader moves the old folder
back if there is no other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import DTypeLike

from metaheac_jax.errors import Busy, InputError
from metaheac_jax.progress import Progress

if TYPE_CHECKING:
    import polars as pl

_PACKAGE = b'"metaheac_jax '  # begins the format in every manifest
#: The beginning of a text that a spreadsheet would run, and texts that are numbers.
_FORMULA, _NUMBER = r"^'*[=+\-@\t\r]", r"^[+-]?\d+(\.\d*)?$"
_held = threading.local()  # `paths`: the targets that the thread has locked


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Gives the block the sole right to write a file or folder, in this thread of this process.

    The lock of a killed process is free. A thread may lock a target again. Readers take no lock.

    Args:
      target: the file or folder; its parents are made.

    Raises:
      Busy: another process is writing the target.
      InputError: the target has no name, or something else has the name of its lock file.
    """
    target = Path(target).resolve()
    if not target.name:
        raise InputError(f"{target}: the root of a file system cannot be written; choose a folder")
    paths: set[Path] = vars(_held).setdefault("paths", set())
    if target in paths:
        yield
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    path = _beside(target, "lock")
    # It follows no link, and never writes.
    lock = FileLock(path, blocking=False, thread_local=False)
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # 0: it was just released
            raise InputError(f"{path}: is a link or no regular file; remove it")
    try:
        with _failing_as(target, path):
            lock.acquire()
    except Timeout:
        raise Busy(
            f"{target}: another process is writing it; wait for it, or choose another output"
        ) from None
    paths.add(target)
    try:
        _remove_leftovers(target)
        yield
    finally:
        paths.remove(target)
        with suppress(OSError):
            path.unlink()  # while it is still locked
        lock.release()


def _remove_leftovers(target: Path) -> None:
    """Removes what a killed process left beside a locked target; see the module's docstring."""
    old, new = _beside(target, "metaheac-old"), _beside(target, "metaheac-new")
    for path in (old, new):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        elif path == old and not target.exists():
            old.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)  # a reader may still have it open


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f".{target.name}.{ending}")


def make_once(target: Path, make: Callable[[], object], *, progress: Progress) -> None:
    """Makes a file or folder of a cache if it is missing, or waits while another process makes it.

    Args:
      target: the file or folder.
      make: writes it.
      progress: called while another process makes it.
    """
    while not target.exists():
        try:
            with locked(target):
                if not target.exists():
                    make()
        except Busy:
            progress(f"wait for another process, which is writing {target.name}", 0, 1)
            time.sleep(0.5)


def is_replaced(directory: Path) -> bool:
    """Whether a folder is missing since its writer replaces it now, or was killed doing so.

    In the second case the older folder is moved back.
    """
    if directory.exists() or not _beside(directory.resolve(), "metaheac-old").exists():
        return False
    with suppress(Busy), locked(directory):
        pass
    return True


def is_replaceable(directory: Path, marker: str) -> bool:
    """Whether a path is a folder that is empty, or has a manifest of this package of this name."""
    if not directory.is_dir():
        return False
    path = directory / marker
    if not path.is_file():
        return not any(directory.iterdir())
    with path.open("rb") as file:
        return _PACKAGE in file.read(4096)


@contextmanager
def new_directory(target: Path, *, marker: str) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` if the block succeeds, and is removed if not.

    Everything is flushed to disk first. The target is `locked` meanwhile; it keeps its permissions.

    Args:
      target: the folder to make; its parents are made too.
      marker: name of the manifest that every folder of this kind has. An existing target is not
        replaced unless it `is_replaceable`.

    Raises:
      InputError: the target exists and may not be replaced.
      Busy: another process is writing it.
    """
    target = Path(target).resolve()
    with locked(target):
        if target.exists() and not is_replaceable(target, marker):
            raise InputError(
                f"{target}: exists and has no {marker} of this package, so it is not replaced; "
                "remove it, or choose another target"
            )
        new, old = _beside(target, "metaheac-new"), _beside(target, "metaheac-old")
        try:
            with _failing_as(target, new):
                new.mkdir()
                if target.exists():  # the owner may write, or nothing could be written into it
                    new.chmod(stat.S_IMODE(target.stat().st_mode) | stat.S_IRWXU)
                yield new
                for path in [*new.rglob("*"), new]:
                    fsync(path)
                if target.exists():
                    target.rename(old)
                new.rename(target)
                fsync(target.parent)
        finally:
            _remove_leftovers(target)


@contextmanager
def _failing_as(target: Path, temporary: Path) -> Iterator[None]:
    """Makes a write error name the target, which the user knows, and not the temporary path."""
    try:
        yield
    except (Timeout, InputError):
        raise
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))  # in a text of polars
        number = getattr(error, "errno", None) or (int(found[1]) if found else None)
        name = getattr(error, "filename", None)
        path = temporary if name is None else Path(os.fsdecode(name))
        if not (number or isinstance(error, OSError)) or temporary not in (path, *path.parents):
            raise
        told = os.strerror(number) if number else str(error)
        raise OSError(
            number,
            f"cannot be written ({told}); make room, or choose another place, and run the command "
            "again",
            str(target),
        ) from error


def fsync(path: Path) -> None:
    """Flushes a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to which the block writes a file, which becomes ``path`` if it succeeds.

    The file is on disk once the ``with`` statement has ended. If the path is a symbolic link, the
    file that it points to is replaced. It is `locked` meanwhile, and keeps its permissions.

    Raises:
      InputError: the path is a folder, a pipe or a device.
      Busy: another process is writing it.
    """
    path = Path(os.path.realpath(path))
    path.parent.stat()  # fails for a missing parent, which is not made
    if path.exists() and not path.is_file():
        raise InputError(
            f"{path}: is not a regular file, so it is not replaced; choose another place"
        )
    with locked(path):
        new = _beside(path, "metaheac-new")
        try:
            with _failing_as(path, new):
                mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
                # The name is free, or this fails: no planted link is followed.
                os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
                if mode is not None:
                    new.chmod(mode | stat.S_IWUSR)
                yield new
                fsync(new)
                if mode is not None:
                    new.chmod(mode)
                new.replace(path)
                fsync(path.parent)
        finally:
            new.unlink(missing_ok=True)


def inert_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame to be written as a CSV file for people.

    An apostrophe precedes each text that a spreadsheet would run; `without_apostrophe` removes it.
    """
    import polars as pl

    text = pl.col(pl.String)
    runs = text.str.contains(_FORMULA) & ~text.str.contains(_NUMBER)
    return frame.with_columns(pl.when(runs).then(pl.lit("'") + text).otherwise(text).name.keep())


def without_apostrophe(text: pl.Expr) -> pl.Expr:
    """The texts of a CSV file as they were before `inert_frame`."""
    return text.str.replace(r"^'('*[=+\-@])", "${1}")


def write_text(path: Path, text: str) -> None:
    """Writes a text file completely or not at all; see `whole_file`."""
    with whole_file(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file completely or not at all; see `whole_file`."""
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
      InputError: the file is not valid JSON, gives a key twice, is nested too deeply, or has half a
        surrogate pair.
      OSError: the file cannot be read.
    """
    check_regular(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_distinct)
        json.dumps(content, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); fix the file") from error
    return content


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice; give it once")
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
