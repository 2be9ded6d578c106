"""The methods that are compared (paper section 4.1), by the name that --methods takes."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.methods import (
    fine_tuned,
    heads,
    hubble,
    ours,
    pinterest,
    references,
    shared_embeddings,
)
from experiments.methods.method import Method
from metaheac_jax.errors import InputError

METHODS: dict[str, Method] = {
    **fine_tuned.METHODS,
    **shared_embeddings.METHODS,
    **pinterest.METHODS,
    **hubble.METHODS,
    **heads.METHODS,
    **references.METHODS,
    **ours.METHODS,
}

#: Those of a command without --methods, so that it takes minutes.
DEFAULT = ("lr", "mlp-one-stage", "mlp-pretraining", "without-meta", "alpha-0", "metaheac")


def check_methods(names: Sequence[str]) -> None:
    """Refuses a name that no method has.

    Raises:
      InputError: it names the unknown method, and those there are.
    """
    for name in names:
        if name not in METHODS:
            raise InputError(f"--methods: unknown {name!r}; choose from {', '.join(METHODS)}, all")
    if not names:
        raise InputError(f"--methods: name at least one of {', '.join(METHODS)}")


def choose(names: Sequence[str]) -> tuple[str, ...]:
    """The methods of --methods, each once; ``all`` stands for every one.

    Raises:
      InputError: as `check_methods` does.
    """
    if "all" in names:
        return tuple(METHODS)
    check_methods(names)
    return tuple(dict.fromkeys(names))
