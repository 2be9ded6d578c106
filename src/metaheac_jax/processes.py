"""Several processes of one job, which jax joins: what each tells the others.

All processes must call these functions, in the same order. In a single process they return at once.
"""

from __future__ import annotations

import pickle
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")

_CHUNK = 1 << 26  # bytes sent at a time, which each device has room for


def is_first() -> bool:
    """Whether this is the process that writes files and tells progress."""
    return jax.process_index() == 0


def from_first(value: T) -> T:
    """The first process's value; arrays are numpy's."""
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(pickle.dumps(value) if is_first() else b"", np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int64(len(content))))
    received = np.empty(size, np.uint8)
    for start in range(0, size, _CHUNK):
        stop = min(start + _CHUNK, size)
        part = content[start:stop] if is_first() else np.zeros(stop - start, np.uint8)
        received[start:stop] = multihost_utils.broadcast_one_to_all(part)
    return pickle.loads(received.data)


def from_each(value: T) -> list[T]:
    """The values of all processes, in their order."""
    if jax.process_count() == 1:
        return [value]
    content = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int64(len(content)))).tolist()
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(content)] = content
    parts = [np.empty(size, np.uint8) for size in sizes]
    for start in range(0, len(padded), _CHUNK):
        for part, got in zip(
            parts, multihost_utils.process_allgather(padded[start : start + _CHUNK]), strict=True
        ):
            part[start : start + _CHUNK] = got[: max(0, len(part) - start)]
    return [pickle.loads(part.data) for part in parts]
