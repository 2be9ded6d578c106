"""Implicit gradients: derivatives of a minimum, wherever the steps that lead to it end (iMAML)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.lax import stop_gradient
from jax.scipy.sparse.linalg import cg

T = TypeVar("T")


class Implicit(NamedTuple):
    """Implicit gradients (Rajeswaran et al. 2019, algorithm 2), which store no inner step.

    The inner steps minimise L_a(theta_c) + strength / 2 |theta_c - theta|^2. The outer derivative
    is that of the minimum, wherever the steps end: for the query gradient g it solves
    (I + H_a(theta_c) / strength) x = g. It is accurate only if the steps end close to the minimum.
    H_a is taken at the initial model state. The rates, the strength, the model state after the
    steps and the support loss that is returned have no derivative. `inner_update` then has no
    forward mode (``jax.jacfwd``). The solver of jax that it uses does not run where an
    explicit axis of a mesh divides the campaigns; take an axis of ``jax.sharding.AxisType.Auto``.

    Attributes:
      strength: lambda, above 0. If H_a has negative eigenvalues, it must outweigh them. To change
        it during training, build the gradient within the jitted function that takes it.
      num_cg_steps: maximum number of conjugate gradient steps; each costs a product with H_a.
    """

    strength: float | Array
    num_cg_steps: int = 5


def with_derivatives_of_root(
    steps: Callable[[Any, Any, Any], tuple[Any, T]],
    gradient: Callable[[Any, Any, Any, Any], tuple[Any, Any]],
    num_cg_steps: int,
) -> Callable[[Any, Any, Any], tuple[Any, T]]:
    """``steps``, with derivatives as if it ended where the gradient is 0.

    By the implicit function theorem a root theta of gradient(theta, x) has d theta / d x =
    - (d gradient / d theta)^-1 d gradient / d x. The other results of ``steps`` have no derivative.

    Args:
      steps: ``steps(*x) -> theta, ...``.
      gradient: ``gradient(theta, *x) -> gradient, ...``.
      num_cg_steps: see `Implicit`.
    """

    def forward(*x: Any) -> tuple[tuple[Any, T], tuple[Any, Any]]:
        result = steps(*x)
        return result, (result[0], x)

    def backward(kept: tuple[Any, Any], cotangent: tuple[Any, T]) -> Any:
        theta, x = kept
        _, product = jax.linearize(lambda theta: gradient(theta, *x)[0], theta)
        dtype = jnp.result_type(*jax.tree.leaves(theta))  # in `cg` all leaves have one
        one = partial(optax.tree.cast, dtype=dtype)
        as_theta = partial(optax.tree.cast_like, other_tree=theta)
        solved, _ = cg(
            lambda vector: one(product(as_theta(vector))),
            one(cotangent[0]),
            tol=jnp.finfo(dtype).eps,
            maxiter=num_cg_steps,
        )
        _, pull_back = jax.vjp(lambda *x: gradient(theta, *x)[0], *x)
        return pull_back(as_theta(jax.tree.map(jnp.negative, solved)))

    root = jax.custom_vjp(steps)
    root.defvjp(forward, backward)

    def without_other_derivatives(*x: Any) -> tuple[Any, T]:
        theta, other = root(*x)
        # Without this, vmap refuses a batched cotangent for a result that is not batched.
        return theta, stop_gradient(other)

    return without_other_derivatives


def with_proximal_term(
    strength: float | Array, gradient: Array, theta: Array, start: Array
) -> Array:
    """The gradient of a loss plus strength / 2 |theta - start|^2, at a leaf."""
    return gradient + jnp.asarray(strength, theta.dtype) * (theta - start)
