"""Logistic regression by Newton's method, whose solution can be differentiated through.

    w = argmin_w  sum_i s_i CE(o_i + f_i . w, y_i) + (|w_1..F-1|^2 + .01 w_F^2) / 2

The loss is summed over the examples, not averaged, so the penalty is a Gaussian prior of unit
variance and matters less the more examples there are. The derivative is that of the minimum
(implicit function theorem), taken where the iterations end: with g and H the gradient and Hessian,
dw = -H^-1 dg. For its use in meta-learning see Bertinetto et al. 2019, "Meta-learning with
differentiable closed-form solvers".

Axes: B examples, F factors, the last of which is the constant 1 of the intercept.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_factor, cho_solve

#: This many rounding errors of H's largest diagonal entry are added to its diagonal. So H remains
#: positive definite if factors are linearly dependent, however many examples there are.
_ROUNDINGS = 100
#: Penalty of the intercept, so that a set with a single label has a minimum too.
_INTERCEPT_PENALTY = 0.01
#: Step lengths along Newton's direction, of which the best is taken; the last, 0, makes no step.
#: Where log-odds are far off, the Hessian is close to zero and a full step is far too long.
_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.001, 0.0)
#: Fraction of the objective by which the last step may raise it, because of rounding.
_RISE = 1e-3


def solve_logistic(
    factors: Array, offset: Array, label: Array, weight: Array, *, num_steps: int = 8
) -> Array:
    """Fits the head of a campaign to its examples.

    Args:
      factors: (B, F), the last column 1.
      offset: (B,) log-odds to which the head adds.
      label: (B,) 1 for a seed, 0 for a non-seed.
      weight: (B,) 1 for an example, 0 for padding.
      num_steps: number of Newton steps. From log-odds that are about right, four are enough.

    Returns:
      (F,); zeros if there are no examples.
    """
    # An accelerator rounds products by default, and a rounded Hessian need not be positive
    # definite.
    with jax.default_matmul_precision("highest"):
        penalty = jnp.ones(factors.shape[-1]).at[-1].set(_INTERCEPT_PENALTY)
        lengths = jnp.array(_LENGTHS)

        def gradient(factors: Array, offset: Array, head: Array) -> Array:
            p = jax.nn.sigmoid(offset + factors @ head)
            return (weight * (p - label)) @ factors + penalty * head

        def hessian(factors: Array, offset: Array, head: Array) -> Array:
            p = jax.nn.sigmoid(offset + factors @ head)
            matrix = (factors.T * (weight * p * (1 - p))) @ factors + jnp.diag(penalty)
            rounding = jnp.finfo(matrix.dtype).eps * jnp.diag(matrix).max()
            return matrix + _ROUNDINGS * rounding * jnp.eye(len(matrix))

        known = jax.lax.stop_gradient((factors, offset))

        def objective(head: Array, direction: Array, length: Array | float) -> Array:
            factors, offset = known
            logit = offset + factors @ head - length * (factors @ direction)
            loss = jnp.sum(weight * (jnp.logaddexp(0, logit) - label * logit))
            return loss + jnp.sum(penalty * (head - length * direction) ** 2) / 2

        def step(_: int, head: Array) -> Array:
            direction = cho_solve(cho_factor(hessian(*known, head)), gradient(*known, head))
            values = jax.vmap(objective, (None, None, 0))(head, direction, lengths)
            return head - lengths[jnp.nanargmin(values)] * direction

        head = jax.lax.fori_loop(0, num_steps, step, jnp.zeros(factors.shape[-1]))
        factor = cho_factor(hessian(*known, head))
        moved = cho_solve(factor, gradient(factors, offset, head))
        # A full step finds the minimum to more digits than a search, unless it is far off. In that
        # case, only the step's derivative is used.
        whole = jax.lax.stop_gradient(moved)
        before, after = (objective(head, whole, length) for length in (0.0, 1.0))
        return head - (moved - jnp.where(after <= (1 + _RISE) * before, 0.0, whole))
