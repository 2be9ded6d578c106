"""The interface and the output of all networks, and the layers that several of them share.

A network takes *field vectors*: it does not know how the rows of the embedding table are stored.
A `Network` accepts users both as `UserFields` and as a plain (B, M, k) array, whose fields count as
one value each.

Axes: B examples, M user fields, N campaign fields, k embedding width, n experts, m critics,
h hidden width. Leading axes are written ``...`` and may be empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax import Array

from metaheac_jax.table.pooling import UserFields


class Output(NamedTuple):
    """The output of a `Network`.

    Attributes:
      log_p: (B,) log-probability that the user converts.
      log_not_p: (B,) log-probability that the user does not convert.
      representation: (B, h) the last hidden vector, r in the paper; None if there is none.
      expert_log_weights: (B, n) log of the experts' gate; None if there is none.
      critic_log_weights: (B, m) log of the critics' gate; None if there is none.
    """

    log_p: Array
    log_not_p: Array
    representation: Array | None = None
    expert_log_weights: Array | None = None
    critic_log_weights: Array | None = None

    @property
    def log_odds(self) -> Array:
        """(B,) log-odds that the user converts."""
        return self.log_p - self.log_not_p


#: User fields: a plain (B, M, k) array, or the `UserFields` that `Layout.inputs` returns.
#: ``UserFields.of(user).dense()`` converts either to the plain array.
User = UserFields | Array


class Network(Protocol):
    """An (init, apply) pair over field vectors, such as the Flax modules here."""

    def init(self, key: Any, user: User, campaign: Array, /) -> Any:
        """Parameters, drawn with the key."""

    def apply(self, params: Any, user: User, campaign: Array, /, *reference: Any) -> Any:
        """(B, M, k) user fields and (N, k) or (B, N, k) campaign fields -> `Output`.

        A network with seed features also takes the `table.layout.Reference` to compare users with.
        """


def uniform_fan_in(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the authors' initial weights and biases."""
    bound = fan_in**-0.5

    def initialise(
        key: Array, shape: Sequence[int], dtype: jnp.dtype | None = None, out_sharding: None = None
    ) -> Array:
        del out_sharding
        return jax.random.uniform(key, shape, dtype or jnp.float32, -bound, bound)

    return initialise


def dense(module: nn.Module, name: str, x: User, features: int) -> Array:
    """An affine layer (..., a) -> (..., features) with the authors' initial values.

    For user fields, a is M k.
    """
    size = x.size if isinstance(x, UserFields) else x.shape[-1]
    init = uniform_fan_in(size)
    kernel = module.param(f"{name}_kernel", init, (size, features))
    bias = module.param(f"{name}_bias", init, (features,))
    return (x.product(kernel) if isinstance(x, UserFields) else x @ kernel) + bias


def hidden_layers(module: nn.Module, sums: Array, widths: Sequence[int]) -> Array:
    """Layers of these widths, with ReLU; returns the last of them, (..., h).

    Args:
      module: has the parameters.
      sums: (..., a) sums of the first layer, ``layer_0``, before its ReLU.
      widths: widths of all layers; the first is a.
    """
    x = nn.relu(sums)
    for layer, width in enumerate(widths[1:], start=1):
        x = nn.relu(dense(module, f"layer_{layer}", x, width))
    return x


class Affine(nn.Module):
    """An affine layer (..., a) -> (..., features) with the authors' initial values."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., a) -> (..., features)."""
        return dense(self, "affine", x, self.features)


def concatenated(fields: Array) -> Array:
    """(..., M, k) -> (..., M k)."""
    return fields.reshape(*fields.shape[:-2], -1)


def sigmoid_output(logit: Array, representation: Array | None = None) -> Output:
    """The output of a network with one logit (B,)."""
    return Output(jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit), representation)
