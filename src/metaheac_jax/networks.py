"""Networks: pure (init, apply) pairs over field vectors, their shared layers, MLP and MetaHeac.

A network takes *field vectors*: it does not know how the rows of the embedding table are stored.
A `Network` accepts users both as `UserFields` and as a plain (B, M, k) array, whose fields count as
one value each. MetaHeac has hybrid experts and critics behind task-driven gates (paper section
3.2).

Axes: B examples, M user fields, N campaign fields, k embedding width, n experts, m critics,
h hidden width. Leading axes are written ``...`` and may be empty.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

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
    """

    log_p: Array
    log_not_p: Array

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

    def apply(self, params: Any, user: User, campaign: Array, /) -> Any:
        """(B, M, k) user fields and (N, k) or (B, N, k) campaign fields -> `Output`."""


class HeadNetwork(Network):
    """A `Network` of factors that all campaigns share, and a campaign's ``head`` on them.

    Attributes:
      averages: whether weights of values are averaged within a field, or added.
    """

    averages: ClassVar[bool] = True

    @abstractmethod
    def offset_and_factors(self, params: dict[str, Any], user: User) -> tuple[Array, Array]:
        """(B, M, k) user fields -> offset (B,) and factors (B, F)."""

    def apply(self, params: dict[str, Any], user: User, campaign: Array, /) -> Output:
        """(B, M, k) user fields -> `Output`; campaign fields are not read."""
        del campaign
        offset, factors = self.offset_and_factors(params, user)
        return sigmoid_output(offset + factors @ params["head"])


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


def concatenated(fields: Array) -> Array:
    """(..., M, k) -> (..., M k)."""
    return fields.reshape(*fields.shape[:-2], -1)


def sigmoid_output(logit: Array) -> Output:
    """The output of a network with one logit (B,)."""
    return Output(jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit))


class MLP(nn.Module):
    """An MLP with ReLU over the concatenated user and campaign field vectors, and one logit (paper
    section 4.1).

    Attributes:
      widths: widths of the hidden layers.
    """

    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User, campaign: Array) -> Output:
        """(B, M, k) user fields and (N, k) or (B, N, k) campaign fields -> `Output`."""
        fields = UserFields.of(user).with_fields(campaign)
        x = hidden_layers(self, dense(self, "layer_0", fields, self.widths[0]), self.widths)
        return sigmoid_output(dense(self, "head", x, 1)[..., 0])


def mixture_log_probabilities(log_weights: Array, logits: Array) -> tuple[Array, Array]:
    """log p and log(1 - p) of p = sum_j v_j sigmoid(t_j), finite for any finite logit.

    Since the weights sum to one, 1 - p = sum_j v_j sigmoid(-t_j), and both logarithms are a
    logsumexp over the critics (paper section 3.2). The sum is not divided by m, as the paper prints
    it: that would bound p by 1/m.

    Args:
      log_weights: (..., m) log v, normalised: logsumexp over the last axis is 0.
      logits: (..., m) t.

    Returns:
      log p and log(1 - p), each (...,).
    """
    log_p = jax.nn.logsumexp(log_weights + jax.nn.log_sigmoid(logits), axis=-1)
    log_not_p = jax.nn.logsumexp(log_weights + jax.nn.log_sigmoid(-logits), axis=-1)
    return log_p, log_not_p


class Experts(nn.Module):
    """n expert MLPs over the concatenated user fields, computed as one batched product.

    Attributes:
      num_experts: n.
      widths: widths of an expert's layers; the last one is h.
    """

    num_experts: int
    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User) -> Array:
        """(B, M, k) user fields -> (B, n, h), with ReLU after every layer."""
        n, width = self.num_experts, self.widths[0]
        user = UserFields.of(user)
        init = uniform_fan_in(user.size)
        kernel = self.param("kernel_0", init, (user.size, n, width))
        bias = self.param("bias_0", init, (n, width))
        # The experts share their input, so the first layer is one product.
        sums = user.product(kernel.reshape(-1, n * width)) + bias.reshape(-1)
        sums = sums.reshape(*sums.shape[:-1], n, width)
        # In later layers experts are the first axis, as a batched product needs them.
        x = nn.relu(sums).reshape(-1, n, width).swapaxes(0, 1)
        for layer, width in enumerate(self.widths[1:], start=1):
            init = uniform_fan_in(x.shape[-1])
            kernel = self.param(f"kernel_{layer}", init, (n, x.shape[-1], width))
            bias = self.param(f"bias_{layer}", init, (n, width))
            x = nn.relu(x @ kernel + bias[:, None])
        return x.swapaxes(0, 1).reshape(*sums.shape[:-2], n, -1)


class Gate(nn.Module):
    """The task-driven gate g([mean user field, c_1, ..., c_N]) (paper equation 4).

    Mean pooling of the user is deliberate: the campaign must dominate.

    Attributes:
      num_choices: number of experts or critics to choose from.
      width: width of the hidden layer.
    """

    num_choices: int
    width: int = 64

    @nn.compact
    def __call__(self, user: User, campaign: Array) -> Array:
        """(B, M, k) and (N, k) or (B, N, k) -> (B, num_choices) log of the softmax weights."""
        mean = UserFields.of(user).mean()
        fields = concatenated(campaign)
        init = uniform_fan_in(mean.shape[-1] + fields.shape[-1])
        kernel = self.param("kernel", init, (mean.shape[-1] + fields.shape[-1], self.width))
        bias = self.param("bias", init, (self.width,))
        # The campaign's part of the product is the same for all its users, so compute it once.
        hidden = mean @ kernel[: mean.shape[-1]] + (fields @ kernel[mean.shape[-1] :] + bias)
        return jax.nn.log_softmax(dense(self, "choice", nn.relu(hidden), self.num_choices))


class MetaHeac(nn.Module):
    """p = sum_j v_j sigmoid(t_j(sum_i w_i h_i(u))), with w and v from two separate gates.

    Attributes:
      num_experts: n.
      num_critics: m.
      widths: widths of an expert's layers.
      gate_width: hidden width of both gates.
    """

    num_experts: int = 8
    num_critics: int = 5
    widths: tuple[int, ...] = (64, 64)
    gate_width: int = 64

    @nn.compact
    def __call__(self, user: User, campaign: Array) -> Output:
        """(B, M, k) user fields and (N, k) or (B, N, k) campaign fields -> `Output`."""
        hidden = Experts(self.num_experts, self.widths, name="expert")(user)
        expert_log_weights = Gate(self.num_experts, self.gate_width, name="expert_gate")(
            user, campaign
        )
        critic_log_weights = Gate(self.num_critics, self.gate_width, name="critic_gate")(
            user, campaign
        )
        representation = jnp.einsum("...n,...nh->...h", jnp.exp(expert_log_weights), hidden)
        logits = dense(self, "critic", representation, self.num_critics)
        return Output(*mixture_log_probabilities(critic_log_weights, logits))
