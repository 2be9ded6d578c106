"""An MLP with one logit (paper section 4.1).

Axes: B examples, M user fields, N campaign fields, F additional features, k embedding width.
"""

from __future__ import annotations

import flax.linen as nn
from jax import Array

from metaheac_jax.networks.base import (
    Output,
    User,
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
    def __call__(self, user: User, campaign: Array, features: Array | None = None) -> Output:
        """(B, M, k) and (N, k) or (B, N, k) fields, optional (B, F) features -> `Output`."""
        fields = UserFields.of(user).with_fields(campaign)
        sums = dense(self, "layer_0", fields, self.widths[0])
        if features is not None:
            shape = features.shape[-1], self.widths[0]
            init = uniform_fan_in(fields.size + shape[0])
            sums += features @ self.param("features_kernel", init, shape)
        x = hidden_layers(self, sums, self.widths)
        return sigmoid_output(dense(self, "head", x, 1)[..., 0], x)
