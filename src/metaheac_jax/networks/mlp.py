"""Networks of one logit: logistic regression, and an MLP (paper section 4.1).

Axes: B examples, M user fields, N campaign fields, k embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
from jax import Array

from metaheac_jax.networks.base import Network, Output, User, dense, hidden_layers, sigmoid_output
from metaheac_jax.table.pooling import UserFields


class LogisticRegression(nn.Module):
    """LR: one weight per feature value, that is a table of width k = 1, and a bias."""

    @nn.compact
    def __call__(self, user: User, campaign: Array) -> Output:
        """(B, M, 1) and (N, 1) or (B, N, 1) -> `Output`; campaign weights are a shared offset."""
        bias = self.param("bias", nn.initializers.zeros, ())
        logit = UserFields.of(user).dense().sum(axis=(-2, -1)) + campaign.sum(axis=(-2, -1)) + bias
        return sigmoid_output(logit)


class MLP(nn.Module):
    """An MLP over all field vectors, user's and campaign's, concatenated: 64-64-1, ReLU."""

    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User, campaign: Array) -> Output:
        """(B, M, k) and (N, k) or (B, N, k) -> `Output`."""
        x = hidden_layers(self, UserFields.of(user).with_fields(campaign), self.widths)
        return sigmoid_output(dense(self, "head", x, 1)[..., 0], x)


@dataclass(frozen=True)
class OnFrozenFields:
    """A network whose field vectors get no gradient, so that training leaves the table alone."""

    network: Network

    def init(self, key: Any, user: User, campaign: Array, /) -> Any:
        """The network's own parameters."""
        return self.network.init(key, user, campaign)

    def apply(self, params: Any, user: User, campaign: Array, /, *reference: Any) -> Any:
        """The network's own output."""
        return self.network.apply(params, *jax.lax.stop_gradient((user, campaign, *reference)))
