"""The errors that a user can act on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any

#: The largest count or seed, since jax and the examples use 32-bit integers.
MAX_WHOLE = 2**31 - 1
#: Maximum number of errors in one message.
MAX_REFUSALS = 50


class InputError(ValueError):
    """Raised for invalid input that the user can fix.

    The message is one line: what is wrong, where (file, line or campaign), what was expected, and
    what to do. Commands print it and exit with code 2, or 75 if it is `Busy`.
    """

    def __init__(self, message: str) -> None:
        # Names and cells in a message may contain line ends.
        super().__init__(" ".join(message.splitlines()))


class Busy(InputError):
    """Raised where another process is writing what is to be written; the same may succeed later."""


@contextmanager
def about(what: object | None) -> Iterator[None]:
    """A context in which errors begin with what they are about, unless that is None."""
    try:
        yield
    except InputError as error:
        if what is None:
            raise
        raise type(error)(f"{what}: {error}") from error


def message_of(error: OSError) -> str:
    """What to tell the user about an error of the system: the file's name and what is wrong."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


class Refusals:
    """Collects the errors of several inputs, so that one message has all of them."""

    def __init__(self) -> None:
        self._errors: list[tuple[str | None, InputError]] = []

    @contextmanager
    def collected(self, name: str | None) -> Iterator[None]:
        """A block on the input of this name, whose `InputError` is collected, unless `Busy`."""
        try:
            yield
        except Busy:
            raise
        except InputError as error:
            self.add(name, error)

    def add(self, name: str | None, error: InputError) -> None:
        """Adds an error about the input of this name, which may be `Busy`."""
        self._errors.append((name, error))

    def __contains__(self, name: str | None) -> bool:
        """Whether an error is about the input of this name."""
        return any(name == own for own, _ in self._errors)

    @property
    def reasons(self) -> list[tuple[str | None, str]]:
        """The name of each input with an error, and the message."""
        return [(name, str(error)) for name, error in self._errors]

    def check(self, advice: str = "") -> None:
        """Ends the collection.

        Args:
          advice: ends the message.

        Raises:
          InputError: there are errors; the message has the first `MAX_REFUSALS`.
          Busy: the same, and all errors are `Busy`.
        """
        if not self._errors:
            return
        messages = [message for _, message in self.reasons]
        shown, more = "; ".join(messages[:MAX_REFUSALS]), len(messages) - MAX_REFUSALS
        if len(messages) > 1:
            others = f"; and {more} more" if more > 0 else ""
            shown = f"{len(messages)} errors: {shown}{others}"
        all_busy = all(isinstance(error, Busy) for _, error in self._errors)
        kind = Busy if all_busy else InputError
        raise kind(f"{shown}{advice}") from self._errors[0][1]


def check_whole(name: str, value: Any, minimum: int) -> None:
    """Refuses anything but a whole number from ``minimum`` to `MAX_WHOLE`.

    Raises:
      InputError: the value is something else; the message names it.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < minimum:
        raise InputError(f"{name}: expected a whole number of {minimum} or more, got {value!r}")
    if int(value) > MAX_WHOLE:
        raise InputError(f"{name}: expected a whole number of at most {MAX_WHOLE}, got {value!r}")


_KINDS = {str: "text", int: "a whole number", bool: "true or false", list: "a list"}


def check_keys(where: str, data: Any, kinds: Mapping[str, type]) -> None:
    """Refuses anything but a JSON object with keys from ``kinds`` and values of their types.

    Raises:
      InputError: the data is something else; the message names the key and what was expected.
    """
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a JSON object, got {json.dumps(data)[:80]}")
    for key, value in data.items():
        if key not in kinds:
            raise InputError(f"{where}: unknown key {key!r}; expected {', '.join(kinds)}")
        if type(value) is not kinds[key]:
            shown, expected = json.dumps(value)[:80], _KINDS[kinds[key]]
            raise InputError(f"{where}: {key} is {shown}, expected {expected}")


class Diverged(RuntimeError):
    """Raised when a loss, a gradient or a score is no longer a number; the message says where."""


class BackendError(RuntimeError):
    """Raised when jax computes wrong numbers on this machine.

    The message is one line: the version, the fault and the remedy. Commands exit with code 2.
    """
