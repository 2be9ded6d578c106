"""Logistic regression on factors of users that all campaigns share.

    logit(u) = f(u) . w_c

The factors are the field vectors, the outputs of a tower if there is one, and 1 for the intercept.
Many campaigns are scored by one matrix product.

Axes: B examples, F factors, M user fields, N campaign fields, k columns of the field vectors that
are factors, K columns that the tower reads, H outputs of the tower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from metaheac_jax.methods.solved_heads import UserTower
from metaheac_jax.networks import Output, User, concatenated, sigmoid_output
from metaheac_jax.table.pooling import UserFields


@dataclass(frozen=True)
class LinearHead:
    """A `Network` with a campaign's ``head`` (F,); F = M k + H + 1.

    Attributes:
      width: k.
      sums: whether the vector of a field is the sum over its values, which tells how many there
        are, instead of their mean.
      tower: reads the other columns of the field vectors; its parameters are ``tower``. Its last
        output, which is 1, is the intercept's factor. None if there is no tower, and H is 0.
    """

    width: int
    sums: bool = False
    tower: UserTower | None = None

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Any]:
        """Parameters, of which the tower's are drawn; the head is zero."""
        del campaign
        fields, tower = UserFields.of(user), {}
        if self.tower is not None:
            tower = {"tower": self.tower.init(key, fields.columns(slice(self.width, None)))}
        factors = self.offset_and_factors(tower, fields)[1]
        return {"head": jnp.zeros(factors.shape[-1]), **tower}

    def apply(self, params: dict[str, Any], user: User, campaign: Array, /, *_: Any) -> Output:
        """(B, M, k + K) user fields -> `Output`; campaign fields are not read."""
        del campaign
        offset, factors = self.offset_and_factors(params, user)
        return sigmoid_output(offset + factors @ params["head"])

    def offset_and_factors(self, params: dict[str, Any], user: User) -> tuple[Array, Array]:
        """(B, M, k + K) user fields -> offset (B,), zero, and factors (B, F)."""
        fields = UserFields.of(user)
        vectors = fields.columns(slice(self.width)).dense()
        linear = concatenated(vectors * fields.counts[..., None] if self.sums else vectors)
        others: Any = jnp.ones_like(linear[..., :1])
        if self.tower is not None:
            others = self.tower.apply(params["tower"], fields.columns(slice(self.width, None)))
        return jnp.zeros_like(linear[..., 0]), jnp.concatenate([linear, others], axis=-1)
