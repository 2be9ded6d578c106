"""Threads of one process: while one waits or leaves cores idle, others continue."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax

A = TypeVar("A")
B = TypeVar("B")


def at_a_time() -> int:
    """How many jax programs should be in progress at a time.

    On a CPU, one per core, and at least two. On an accelerator, two: one computes while the inputs
    of the other are sent.
    """
    return max(2, num_cores()) if jax.default_backend() == "cpu" else 2


def drawing_threads() -> int:
    """How many threads should draw batches ahead of training.

    One on a CPU, where a step takes longer than a draw and uses the same cores. An accelerator
    would have to wait for a single thread.
    """
    return 1 if jax.default_backend() == "cpu" else min(4, num_cores())


def in_threads(function: Callable[[A], B], items: Iterable[A], *, num_threads: int) -> Generator[B]:
    """The results for all items in order, like `map`; each is computed in one of the threads.

    Up to 2 ``num_threads`` items are begun or queued ahead of the requested one. When the generator
    is closed, or the function raises, no more items are begun.
    """
    names = "jax_enable_x64", "jax_default_matmul_precision", "jax_default_device"
    x64, precision, device = (getattr(jax.config, name) for name in names)

    def call(item: A) -> B:
        # A thread does not inherit settings that its caller has made for a ``with`` block.
        with (
            jax.enable_x64(x64),
            jax.default_matmul_precision(precision),
            jax.default_device(device),
        ):
            return function(item)

    ahead = deque[Future[B]]()
    with ThreadPoolExecutor(num_threads, "metaheac") as threads:
        try:
            for item in items:
                ahead.append(threads.submit(call, item))
                if len(ahead) > 2 * num_threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()


def num_cores() -> int:
    """Number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
