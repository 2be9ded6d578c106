"""The methods of a comparison, by name, with their settings.

A setting comes from the preset; then from `CHOSEN`, what was chosen for the method on held-out
training campaigns of a world of its own; then from ``--set``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from experiments import baselines
from experiments.comparison import adapting
from experiments.comparison.adapting import VARIANTS
from metaheac_jax.cli.fit import changed_settings
from metaheac_jax.errors import InputError, about
from metaheac_jax.methods import METHODS, PAPER, Method, configured

Preset = Literal["paper", "official"]
#: A JSON file: per world, the settings that were chosen for methods.
CHOSEN = Path(__file__).with_name("chosen.json")
#: Controls, and for each the method that it is compared with.
_CONTROL_OF = {"solved-constant": "solved-head"}


assert baselines  # to import them registers them


def method_names() -> list[str]:
    """Names of all methods, those of the library first."""
    return list(METHODS)


def names_of(chosen: Sequence[str]) -> tuple[str, ...]:
    """Names without repetitions, where ``all`` and ``adapting`` stand for several methods.

    Raises:
      InputError: a name is unknown.
    """
    compared = [name for name, own in METHODS.items() if own.__module__ != adapting.__name__]
    groups = {"all": compared, "adapting": [variant.name for variant in VARIANTS]}
    named = [own for name in chosen for own in groups.get(name, [name])]
    known = method_names()
    for name in named:
        if name not in known:
            listed = ", ".join(known)
            raise InputError(f"--methods: unknown {name!r}; choose from {listed}, all, adapting")
    return tuple(dict.fromkeys(named))


def build_methods(
    names: Sequence[str],
    *,
    preset: Preset = "paper",
    world: str | None = None,
    changes: Sequence[str] = (),
    **own: Any,
) -> list[Method[Any]]:
    """Methods with their settings.

    Args:
      names: from `names_of`.
      preset: settings that all methods start from.
      world: the world in `CHOSEN` whose settings the paper's preset takes; None for none.
      changes: the values of ``--set``, NAME=VALUE; they do not replace what defines a method.
      **own: settings of the command, which ``changes`` replaces.

    Raises:
      InputError: a change has an unknown name or an invalid value.
    """
    given = changed_settings(changes)
    start = configured("metaheac", preset, **own).config
    with about("--set"):
        start = start.changed({name: value for name, value in given.items() if name in PAPER})
        methods = [configured(name, start) for name in names]
        _check_names(given, methods)
    if preset == "paper":
        methods = [
            method.changed(**_tuned(method, _chosen(method.name, world))) for method in methods
        ]
    with about("--set"):
        return [method.changed(**_given(method, given)) for method in methods]


def _check_names(given: Mapping[str, Any], methods: Sequence[Method[Any]]) -> None:
    """Refuses names that are no setting of MetaHeac, nor of a method; lists close ones."""
    configs = [PAPER, *(method.config for method in methods)]
    for name in given:
        if not any(name in config for config in configs):
            known = list(dict.fromkeys(own for config in configs for own in config.named()))
            near = difflib.get_close_matches(name, known, cutoff=0.5) or known
            raise InputError(f"no setting {name!r}; did you mean {', '.join(near)}?")


def _tuned(method: Method[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the settings that a method tunes, by their names in its config.

    What was chosen for another method must not replace what defines this one. An ensemble tunes
    settings of its members, which were chosen by the names that they have there.
    """
    names = {own: own.rpartition(".")[2] for own in method.config.tuned}
    return {own: values[name] for own, name in names.items() if name in values}


def _given(method: Method[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of settings that a method tunes, or that MetaHeac does not have."""
    tuned = {own.rpartition(".")[2] for own in method.config.tuned}
    others = [
        name for name in values if name in method.config and name not in {*tuned, *PAPER.named()}
    ]
    return _tuned(method, values) | {name: values[name] for name in others}


def _chosen(name: str, world: str | None) -> dict[str, Any]:
    """The settings chosen for a method, or else for the nearest that it differs from.

    So a method without its own settings differs from the other in one thing only.
    """
    bases = {variant.name: variant.base for variant in VARIANTS} | _CONTROL_OF
    known, chain = _read().get(world or "", {}), list[str]()
    of: str | None = name
    while of is not None and of not in chain:
        if of in known:
            return known[of]
        chain.append(of)
        of = bases.get(of)
    return {}


@cache
def _read() -> dict[str, Any]:
    return json.loads(CHOSEN.read_text())
