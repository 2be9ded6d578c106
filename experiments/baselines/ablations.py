"""MetaHeac without one of its two mixtures (paper, Table 4), or without its inner step."""

from __future__ import annotations

from metaheac_jax.methods import MetaHeacConfig, MetaHeacMethod, register


@register
class AlphaZero(MetaHeacMethod):
    """MetaHeac with the batches of the meta-step but without an inner step, as a control.

    It draws the same examples; those of support sets do not affect the gradient.
    """

    name, label = "alpha-0", "MetaHeac, alpha = 0"
    default = MetaHeacConfig(inner_learning_rate=0.0)


@register
class WithoutHC(MetaHeacMethod):
    """MetaHeac with one critic."""

    name, label = "without-hc", "MetaHeac w/o HC (one critic)"
    default = MetaHeacConfig(num_critics=1)


@register
class WithoutHE(MetaHeacMethod):
    """MetaHeac with one expert."""

    name, label = "without-he", "MetaHeac w/o HE (one expert)"
    default = MetaHeacConfig(num_experts=1)
