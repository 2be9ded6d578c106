"""A compiled function over any number of users."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jax import Array


def over_chunks(
    function: Callable[..., Array], *arrays: np.ndarray, chunk: int = 2048
) -> np.ndarray:
    """Applies a function to rows of the arrays, ``chunk`` at a time, so that it compiles once.

    Args:
      function: of arrays (chunk, ...) to (chunk, ...), each row by itself.
      *arrays: each (n, ...).
      chunk: rows at a time; the last rows are filled up with zeros.

    Returns:
      (n, ...).
    """
    rows, parts = len(arrays[0]), []
    for first in range(0, max(rows, 1), chunk):
        cut = [np.asarray(array[first : first + chunk]) for array in arrays]
        full = [np.pad(a, [(0, chunk - len(a)), *[(0, 0)] * (a.ndim - 1)]) for a in cut]
        parts.append(function(*full))
    return np.concatenate(parts)[:rows]
