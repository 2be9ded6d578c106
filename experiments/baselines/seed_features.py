"""Seed features: for each user field, how much more a user resembles seeds than non-seeds.

    s_f(u) = x_f(u) . d_f / |d_f|,    f = 1..M
    d_f = mean of x_f over the seeds - mean of x_f over the non-seeds

x_f is the vector of user field f, and derivatives treat |d_f| as a constant. The experts take these
features together with the user fields, so that much of what fine-tuning would have to learn about a
campaign is known before it starts. Seed features are not in the paper.

The means are over a *reference set* (see `baselines.reference_sets`), and gradients flow through
them. After customising, d / |d| is a fixed (M, k) *direction* in the model, so scoring a pool costs
M more dot products per user.

Axes: B examples, Q users per label of a reference set, M user fields, N campaign fields,
k embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.networks.base import Output, User
from metaheac_jax.table.layout import Reference
from metaheac_jax.table.pooling import UserFields

#: Added to a length, so that a difference close to zero is not scaled up.
_MIN_LENGTH = 1e-3


def direction(reference: Reference) -> Array:
    """d / |d|, (M, k); 0 if there is no seed, or no non-seed, to compare with.

    Derivatives treat the lengths as constants. Without the division, features would be as small as
    the square of the table's scale and would be ignored.
    """
    count = reference.present.sum(axis=-1)
    total = UserFields.of(reference.users).sum_over_users()
    mean = total / jnp.maximum(count, 1)[:, None, None]
    difference = jnp.where((count > 0).all(), mean[0] - mean[1], 0)
    length = jnp.sqrt((jax.lax.stop_gradient(difference) ** 2).sum(axis=-1, keepdims=True))
    return difference / (length + _MIN_LENGTH)


def seed_features(user: User, direction: Array) -> Array:
    """(B, M, k) field vectors of users and (M, k) direction -> (B, M) features."""
    return jnp.einsum("bmk,mk->bm", UserFields.of(user).dense(), direction)


@dataclass(frozen=True)
class SeedNetwork:
    """A network that takes seed features, as a `Network`.

    Its parameters are those of the wrapped network and the campaign's direction. The direction is
    zero in a general model, which belongs to no campaign.

    Attributes:
      inside: the wrapped network. Its ``init`` and ``apply`` take ``features``, (B, M), as the last
        argument, like those of `metaheac.MetaHeac`.
    """

    inside: Any

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Any]:
        """Parameters, drawn with the key, for (B, M, k) user and (N, k) campaign fields."""
        fields = UserFields.of(user).dense()
        inside = self.inside.init(key, user, campaign, jnp.zeros(fields.shape[:-1]))
        return {"inside": inside, "direction": jnp.zeros(fields.shape[-2:])}

    def apply(
        self,
        params: dict[str, Any],
        user: User,
        campaign: Array,
        /,
        *reference: Reference,
    ) -> Output:
        """(B, M, k) user and (N, k) campaign fields -> `Output`.

        Without a ``reference``, the features use the direction in the parameters.
        """
        towards = direction(*reference) if reference else params["direction"]
        return self.inside.apply(params["inside"], user, campaign, seed_features(user, towards))
