"""``metaheac doctor``: versions, the processor, flags, and whether sums of products are right."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from metaheac_jax.cli import terminal
from metaheac_jax.errors import BackendError


@dataclass(frozen=True)
class Options:
    """Shows versions, the processor, flags, and whether jax computes correctly here."""


def show() -> None:
    """Prints what decides how jax computes; before it is checked."""
    from metaheac_jax.backend import environment, processor

    flags = {name: value for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_"))}
    found = {"python": platform.python_version(), **environment(), "processor": processor()}
    terminal.print_lines(*(f"{name:16}  {value}" for name, value in {**found, **flags}.items()))


def main(_: Options) -> None:
    """Tells the verdicts; programs of this package have been checked, as before any command."""
    import jax

    from metaheac_jax.backend import check_backend

    told = "right"
    try:
        check_backend(jax.jit)
    except BackendError as error:
        told = str(error)
    terminal.print_lines(f"{'this package':16}  right", f"{'your own jax.jit':16}  {told}")
