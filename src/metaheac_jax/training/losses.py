"""Losses over a table: cross-entropy with masked means and sums, finite for any finite logit.

Axes: B examples, R rows of the table, k embedding width.
"""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

from metaheac_jax.data.batches import Batch
from metaheac_jax.networks import Network, Output
from metaheac_jax.table.layout import Layout
from metaheac_jax.training.inner import Loss

#: Reduction of a loss over its minibatch, and of the meta-loss over campaigns.
Reduction = Literal["sum", "mean"]


def cross_entropy(log_p: Array, log_not_p: Array, label: Array) -> Array:
    """-y log p - (1 - y) log(1 - p), in nats: (...,) each -> (...,)."""
    return -(label * log_p + (1 - label) * log_not_p)


def masked(values: Array, weight: Array, reduction: Reduction) -> Array:
    """(...,) values and weights -> their weighted sum, or mean; 0 if all weights are 0."""
    total = jnp.sum(values * weight)
    count = jnp.sum(weight)
    return total if reduction == "sum" else total / jnp.where(count > 0, count, 1)


def output_loss(output: Output, label: Array, weight: Array, reduction: Reduction) -> Array:
    """The masked cross-entropy of a network's output on (B,) labels, in nats."""
    return masked(cross_entropy(output.log_p, output.log_not_p, label), weight, reduction)


def build_loss(network: Network, layout: Layout, *, reduction: Reduction = "mean") -> Loss:
    """The loss of a network over a table: ``loss(params, batch) -> scalar`` in nats.

    Args:
      network: its output has ``log_p`` and ``log_not_p``, each (B,).
      layout: layout of the ids in the batches.
      reduction: over the minibatch, "mean" as in the authors' program or "sum" as in the paper.

    Returns:
      A function of ``params = {"network": ..., "table": (R, k)}`` and a `Batch`.
    """

    def loss(params: Any, batch: Batch) -> Array:
        inputs = layout.inputs(params["table"], batch.ids)
        output = network.apply(params["network"], *inputs)
        return output_loss(output, batch.label, batch.weight, reduction)

    return loss
