"""The inner update: a few steps on the support set of one campaign (equation 6).

    understanding   theta_c = theta - alpha grad L_a(theta)                      `inner_update`

This module is independent of models and data. Parameters are any pytree of floating point arrays,
a batch is any pytree, and the loss is any differentiable function of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from jax.lax import stop_gradient

from metaheac_jax.training.implicit import Implicit, with_derivatives_of_root, with_proximal_term

#: ``loss(params, batch) -> scalar``.
Loss = Callable[[Any, Any], Array]
#: A loss of the form that ``has_aux`` and ``has_state`` of `InnerOptions` give.
AnyLoss = (
    Loss
    | Callable[[Any, Any], tuple[Array, Any]]
    | Callable[[Any, Any, Any], tuple[Array, Any] | tuple[Array, Any, Any]]
)
#: A number, a pytree of numbers that is a prefix of the parameters, or a function of the parameters
#: that returns either. Use a function to learn the rates as part of the parameters (Meta-SGD). A
#: schedule of rates over the steps goes to ``inner_optimizer``, as in ``optax.sgd(schedule)``.
InnerLearningRate = Any
#: Which leaves the inner steps adapt: a pytree of booleans that is a prefix of the parameters, or a
#: function of the parameters that returns one.
AdaptedLeaves = Any
#: The adapted leaves, the state of the inner optimiser, and the model's state.
_Carry = tuple[Any, Any, Any]


class InnerOptions(TypedDict, total=False):
    """Options of the inner update. Inner steps need exactly one of a rate and an optimiser.

    Attributes:
      inner_learning_rate: alpha of gradient descent; see `InnerLearningRate`.
      inner_optimizer: takes the steps instead, from a new state for each campaign, and receives the
        support loss as ``value``. An outer derivative through `optax.adam` needs ``eps_root`` above
        0; otherwise it is NaN where a gradient is 0. A random key in its state is the same for all
        campaigns and meta-steps; for noise, put keys into the batches.
      inner_steps: number of steps, by default 1; 0 returns the parameters unchanged.
      adapt: see `AdaptedLeaves`; by default all. The support loss is differentiated with respect to
        these leaves only, so adapting a head costs less than adapting everything. The outer
        derivative is with respect to all leaves.
      has_aux: the loss returns ``(scalar, aux)``.
      has_state: the loss is ``loss(params, batch, model_state) -> (scalar, model_state)``, and with
        ``has_aux`` it returns ``(scalar, model_state, aux)``. The state is for values that change
        without a gradient, such as the running averages of a BatchNorm. Each step passes it on.
      first_order: treat the gradient as a constant, so that an outer derivative is first-order. The
        support loss and the state after it have no derivative, and the loss is differentiated only
        once.
      remat: recompute each inner step in the outer backward pass instead of storing its
        intermediate values; a further step then takes only the memory of the adapted leaves.
      implicit: see `Implicit`; not with ``first_order`` or ``remat``.
    """

    inner_learning_rate: InnerLearningRate
    inner_optimizer: optax.GradientTransformation | None
    inner_steps: int
    adapt: AdaptedLeaves
    has_aux: bool
    has_state: bool
    first_order: bool
    remat: bool
    implicit: Implicit | None


class Masked(NamedTuple):
    """A batch whose examples are padded to a common number, as support or query set.

    The loss then returns a value per example, with the shape of the mask, and the loss of the set
    is their weighted mean; 0 without an example.

    Attributes:
      examples: the batch that the loss gets.
      mask: (B,) 1 for an example and 0 for padding, or any weight of 0 or more.
    """

    examples: Any
    mask: Any

    def mean(self, values: Array) -> Array:
        """Averages (B,) values by weight: ()."""
        if jnp.shape(values) != jnp.shape(self.mask):
            raise ValueError(
                "the loss of a Masked batch must return a value per example, shape "
                f"{jnp.shape(self.mask)}, got {jnp.shape(values)}"
            )
        mask = jnp.asarray(self.mask, values.dtype)
        total = jnp.sum(mask)
        return jnp.sum(mask * values) / jnp.where(total > 0, total, 1)


class Adapted(NamedTuple):
    """What an inner update returns.

    Attributes:
      params: the adapted parameters.
      support_loss: () the loss before the first step; 0 without inner steps.
      model_state: the model's state after the last step; None unless ``has_state``.
    """

    params: Any
    support_loss: Array
    model_state: Any


class LossOutput(NamedTuple):
    """What a loss returns; None for values that it does not have."""

    value: Array
    model_state: Any = None
    aux: Any = None


def inner_update(
    loss: AnyLoss,
    params: Any,
    support: Any,
    model_state: Any = None,
    **options: Unpack[InnerOptions],
) -> Adapted:
    """Adapts the parameters to one campaign by a few steps on its support set.

    Training uses it within the meta-step; to adapt to a new campaign, call it by itself. To adapt
    to many campaigns, vmap it. Jit it: outside of a jitted function, each call compiles.

    Args:
      loss: ``loss(params, batch) -> scalar``, or the form that ``has_aux`` and ``has_state`` give.
      params: any pytree of floating point arrays.
      support: the batch of one campaign; `Masked` if some of its examples are padding.
      model_state: given if and only if ``has_state``.
      **options: see `InnerOptions`.

    Raises:
      ValueError: an option is out of range or conflicts with another one, or an argument or the
        return value of the loss does not fit the options.
    """
    return InnerLoop(loss, **options)(params, support, model_state)[0]


@dataclass(frozen=True)
class InnerLoop:
    """The inner steps of one campaign; the fields are a loss and `InnerOptions`.

    Raises:
      ValueError: as `inner_update`.
    """

    loss: AnyLoss
    inner_learning_rate: InnerLearningRate = None
    inner_optimizer: optax.GradientTransformation | None = None
    inner_steps: int = 1
    adapt: AdaptedLeaves = True
    has_aux: bool = False
    has_state: bool = False
    first_order: bool = False
    remat: bool = False
    implicit: Implicit | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.inner_steps, Integral) or self.inner_steps < 0:
            raise ValueError(f"inner_steps must be 0, 1, 2, ..., got {self.inner_steps}")
        given = [self.inner_learning_rate is not None, self.inner_optimizer is not None]
        if all(given) or (self.inner_steps and not any(given)):
            raise ValueError("give either inner_learning_rate or inner_optimizer")
        if self.implicit is not None:
            traced = isinstance(self.implicit.strength, Tracer)
            if not ((traced or self.implicit.strength > 0) and self.implicit.num_cg_steps >= 1):
                raise ValueError(
                    "implicit needs a strength above 0 and num_cg_steps of 1 or more, got "
                    f"{self.implicit}"
                )
            if self.inner_steps == 0:
                raise ValueError("implicit needs inner_steps of 1 or more")
            for name in ("first_order", "remat"):
                if getattr(self, name):
                    raise ValueError(f"implicit does not go with {name}")

    def call_loss(self, loss: AnyLoss, params: Any, batch: Any, model_state: Any) -> LossOutput:
        """Evaluates a loss, of the form that the options give, on a batch."""
        state = (model_state,) if self.has_state else ()
        parts = {"value": True, "model_state": self.has_state, "aux": self.has_aux}
        names = [name for name, told in parts.items() if told]
        masked = isinstance(batch, Masked)
        result = loss(params, batch.examples if masked else batch, *state)  # pyrefly: ignore
        result = result if isinstance(result, tuple) else (result,)
        if len(result) != len(names):
            raise ValueError(f"the loss must return {', '.join(names)}, got {len(result)} values")
        output = LossOutput(**dict(zip(names, result, strict=True)))
        if masked:
            output = output._replace(value=batch.mean(output.value))
        if shape := jnp.shape(output.value):
            raise ValueError(f"the loss must be a scalar, got the shape {shape}")
        if jax.tree.structure(output.model_state) != jax.tree.structure(model_state):
            raise ValueError("the loss must return a model state of the structure it is given")
        return output

    def __call__(
        self,
        params: Any,
        support: Any,
        model_state: Any = None,
        evaluate: Callable[[Any, Any], Any] | None = None,
    ) -> tuple[Adapted, Any]:
        """Adapts the parameters, and calls ``evaluate(params, model_state)`` after each step.

        Returns:
          What `inner_update` returns; and what ``evaluate`` returned, by step, or None.
        """
        if self.has_state != (model_state is not None):
            raise ValueError("give a model_state if and only if has_state is set")
        inputs = params, support, model_state
        params = _by_device(params, inputs)
        if self.inner_steps > 1:  # a loop needs a state that differs before a step as after it
            model_state = _by_device(model_state, inputs)
        steps = partial(self._steps, evaluate=evaluate)
        if self.implicit is not None:
            steps = with_derivatives_of_root(steps, self._gradient, self.implicit.num_cg_steps)
        theta, (value, state, evaluations) = steps(params, support, model_state)
        return Adapted(_merge(theta, params), value, state), evaluations

    def _steps(
        self,
        params: Any,
        support: Any,
        model_state: Any,
        evaluate: Callable[[Any, Any], Any] | None,
    ) -> tuple[Any, tuple[Array, Any, Any]]:
        """Returns the adapted leaves; the first loss, the last state, the evaluations by step."""
        start, optimizer, rates = self._adapted(params), self.inner_optimizer, None
        if not self.inner_steps:  # the support sets may be empty
            return start, (jnp.zeros(()), model_state, None)
        if optimizer is None:
            rates = _part(_prefix(self.inner_learning_rate, params), self._flags(params))

        def step(carry: _Carry, _: None) -> tuple[_Carry, tuple[Array, Any]]:
            theta, opt_state, state = carry
            at = theta, params, support, state
            gradient, (value, state) = self._gradient(
                *(stop_gradient(at) if self.first_order else at)
            )
            if optimizer is None:
                theta = jax.tree.map(_moved, theta, rates, gradient)
            else:
                update = optax.with_extra_args_support(optimizer).update
                updates, opt_state = update(gradient, opt_state, theta, value=value)
                theta = optax.apply_updates(theta, updates)
            evaluations = None if evaluate is None else evaluate(_merge(theta, params), state)
            return (theta, opt_state, state), (value, evaluations)

        body = jax.checkpoint(step) if self.remat else step
        carry = start, optimizer.init(start) if optimizer else None, model_state
        if self.inner_steps == 1:  # the paper's case; it needs no loop
            (theta, _, state), (value, evaluations) = body(carry, None)
            return theta, (value, state, jax.tree.map(lambda x: jnp.expand_dims(x, 0), evaluations))
        (theta, _, state), (values, evaluations) = jax.lax.scan(body, carry, None, self.inner_steps)
        return theta, (values[0], state, evaluations)

    def _gradient(
        self, theta: Any, params: Any, batch: Any, model_state: Any
    ) -> tuple[Any, tuple[Array, Any]]:
        """The gradient of the steps' objective; the support loss, and the model state after it."""

        def support_loss(theta: Any) -> tuple[Array, Any]:
            return self.call_loss(self.loss, _merge(theta, params), batch, model_state)[:2]

        result, gradient = jax.value_and_grad(support_loss, has_aux=True)(theta)
        if self.implicit is not None:
            pulled = partial(with_proximal_term, self.implicit.strength)
            gradient = jax.tree.map(pulled, gradient, theta, self._adapted(params))
        return gradient, result

    def _adapted(self, params: Any) -> Any:
        """The leaves to adapt, and None for the others."""
        return _part(params, self._flags(params))

    def _flags(self, params: Any) -> Any:
        flags = _prefix(self.adapt, params)
        if not all(isinstance(flag, bool | np.bool_) for flag in jax.tree.leaves(flags)):
            raise ValueError("adapt must consist of True and False")
        return flags


