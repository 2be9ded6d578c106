"""Networks with one head per campaign: Shared-Bottom and MMoE (paper section 4.1).

Axes: B examples, M user fields, k embedding width, C campaigns, n experts, h hidden width, a inputs
of a layer, G blocks of examples.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.networks import (
    Experts,
    Output,
    User,
    concatenated,
    dense,
    hidden_layers,
    sigmoid_output,
    uniform_fan_in,
)
from metaheac_jax.table.pooling import UserFields

_BLOCK = 32  # examples of one campaign that go through its layer together


class CampaignLayer(nn.Module):
    """One affine layer per campaign; an example goes through its own campaign's layer.

    Examples are sorted into blocks that each belong to one campaign, so the cost hardly grows with
    the number of campaigns. All campaigns have the same initial values. Only then is the mean of
    their trained layers useful, since the hidden units of layers with different initial values do
    not correspond.
    """

    num_campaigns: int
    features: int

    @nn.compact
    def __call__(self, x: Array, owner: Array | None) -> Array:
        """(B, a) and owner (B,), see `SharedBottom` -> (B, features)."""
        if owner is None and self.num_campaigns > 1 and not self.is_initializing():
            raise ValueError(
                f"there are {self.num_campaigns} campaign heads; pass the owner of each example"
            )

        def alike(key: Array, shape: tuple[int, ...]) -> Array:
            return jnp.broadcast_to(uniform_fan_in(x.shape[-1])(key, shape[1:]), shape)

        kernel = self.param("kernel", alike, (self.num_campaigns, x.shape[-1], self.features))
        bias = self.param("bias", alike, (self.num_campaigns, self.features))
        if owner is None:
            return x @ kernel[0] + bias[0]
        place, of_block = _blocks(owner, self.num_campaigns)
        blocks = jnp.zeros((len(of_block) * _BLOCK, x.shape[-1]), x.dtype).at[place].set(x)
        blocks = blocks.reshape(len(of_block), _BLOCK, -1)
        result = jnp.einsum("gba,gaf->gbf", blocks, kernel[of_block]) + bias[of_block][:, None]
        return result.reshape(-1, self.features)[place]


def _blocks(owner: Array, num_campaigns: int) -> tuple[Array, Array]:
    """(B,) campaigns of examples -> (B,) places in G blocks, and (G,) campaigns of the blocks."""
    owner = jnp.asarray(owner)
    count = jnp.bincount(owner, length=num_campaigns)
    blocks = -(-count // _BLOCK)
    ends = jnp.cumsum(blocks)
    order = jnp.argsort(owner)
    ordered = owner[order]
    rank = jnp.arange(len(owner)) - (jnp.cumsum(count) - count)[ordered]
    place = jnp.zeros_like(order).at[order].set((ends - blocks)[ordered] * _BLOCK + rank)
    num_blocks = -(-len(owner) // _BLOCK) + num_campaigns  # enough for all possible owners
    of_block = jnp.searchsorted(ends, jnp.arange(num_blocks), side="right")
    return place, of_block.clip(max=num_campaigns - 1)


class SharedBottom(nn.Module):
    """Shared-Bottom: an MLP over user fields for all campaigns, and one affine head per campaign.

    Campaign fields are not read: only the head differs between campaigns.

    Attributes:
      num_campaigns: C, the number of heads.
      head_only: whether only the heads get a gradient, so that bottom and table do not change.
      widths: widths of the bottom's layers.
    """

    num_campaigns: int = 1
    head_only: bool = False
    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User, campaign: Array, owner: Array | None = None) -> Output:
        """(B, M, k), campaign fields (not read), and (B,) the head of each example -> `Output`.

        ``owner`` may be omitted if there is a single head.
        """
        del campaign
        sums = dense(self, "layer_0", UserFields.of(user), self.widths[0])
        x = hidden_layers(self, sums, self.widths)
        if self.head_only:
            x = jax.lax.stop_gradient(x)
        logit = CampaignLayer(self.num_campaigns, 1, name="heads")(x, owner)[..., 0]
        return sigmoid_output(logit)


class MMoE(nn.Module):
    """MMoE: experts for all campaigns; one gate and one affine head per campaign (Ma et al., 2018).

    A gate reads the same input as the experts and has two layers, like the paper's gates. Campaign
    fields are not read.

    Attributes:
      num_experts: n.
      num_campaigns: C, the number of gates and heads.
      widths: widths of an expert's layers.
      gate_width: width of a gate's hidden layer.
    """

    num_experts: int = 8
    num_campaigns: int = 1
    widths: tuple[int, ...] = (64, 64)
    gate_width: int = 64

    @nn.compact
    def __call__(self, user: User, campaign: Array, owner: Array | None = None) -> Output:
        """As in `SharedBottom`."""
        del campaign
        hidden = Experts(self.num_experts, self.widths, name="expert")(user)
        x = concatenated(UserFields.of(user).dense())
        x = nn.relu(
            CampaignLayer(self.num_campaigns, self.gate_width, name="gate_hidden")(x, owner)
        )
        choice = CampaignLayer(self.num_campaigns, self.num_experts, name="gates")(x, owner)
        log_weights = jax.nn.log_softmax(choice)
        representation = jnp.einsum("...n,...nh->...h", jnp.exp(log_weights), hidden)
        logit = CampaignLayer(self.num_campaigns, 1, name="heads")(representation, owner)[..., 0]
        return sigmoid_output(logit)
