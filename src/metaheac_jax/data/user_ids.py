"""Users whom a caller names by ids: one rule of spelling, and one report of who is none.

An id is text or a whole number, and a whole number and its text are the same id. Where all users
have whole numbers, an id that is not spelled plainly is nobody's: 7, but not 007, +7 or 7.0.

Axes: U users, n ids.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from metaheac_jax.data.campaign import EXPECTED_ID, plain_id
from metaheac_jax.errors import InputError
from metaheac_jax.schema import whole_number

#: Users as a caller names them: a list, an array or a column of ids; or paths of files of them,
#: .txt with one on each line, or tables with a column of ids.
UserIds: TypeAlias = ArrayLike | Path | Sequence[Path]
_BLOCK = 1 << 18  # users read at a time


def as_ids(given: ArrayLike, *, text: bool, what: str = "user ids") -> np.ndarray:
    """Ids in the form of the data: (n,) int64, or UTF-8 bytes if ``text``.

    Raises:
      InputError: ``what`` is no list of ids, or one cannot be that of a user of the data.
    """
    array = np.asarray(given, None if hasattr(given, "dtype") else object)
    if array.ndim != 1:
        raise InputError(f"{what}: expected a list, got an array of shape {array.shape}")
    if text and array.dtype.kind == "S":
        return array
    if not text and array.dtype.kind in "iu" and array.dtype != np.uint64:
        return array.astype(np.int64)
    values = array.tolist()
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    ids = texts if text else [whole_number(one) for one in texts]
    for number, (value, key) in enumerate(zip(values, ids, strict=True), start=1):
        is_id = isinstance(value, str | bytes | Integral) and not isinstance(value, bool)
        if not is_id or key is None or "\0" in str(key):
            raise InputError(
                f"{what}: item {number} is {value!r}, expected {EXPECTED_ID[not text]}"
            )
    if text:
        return np.array([one.encode() for one in texts], "S" if texts else "S1")
    return np.array(ids, np.int64)


def find(user_ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The indices (n,) of the users (U,) with ids that are distinct and ascend; -1 for none.

    Memory grows with n and not with U.
    """
    found = np.full(len(wanted), -1, np.int64)
    for start in range(0, len(user_ids) if len(wanted) else 0, _BLOCK):
        block = user_ids[start : start + _BLOCK]
        position = np.searchsorted(wanted, block).clip(max=len(wanted) - 1)
        users = np.flatnonzero(wanted[position] == block)
        found[position[users]] = start + users
    return found


def find_named(
    named: UserIds, user_ids: np.ndarray, what: str, column: str
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the users whom a caller names; a warning counts the ids that are nobody's.

    Args:
      named: ids, or files of them; an empty list names nobody.
      user_ids: (U,) ids of the data.
      what: the name of a list in messages; a file is called by its path.
      column: of the ids in a table; one without it has them in ``user_id``.

    Returns:
      The distinct ids (n,), ascending and in the form of the data; and (U,) bool, who is named.

    Raises:
      InputError: an id cannot be that of a user of the data, none of a file or of a list is one, or
        a file cannot be read.
    """
    every, mask = [user_ids[:0]], np.zeros(len(user_ids), bool)
    for where, given, place in _lists(named, user_ids.dtype.kind == "S", what, column):
        ids, first = np.unique(given, return_index=True)
        found = find(user_ids, ids)
        mask[found[found >= 0]] = True
        every.append(ids)
        others = np.sort(first[found < 0])
        told = f"{where}: {len(ids) - len(others):,} of {len(ids):,} ids are users"
        if len(others):
            one = f"{plain_id(given[others[0]])} ({place(others[0])})"
            told += f"; {len(others):,} {'is' if len(others) == 1 else 'are'} not, such as {one}"
        if len(others) == len(ids):
            raise InputError(
                f"{told}; give ids as users have them, or omit it if they were removed earlier"
            )
        if len(others):
            warnings.warn(told, stacklevel=3)
    return np.unique(np.concatenate(every)), mask


def _lists(
    named: UserIds, text: bool, what: str, column: str
) -> Iterator[tuple[str, np.ndarray, Callable[[int], str]]]:
    """Each file or list: its name, its ids, and a function that says where one is."""
    from metaheac_jax.data.table_file import read_ids  # it imports polars, which would slow a start

    given: Any = [named] if isinstance(named, Path) else named
    if isinstance(given, list | tuple) and given and all(isinstance(path, Path) for path in given):
        yield from ((str(path), *read_ids(path, column, whole=not text)) for path in given)
        return
    ids = as_ids(given, text=text, what=what)
    if len(ids):
        yield what, ids, lambda number: f"item {number + 1}"
