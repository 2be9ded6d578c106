"""The errors that a user can act on."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any

#: The largest count or seed, since jax and the examples use 32-bit integers.
MAX_WHOLE = 2**31 - 1


def printable(text: str) -> str:
    """Text from data as it may reach a terminal: U+FFFD replaces each control character."""
    controls = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(one) in controls else one
        for one in text
    )


def shown(plain: Any) -> Any:
    """Plain data whose texts are `printable`; other data are as they were."""
    if isinstance(plain, Mapping):
        return {shown(name): shown(part) for name, part in plain.items()}
    if isinstance(plain, list | tuple):
        return [shown(part) for part in plain]
    return printable(plain) if isinstance(plain, str) else plain


class InputError(ValueError):
    """Raised for invalid input that the user can fix.

    The message is one line: what is wrong, where (file, line or campaign), what was expected, and
    what to do. Commands print it and exit with code 2, or 75 if it is `Busy`.
    """

    def __init__(self, message: str) -> None:
        # Names and cells in a message may contain line ends, and what a terminal would obey.
        super().__init__(printable(" ".join(message.splitlines())))


class Busy(InputError):
    """Raised where another process is writing what is to be written; the same may succeed later."""


@contextmanager
def about(what: object) -> Iterator[None]:
    """A context in which errors begin with what they are about."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{what}: {error}") from error


def message_of(error: OSError) -> str:
    """What to tell the user about an error of the system: the file's name and what is wrong."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def check_whole(name: str, value: Any, minimum: int, maximum: int = MAX_WHOLE) -> None:
    """Refuses anything but a whole number from ``minimum`` to ``maximum``.

    Raises:
      InputError: the value is something else; the message names it.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < minimum:
        raise InputError(f"{name}: expected a whole number of {minimum} or more, got {value!r}")
    if int(value) > maximum:
        raise InputError(f"{name}: expected a whole number of at most {maximum}, got {value!r}")


def check_hold_out(hold_out: float) -> None:
    """Refuses a fraction of users in control groups that is not from 0 to below 1.

    Raises:
      InputError: it is none.
    """
    if not 0 <= hold_out < 1:
        raise InputError(f"hold_out: expected at least 0 and less than 1, got {hold_out}")


class Diverged(RuntimeError):
    """Raised when a loss, a gradient or a score is no longer a number; the message says where."""


class BackendError(RuntimeError):
    """Raised when jax computes wrong numbers on this machine.

    The message is one line: the version, the fault and the remedy. Commands exit with code 2.
    """
