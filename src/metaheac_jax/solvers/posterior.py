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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg  # noqa: F401 - its LAPACK, which JAX calls, has to be there to be limited
from jax import Array
from jax.scipy.linalg import cho_factor, cho_solve
from threadpoolctl import threadpool_limits

from metaheac_jax.backend import jit

#: Variance of a campaign's intercept.
_INTERCEPT_VARIANCE = 100.0
#: Step lengths along Newton's direction, of which the best is taken.
_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.001, 0.0)
#: The change of a weight in a step, at or below which the mode is found.
_TOLERANCE = 1e-8
_MAX_STEPS = 30  # of Newton's method, for a new campaign
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

    def padded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, labels and weights, 0 for padding, of a power of two examples.

        Every size compiles a program.
        """
        count = len(self.label)
        missing = max(64, 1 << (count - 1).bit_length()) - count
        weight = np.pad(np.ones(count, np.float32), (0, missing))
        features = self.features
        if missing:  # a campaign's features can be many
            features = np.pad(features, ((0, missing), (0, 0)))
        return features, np.pad(self.label, (0, missing)), weight


class Gaussian(NamedTuple):
    """A normal distribution of weights.

    Attributes:
      mean: (p,).
      covariance: (p, p).
    """

    mean: np.ndarray
    covariance: np.ndarray


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
    padded, mean = examples.padded(), np.append(prior.mean, 0.0)
    precision = _with_intercept(prior.covariance)
    with _double_precision():
        mode = target = mean
        for _ in range(_MAX_STEPS):
            mode, gradient, hessian = _advance(*padded, mode, target, mean, precision)
            gradient, hessian = gradient + precision @ (mode - mean), hessian + precision
            step = cho_solve(cho_factor(hessian), gradient)
            if np.abs(step).max() <= _TOLERANCE:
                break
            target = mode - step
        return np.asarray(mode)


def _with_intercept(covariance: np.ndarray) -> np.ndarray:
    """(p, p) covariance of weights -> (p + 1, p + 1) precision of weights and intercept."""
    size = len(covariance)
    precision = np.zeros((size + 1, size + 1))
    precision[:size, :size] = np.linalg.inv(covariance)
    precision[size, size] = 1 / _INTERCEPT_VARIANCE
    return precision


@jit
def _advance(
    features: Array,
    label: Array,
    weight: Array,
    start: Array,
    target: Array,
    mean: Array,
    precision: Array,
) -> tuple[Array, Array, Array]:
    """The best point (p + 1,) from ``start`` to ``target``, and the likelihood there.

    The likelihood is given by the gradient (p + 1,) and the Hessian (p + 1, p + 1) of its negative
    logarithm.
    """
    x = jnp.concatenate([features, jnp.ones_like(features[:, :1])], axis=1)
    wide, lengths = x.astype(mean.dtype), jnp.array(_LENGTHS, mean.dtype)
    from_start, along = wide @ start, wide @ (target - start)

    def objective(length: Array) -> Array:
        log_odds, away = from_start + length * along, start + length * (target - start) - mean
        loss = jnp.sum(weight * (jnp.logaddexp(0, log_odds) - label * log_odds))
        return loss + away @ precision @ away / 2

    length = lengths[jnp.nanargmin(jax.vmap(objective)(lengths))]
    p = jax.nn.sigmoid(from_start + length * along)
    scaled = x * jnp.sqrt(weight * p * (1 - p)).astype(x.dtype)[:, None]
    gradient = (weight * (p - label)) @ wide
    return start + length * (target - start), gradient, (scaled.T @ scaled).astype(mean.dtype)


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
    size, padded = len(groups), [own.padded() for own in campaigns]
    groups = np.unique(groups, return_inverse=True)[1]
    prior = Gaussian(np.zeros(size), np.diag(variances))
    rates = np.array([own.label.mean() for own in campaigns])
    rates, modes = rates.clip(1e-6, 1 - 1e-6), np.zeros((len(campaigns), size + 1))
    modes[:, -1] = np.log(rates) - np.log1p(-rates)
    targets = modes
    with _double_precision():
        for _ in range(passes):
            mean, precision = np.append(prior.mean, 0.0), _with_intercept(prior.covariance)
            found = [
                _advance(*own, *start, mean, precision)
                for own, *start in zip(padded, modes, targets, strict=True)
            ]
            modes, gradients, hessians = map(np.stack, zip(*found, strict=True))
            linear = np.einsum("cij,cj->ci", hessians, modes) - gradients
            for _ in range(_ROUNDS_PER_PASS):
                mean, precision = np.append(prior.mean, 0.0), _with_intercept(prior.covariance)
                targets, spread = map(np.asarray, _posteriors(hessians, linear, mean, precision))
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

    def add(total: Array, own: tuple[Array, Array]) -> tuple[Array, Array]:
        hessian, b = own
        covariance = cho_solve(cho_factor(hessian + precision), jnp.eye(size, dtype=mean.dtype))
        return total + covariance / len(linear), covariance @ (b + precision @ mean)

    spread, modes = jax.lax.scan(add, jnp.zeros_like(precision), (hessians, linear))
    return modes, spread


def _maximised(
    weights: np.ndarray, spread: np.ndarray, groups: np.ndarray, strength: float
) -> Gaussian:
    """The prior of the highest posterior density: (C, p) modes and their mean covariance (p, p)."""
    count, mean = len(weights), weights.mean(axis=0)
    own = (weights - mean).T @ (weights - mean) / count + spread
    variances = np.bincount(groups, np.diag(own)) / np.bincount(groups)
    target = np.diag(variances[groups])
    return Gaussian(mean, (count * own + strength * target) / (count + strength))
