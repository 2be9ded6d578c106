"""Learning to expand: second-order meta-learning for any loss and any pytree (Algorithm 1).

    understanding   theta_c = theta - alpha grad L_a(theta)                      `inner_update`
    finding         theta <- theta - beta sum_c d L_b(theta_c) / d theta         `build_meta_step`

The outer derivative includes the inner step: for one inner step it is
(I - alpha H_a(theta)) grad L_b(theta_c), with H_a the Hessian of the support loss.

This module is independent of models and data. Leaves of ``support`` and ``query`` have a leading
axis of C campaigns. Sets of different sizes are padded, and given as `Masked`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal, NamedTuple, TypeVar, Unpack

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metaheac_jax.backend import jit, profile
from metaheac_jax.training.inner import AnyLoss, InnerLoop, InnerOptions, LossOutput, Masked

T = TypeVar("T")

#: ``select(params, part) -> params`` for one campaign; differentiable in the parameters.
Select = Callable[[Any, Any], Any]
#: How many campaigns are vmapped together.
Chunk = int | Literal["auto", "all"]


class MetaInfo(NamedTuple):
    """What a meta-step reports.

    Attributes:
      loss: () the meta-loss: mean or sum over the campaigns.
      support_loss: (C,) losses before adaptation; zeros without inner steps.
      query_loss: (C,) losses after adaptation.
      aux: ``aux`` of the query losses after adaptation, leading axis C; None unless ``has_aux``.
      model_state: the model state for the next step, see `build_meta_gradient`; None unless
        ``has_state``. A `MetaStep` keeps it in its state and returns None here.
    """

    loss: Array
    support_loss: Array
    query_loss: Array
    aux: Any = None
    model_state: Any = None


class MetaState(NamedTuple):
    """Parameters, the state of the outer optimiser, and the model's state if it has one."""

    params: Any
    opt_state: Any
    model_state: Any = None


#: ``gradient(params, support, query, part=None, *, model_state=None) -> (gradient, info)``; see
#: `build_meta_gradient`.
MetaGradient = Callable[..., tuple[Any, MetaInfo]]


class MetaStep(NamedTuple):
    """The two functions of meta-training.

    Attributes:
      init: ``init(params) -> state``, or ``init(params, model_state)`` if ``has_state``.
      step: ``step(state, support, query) -> (state, info)``, jitted; it consumes the state.
    """

    init: Callable[..., MetaState]
    step: Callable[..., tuple[MetaState, MetaInfo]]


class MetaOptions(InnerOptions, total=False):
    """`InnerOptions`, and the keyword arguments of `build_meta_gradient` without ``select``."""

    query_loss: AnyLoss | None
    step_weights: Sequence[float] | Array | None
    campaigns_per_chunk: Chunk
    reduction: Literal["mean", "sum"]


