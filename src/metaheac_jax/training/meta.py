"""Learning to expand: second-order meta-learning for any loss and any pytree (Algorithm 1).

    understanding   theta_c = theta - alpha grad L_a(theta)                      `inner_update`
    finding         theta <- theta - beta sum_c d L_b(theta_c) / d theta         `build_meta_step`

The outer derivative includes the inner step: for one inner step it is
(I - alpha H_a(theta)) grad L_b(theta_c), with H_a the Hessian of the support loss.

This module is independent of models and data. ``loss(params, batch) -> scalar`` is any
differentiable function. Leaves of ``support`` and ``query`` have a leading axis of C campaigns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.core import Tracer

from metaheac_jax.backend import campaigns_at_once

T = TypeVar("T")

Loss = Callable[[Any, Any], Array]
#: A number, a pytree of numbers that is a prefix of the parameters, or a function of the parameters
#: that returns either. A function serves to learn the rates as part of the parameters (Meta-SGD).
InnerLearningRate = Any
#: Which leaves the inner steps adapt: a pytree of booleans that is a prefix of the parameters, or a
#: function of the parameters that returns one.
AdaptedLeaves = Any
#: ``select(params, part) -> params`` of one campaign; linear in the parameters.
Select = Callable[[Any, Any], Any]


class MetaInfo(NamedTuple):
    """Losses of a meta-step.

    Attributes:
      loss: () the meta-loss: mean or sum of the query losses over the campaigns.
      support_loss: (C,) before adaptation; zeros without inner steps.
      query_loss: (C,) after adaptation.
    """

    loss: Array
    support_loss: Array
    query_loss: Array


class MetaState(NamedTuple):
    """Parameters, and the state of the outer optimiser."""

    params: Any
    opt_state: Any


class MetaGradient(Protocol):
    """The gradient of the meta-loss."""

    def __call__(
        self, params: Any, support: Any, query: Any, part: Any = None
    ) -> tuple[Any, MetaInfo]:
        """Parameters and batches with leading axis C -> the gradient, and the losses.

        ``part``, with leading axis C, is the second argument of ``select``; None without one.
        """


class MetaStep(NamedTuple):
    """``init(params) -> state`` and ``step(state, support, query) -> (state, info)``."""

    init: Callable[[Any], MetaState]
    step: Callable[[MetaState, Any, Any], tuple[MetaState, MetaInfo]]


def inner_update(
    loss: Loss,
    params: Any,
    support: Any,
    *,
    inner_learning_rate: InnerLearningRate = None,
    inner_optimizer: optax.GradientTransformation | None = None,
    inner_steps: int = 1,
    adapt: AdaptedLeaves = True,
    first_order: bool = False,
    remat: bool = False,
) -> tuple[Any, Array]:
    """Adapts the parameters to one campaign by a few steps on its support set (equation 6).

    Args:
      loss: ``loss(params, batch) -> scalar``.
      params: any pytree of floating point arrays.
      support: the batch of one campaign; every inner step uses all of it.
      inner_learning_rate: alpha of gradient descent; see `InnerLearningRate`.
      inner_optimizer: takes the steps instead, from a state that starts afresh. An outer derivative
        through `optax.adam` needs its ``eps_root`` above 0, or is NaN where a gradient is 0.
      inner_steps: number of steps; 0 returns the parameters unchanged.
      adapt: see `AdaptedLeaves`. The support loss is differentiated by these leaves alone, so that
        adapting a head costs less than adapting the whole. The outer derivative is by all leaves.
      first_order: treat the gradient as a constant, so that an outer derivative is first-order.
      remat: recompute each inner step in the outer backward pass instead of storing its
        intermediate values, so that memory does not grow with the number of steps.

    Returns:
      The adapted parameters, and the support loss before the first step (0 if there is none).

    Raises:
      ValueError: an option is out of range, or not exactly one of a rate and an optimiser is given.
    """
    inner_loop = _InnerLoop(
        loss, inner_learning_rate, inner_optimizer, inner_steps, adapt, first_order, remat
    )
    return inner_loop(params, support)


@dataclass(frozen=True)
class _InnerLoop:
    """The inner steps of one campaign; the fields are arguments of `inner_update`."""

    loss: Loss
    inner_learning_rate: InnerLearningRate
    inner_optimizer: optax.GradientTransformation | None
    inner_steps: int
    adapt: AdaptedLeaves
    first_order: bool
    remat: bool

    def __post_init__(self) -> None:
        if (self.inner_learning_rate is None) == (self.inner_optimizer is None):
            raise ValueError("give either inner_learning_rate or inner_optimizer")
        if self.inner_steps < 0:
            raise ValueError(f"inner_steps must be 0 or more, got {self.inner_steps}")

    def __call__(self, params: Any, support: Any) -> tuple[Any, Array]:
        flags = _prefix(self.adapt, params)
        if not all(isinstance(flag, bool) for flag in jax.tree.leaves(flags)):
            raise ValueError("adapt must consist of True and False")
        optimizer, start = self.inner_optimizer, _part(params, flags)
        rates = None if optimizer else _part(_prefix(self.inner_learning_rate, params), flags)

        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Array]:
            theta, state = carry
            support_loss = lambda theta: self.loss(_merge(theta, params), support)  # noqa: E731
            value, gradient = jax.value_and_grad(support_loss)(theta)
            if self.first_order:
                gradient = jax.lax.stop_gradient(gradient)
            if optimizer is None:
                theta = jax.tree.map(lambda p, a, g: p - a * g, theta, rates, gradient)
            else:
                updates, state = optimizer.update(gradient, state, theta)
                theta = optax.apply_updates(theta, updates)
            return (theta, state), value

        body = jax.checkpoint(step) if self.remat else step
        carry = start, optimizer.init(start) if optimizer else None
        if self.inner_steps == 1:  # the paper's case; it needs no loop
            (theta, _), value = body(carry, None)
        else:
            (theta, _), values = jax.lax.scan(body, carry, length=self.inner_steps)
            value = values[0] if self.inner_steps else jnp.zeros(())
        return _merge(theta, params), value


def _prefix(given: Any, params: Any) -> Any:
    """A prefix of the parameters, or what a function of the parameters returns, for every leaf."""
    return jax.tree.broadcast(given(params) if callable(given) else given, params)


def _part(tree: Any, flags: Any) -> Any:
    """The leaves whose flag is True, and None for the others."""
    return jax.tree.map(lambda flag, leaf: leaf if flag else None, flags, tree)


def _merge(part: Any, params: Any) -> Any:
    """The parameters, with the leaves of a part that are not None in their place."""
    choose = lambda own, other: other if own is None else own  # noqa: E731
    return jax.tree.map(choose, part, params, is_leaf=lambda leaf: leaf is None)


def _only(leaf: Array) -> Array:
    """The only member of a leading axis of length 1."""
    return leaf[0]


def build_meta_gradient(
    loss: Loss,
    *,
    inner_learning_rate: InnerLearningRate = None,
    inner_optimizer: optax.GradientTransformation | None = None,
    inner_steps: int = 1,
    adapt: AdaptedLeaves = True,
    first_order: bool = False,
    remat: bool = False,
    campaigns_per_chunk: int | Literal["auto", "all"] = "auto",
    reduction: Literal["mean", "sum"] = "mean",
    select: Select | None = None,
) -> MetaGradient:
    """The gradient of the meta-loss: ``gradient(params, support, query) -> (gradient, info)``.

    Args:
      loss: ``loss(params, batch) -> scalar``.
      inner_learning_rate: alpha; see `InnerLearningRate`.
      inner_optimizer: instead of a rate; see `inner_update`.
      inner_steps: steps of the inner update; 0 is plain training on the query batches.
      adapt: see `inner_update`; of the selected parameters, if there is ``select``.
      first_order: omit the second-order term.
      remat: see `inner_update`.
      campaigns_per_chunk: number of campaigns that are vmapped together; it must divide C. Chunks
        run in sequence, so memory grows with the chunk only. "auto" is a number for networks of
        the usual size on this backend (see `backend.campaigns_at_once`). "all" is required on
        several devices, and faster for tiny networks.
      reduction: over the campaigns, "mean" as in the authors' program or "sum" as in the paper.
      select: ``select(params, part)`` returns the part of the parameters that a campaign uses;
        ``gradient(params, support, query, part)`` then has a further argument, with leading axis C.

    Raises:
      ValueError: an option is out of range; at the first call, the chunk does not divide C, or only
        one of a part and ``select`` is given.
    """
    _check_options(campaigns_per_chunk, reduction)
    inner_loop = _InnerLoop(
        loss, inner_learning_rate, inner_optimizer, inner_steps, adapt, first_order, remat
    )

    def campaign_loss(params: Any, support: Any, query: Any, part: Any) -> tuple[Array, Array]:
        if select is not None:
            params = select(params, part)
        adapted, support_loss = inner_loop(params, support)
        return loss(adapted, query), support_loss

    def summed_loss(params: Any, *batches: Any) -> tuple[Array, tuple[Array, Array]]:
        if jax.tree.leaves(batches)[0].shape[0] == 1:
            # A vmap over one campaign keeps its axis in all products, which is slower on a CPU.
            query_loss, support_loss = campaign_loss(params, *jax.tree.map(_only, batches))
        else:
            losses = jax.vmap(campaign_loss, (None, 0, 0, 0))
            query_loss, support_loss = losses(params, *batches)
        return query_loss.sum(), (support_loss, query_loss)

    summed_gradient = jax.grad(summed_loss, has_aux=True)

    def gradient(params: Any, support: Any, query: Any, part: Any = None) -> tuple[Any, MetaInfo]:
        if (select is None) != (part is None):
            raise ValueError("give a part if and only if select is given")
        num_campaigns = jax.tree.leaves(query)[0].shape[0]
        chunk = campaigns_per_chunk
        if not isinstance(chunk, int):
            chunk = num_campaigns if chunk == "all" else campaigns_at_once(num_campaigns)
        if num_campaigns % chunk:
            raise ValueError(f"chunks of {chunk} do not divide {num_campaigns} campaigns")
        total, losses = _sum_over_chunks(summed_gradient, params, (support, query, part), chunk)
        support_loss, query_loss = (leaf.reshape(num_campaigns) for leaf in losses)
        scale = 1 / num_campaigns if reduction == "mean" else 1.0
        total = jax.tree.map(lambda leaf: leaf * scale, total)
        return total, MetaInfo(query_loss.sum() * scale, support_loss, query_loss)

    return gradient


def _check_options(campaigns_per_chunk: int | str, reduction: str) -> None:
    is_number = isinstance(campaigns_per_chunk, int) and campaigns_per_chunk >= 1
    if not is_number and campaigns_per_chunk not in ("auto", "all"):
        raise ValueError(
            f"campaigns_per_chunk must be 'auto', 'all' or 1 or more, got {campaigns_per_chunk!r}"
        )
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")


def _sum_over_chunks(
    summed_gradient: Callable[..., tuple[Any, tuple[Array, Array]]],
    params: Any,
    batches: tuple[Any, Any, Any],
    chunk: int,
) -> tuple[Any, tuple[Array, Array]]:
    """The gradient summed over all campaigns; and their losses, in chunks or in one array.

    Args:
      summed_gradient: of the campaigns of a chunk, with their losses.
      params: the parameters.
      batches: support, query and part, with leading axis C.
      chunk: number of campaigns per chunk.
    """
    if chunk == jax.tree.leaves(batches)[0].shape[0]:
        return summed_gradient(params, *batches)
    chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:]), batches)

    def add(total: Any, batches: tuple[Any, Any, Any]) -> tuple[Any, tuple[Array, Array]]:
        gradient, losses = summed_gradient(params, *batches)
        return jax.tree.map(jnp.add, total, gradient), losses

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), chunks)


def unconsumed(step: Callable[..., T]) -> Callable[..., T]:
    """Wraps a jitted step that donates its first argument, to refuse a state used before.

    Raises:
      ValueError: at a call, if an earlier step consumed the state.
    """

    @functools.wraps(step)
    def checked(state: Any, *batches: Any) -> T:
        for leaf in jax.tree.leaves(state):
            if isinstance(leaf, Array) and not isinstance(leaf, Tracer) and leaf.is_deleted():
                raise ValueError(
                    "the state was consumed by an earlier step; continue from the state that step "
                    "returned, or copy it first with jax.tree.map(jax.numpy.copy, state)"
                )
        return step(state, *batches)

    return checked


def build_meta_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    inner_learning_rate: InnerLearningRate = None,
    inner_optimizer: optax.GradientTransformation | None = None,
    inner_steps: int = 1,
    adapt: AdaptedLeaves = True,
    first_order: bool = False,
    remat: bool = False,
    campaigns_per_chunk: int | Literal["auto", "all"] = "auto",
    reduction: Literal["mean", "sum"] = "mean",
) -> MetaStep:
    """One jitted step of Algorithm 1 on a batch of campaigns; it reuses the memory of the state.

    The arguments are those of `build_meta_gradient`, and the optimiser of the meta-update. The
    first step consumes the arrays given to ``init``, as every step consumes its state.

    >>> init, step = build_meta_step(loss, optax.adam(1e-3), inner_learning_rate=1e-2)
    >>> state = init(params)
    >>> state, info = step(state, support, query)  # leaves (C, ...); consumes `state`
    """
    gradient = build_meta_gradient(
        loss,
        inner_learning_rate=inner_learning_rate,
        inner_optimizer=inner_optimizer,
        inner_steps=inner_steps,
        adapt=adapt,
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

    return MetaStep(init, unconsumed(jax.jit(step, donate_argnums=0)))
