"""Losses that stay finite: cross-entropy of a mixture of sigmoids, masked means and sums.

Axes: B examples, S slots of a user, N campaign fields, R rows of the table, k embedding width,
m critics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.fields import user_fields

Mixture = Literal["sum", "mean"]
Reduction = Literal["sum", "mean"]
Loss = Callable[[Any, Any], Array]


class Batch(NamedTuple):
    """Examples whose ids point into a table (the whole one, or the few rows of a step).

    Attributes:
      user: (B, S) int32 table rows of the users.
      campaign: (N,) int32 table rows of the campaign that all examples share, or (B, N).
      label: (B,) float32, 1 for a seed and 0 for a non-seed.
      weight: (B,) float32, 1 for an example and 0 for padding.
    """

    user: Any
    campaign: Any
    label: Any
    weight: Any


def mixture_log_probabilities(
    log_weights: Array, logits: Array, mixture: Mixture = "sum"
) -> tuple[Array, Array]:
    """log p and log(1 - p) of p = sum_j v_j sigmoid(t_j), finite for any finite logit.

    Since the weights sum to one, 1 - p = sum_j v_j sigmoid(-t_j), and both logarithms are a
    logsumexp over the critics (paper section 3.2).

    Args:
      log_weights: (..., m) log v, normalised: logsumexp over the last axis is 0.
      logits: (..., m) t.
      mixture: "sum" as the authors' program has it; "mean" divides by m as the paper prints it,
        which bounds p by 1/m.

    Returns:
      log p and log(1 - p), each (...,).
    """
    log_p = jax.nn.logsumexp(log_weights + jax.nn.log_sigmoid(logits), axis=-1)
    log_not_p = jax.nn.logsumexp(log_weights + jax.nn.log_sigmoid(-logits), axis=-1)
    critics = logits.shape[-1]
    if mixture == "mean" and critics > 1:
        # 1 - p/m = (1 - 1/m) + (1 - p)/m.
        log_not_p = jnp.logaddexp(jnp.log1p(-1 / critics), log_not_p - jnp.log(critics))
        log_p = log_p - jnp.log(critics)
    return log_p, log_not_p


def cross_entropy(log_p: Array, log_not_p: Array, label: Array) -> Array:
    """-y log p - (1 - y) log(1 - p), elementwise, in nats."""
    return -(label * log_p + (1 - label) * log_not_p)


def masked(values: Array, weight: Array, reduction: Reduction) -> Array:
    """Sum, or mean, over the examples with weight 1; 0 if there are none."""
    total = jnp.sum(values * weight)
    return total if reduction == "sum" else total / jnp.maximum(jnp.sum(weight), 1)


def build_loss(
    apply: Callable[..., Any],
    user_slots: tuple[int, ...],
    *,
    small_fields: tuple[int, ...] = (),
    reduction: Reduction = "mean",
) -> Loss:
    """The loss of a network over a table: ``loss(params, batch) -> scalar`` in nats.

    Args:
      apply: ``apply(network, user, campaign (..., N, k))``, user being `fields.UserFields`; its
        output has ``log_p`` and ``log_not_p``, each (B,).
      user_slots: slots of each of the M user fields.
      small_fields: as `fields.user_fields` takes it, for ids whose `RowIndex` keeps those rows.
      reduction: over the minibatch, "mean" as the authors' program or "sum" as the paper prints.

    Returns:
      A function of ``params = {"network": ..., "table": (R, k)}`` and a `Batch`.
    """

    def loss(params: Any, batch: Batch) -> Array:
        user = user_fields(params["table"], batch.user, user_slots, small_fields=small_fields)
        campaign = params["table"].at[batch.campaign].get(mode="fill", fill_value=0)
        output = apply(params["network"], user, campaign)
        values = cross_entropy(output.log_p, output.log_not_p, batch.label)
        return masked(values, batch.weight, reduction)

    return loss
