"""How long work tells how far it is: a plain callback, so the library needs no terminal."""

from __future__ import annotations

from collections.abc import Callable

#: Called as ``progress(what, done, total)``; ``done`` and ``total`` are in the unit of the work.
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Ignores all progress."""
