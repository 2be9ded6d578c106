"""MetaHeac's network: hybrid experts and critics behind task-driven gates (paper section 3.2).

Axes: B examples, M user fields, N campaign fields, F additional features, k embedding width,
n experts, m critics, h hidden width. Leading axes are written ``...`` and may be empty.
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.networks.base import Output, User, concatenated, dense, uniform_fan_in
from metaheac_jax.table.pooling import UserFields

#: How experts and critics are mixed: by plain weighted sums, or with the factors 1/n and 1/m that
#: the paper prints.
Mixture = Literal["sum", "mean"]


def mixture_log_probabilities(
    log_weights: Array, logits: Array, mixture: Mixture = "sum"
) -> tuple[Array, Array]:
    """log p and log(1 - p) of p = sum_j v_j sigmoid(t_j), finite for any finite logit.

    Since the weights sum to one, 1 - p = sum_j v_j sigmoid(-t_j), and both logarithms are a
    logsumexp over the critics (paper section 3.2).

    Args:
      log_weights: (..., m) log v, normalised: logsumexp over the last axis is 0.
      logits: (..., m) t.
      mixture: "sum" as in the authors' program; "mean" divides by m as the paper prints it, which
        bounds p by 1/m.

    Returns:
      log p and log(1 - p), each (...,).
    """
    log_p = jax.nn.logsumexp(log_weights + jax.nn.log_sigmoid(logits), axis=-1)
    log_not_p = jax.nn.logsumexp(log_weights + jax.nn.log_sigmoid(-logits), axis=-1)
    num_critics = logits.shape[-1]
    if mixture == "mean" and num_critics > 1:
        # 1 - p/m = (1 - 1/m) + (1 - p)/m.
        log_not_p = jnp.logaddexp(jnp.log1p(-1 / num_critics), log_not_p - jnp.log(num_critics))
        log_p = log_p - jnp.log(num_critics)
    return log_p, log_not_p


def expert_sums(kernel: Array, bias: Array, user: User, features: Array | None = None) -> Array:
    """The first layer of all experts, before its ReLU: the input is shared, so it is one product.

    Args:
      kernel: (M k + F, n, h).
      bias: (n, h).
      user: (B, M, k) user fields.
      features: (B, F) additional features; None if F is 0.

    Returns:
      (B, n, h).
    """
    user, (n, width) = UserFields.of(user), bias.shape
    kernel = kernel.reshape(-1, n * width)
    sums = user.product(kernel[: user.size]) + bias.reshape(-1)
    if features is not None:
        sums += features @ kernel[user.size :]
    return sums.reshape(*sums.shape[:-1], n, width)


class Experts(nn.Module):
    """n expert MLPs over the concatenated user fields, computed as one batched product.

    Attributes:
      num_experts: n.
      widths: widths of an expert's layers; the last one is h.
    """

    num_experts: int
    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User, features: Array | None = None) -> Array:
        """(B, M, k) user fields, (B, F) features -> (B, n, h), with ReLU after every layer."""
        n, width = self.num_experts, self.widths[0]
        user = UserFields.of(user)
        size = user.size + (0 if features is None else features.shape[-1])
        init = uniform_fan_in(size)
        kernel = self.param("kernel_0", init, (size, n, width))
        bias = self.param("bias_0", init, (n, width))
        sums = expert_sums(kernel, bias, user, features)
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
      mixture: see `Mixture`.
    """

    num_experts: int = 8
    num_critics: int = 5
    widths: tuple[int, ...] = (64, 64)
    gate_width: int = 64
    mixture: Mixture = "sum"

    @nn.compact
    def __call__(self, user: User, campaign: Array, features: Array | None = None) -> Output:
        """(B, M, k) user fields and (N, k) or (B, N, k) campaign fields -> `Output`.

        ``features``, (B, F), are additional features of the user, for the experts only.
        """
        hidden = Experts(self.num_experts, self.widths, name="expert")(user, features)
        expert_log_weights = Gate(self.num_experts, self.gate_width, name="expert_gate")(
            user, campaign
        )
        critic_log_weights = Gate(self.num_critics, self.gate_width, name="critic_gate")(
            user, campaign
        )
        representation = jnp.einsum("...n,...nh->...h", jnp.exp(expert_log_weights), hidden)
        if self.mixture == "mean":
            representation = representation / self.num_experts
        logits = dense(self, "critic", representation, self.num_critics)
        log_p, log_not_p = mixture_log_probabilities(critic_log_weights, logits, self.mixture)
        return Output(log_p, log_not_p, representation, expert_log_weights, critic_log_weights)
