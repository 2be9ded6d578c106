"""Progress of long work, as a plain callback that needs no terminal."""

from __future__ import annotations

from collections.abc import Callable

#: Called as ``progress(what, done, total)``; the unit of the two numbers depends on the work.
Progress = Callable[[str, int, int], None]


def prefixed(progress: Progress, prefix: str) -> Progress:
    """A callback that puts ``prefix`` before what is being done."""
    return lambda what, done, total: progress(prefix + what, done, total)


def silent(what: str, done: int, total: int) -> None:
    """Ignores all progress."""
