"""Two towers that embed users and campaigns in one space, for Pinterest's method (section 4.1).

Axes: M user fields, N campaign fields, k embedding width. Leading axes ``...`` may be empty.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from metaheac_jax.networks.base import Affine, concatenated


class Towers(nn.Module):
    """An affine layer over a user's fields and one over a campaign's, into one space.

    Embeddings have length one, since cosines are compared.
    """

    features: int = 64

    def setup(self) -> None:
        """Defines the layers."""
        self.users, self.campaigns = Affine(self.features), Affine(self.features)

    def __call__(self, user: Array, campaign: Array) -> tuple[Array, Array]:
        """(..., M, k) and (..., N, k) -> both embeddings, (..., features) each."""
        return self.user(user), self.campaign(campaign)

    def user(self, fields: Array) -> Array:
        """(..., M, k) -> (..., features)."""
        return _unit(self.users(concatenated(fields)))

    def campaign(self, fields: Array) -> Array:
        """(..., N, k) -> (..., features)."""
        return _unit(self.campaigns(concatenated(fields)))


def _unit(x: Array) -> Array:
    return x / jnp.sqrt((x**2).sum(axis=-1, keepdims=True) + 1e-12)
