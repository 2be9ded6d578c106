"""An MLP of one logit (paper section 4.1).

Axes: B examples, M user fields, N campaign fields, F further numbers, k embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
from jax import Array

from metaheac_jax.networks.base import Network, Output, User, dense, hidden_layers, sigmoid_output
from metaheac_jax.table.pooling import UserFields


class MLP(nn.Module):
    """An MLP over all field vectors, user's and campaign's, concatenated: 64-64-1, ReLU."""

    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User, campaign: Array, features: Array | None = None) -> Output:
        """(B, M, k) and (N, k) or (B, N, k), and (B, F) further numbers -> `Output`."""
        fields = UserFields.of(user).with_fields(campaign)
        x = hidden_layers(self, fields, self.widths, features)
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
