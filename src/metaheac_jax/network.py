"""MetaHeac's network: hybrid experts and critics behind task-driven gates (paper section 3.2).

Pure (init, apply) Flax modules over *field vectors*: a network neither knows nor cares how the rows
of the embedding table are stored. Where one takes a user, `fields.UserFields` will do, and a plain
(B, M, k) array as well.

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

from metaheac_jax.fields import UserFields
from metaheac_jax.losses import Mixture, mixture_log_probabilities


class Output(NamedTuple):
    """What every network here returns.

    Attributes:
      log_p: (B,) log-probability that the user converts.
      log_not_p: (B,) log-probability that the user does not.
      representation: (B, h) the last hidden vector, r in the paper; None where there is none.
      expert_log_weights: (B, n) log of the experts' gate; None where there is none.
      critic_log_weights: (B, m) log of the critics' gate; None where there is none.
    """

    log_p: Array
    log_not_p: Array
    representation: Array | None = None
    expert_log_weights: Array | None = None
    critic_log_weights: Array | None = None


#: User fields: a plain (B, M, k) array, or what `losses.build_loss` gives a network, `UserFields`,
#: of which ``UserFields.of(user).dense()`` makes that array.
User = UserFields | Array


class Network(Protocol):
    """An (init, apply) pair over field vectors, such as the Flax modules here."""

    def init(self, key: Any, user: User, campaign: Array, /) -> Any:
        """Parameters, drawn with the key."""

    def apply(self, params: Any, user: User, campaign: Array, /) -> Any:
        """(B, M, k) user fields and (N, k) or (B, N, k) campaign fields -> `Output`."""


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

    Of user fields, a is M k.
    """
    size = x.size if isinstance(x, UserFields) else x.shape[-1]
    init = uniform_fan_in(size)
    kernel = module.param(f"{name}_kernel", init, (size, features))
    bias = module.param(f"{name}_bias", init, (features,))
    return (x.product(kernel) if isinstance(x, UserFields) else x @ kernel) + bias


class Experts(nn.Module):
    """n expert MLPs over the concatenated user fields, computed as one batched product."""

    experts: int
    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User, features: Array | None = None) -> Array:
        """(B, M, k) user fields, (B, F) further numbers -> (B, n, h): ReLU after every layer."""
        user, n, width = UserFields.of(user), self.experts, self.widths[0]
        size = user.size + (0 if features is None else features.shape[-1])
        # The first layer sees one input for all experts: a single (M k, n h) product. From then on
        # experts come first, as batched products take them.
        init = uniform_fan_in(size)
        kernel = self.param("kernel_0", init, (size, n, width)).reshape(size, n * width)
        bias = self.param("bias_0", init, (n, width))
        x = user.product(kernel[: user.size]) + bias.reshape(-1)
        if features is not None:
            x += features @ kernel[user.size :]
        x = nn.relu(x).reshape(-1, n, width).swapaxes(0, 1)
        for layer, width in enumerate(self.widths[1:], start=1):
            init = uniform_fan_in(x.shape[-1])
            kernel = self.param(f"kernel_{layer}", init, (n, x.shape[-1], width))
            bias = self.param(f"bias_{layer}", init, (n, width))
            x = nn.relu(x @ kernel + bias[:, None])
        return x.swapaxes(0, 1).reshape(*user.vectors.shape[:-2], n, -1)


class Gate(nn.Module):
    """The task-driven gate g([mean user field, c_1, ..., c_N]) (paper equation 4).

    Mean pooling of the user is deliberate: the campaign must dominate.
    """

    choices: int
    width: int = 64

    @nn.compact
    def __call__(self, user: User, campaign: Array) -> Array:
        """(B, M, k) and (N, k) or (B, N, k) -> (B, choices) log of the softmax weights."""
        mean = UserFields.of(user).mean()
        fields = campaign.reshape(*campaign.shape[:-2], -1)
        init = uniform_fan_in(mean.shape[-1] + fields.shape[-1])
        kernel = self.param("kernel", init, (mean.shape[-1] + fields.shape[-1], self.width))
        bias = self.param("bias", init, (self.width,))
        # The campaign's part of the product is the same for all its users: computed once.
        hidden = mean @ kernel[: mean.shape[-1]] + (fields @ kernel[mean.shape[-1] :] + bias)
        return jax.nn.log_softmax(dense(self, "choice", nn.relu(hidden), self.choices))


class MetaHeac(nn.Module):
    """p = sum_j v_j sigmoid(t_j(sum_i w_i h_i(u))), w and v from two separate gates.

    Attributes:
      experts: n.
      critics: m.
      widths: widths of an expert's layers.
      gate_width: hidden width of both gates.
      mixture: "sum" (the authors' program), or "mean" for the 1/n and 1/m that the paper prints.
    """

    experts: int = 8
    critics: int = 5
    widths: tuple[int, ...] = (64, 64)
    gate_width: int = 64
    mixture: Mixture = "sum"

    @nn.compact
    def __call__(self, user: User, campaign: Array, features: Array | None = None) -> Output:
        """(B, M, k) user fields and (N, k) or (B, N, k) campaign fields -> `Output`.

        ``features``, (B, F), are further numbers of the user for the experts alone.
        """
        hidden = Experts(self.experts, self.widths, name="expert")(user, features)
        expert_log_weights = Gate(self.experts, self.gate_width, name="expert_gate")(user, campaign)
        critic_log_weights = Gate(self.critics, self.gate_width, name="critic_gate")(user, campaign)
        representation = jnp.einsum("...n,...nh->...h", jnp.exp(expert_log_weights), hidden)
        if self.mixture == "mean":
            representation = representation / self.experts
        logits = dense(self, "critic", representation, self.critics)
        log_p, log_not_p = mixture_log_probabilities(critic_log_weights, logits, self.mixture)
        return Output(log_p, log_not_p, representation, expert_log_weights, critic_log_weights)