def _by_device(tree: Any, inputs: Any) -> Any:
    """Within ``jax.shard_map``: the leaves as arrays that differ between devices as inputs do.

    The gradient with respect to parameters that devices share would be a sum over the devices.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    varying = lambda leaf: jax.typeof(leaf).manual_axis_type.varying  # noqa: E731
    axes = frozenset().union(*map(varying, jax.tree.leaves(inputs)))
    cast = lambda leaf: jax.lax.pcast(leaf, tuple(axes - varying(leaf)), to="varying")  # noqa: E731
    return jax.tree.map(cast, tree)


def _moved(leaf: Array, rate: Any, gradient: Array) -> Array:
    """A leaf after a step of gradient descent, with its shape and dtype unchanged."""
    step = jnp.asarray(rate, leaf.dtype) * gradient
    if step.shape != leaf.shape:
        raise ValueError(
            f"inner_learning_rate: a rate with shape {jnp.shape(rate)} for a leaf with shape "
            f"{leaf.shape}; expected one rate, or one that broadcasts to the leaf"
        )
    return leaf - step


def _prefix(given: Any, params: Any) -> Any:
    """Broadcasts a prefix of the parameters, or one that a function returns, to every leaf."""
    # Pytrees of some types, such as Equinox modules, can be called; a prefix has the same type.
    is_function = callable(given) and type(given) is not type(params)
    return jax.tree.broadcast(given(params) if is_function else given, params)


def _part(tree: Any, flags: Any) -> Any:
    """The leaves whose flag is True, and None for the others."""
    return jax.tree.map(lambda flag, leaf: leaf if flag else None, flags, tree)


def _merge(part: Any, params: Any) -> Any:
    """The parameters, where the leaves of ``part`` that are not None replace their own."""
    choose = lambda leaf, other: other if leaf is None else leaf  # noqa: E731
    return jax.tree.map(choose, part, params, is_leaf=lambda leaf: leaf is None)
