"""The networks that MetaHeac is compared with (paper section 4.1). Axes as in `network`."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.network import Output, dense


class LogisticRegression(nn.Module):
    """LR: one weight a feature value, that is a table of width k = 1, and a bias."""

    @nn.compact
    def __call__(self, user: Array, campaign: Array) -> Output:
        """(B, M, 1) and (N, 1) or (B, N, 1) -> `Output`; campaign weights are a shared offset."""
        bias = self.param("bias", nn.initializers.zeros, ())
        logit = user.sum(axis=(-2, -1)) + campaign.sum(axis=(-2, -1)) + bias
        return _output(logit)


class MLP(nn.Module):
    """An MLP over all field vectors, user's and campaign's, concatenated: 64-64-1, ReLU."""

    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: Array, campaign: Array) -> Output:
        """(B, M, k) and (N, k) or (B, N, k) -> `Output`."""
        campaign = jnp.broadcast_to(campaign, (*user.shape[:-2], *campaign.shape[-2:]))
        x = jnp.concatenate([user, campaign], axis=-2)
        x = x.reshape(*x.shape[:-2], -1)
        for layer, width in enumerate(self.widths):
            x = nn.relu(dense(self, f"layer_{layer}", x, width))
        return _output(dense(self, "head", x, 1)[..., 0], x)


def _output(logit: Array, representation: Array | None = None) -> Output:
    return Output(jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit), representation)
