"""Sizes of padded arrays: few different ones, since every size compiles programs."""

from __future__ import annotations

from threading import Lock

import numpy as np

_MIN_SIZE = 4096  # see `usual_size`


class GrowingSize:
    """A number of rows that never shrinks."""

    def __init__(self, multiple: int) -> None:
        """Args:
        multiple: the size is a multiple of it.
        """
        self._multiple, self._size, self._lock = multiple, 0, Lock()

    def holding(self, count: int) -> int:
        """A size of at least ``count``: the current one, or one with a sixteenth to spare."""
        with self._lock:  # otherwise two threads that start could each set a size
            if count > self._size:
                self._size = -(-(count + count // 16) // self._multiple) * self._multiple
            return self._size


def usual_size(count: int) -> int:
    """A size of at least ``count``: one of few."""
    return max(_MIN_SIZE, 1 << (count - 1).bit_length())


def padded_rows(rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Table rows, padded with the pad id ``num_rows`` to a `usual_size`."""
    missing = usual_size(len(rows)) - len(rows)
    return np.pad(rows.astype(np.int32), (0, missing), constant_values=num_rows)