def build_meta_gradient(
    loss: AnyLoss,
    *,
    query_loss: AnyLoss | None = None,
    step_weights: Sequence[float] | Array | None = None,
    campaigns_per_chunk: Chunk = "auto",
    reduction: Literal["mean", "sum"] = "mean",
    select: Select | None = None,
    **inner: Unpack[InnerOptions],
) -> MetaGradient:
    """Builds the meta-loss's gradient: ``gradient(params, support, query) -> (gradient, info)``.

    Leaves of the batches have a leading axis C. ``part``, with the same axis, is the second
    argument of ``select``, or None without it; ``model_state`` is given if and only if
    ``has_state``. Jit the gradient: outside of a jitted function, each call compiles.

    Within ``jax.shard_map`` the meta-loss is that of a device's own campaigns. With ``check_vma``,
    the gradient with respect to parameters that the devices share is summed over the devices, as
    jax does for any loss. With several inner steps, all leaves of the model's state then count as
    different on each device.

    The inner steps of a campaign update the model's state, and then its query loss does. All
    campaigns start from the same state. The states after the query losses are merged: floating
    point leaves are averaged over the campaigns; others, such as counters, are those of the first.
    Campaigns share a random key in the state; for noise of their own, put keys into the batches.

    Args:
      loss: ``loss(params, batch) -> scalar``, or the form that ``has_aux`` and ``has_state`` give.
      query_loss: the loss on query sets, of the same form; by default ``loss``.
      step_weights: (inner steps,) weights of the query losses after each inner step; a campaign's
        meta-loss is the weighted sum (MAML++, Antoniou et al. 2019). By default, it is the query
        loss after the last step. To change the weights during training, build the gradient within
        the jitted function that takes them.
      campaigns_per_chunk: number of campaigns that are vmapped together; it must divide C. Chunks
        run in sequence, so memory grows with the chunk only. "auto" takes one campaign at a time on
        a CPU, and all C at once on an accelerator. "all" is faster for tiny networks, and required
        if an explicit mesh axis divides them.
      reduction: over all campaigns, "mean" as in the authors' program or "sum" as in the paper.
      select: ``select(params, part)`` returns the part of the parameters that a campaign uses;
        ``gradient(params, support, query, part)`` then takes a fourth argument, leading axis C.
      **inner: see `InnerOptions`. Without inner steps, this is plain training on the query batches.
        ``adapt`` refers to the selected parameters.

    Raises:
      ValueError: an option is out of range or conflicts with another one; at the first call, leaves
        differ in C, the chunk size does not divide C, or an argument or the return value of a loss
        does not fit the options.
    """
    inner_loop = InnerLoop(loss, **inner)
    _check_options(campaigns_per_chunk, reduction, step_weights, inner_loop)

    def campaign_loss(
        params: Any, support: Any, query: Any, part: Any, model_state: Any
    ) -> tuple[Array, tuple[Array, LossOutput]]:
        """Returns a campaign's meta-loss, its support loss, and its query loss once adapted."""
        if select is not None:
            params = select(params, part)
        evaluate = lambda params, model_state: inner_loop.call_loss(  # noqa: E731
            query_loss or loss, params, query, model_state
        )
        if step_weights is None:
            adapted, _ = inner_loop(params, support, model_state)
            last = evaluate(adapted.params, adapted.model_state)
            return last.value, (adapted.support_loss, last)
        adapted, each = inner_loop(params, support, model_state, evaluate)
        last = jax.tree.map(lambda leaf: leaf[-1], each)
        # Not a product of vectors, which a TPU computes in bfloat16.
        return jnp.sum(jnp.asarray(step_weights) * each.value), (adapted.support_loss, last)

    def gradient(
        params: Any, support: Any, query: Any, part: Any = None, *, model_state: Any = None
    ) -> tuple[Any, MetaInfo]:
        if (select is None) != (part is None):
            raise ValueError("give a part if and only if select is given")
        num_campaigns = _num_campaigns((support, query, part))
        # Scaled before they are summed, since a sum may be too large for 16 bits.
        scale = 1 / _num_judged(query, num_campaigns) if reduction == "mean" else 1.0
        summed_gradient = jax.grad(_sum_over_campaigns(campaign_loss, scale), has_aux=True)
        total, (losses, (support_loss, last)) = _sum_over_chunks(
            lambda batches: summed_gradient(params, batches, model_state),
            params,
            (support, query, part),
            _chunk_size(campaigns_per_chunk, num_campaigns),
        )
        whole = reduction == "mean" and not isinstance(query, Masked)
        loss = losses.mean() if whole else (losses * scale).sum()
        state = jax.tree.map(_over_campaigns, last.model_state)
        return total, MetaInfo(loss, support_loss, last.value, last.aux, state)

    return gradient


def _check_options(
    campaigns_per_chunk: int | str,
    reduction: str,
    step_weights: Sequence[float] | Array | None,
    inner_loop: InnerLoop,
) -> None:
    is_number = isinstance(campaigns_per_chunk, Integral) and campaigns_per_chunk >= 1
    if not is_number and campaigns_per_chunk not in ("auto", "all"):
        raise ValueError(
            f"campaigns_per_chunk must be 'auto', 'all' or 1 or more, got {campaigns_per_chunk!r}"
        )
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    if step_weights is not None:
        shape, steps = jnp.asarray(step_weights).shape, inner_loop.inner_steps
        if shape != (steps,) or not steps:
            raise ValueError(
                f"step_weights needs one weight per inner step, shape ({steps},), got {shape}"
            )
        if inner_loop.implicit is not None:
            raise ValueError("implicit does not go with step_weights")


