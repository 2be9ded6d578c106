"""Methods by name."""

from __future__ import annotations

from typing import Any, TypeVar

from metaheac_jax.errors import InputError, about
from metaheac_jax.methods.config import Config
from metaheac_jax.methods.ensembling import EnsembleMethod
from metaheac_jax.methods.fine_tuning import (
    OFFICIAL,
    PAPER,
    AlphaZero,
    MetaHeacConfig,
    MetaHeacMethod,
    PretrainedMLP,
    WithoutMeta,
)
from metaheac_jax.methods.logistic_regression import LogisticRegression
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.solved_heads import SolvedHeadMethod
from metaheac_jax.model import General

#: The classes of methods by name.
METHODS: dict[str, type[Method[Any]]] = {}
M = TypeVar("M", bound=Method[Any])
_PRESETS = {"paper": PAPER, "official": OFFICIAL}


def register(method: type[M]) -> type[M]:
    """Adds a class to `METHODS`, so that its models can be used; for use as a decorator."""
    METHODS[method.name] = method
    return method


register(LogisticRegression)
register(PretrainedMLP)
register(WithoutMeta)
register(AlphaZero)
register(MetaHeacMethod)
register(SolvedHeadMethod)
register(EnsembleMethod)


def configured(
    name: str, preset: str | MetaHeacConfig | None = None, **changes: Any
) -> Method[Any]:
    """A method with other values than its defaults.

    Args:
      name: name of the method.
      preset: ``paper``, the default, or ``official``, the settings of the authors' program, or
        other settings of MetaHeac. Any method takes those for which its default is the paper's.
      **changes: values by name, such as ``value_dropout=0.5`` or ``**{"head.penalty": 30}``.

    Raises:
      InputError: the method or a setting does not exist, or a value is out of range.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    if not isinstance(preset, MetaHeacConfig):
        preset = _PRESETS[preset or "paper"]
    method = METHODS[name]()
    method = method.changed(**_shared(method.config, preset))
    with about(name):
        return method.changed(**changes)


def _shared(config: Config, preset: MetaHeacConfig) -> dict[str, Any]:
    """The preset's values of settings that the config has from the paper, by name."""
    paper, wanted = PAPER.named(), preset.named()
    pairs = [(name, name.rpartition(".")[2], value) for name, value in config.named().items()]
    return {name: wanted[own] for name, own, value in pairs if paper.get(own) == value}


def method_of(general: General) -> Method[Any]:
    """The method that trained a general model, with the config of that training.

    Raises:
      InputError: no method has its name, or the method has other settings.
    """
    if general.method not in METHODS:
        raise InputError(
            f"the general model is of the method {general.method!r}, which this program does not "
            "have; import the module that registers it"
        )
    kind = METHODS[general.method]
    with about(f"the general model of {general.method!r}"):
        return kind(type(kind().config).of_plain(general.config))
