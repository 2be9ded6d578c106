"""An MLP with one logit (paper section 4.1).

Axes: B examples, M user fields, N campaign fields, F additional features, k embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
from jax import Array

from metaheac_jax.networks.base import (
    FirstLayer,
    Network,
    Output,
    User,
    concatenated,
    dense,
    hidden_layers,
    sigmoid_output,
    uniform_fan_in,
)
from metaheac_jax.table.pooling import UserFields


class MLP(nn.Module):
    """An MLP with ReLU over the concatenated user and campaign field vectors, and one logit.

    Attributes:
      widths: widths of the hidden layers.
    """

    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(
        self, user: User | FirstLayer, campaign: Array, features: Array | None = None
    ) -> Output:
        """(B, M, k) and (N, k) or (B, N, k) fields, optional (B, F) features -> `Output`."""
        if isinstance(user, FirstLayer):
            fields = concatenated(campaign)
            kernel: Array = self.get_variable("params", "layer_0_kernel")
            size = kernel.shape[0]
            sums = user.sums + fields @ kernel[size - fields.shape[-1] :]
        else:
            fields = UserFields.of(user).with_fields(campaign)
            size, sums = fields.size, dense(self, "layer_0", fields, self.widths[0])
        if features is not None:
            shape = features.shape[-1], self.widths[0]
            sums += features @ self.param("features_kernel", uniform_fan_in(size + shape[0]), shape)
        x = hidden_layers(self, sums, self.widths)
        return sigmoid_output(dense(self, "head", x, 1)[..., 0], x)

    def first_layer(self, params: Any, user: User, /, *features: Array) -> FirstLayer:
        """(B, M, k) user fields, optional (B, F) features -> their part of the sums, (B, h)."""
        user, own = UserFields.of(user), params["params"]
        sums = user.product(own["layer_0_kernel"][: user.size]) + own["layer_0_bias"]
        return FirstLayer(sum((each @ own["features_kernel"] for each in features), sums))

    def later_layers(self, params: Any, /) -> Any:
        """The parameters without those of the first layer."""
        first = ("layer_0_kernel", "layer_0_bias", "features_kernel")
        return {"params": {k: v for k, v in params["params"].items() if k not in first}}


@dataclass(frozen=True)
class OnFrozenFields:
    """A network whose field vectors get no gradient, so that training does not change the table."""

    network: Network

    def init(self, key: Any, user: User, campaign: Array, /) -> Any:
        """The network's own parameters."""
        return self.network.init(key, user, campaign)

    def apply(self, params: Any, user: User, campaign: Array, /, *reference: Any) -> Any:
        """The network's own output."""
        return self.network.apply(params, *jax.lax.stop_gradient((user, campaign, *reference)))
