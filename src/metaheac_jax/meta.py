"""Learning to expand: second-order meta-learning for any loss and any pytree (Algorithm 1).

    understanding   theta_c = theta - alpha grad L_a(theta)                      `inner_update`
    finding         theta <- theta - beta sum_c d L_b(theta_c) / d theta         `build_meta_step`

The outer derivative goes through theta_c: for one inner step it is
(I - alpha H_a(theta)) grad L_b(theta_c), with H_a the Hessian of the support loss.

This module knows no model and no data. ``loss(params, batch) -> scalar`` is any differentiable
function; leaves of ``support`` and ``query`` carry a leading axis of C campaigns (or tasks).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

Loss = Callable[[Any, Any], Array]
#: A number, a pytree of numbers that is a prefix of the parameters, or a function of the parameters
#: that gives either: the last is how rates are learned (Meta-SGD): keep them among the parameters.
InnerLearningRate = Any
#: ``select(params, part) -> params`` of one campaign, linear in the parameters.
Select = Callable[[Any, Any], Any]


class MetaInfo(NamedTuple):
    """What a report needs.

    Attributes:
      loss: () the meta-loss, the query losses' mean (or sum) over the campaigns.
      support_loss: (C,) before adapting; zeros if there are no inner steps.
      query_loss: (C,) after adapting.
    """

    loss: Array
    support_loss: Array
    query_loss: Array


class MetaState(NamedTuple):
    """What the next step needs."""

    params: Any
    opt_state: Any


class MetaStep(NamedTuple):
    """``init(params) -> state`` and ``step(state, support, query) -> (state, info)``."""

    init: Callable[[Any], MetaState]
    step: Callable[[MetaState, Any, Any], tuple[MetaState, MetaInfo]]


def inner_update(
    loss: Loss,
    params: Any,
    support: Any,
    *,
    inner_learning_rate: InnerLearningRate,
    inner_steps: int = 1,
    first_order: bool = False,
    remat: bool = False,
) -> tuple[Any, Array]:
    """Adapts the parameters to one campaign by gradient descent on its support set (equation 6).

    Args:
      loss: ``loss(params, batch) -> scalar``.
      params: any pytree of floating point arrays.
      support: the batch of one campaign; every inner step sees all of it.
      inner_learning_rate: alpha; see `InnerLearningRate`.
      inner_steps: how many steps; 0 returns the parameters as they are.
      first_order: treat the gradient as a constant, so an outer derivative is first order.
      remat: recompute each inner step in the outer backward pass rather than keep its
        intermediate values: memory then grows with one step, not with all.

    Returns:
      The adapted parameters, and the support loss before the first step (0 if there is none).
    """
    rate = inner_learning_rate(params) if callable(inner_learning_rate) else inner_learning_rate
    rates = jax.tree.broadcast(rate, params)

    def descend(theta: Any, _: None) -> tuple[Any, Array]:
        value, gradient = jax.value_and_grad(loss)(theta, support)
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        return jax.tree.map(lambda p, a, g: p - a * g, theta, rates, gradient), value

    body = jax.checkpoint(descend) if remat else descend
    if inner_steps == 1:  # the paper's case, without the overhead of a loop
        return body(params, None)
    adapted, values = jax.lax.scan(body, params, length=inner_steps)
    return adapted, values[0] if inner_steps else jnp.zeros(())


def _only(leaf: Array) -> Array:
    """Of a leading axis of length 1, its member."""
    return leaf[0]


def build_meta_gradient(
    loss: Loss,
    *,
    inner_learning_rate: InnerLearningRate,
    inner_steps: int = 1,
    first_order: bool = False,
    remat: bool = False,
    campaigns_per_chunk: int | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    select: Select | None = None,
) -> Callable[..., tuple[Any, MetaInfo]]:
    """The gradient of the meta-loss: ``gradient(params, support, query) -> (gradient, info)``.

    Args:
      loss: ``loss(params, batch) -> scalar``.
      inner_learning_rate: alpha; see `InnerLearningRate`.
      inner_steps: steps of the inner update; 0 is plain training on the query batches.
      first_order: leave out the second-order term.
      remat: see `inner_update`.
      campaigns_per_chunk: campaigns that are vmapped together; chunks follow one another, so memory
        grows with the chunk. It must divide C. None takes all at once.
      reduction: over the campaigns, "mean" as the authors' program or "sum" as the paper prints.
      select: where a campaign touches a part of the parameters, ``select(params, part)`` gives it;
        ``gradient(params, support, query, part)`` then has a further argument, of leading axis C.

    Raises:
      ValueError: an option out of range; at the first call, a chunk that does not divide C, or a
        part without ``select``.
    """
    if inner_steps < 0:
        raise ValueError(f"inner_steps must be 0 or more, got {inner_steps}")
    if campaigns_per_chunk is not None and campaigns_per_chunk < 1:
        raise ValueError(f"campaigns_per_chunk must be 1 or more, got {campaigns_per_chunk}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")

    def campaign_loss(params: Any, support: Any, query: Any, part: Any) -> tuple[Array, Array]:
        if select is not None:
            params = select(params, part)
        adapted, support_loss = inner_update(
            loss,
            params,
            support,
            inner_learning_rate=inner_learning_rate,
            inner_steps=inner_steps,
            first_order=first_order,
            remat=remat,
        )
        return loss(adapted, query), support_loss

    def summed_loss(params: Any, *batches: Any) -> tuple[Array, tuple[Array, Array]]:
        if jax.tree.leaves(batches)[0].shape[0] == 1:
            # A vmap over one campaign leaves its axis in all products: a quarter slower on a CPU.
            query_loss, support_loss = campaign_loss(params, *jax.tree.map(_only, batches))
        else:
            losses = jax.vmap(campaign_loss, (None, 0, 0, 0))
            query_loss, support_loss = losses(params, *batches)
        return query_loss.sum(), (support_loss, query_loss)

    summed_gradient = jax.grad(summed_loss, has_aux=True)

    def gradient(params: Any, support: Any, query: Any, part: Any = None) -> tuple[Any, MetaInfo]:
        if (select is None) != (part is None):
            raise ValueError("a part is given where, and only where, there is a select")
        campaigns = jax.tree.leaves(query)[0].shape[0]
        chunk = campaigns_per_chunk or campaigns
        if campaigns % chunk:
            raise ValueError(f"chunks of {chunk} do not divide {campaigns} campaigns")
        if chunk == campaigns:
            total, losses = summed_gradient(params, support, query, part)
        else:
            chunks = jax.tree.map(
                lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:]), (support, query, part)
            )

            def add(total: Any, batches: tuple[Any, Any, Any]) -> tuple[Any, tuple[Array, Array]]:
                part, losses = summed_gradient(params, *batches)
                return jax.tree.map(jnp.add, total, part), losses

            zeros = jax.tree.map(jnp.zeros_like, params)
            total, losses = jax.lax.scan(add, zeros, chunks)
        support_loss, query_loss = (leaf.reshape(campaigns) for leaf in losses)
        scale = 1 / campaigns if reduction == "mean" else 1.0
        total = jax.tree.map(lambda leaf: leaf * scale, total)
        return total, MetaInfo(query_loss.sum() * scale, support_loss, query_loss)

    return gradient


def build_meta_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    inner_learning_rate: InnerLearningRate,
    inner_steps: int = 1,
    first_order: bool = False,
    remat: bool = False,
    campaigns_per_chunk: int | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> MetaStep:
    """One step of Algorithm 1 on a batch of campaigns, jitted; the state's memory is reused.

    The arguments are those of `build_meta_gradient`, and the optimiser of the outer step.

    >>> init, step = build_meta_step(loss, optax.adam(1e-3), inner_learning_rate=1e-2)
    >>> state = init(params)
    >>> state, info = step(state, support, query)  # leaves (C, ...); `state` before is consumed
    """
    gradient = build_meta_gradient(
        loss,
        inner_learning_rate=inner_learning_rate,
        inner_steps=inner_steps,
        first_order=first_order,
        remat=remat,
        campaigns_per_chunk=campaigns_per_chunk,
        reduction=reduction,
    )

    def init(params: Any) -> MetaState:
        return MetaState(params, optimizer.init(params))

    def step(state: MetaState, support: Any, query: Any) -> tuple[MetaState, MetaInfo]:
        grads, info = gradient(state.params, support, query)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return MetaState(optax.apply_updates(state.params, updates), opt_state), info

    return MetaStep(init, jax.jit(step, donate_argnums=0))
