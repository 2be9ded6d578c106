"""The option ``--set NAME=VALUE``, which gives methods other settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

from metaheac_jax.errors import InputError
from metaheac_jax.settings import Settings


def changed_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """The values that ``--set`` gives to settings, by name; `Settings` checks them.

    Raises:
      InputError: a text is not NAME=VALUE with the name of a setting, or a name is repeated.
    """
    changes, names = dict[str, Any](), [setting.name for setting in fields(Settings)]
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or name not in names:
            known = ", ".join(names)
            raise InputError(f"--set: expected NAME=VALUE, got {pair!r}; the names are {known}")
        if name in changes:
            raise InputError(f"--set: {name} has two values; give one")
        changes[name] = _value(value)
    return changes


def _value(text: str) -> Any:
    """A setting's value as a number, true, false or none, or else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text
