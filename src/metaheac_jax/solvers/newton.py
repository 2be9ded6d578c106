"""Logistic regression under a normal prior by Newton's method, and the derivative of its solution.

    w = argmin_w  sum_i s_i CE(o_i + x_i . w, y_i) + (w - m)' P (w - m) / 2

The loss is summed over the examples, not averaged, so the prior matters less the more examples
there are. The derivative is that of the minimum (implicit function theorem), taken where the
iterations end: with g and H the gradient and Hessian, dw = -H^-1 dg. For its use in meta-learning
see Bertinetto et al. 2019, "Meta-learning with differentiable closed-form solvers".

Axes: B examples, F features, of which one may be the constant 1 of an intercept.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import cho_factor, cho_solve
from jax.typing import ArrayLike

#: Of an intercept's prior, N(0, 100), so that a set with a single label has a minimum too.
INTERCEPT_PRECISION = 0.01
#: This many rounding errors of H's largest diagonal entry are added to its diagonal. So H remains
#: positive definite if features are linearly dependent, however many examples there are.
_ROUNDINGS = 100
#: Step lengths along Newton's direction, of which the best is taken; the last, 0, makes no step.
#: Where log-odds are far off, the Hessian is close to zero and a full step is far too long.
_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.001, 0.0)
#: Fraction of the objective by which the last step may raise it, because of rounding.
_RISE = 1e-3


class Regression(NamedTuple):
    """A logistic regression: examples, and a normal prior of the weights.

    Attributes:
      features: (B, F); their type is that of the products in a Hessian.
      offset: log-odds that the regression adds to, (B,) or one number.
      label: (B,) 1 for a seed, 0 for a non-seed.
      weight: (B,) 1 for an example, 0 for padding.
      mean: (F,) m; its type is that of the weights and of all other arithmetic.
      precision: (F, F) P; or (F,) its diagonal, if the weights are independent.
    """

    features: Array | np.ndarray
    offset: ArrayLike
    label: Array | np.ndarray
    weight: Array | np.ndarray
    mean: Array | np.ndarray
    precision: Array | np.ndarray

    def gradient(self, weights: Array) -> Array:
        """Returns (F,) the gradient of the loss, without the prior, at weights (F,)."""
        error = self._rate(weights) - self.label
        return (jnp.asarray(self.weight) * error) @ self._wide

    def hessian(self, weights: Array) -> Array:
        """Returns (F, F) the Hessian of the loss, without the prior, at weights (F,)."""
        x, p = jnp.asarray(self.features), self._rate(weights)
        scale = (self.weight * p * (1 - p)).astype(x.dtype)
        return ((x.T * scale) @ x).astype(weights.dtype)

    def direction(self, weights: Array) -> Array:
        """Returns H^-1 g with the prior, whose derivative by the regression is that of g alone."""
        precision, away = self.precision, weights - self.mean
        diagonal = precision.ndim == 1
        matrix = self.hessian(weights) + (jnp.diag(precision) if diagonal else precision)
        rounding = jnp.finfo(matrix.dtype).eps * jnp.diag(matrix).max()
        matrix = jax.lax.stop_gradient(matrix + _ROUNDINGS * rounding * jnp.eye(len(matrix)))
        gradient = self.gradient(weights) + (precision * away if diagonal else precision @ away)
        return cho_solve(cho_factor(matrix), gradient)

    def best_along(self, direction: Array, weights: Array) -> Array:
        """Returns the best of some points from weights (F,) against a direction (F,)."""
        lengths = jnp.array(_LENGTHS, weights.dtype)
        values = jax.vmap(self.objective, (None, None, 0))(weights, direction, lengths)
        return weights - lengths[jnp.nanargmin(values)] * direction

    def objective(self, weights: Array, direction: Array, length: ArrayLike) -> Array:
        """Returns what is minimised, at weights - length * direction."""
        log_odds = self.offset + self._wide @ weights - length * (self._wide @ direction)
        loss = jnp.sum(self.weight * (jnp.logaddexp(0, log_odds) - self.label * log_odds))
        away = weights - length * direction - self.mean
        if self.precision.ndim == 1:
            return loss + jnp.sum(self.precision * away**2) / 2
        return loss + away @ self.precision @ away / 2

    @property
    def _wide(self) -> Array:
        return jnp.asarray(self.features, self.mean.dtype)

    def _rate(self, weights: Array) -> Array:
        return jax.nn.sigmoid(self.offset + self._wide @ weights)


def newton(given: Regression, *, num_steps: int, tolerance: float | None = None) -> Array:
    """Solves a logistic regression, from the mean of the prior.

    Args:
      given: the regression.
      num_steps: number of steps; from log-odds that are about right, four are enough.
      tolerance: the steps end when the last direction would change no weight by more. With None
        all steps are made, for which an accelerator need not wait.

    Returns:
      (F,) the weights; the mean if there are no examples.
    """

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, weights, _ = state
        change = known.direction(weights)
        return count + 1, known.best_along(change, weights), jnp.abs(change).max()

    def goes_on(state: tuple[Array, Array, Array]) -> Array:
        more = state[0] < num_steps
        return more if tolerance is None else more & (state[2] > tolerance)

    # An accelerator rounds products by default, and a rounded Hessian need not be positive
    # definite.
    with jax.default_matmul_precision("highest"):
        known = jax.lax.stop_gradient(given)
        mean = jnp.asarray(known.mean)
        start = jnp.int32(0), mean, jnp.array(jnp.inf, mean.dtype)
        _, weights, _ = jax.lax.while_loop(goes_on, step, start)
        moved = given.direction(weights)
        # A full step finds the minimum to more digits than a search, unless it is far off. In that
        # case, only the step's derivative is used.
        whole = jax.lax.stop_gradient(moved)
        before, after = (known.objective(weights, whole, length) for length in (0.0, 1.0))
        return weights - (moved - jnp.where(after <= (1 + _RISE) * before, 0.0, whole))
