"""MetaHeac without one of its two mixtures (paper, Table 4), or without its inner step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metaheac_jax.methods import MetaHeacConfig, MetaHeacMethod, register


@dataclass(frozen=True)
class WithoutHCConfig(MetaHeacConfig):
    """Settings with one critic."""

    tuned: ClassVar = tuple(name for name in MetaHeacConfig.tuned if name != "num_critics")
    num_critics: int = 1


@dataclass(frozen=True)
class WithoutHEConfig(MetaHeacConfig):
    """Settings with one expert."""

    tuned: ClassVar = tuple(name for name in MetaHeacConfig.tuned if name != "num_experts")
    num_experts: int = 1


@dataclass(frozen=True)
class AlphaZeroConfig(MetaHeacConfig):
    """Settings without an inner step."""

    tuned: ClassVar = tuple(name for name in MetaHeacConfig.tuned if name != "inner_learning_rate")
    inner_learning_rate: float = 0.0


@register
class AlphaZero(MetaHeacMethod):
    """MetaHeac with the batches of the meta-step but without an inner step, as a control.

    It draws the same examples; those of support sets do not affect the gradient.
    """

    name, label, default = "alpha-0", "MetaHeac, alpha = 0", AlphaZeroConfig()


@register
class WithoutHC(MetaHeacMethod):
    """MetaHeac with one critic."""

    name, label, default = "without-hc", "MetaHeac w/o HC (one critic)", WithoutHCConfig()


@register
class WithoutHE(MetaHeacMethod):
    """MetaHeac with one expert."""

    name, label, default = "without-he", "MetaHeac w/o HE (one expert)", WithoutHEConfig()
