"""Networks with one head per campaign: Shared-Bottom and MMoE (paper section 4.1).

Axes: B examples, M user fields, k embedding width, C campaigns, n experts, h hidden width.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.networks.base import (
    Output,
    User,
    concatenated,
    dense,
    hidden_layers,
    sigmoid_output,
    uniform_fan_in,
)
from metaheac_jax.networks.metaheac import Experts
from metaheac_jax.table.pooling import UserFields


class CampaignLayer(nn.Module):
    """One affine layer per campaign; an example goes through its own campaign's layer.

    All C outputs are computed and one is taken: gathering one kernel per example would make the
    backward pass a long scatter.
    """

    num_campaigns: int
    features: int

    @nn.compact
    def __call__(self, x: Array, owner: Array | None) -> Array:
        """(..., a) and owner (...,), see `SharedBottom` -> (..., features)."""
        if owner is None and self.num_campaigns > 1 and not self.is_initializing():
            raise ValueError(
                f"{self.num_campaigns} campaigns have a head; give each example's owner"
            )
        init = uniform_fan_in(x.shape[-1])
        kernel = self.param("kernel", init, (self.num_campaigns, x.shape[-1], self.features))
        bias = self.param("bias", init, (self.num_campaigns, self.features))
        every = jnp.einsum("...a,caf->...cf", x, kernel) + bias
        if owner is None:
            return every[..., 0, :]
        return jnp.take_along_axis(every, owner[..., None, None], axis=-2)[..., 0, :]


class SharedBottom(nn.Module):
    """Shared-Bottom: an MLP over user fields for all campaigns, and one affine head per campaign.

    Campaign fields are not read: only the head differs between campaigns.

    Attributes:
      num_campaigns: C, the number of heads.
      head_only: only the heads get a gradient, so training moves neither bottom nor table.
      widths: widths of the bottom's layers.
    """

    num_campaigns: int = 1
    head_only: bool = False
    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User, campaign: Array, owner: Array | None = None) -> Output:
        """(B, M, k), campaign fields (not read), and (B,) the head of each example -> `Output`.

        ``owner`` may be omitted where there is a single head.
        """
        del campaign
        sums = dense(self, "layer_0", UserFields.of(user), self.widths[0])
        x = hidden_layers(self, sums, self.widths)
        if self.head_only:
            x = jax.lax.stop_gradient(x)
        return sigmoid_output(
            CampaignLayer(self.num_campaigns, 1, name="heads")(x, owner)[..., 0], x
        )


class MMoE(nn.Module):
    """MMoE: experts for all campaigns; one gate and one affine head per campaign (Ma et al., 2018).

    As there, a gate is one affine layer over the experts' own input. Campaign fields are not read.

    Attributes:
      num_experts: n.
      num_campaigns: C, the number of gates and heads.
      widths: widths of an expert's layers.
    """

    num_experts: int = 8
    num_campaigns: int = 1
    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User, campaign: Array, owner: Array | None = None) -> Output:
        """As `SharedBottom`."""
        del campaign
        hidden = Experts(self.num_experts, self.widths, name="expert")(user)
        x = concatenated(UserFields.of(user).dense())
        choice = CampaignLayer(self.num_campaigns, self.num_experts, name="gates")(x, owner)
        log_weights = jax.nn.log_softmax(choice)
        representation = jnp.einsum("...n,...nh->...h", jnp.exp(log_weights), hidden)
        logit = CampaignLayer(self.num_campaigns, 1, name="heads")(representation, owner)[..., 0]
        return sigmoid_output(logit, representation)._replace(expert_log_weights=log_weights)
