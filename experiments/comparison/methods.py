"""The methods of a comparison, by name, with their settings.

A setting comes from the preset; then from `CHOSEN`, what was chosen for the method on held-out
training campaigns of a world of its own; then from ``--set``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import experiments.baselines  # noqa: F401 (registers them)
from metaheac_jax.cli.fit import changed_settings
from metaheac_jax.errors import about
from metaheac_jax.methods import OFFICIAL, PAPER, Config, MetaHeacConfig, Method, configured

Preset = Literal["paper", "official"]
#: A JSON file: per world, the settings that were chosen for a method, or the name of another method
#: with the same ones.
CHOSEN = Path(__file__).with_name("chosen.json")


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
      **own: settings of the command, for methods that have MetaHeac's; ``changes`` replaces them.

    Raises:
      InputError: a method is unknown, or a change has an unknown name or an invalid value.
    """
    with about("--methods"):
        official = preset == "official"
        methods = [configured(name, official=official) for name in dict.fromkeys(names)]
    given, usual = changed_settings(changes), OFFICIAL if official else PAPER
    methods = [method.changed(**_usual(method.config, usual, own)) for method in methods]
    if preset == "paper":
        methods = [method.changed(**_chosen(method.name, world)) for method in methods]
    with about("--set"):
        PAPER.changed({n: v for n, v in given.items() if not any(n in m.config for m in methods)})
        return [
            method.changed(**{n: v for n, v in given.items() if n in method.config})
            for method in methods
        ]


def _usual(config: Config, usual: MetaHeacConfig, own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a command that a config has with MetaHeac's value."""
    last = {name: name.rpartition(".")[2] for name in config.named()}
    return {
        name: own[last[name]]
        for name, value in config.named().items()
        if last[name] in own and value == getattr(usual, last[name])
    }


def _chosen(name: str, world: str | None) -> dict[str, Any]:
    """The settings chosen for a method."""
    known = _read().get(world or "", {})
    of = known.get(name, {})
    return known[of] if isinstance(of, str) else of


@cache
def _read() -> dict[str, Any]:
    return json.loads(CHOSEN.read_text())
