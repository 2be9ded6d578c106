"""Logistic regression on the field vectors of users, which all campaigns share.

    logit(u) = f(u) . w_c

The factors are the field vectors, and 1 for the intercept. Many campaigns are scored by one matrix
product.

Axes: B examples, F factors, M user fields, N campaign fields, k columns of the field vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from metaheac_jax.networks import HeadNetwork, User, concatenated
from metaheac_jax.table.pooling import UserFields


@dataclass(frozen=True)
class LinearHead(HeadNetwork):
    """A `Network` with a campaign's ``head`` (F,); F = M k + 1."""

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Any]:
        """Parameters: the head, which is zero."""
        del key, campaign
        return {"head": jnp.zeros(self.offset_and_factors({}, user)[1].shape[-1])}

    def offset_and_factors(self, params: dict[str, Any], user: User) -> tuple[Array, Array]:
        """(B, M, k) user fields -> offset (B,), zero, and factors (B, F)."""
        del params
        vectors = concatenated(UserFields.of(user).dense())
        one = jnp.ones_like(vectors[..., :1])
        return jnp.zeros_like(vectors[..., 0]), jnp.concatenate([vectors, one], axis=-1)
