"""Values that the processes of one job, joined by jax, exchange with each other.

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

_SILENCE = 30  # seconds after which a silent process counts as dead and all processes end


def join_job(
    coordinator: str | None = None, process: int | None = None, count: int | None = None
) -> None:
    """Joins the processes of a job, before jax looks for devices.

    Args:
      coordinator: address and port of the first process. Give None for all three arguments where
        jax finds them itself: with Slurm, Open MPI, Kubernetes and Cloud TPUs.
      process: number of this process.
      count: number of processes.

    Raises:
      InputError: jax does not find the arguments, or the other processes do not join.
    """
    # The service's handler of SIGTERM would replace the program's.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, count, process, heartbeat_timeout_seconds=_SILENCE)
    except (ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())[:160]
        raise InputError(
            f"the processes of the job could not be joined ({told}); give each the address of the "
            "first and its own number"
        ) from error
    # Opens the connection, which some backends do only if all processes ask within seconds.
    from_first(None)


def is_first() -> bool:
    """Whether this is the process that writes files and reports progress."""
    return jax.process_index() == 0


def part_of_process(count: int) -> range:
    """This process's share of ``count`` items, by index."""
    return range(jax.process_index(), count, jax.process_count())


def gathered(values: Sequence[T], count: int) -> list[T]:
    """The values of all ``count`` items; every process passes those of its `part_of_process`."""
    each = from_each(list(values))
    return [each[number % len(each)][number // len(each)] for number in range(count)]


def from_first(value: T) -> T:
    """The first process's value, whose arrays are numpy's."""
    return from_each(value if is_first() else None)[0]  # pyrefly: ignore


def check_same(what: str, value: Any) -> None:
    """Refuses to continue if the processes have different values.

    Raises:
      InputError: the values differ; the message begins with ``what``.
    """
    if any(other != value for other in from_each(value)):
        raise InputError(
            f"{what}: not the same in all processes of the job; give all the same options and "
            "files, and let nothing replace these meanwhile"
        )


def from_each(value: T) -> list[T]:
    """The values of all processes, in the order of the processes."""
    if jax.process_count() == 1:
        return [value]
    content = np.frombuffer(pickle.dumps(value), np.uint8)
    # As bytes, since jax would send a number with 32 bits.
    size = np.frombuffer(np.int64(len(content)).tobytes(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(size)).view(np.int64).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(content)] = content
    return [pickle.loads(row) for row in np.asarray(multihost_utils.process_allgather(padded))]
