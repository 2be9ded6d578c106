"""Logistic regression on factors of users that all campaigns share.

    logit(u) = f(u) . w_c

The factors are the field vectors, the products of each two of their projections on *directions*, if
there are any, and 1 for the intercept. Many campaigns are scored by one matrix product.

Axes: B examples, F factors, M user fields, N campaign fields, k columns of the field vectors,
d directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.networks import HeadNetwork, User, concatenated
from metaheac_jax.table.pooling import UserFields


@dataclass(frozen=True)
class LinearHead(HeadNetwork):
    """A `Network` with a campaign's ``head`` (F,); F = M k + d (d + 1) / 2 + 1.

    The parameters have ``directions`` (M k + 1, d) if there are any; the last row multiplies 1.

    Attributes:
      width: k.
      sums: whether the vector of a field is the sum over its values, which tells how many there
        are, instead of their mean.
    """

    width: int
    sums: bool = False

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Any]:
        """Parameters: the head, which is zero."""
        del key, campaign
        return {"head": jnp.zeros(self.offset_and_factors({}, user)[1].shape[-1])}

    def offset_and_factors(self, params: dict[str, Any], user: User) -> tuple[Array, Array]:
        """(B, M, k) user fields -> offset (B,), zero, and factors (B, F)."""
        fields = UserFields.of(user)
        vectors = fields.dense()
        linear = concatenated(vectors * fields.counts[..., None] if self.sums else vectors)
        parts, one = [linear], jnp.ones_like(linear[..., :1])
        if "directions" in params:
            along = jnp.concatenate([linear, one], axis=-1) @ params["directions"]
            first, second = np.triu_indices(along.shape[-1])
            parts.append(along[..., first] * along[..., second])
        return jnp.zeros_like(linear[..., 0]), jnp.concatenate([*parts, one], axis=-1)
