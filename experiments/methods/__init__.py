"""The methods that are compared (paper section 4.1), by the name that --methods takes."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.methods import fine_tuned
from experiments.methods.method import Method
from metaheac_jax.errors import InputError

METHODS: dict[str, Method] = {**fine_tuned.METHODS}


def check_methods(names: Sequence[str]) -> None:
    """Refuses a name that no method has.

    Raises:
      InputError: it names the unknown method, and those there are.
    """
    for name in names:
        if name not in METHODS:
            raise InputError(f"--methods: unknown {name!r}; choose from {', '.join(METHODS)}")
    if not names:
        raise InputError(f"--methods: name at least one of {', '.join(METHODS)}")
