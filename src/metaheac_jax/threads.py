"""Threads of one process: what one waits for does not keep a CPU's other cores idle."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax

A = TypeVar("A")
B = TypeVar("B")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[A], B], items: Sequence[A], *, num_threads: int) -> Generator[B]:
    """As `map`, in so many threads. What is not begun when it is closed never begins."""
    names = "jax_enable_x64", "jax_default_matmul_precision", "jax_default_device"
    x64, precision, device = (getattr(jax.config, name) for name in names)

    def call(item: A) -> B:
        # A thread does not inherit what its caller has set for a ``with`` block.
        with (
            jax.enable_x64(x64),
            jax.default_matmul_precision(precision),
            jax.default_device(device),
        ):
            return function(item)

    with ThreadPoolExecutor(num_threads, "metaheac") as threads:
        yield from threads.map(call, items)
