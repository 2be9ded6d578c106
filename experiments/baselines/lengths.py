"""Methods of the library with list lengths, under names of their own."""

from __future__ import annotations

from typing import Any

from experiments.baselines import ablations
from metaheac_jax.methods import METHODS, Method, register


def _with_lengths(kind: type[Method[Any]]) -> type[Method[Any]]:
    """The method with other defaults: list lengths are user fields."""
    own = {
        "name": f"{kind.name}-lengths",
        "label": f"{kind.label}, with list lengths",
        "default": kind().config.changed({"list_lengths": True}),
    }
    return type(f"{kind.__name__}Lengths", (kind,), own)


for _name in ("lr", "mlp-pretraining", "without-meta", ablations.AlphaZero.name, "metaheac"):
    register(_with_lengths(METHODS[_name]))
