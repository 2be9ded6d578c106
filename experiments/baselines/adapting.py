"""MetaHeac with other inner steps, and a solved head without the derivative through its solution.

Each differs from another method in one thing only. All have list lengths.

Axes: N campaign fields, k embedding width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.methods import (
    OFFICIAL,
    MetaHeacConfig,
    MetaHeacMethod,
    Offline,
    SolvedHeadMethod,
    Trained,
    register,
)
from metaheac_jax.methods.offline import campaign_sampler, train_rows, untrained
from metaheac_jax.methods.solved_head import solved_gradient
from metaheac_jax.model import State, Weights
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import build_loss, cross_entropy, masked
from metaheac_jax.training.meta_step import MetaGradient, build_meta_gradient
from metaheac_jax.training.step import Gradient

_PAPER = MetaHeacConfig(list_lengths=True)


@register
class ProgramStep(MetaHeacMethod):
    """The inner step of the authors' program: its alpha, on the mean loss."""

    name, label = "program-step", "task batches + the program's inner step"
    default = MetaHeacConfig(
        list_lengths=True, reduction="mean", inner_learning_rate=OFFICIAL.inner_learning_rate
    )


@register
class LearnedRates(MetaHeacMethod):
    """Inner steps at a learned rate per leaf (Meta-SGD, Li et al. 2017), from the paper's alpha.

    Weight decay would pull the logarithms of the rates towards zero. A model does not keep the
    rates, so training cannot continue from it.
    """

    name, label = "learned-rates", "task batches + an inner step at learned rates"
    default = _PAPER
    continues = False
    steps: ClassVar[int] = 1

    def train(self, offline: Offline) -> Trained:
        """See `Method.train`."""
        config, weights = self.config, untrained(offline, self.config, self.network)
        start = jnp.log(config.inner_learning_rate)
        # One array for each, since a step reuses their memory.
        rates = jax.tree.map(lambda _: jnp.copy(start), {"network": weights.network, "table": 0})
        network = {"inside": weights.network, "log_rates": rates}
        given = Weights(network, weights.table), self.gradient(offline.dataset.layout)
        options = {"reduction": config.reduction, "finish": _without_rates}
        return train_rows(offline, config, *given, campaign_sampler(offline, config), **options)

    def gradient(self, layout: Layout) -> MetaGradient:
        """The gradient; the network's parameters are ``{"inside", "log_rates"}``."""
        reduction = self.config.reduction
        inside = build_loss(self.network, layout, reduction=reduction)

        def loss(params: Any, batch: Any) -> Array:
            return inside(params | {"network": params["network"]["inside"]}, batch)

        def rates(params: Any) -> Any:
            of = jax.tree.map(jnp.exp, params["network"]["log_rates"])
            inner = {"inside": of["network"], "log_rates": 0.0}
            return {"network": inner, "table": of["table"]}

        return build_meta_gradient(
            loss,
            inner_learning_rate=rates,
            inner_steps=self.steps,
            adapt={"network": {"inside": True, "log_rates": False}, "table": True},
            reduction=reduction,
            select=select_rows,
        )


@register
class FiveLearnedRates(LearnedRates):
    """Five such steps."""

    name, label = "learned-rates-5", "task batches + 5 inner steps at learned rates"
    steps = 5


def _without_rates(weights: Weights) -> State:
    return Weights(weights.network["inside"], weights.table)._asdict()


@register
class AdaptHeads(MetaHeacMethod):
    """The paper's inner step on critics and gates only."""

    name, label = "adapt-heads", "task batches + the paper's inner step on heads and gates"
    default = _PAPER

    def gradient(self, layout: Layout) -> MetaGradient:
        """The gradient through inner steps on critics and gates."""
        config = self.config

        def adapted(params: Any) -> Any:
            parts = params["network"]["params"]
            flags = {part: part != "expert" for part in parts}
            return {"network": {"params": flags}, "table": False}

        return build_meta_gradient(
            build_loss(self.network, layout, reduction=config.reduction),
            inner_learning_rate=config.inner_learning_rate,
            adapt=adapted,
            reduction=config.reduction,
            select=select_rows,
        )


@register
class AdaptCampaign(MetaHeacMethod):
    """The paper's inner step on the campaign's own table rows only."""

    name, label = "adapt-campaign", "task batches + the paper's inner step on campaign rows"
    default = _PAPER

    def gradient(self, layout: Layout) -> Gradient[...]:
        """The gradient through inner steps on the campaign's rows.

        A step moves an offset (N, k), which is added to these rows and starts at 0. This is
        equivalent to a step on the rows.
        """
        config, network = self.config, self.network

        def loss(params: Any, batch: Any) -> Array:
            user, campaign = layout.inputs(params["table"], batch.ids)
            output: Any = network.apply(params["network"], user, campaign + params["offset"])
            values = cross_entropy(output.log_p, output.log_not_p, batch.label)
            return masked(values, batch.weight, config.reduction)

        meta_gradient = build_meta_gradient(
            loss,
            inner_learning_rate=config.inner_learning_rate,
            adapt={"network": False, "table": False, "offset": True},
            reduction=config.reduction,
            select=select_rows,
        )

        def gradient(params: Any, support: Any, query: Any, part: Any) -> tuple[Any, Any]:
            offset = jnp.zeros((layout.num_campaign_fields, params["table"].shape[1]))
            grads, info = meta_gradient(params | {"offset": offset}, support, query, part)
            return {name: grads[name] for name in params}, info

        return gradient


@register
class SolvedConstant(SolvedHeadMethod):
    """The solved head, with a derivative that does not go through the solution."""

    name, label = "solved-constant", "solved head, as a constant of the derivative"

    def gradient(self, layout: Layout) -> Gradient[...]:
        """The gradient of the query loss."""
        return solved_gradient(layout, first_order=True)
