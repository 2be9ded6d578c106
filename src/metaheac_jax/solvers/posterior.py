"""Logistic regression under a Gaussian prior, and a prior that is learned from many campaigns.

The weights of a campaign have a prior N(m, S), and its intercept one of its own, N(0, 100). The
posterior is approximated at its mode by a Gaussian (Laplace). The prior is learned by EM (empirical
Bayes): modes and covariances of all campaigns give m and S, which give other modes. The view of
MAML as such a hierarchical model is that of Grant et al. 2018, "Recasting gradient-based
meta-learning as hierarchical Bayes".

Axes: B examples, p features, C campaigns. All arithmetic has 64 bits, except the products of
features in Hessians.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import cho_factor, cho_solve
from scipy.linalg import block_diag  # with its LAPACK, which JAX calls and which is limited here
from threadpoolctl import threadpool_limits

from metaheac_jax.backend import jit
from metaheac_jax.solvers.newton import INTERCEPT_PRECISION, Regression, newton

#: Of Newton's method: the change of a weight after which one more step finds the mode.
_TOLERANCE, _MAX_STEPS = 1e-5, 30
#: EM rounds with the same quadratic approximation of the likelihoods.
_ROUNDS_PER_PASS = 8


class Examples(NamedTuple):
    """A campaign's examples.

    Attributes:
      features: (B, p) float32.
      label: (B,) 1 for a seed, 0 for a non-seed.
    """

    features: np.ndarray
    label: np.ndarray

    def regression(self, prior: Gaussian) -> Regression:
        """Builds the campaign's regression, whose last feature is the constant 1.

        Every size compiles a program, so examples are padded to a power of two.
        """
        count, size = self.features.shape
        padded = max(64, 1 << (count - 1).bit_length())
        features = np.zeros((padded, size + 1), self.features.dtype)
        features[:count, :-1], features[:count, -1] = self.features, 1
        label = np.pad(self.label, (0, padded - count))
        weight = (np.arange(padded) < count).astype(np.float32)
        return Regression(features, 0.0, label, weight, *prior.with_intercept())


class Gaussian(NamedTuple):
    """A normal distribution of weights.

    Attributes:
      mean: (p,).
      covariance: (p, p).
    """

    mean: np.ndarray
    covariance: np.ndarray

    def with_intercept(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean (p + 1,) and the precision (p + 1, p + 1) of weights and intercept."""
        precision = block_diag(np.linalg.inv(self.covariance), INTERCEPT_PRECISION)
        return np.append(self.mean, 0.0), precision


@contextmanager
def _double_precision() -> Iterator[None]:
    """Arithmetic of 64 bits, with one thread for a factorisation of a matrix.

    The matrices are small: with a thread per core, the threads wait for each other, above all on a
    machine that does other work.
    """
    precision = jax.default_matmul_precision("highest")
    with jax.enable_x64(True), precision, threadpool_limits(1, "blas"):
        yield


def posterior_mode(examples: Examples, prior: Gaussian) -> np.ndarray:
    """(p + 1,) the mode of the posterior of a campaign's weights, and of its intercept.

    Args:
      examples: of the campaign.
      prior: of the weights, (p,).
    """
    with _double_precision():
        return np.asarray(_mode(examples.regression(prior)))


_mode = jit(partial(newton, num_steps=_MAX_STEPS, tolerance=_TOLERANCE))


@jit
def _advance(given: Regression, start: Array, target: Array) -> tuple[Array, Array, Array]:
    """The best point (p + 1,) from ``start`` to ``target``, and the likelihood there.

    The likelihood is given by the gradient (p + 1,) and the Hessian (p + 1, p + 1) of its negative
    logarithm.
    """
    mode = given.best_along(start - target, start)
    return mode, given.gradient(mode), given.hessian(mode)


class Learned(NamedTuple):
    """A prior, and what it was learned from.

    Attributes:
      prior: of the weights, (p,).
      modes: (C, p) mode of each campaign's weights.
    """

    prior: Gaussian
    modes: np.ndarray


def learn_prior(
    campaigns: Sequence[Examples],
    groups: np.ndarray,
    variances: np.ndarray,
    *,
    strength: float,
    passes: int,
) -> Learned:
    """Learns the prior of weights from campaigns by EM.

    The covariance has a prior of its own (inverse Wishart), so that there may be more features than
    campaigns: it is drawn towards independent weights of the same variance within each group.

    Args:
      campaigns: the examples of each campaign.
      groups: (p,) number of the group of each feature, such as its field.
      variances: (p,) prior variances of the weights at the start of EM, which matters if the passes
        are too few to converge.
      strength: the weight of independence, as a number of campaigns; above 0.
      passes: number of passes over the examples. Each approximates the likelihoods at the current
        modes by quadratic functions, with which some EM rounds are made.
    """
    size = len(groups)
    groups = np.unique(groups, return_inverse=True)[1]
    prior = Gaussian(np.zeros(size), np.diag(variances))
    rates = np.array([examples.label.mean() for examples in campaigns])
    rates, modes = rates.clip(1e-6, 1 - 1e-6), np.zeros((len(campaigns), size + 1))
    modes[:, -1] = np.log(rates) - np.log1p(-rates)
    targets, padded = modes, [examples.regression(prior) for examples in campaigns]
    with _double_precision():
        for _ in range(passes):
            mean, precision = prior.with_intercept()
            found = [
                _advance(examples._replace(mean=mean, precision=precision), *points)
                for examples, *points in zip(padded, modes, targets, strict=True)
            ]
            modes, gradients, hessians = map(np.stack, zip(*found, strict=True))
            linear = np.einsum("cij,cj->ci", hessians, modes) - gradients
            for _ in range(_ROUNDS_PER_PASS):
                given = prior.with_intercept()
                targets, spread = map(np.asarray, _posteriors(hessians, linear, *given))
                prior = _maximised(targets[:, :-1], spread[:-1, :-1], groups, strength)
    return Learned(prior, targets[:, :-1])


@jit
def _posteriors(
    hessians: Array, linear: Array, mean: Array, precision: Array
) -> tuple[Array, Array]:
    """Modes (C, p + 1) and mean covariance (p + 1, p + 1) under quadratic log-likelihoods.

    Their negatives are w H_c w / 2 - b_c w, with H (C, p + 1, p + 1) and b (C, p + 1).
    """
    size = len(mean)

    def add(total: Array, one: tuple[Array, Array]) -> tuple[Array, Array]:
        hessian, b = one
        covariance = cho_solve(cho_factor(hessian + precision), jnp.eye(size, dtype=mean.dtype))
        return total + covariance / len(linear), covariance @ (b + precision @ mean)

    spread, modes = jax.lax.scan(add, jnp.zeros_like(precision), (hessians, linear))
    return modes, spread


def _maximised(
    weights: np.ndarray, spread: np.ndarray, groups: np.ndarray, strength: float
) -> Gaussian:
    """The prior of the highest posterior density: (C, p) modes and their mean covariance (p, p)."""
    count, mean = len(weights), weights.mean(axis=0)
    spread_now = (weights - mean).T @ (weights - mean) / count + spread
    variances = np.bincount(groups, np.diag(spread_now)) / np.bincount(groups)
    target = np.diag(variances[groups])
    return Gaussian(mean, (count * spread_now + strength * target) / (count + strength))
