"""The methods of a comparison, by name, with their settings.

A setting comes from the preset; then from `CHOSEN`, what was chosen for the method on held-out
training campaigns of a world of its own; then from ``--set``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from experiments import baselines
from metaheac_jax.cli.fit import changed_settings
from metaheac_jax.errors import InputError, about
from metaheac_jax.methods import METHODS, PAPER, Method, configured

Preset = Literal["paper", "official"]
#: A JSON file: per world, the settings that were chosen for a method, or the name of another method
#: with the same ones.
CHOSEN = Path(__file__).with_name("chosen.json")


assert baselines  # to import them registers them


def build_methods(
    names: Sequence[str],
    *,
    preset: Preset = "paper",
    world: str | None = None,
    changes: Sequence[str] = (),
    **own: Any,
) -> list[Method[Any]]:
    """Methods with their settings, each once.

    Args:
      names: names of methods.
      preset: settings that all methods start from.
      world: the world in `CHOSEN` whose settings the paper's preset takes; None for none.
      changes: the values of ``--set``, NAME=VALUE, for all methods that have the setting.
      **own: settings of the command, which ``changes`` replaces.

    Raises:
      InputError: a method is unknown, or a change has an unknown name or an invalid value.
    """
    for name in names:
        if name not in METHODS:
            raise InputError(f"--methods: unknown {name!r}; choose from {', '.join(METHODS)}")
    given, start = changed_settings(changes), configured("metaheac", preset, **own).config
    methods = [configured(name, start) for name in dict.fromkeys(names)]
    if preset == "paper":
        methods = [method.changed(**_chosen(method.name, world)) for method in methods]
    with about("--set"):
        PAPER.changed({n: v for n, v in given.items() if not any(n in m.config for m in methods)})
        return [
            method.changed(**{n: v for n, v in given.items() if n in method.config})
            for method in methods
        ]


def _chosen(name: str, world: str | None) -> dict[str, Any]:
    """The settings chosen for a method."""
    known = _read().get(world or "", {})
    of = known.get(name, {})
    return known[of] if isinstance(of, str) else of


@cache
def _read() -> dict[str, Any]:
    return json.loads(CHOSEN.read_text())
