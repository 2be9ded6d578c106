"""The graph network between campaigns and users of a Hubble-like method (paper section 4.1).

Axes: B users, M user fields, k embedding width, C campaigns, h hidden width.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.networks.base import Affine, Output, concatenated, sigmoid_output


class CampaignGraph(nn.Module):
    """A graph network between campaigns and users, inductive in both.

    A user starts from its fields. A campaign aggregates the mean of its seeds. A user attends to
    campaigns and concatenates the message with its own state. So features of seeds reach a user
    over two hops, and no user or campaign has its own parameters. Attention depends on the user's
    features instead of edges, since a user of a pool has no edge to any campaign.
    """

    features: int = 64

    def setup(self) -> None:
        """Defines the layers."""
        layers = (Affine(self.features) for _ in range(6))
        self.fields, self.seeds, self.queries, self.keys, self.joined, self.target = layers

    def __call__(self, user: Array, campaign: Array) -> Output:
        """(B, M, k) seeds of a campaign -> their own `Output`; uses all parameters, for init."""
        del campaign  # campaign fields are not read
        users = self.user(user)
        campaigns = self.campaign(users, jnp.ones(users.shape[:-1]))[None]
        attended = jnp.ones((*users.shape[:-1], 1), bool)
        return self.predict(self.represent(users, campaigns, attended), campaigns)

    def user(self, fields: Array) -> Array:
        """(..., M, k) -> (..., h): a user before any message."""
        return nn.relu(self.fields(concatenated(fields)))

    def campaign(self, users: Array, is_seed: Array) -> Array:
        """(..., B, h) users and (..., B), 1 for its seeds -> (..., h), the campaign."""
        count = jnp.maximum(is_seed.sum(axis=-1, keepdims=True), 1)
        return nn.relu(self.seeds(jnp.einsum("...bh,...b->...h", users, is_seed) / count))

    def represent(self, users: Array, campaigns: Array, attended: Array) -> Array:
        """(B, h) users, (C, h) campaigns and a (B, C) attention mask -> (B, h)."""
        scores = self.queries(users) @ self.keys(campaigns).T / self.features**0.5
        weights = jax.nn.softmax(jnp.where(attended, scores, jnp.finfo(scores.dtype).min))
        return nn.relu(self.joined(jnp.concatenate([users, weights @ campaigns], axis=-1)))

    def predict(self, representations: Array, campaign: Array) -> Output:
        """(B, h) users and their (h,) or (B, h) campaign -> `Output`."""
        logit = (representations * self.target(campaign)).sum(axis=-1)
        return sigmoid_output(logit, representations)
