"""Files and folders that are written completely or not at all, by one process at a time.

Beside a target ``NAME`` lie, while it is written: ``.NAME.lock``; ``.NAME.metaheac-new``, which
replaces it once it is complete; and ``.NAME.metaheac-old``, the folder that is replaced. The next
writer removes what a killed process left of these, and moves the old folder back if there is no
other; so does the next reader. What is not of this package stays, see `removing`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from metaheac_jax.errors import Busy, InputError
from metaheac_jax.removing import LOCK, NEW, OLD, beside, check_own, foreign, remove

if TYPE_CHECKING:
    import polars as pl

#: The beginning of a text that a spreadsheet would run, and texts that are numbers.
_FORMULA, _NUMBER = r"^'*[=+\-@\t\r]", r"^[+-]?\d+(\.\d*)?$"


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Gives the block the sole right to write a file or folder, in this thread of this process.

    The lock of a killed process is free. A thread may lock a target again. Readers take no lock.
    The parents of the target are made.

    Raises:
      Busy: another process is writing the target.
      InputError: something of others lies in a folder with a temporary name beside it, or is where
        the lock is to be.
    """
    target = Path(target).resolve()
    path = beside(target, LOCK)
    # It follows no link, and never writes. A thread has one for each path.
    lock = FileLock(path, blocking=False, is_singleton=True)
    if lock.is_locked:
        yield
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        raise Busy(
            f"{target}: another process is writing it; wait for it, or choose another output"
        ) from None
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder, where a lock is to be; move it away") from error
    try:
        _remove_leftovers(target)
        check_own(beside(target, OLD))
        yield
    finally:
        with suppress(OSError):
            if not path.stat().st_size:  # else it is a file of others
                path.unlink()  # while it is still locked
        lock.release()


def _remove_leftovers(target: Path) -> None:
    """Removes what a killed process left beside a locked target; see the module's docstring."""
    old = beside(target, OLD)
    remove(beside(target, NEW))
    if old.is_dir() and not target.exists() and foreign(old) is None:
        old.rename(target)
    remove(old)


def is_settled(target: Path) -> bool:
    """Whether a folder is in its place, or has none.

    If not, a writer is replacing it at this moment, which this function waits for; or was killed
    just then, and the old folder is put back.

    Raises:
      Busy: the lock, which tells these apart, may not be taken by this user.
    """
    target = Path(target).resolve()
    if target.exists() or not beside(target, OLD).is_dir():
        return True
    try:
        with locked(target):
            pass
    except Busy:
        time.sleep(0.01)
    except OSError as error:
        raise Busy(f"{target}: is being replaced by another user; read it later") from error
    return False


@contextmanager
def new_directory(target: Path, *, marker: str) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` if the block succeeds, and is removed if not.

    Everything is flushed to disk first. The target is `locked` meanwhile; it keeps its permissions.

    Args:
      target: the folder to make; its parents are made too.
      marker: name of the manifest that every folder of this kind has. An existing target is
        replaced if that lists all that is in it.

    Raises:
      InputError: the target has anything else in it, which is named, or is no folder.
      Busy: another process is writing it.
    """
    target = Path(target).resolve()
    with locked(target):
        check_own(target, marker)
        with _replacing(target, Path.mkdir, marker) as new:
            yield new


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
    with locked(path), _replacing(path, partial(Path.touch, exist_ok=False)) as new:
        yield new


@contextmanager
def _replacing(
    target: Path, make: Callable[[Path], None], marker: str | None = None
) -> Iterator[Path]:
    """A new file or folder beside a locked target, which it replaces if the block succeeds.

    ``make`` fails if the name is not free, so no planted link is followed.
    """
    new = beside(target, NEW)
    try:
        make(new)
        if target.exists():
            shutil.copymode(target, new)
        yield new
        for path in [*new.rglob("*"), new]:
            fsync(path)
        if target.is_dir():
            check_own(target, marker)  # others may have put something into it meanwhile
            target.rename(beside(target, OLD))
        new.replace(target)
        fsync(target.parent)
    except Exception as error:
        # Users know the target. The errors of polars are no OSError.
        ours = str(getattr(error, "filename", None) or new).startswith(str(new))
        if ours and (isinstance(error, OSError) or "(os error " in str(error)):
            told = getattr(error, "strerror", None) or error
            advice = "make room, or choose another place"
            raise OSError(f"{target}: cannot be written ({told}); {advice}") from error
        raise
    finally:
        _remove_leftovers(target)


def fsync(path: Path) -> None:
    """Flushes a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def read_text(path: Path) -> str:
    """The UTF-8 text in a file.

    Raises:
      InputError: the file is no regular one, such as a pipe, or is not UTF-8.
      OSError: the file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file; give one")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeError as error:
        raise InputError(f"{path}: cannot be read ({error}); save it as UTF-8") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
      InputError: as `read_text`; or it is not valid JSON, gives a key twice or is nested too deep.
      OSError: the file cannot be read.
    """
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); fix the file") from error


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {max(keys, key=keys.count)!r} is given twice; give it once")
    return content