def _num_campaigns(batches: Any) -> int:
    """Returns C, the length of the leading axis of all leaves of the batches."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batches)]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or not (num_campaigns := lengths.pop()):
        raise ValueError(
            "every leaf of support, query and part needs the same leading axis of 1 or more "
            f"campaigns, got the shapes {', '.join(map(str, shapes))}"
        )
    return num_campaigns


def _num_judged(query: Any, num_campaigns: int) -> int | Array:
    """Number of campaigns whose query set has an example; at least 1."""
    if not isinstance(query, Masked):
        return num_campaigns
    return jnp.maximum(jnp.asarray(query.mask).reshape(num_campaigns, -1).any(1).sum(), 1)


def _chunk_size(campaigns_per_chunk: Chunk, num_campaigns: int) -> int:
    if campaigns_per_chunk == "all":
        return num_campaigns
    if campaigns_per_chunk == "auto":
        return num_campaigns if profile().vmaps_campaigns else 1
    chunk = int(campaigns_per_chunk)
    if num_campaigns % chunk:
        raise ValueError(f"chunks of {chunk} do not divide {num_campaigns} campaigns")
    return chunk


def _sum_over_campaigns(
    campaign_loss: Callable[[Any, Any, Any, Any, Any], tuple[Array, T]], scale: float | Array
) -> Callable[[Any, tuple[Any, Any, Any], Any], tuple[Array, tuple[Array, T]]]:
    """Builds the sum of a loss over campaigns, which also returns the results of each campaign.

    Args:
      campaign_loss: ``campaign_loss(params, support, query, part, model_state)`` for one campaign.
      scale: factor of each loss in the sum.
    """

    def summed_loss(
        params: Any, batches: tuple[Any, Any, Any], model_state: Any
    ) -> tuple[Array, tuple[Array, T]]:
        if jax.tree.leaves(batches)[0].shape[0] == 1:
            # A vmap over one campaign keeps its axis in all products, which is slower on a CPU.
            support, query, part = jax.tree.map(lambda leaf: leaf[0], batches)
            results = campaign_loss(params, support, query, part, model_state)
            results = jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), results)
        else:
            support, query, part = batches
            losses = jax.vmap(campaign_loss, (None, 0, 0, 0, None))
            results = losses(params, support, query, part, model_state)
        return (results[0] * jnp.asarray(scale, results[0].dtype)).sum(), results

    return summed_loss


def _over_campaigns(leaf: Array) -> Array:
    """Merges a state's leaf over C campaigns: the mean if it is floating point, else the first."""
    return leaf.mean(0) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf[0]


def _sum_over_chunks(
    summed_gradient: Callable[[Any], tuple[Any, T]], params: Any, batches: Any, chunk: int
) -> tuple[Any, T]:
    """Sums the gradient over all campaigns; also returns the results of each campaign.

    Args:
      summed_gradient: sums the gradient over a chunk; its results have a leading campaign axis.
      params: the parameters.
      batches: the batches of all campaigns, with leading axis C.
      chunk: number of campaigns per chunk.
    """
    num_campaigns = jax.tree.leaves(batches)[0].shape[0]
    if chunk == num_campaigns:
        return summed_gradient(batches)
    # Not -1 for one of them, since a leaf may be empty.
    shape = num_campaigns // chunk, chunk
    chunks = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), batches)

    def add(total: Any, batches: Any) -> tuple[Any, T]:
        gradient, results = summed_gradient(batches)
        return jax.tree.map(jnp.add, total, gradient), results

    total, results = jax.lax.scan(add, jax.tree.map(_wide_zeros, params), chunks)
    total = jax.tree.map(lambda leaf, like: leaf.astype(jnp.result_type(like)), total, params)
    flat = lambda leaf: leaf.reshape(num_campaigns, *leaf.shape[2:])  # noqa: E731
    return total, jax.tree.map(flat, results)


def _wide_zeros(leaf: Array) -> Array:
    """Zeros to add values like those of a leaf to, of 32 bits or more."""
    return jnp.zeros_like(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32))


def build_meta_step(
    loss: AnyLoss, optimizer: optax.GradientTransformation, **options: Unpack[MetaOptions]
) -> MetaStep:
    """Builds a jitted step of Algorithm 1 on a batch of campaigns, which reuses the state's memory.

    ``optimizer`` makes the meta-update; it receives the meta-loss as ``value``. The options are
    those of `build_meta_gradient` without ``select``. A step consumes its state; ``init`` copies
    its arguments. With ``has_state``, the model's state is the second argument of ``init`` and a
    part of the state.

    >>> init, step = build_meta_step(loss, optax.adam(1e-3), inner_learning_rate=1e-2)
    >>> state = init(params)
    >>> state, info = step(state, support, query)  # leaves (C, ...); consumes `state`

    Raises:
      ValueError: as `build_meta_gradient`.
    """
    gradient = build_meta_gradient(loss, **options)

    def init(params: Any, model_state: Any = None) -> MetaState:
        return copied(MetaState(params, optimizer.init(params), model_state))

    def step(state: MetaState, support: Any, query: Any) -> tuple[MetaState, MetaInfo]:
        grads, info = gradient(state.params, support, query, model_state=state.model_state)
        update = optax.with_extra_args_support(optimizer).update
        updates, opt_state = update(grads, state.opt_state, state.params, value=info.loss)
        params = optax.apply_updates(state.params, updates)
        return MetaState(params, opt_state, info.model_state), info._replace(model_state=None)

    return MetaStep(init, jit(step, donate_argnums=0))


@jit
def copied(state: T) -> T:
    """Copies all arrays, so that a step may consume them even if one occurs twice in ``state``.

    The copies are in one place, such as all devices of a mesh, and have no weak types, as what a
    step returns. So the step is compiled once.
    """
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf)), state)
