"""Several processes of one job, which jax joins: what each tells the others.

All processes must call these functions, in the same order. In a single process they return at once.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from metaheac_jax.errors import InputError

T = TypeVar("T")

_SILENCE = 30  # seconds after which a process that is not heard counts as dead, and all end
_CHUNK = 1 << 26  # bytes sent at a time, which each device has room for


def join_job(
    coordinator: str | None = None, process: int | None = None, count: int | None = None
) -> None:
    """Joins the processes of a job, before jax looks for devices.

    Args:
      coordinator: address and port of the first process. None for all three where jax finds them:
        with Slurm, Open MPI, Kubernetes and Cloud TPUs.
      process: the number of this one.
      count: of all.

    Raises:
      InputError: there is nothing to be found, or the others do not come.
    """
    # Its handler of SIGTERM would take the place of the program's.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, count, process, heartbeat_timeout_seconds=_SILENCE)
    except (ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())[:160]
        raise InputError(
            f"the processes of the job could not be joined ({told}); give each the address of the "
            "first and its own number"
        ) from error
    # Opens their connection, which some backends do only if all come within seconds.
    from_first(None)


def is_first() -> bool:
    """Whether this is the process that writes files and tells progress."""
    return jax.process_index() == 0


def own_part(count: int) -> range:
    """Which of ``count`` things are this process's, where all share them."""
    return range(jax.process_index(), count, jax.process_count())


def of_all(values: Sequence[T], count: int) -> list[T]:
    """The values of all ``count`` things; every process gives those of its `own_part`."""
    each = from_each(list(values))
    return [each[number % len(each)][number // len(each)] for number in range(count)]


def from_first(value: T) -> T:
    """The first process's value; arrays are numpy's."""
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(pickle.dumps(value) if is_first() else b"", np.uint8)
    [size] = multihost_utils.broadcast_one_to_all(_as_bytes(len(content))).view(np.int64)
    received = np.empty(size, np.uint8)
    for start in range(0, size, _CHUNK):
        stop = min(start + _CHUNK, size)
        part = content[start:stop] if is_first() else np.zeros(stop - start, np.uint8)
        received[start:stop] = multihost_utils.broadcast_one_to_all(part)
    return pickle.loads(received.data)


def _as_bytes(size: int) -> np.ndarray:
    """(8,) uint8 of a number, which jax would send with 32 bits."""
    return np.frombuffer(np.int64(size).tobytes(), np.uint8)


def check_same(what: str, value: Any) -> None:
    """Refuses to go on where the processes have different values.

    Raises:
      InputError: it names what differs.
    """
    if any(other != value for other in from_each(value)):
        raise InputError(
            f"{what}: not the same in all processes of the job; give all the same files, and let "
            "nothing replace them meanwhile"
        )


def from_each(value: T) -> list[T]:
    """The values of all processes, in their order."""
    if jax.process_count() == 1:
        return [value]
    content = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(_as_bytes(len(content))))
    sizes = lengths.view(np.int64).ravel().tolist()
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(content)] = content
    parts = [np.empty(size, np.uint8) for size in sizes]
    for start in range(0, len(padded), _CHUNK):
        for part, got in zip(
            parts, multihost_utils.process_allgather(padded[start : start + _CHUNK]), strict=True
        ):
            part[start : start + _CHUNK] = got[: max(0, len(part) - start)]
    return [pickle.loads(part.data) for part in parts]
