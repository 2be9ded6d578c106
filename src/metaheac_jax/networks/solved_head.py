"""A solved head: logistic regression on user factors that all campaigns share.

    logit(u) = o(u) + f(u) . w_c + sum over fields of the mean of d_c over the field's values

One tower over the user fields gives the offset o, which is common to all campaigns, and the
*factors* f; the last factor is 1, for the intercept. Some factors come from hidden layers; the
others are linear in the fields. A campaign has a head w_c, and *value weights* d_c for what the
factors do not explain. Value weights are the last column of the table, which gets no gradient, and
are zero in a general model. Many campaigns are scored with one pass of the tower. The solved head
is not in the paper.

Axes: B examples, F factors, M user fields, N campaign fields, k embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.networks.base import (
    Output,
    User,
    dense,
    hidden_layers,
    sigmoid_output,
)
from metaheac_jax.table.pooling import UserFields


class UserTower(nn.Module):
    """The offset and the factors of users.

    Attributes:
      widths: widths of the hidden layers.
      num_hidden: number of factors from the hidden layers.
      num_linear: number of factors that are linear in the fields.
    """

    widths: tuple[int, ...] = (64, 64)
    num_hidden: int = 8
    num_linear: int = 32

    @property
    def num_factors(self) -> int:
        """F, including the intercept's factor."""
        return self.num_hidden + self.num_linear + 1

    @nn.compact
    def __call__(self, user: User) -> Array:
        """(B, M, k) user fields -> (B, 1 + F): the offset and the factors."""
        fields = UserFields.of(user)
        x = hidden_layers(self, dense(self, "layer_0", fields, self.widths[0]), self.widths)
        hidden = dense(self, "hidden", x, 1 + self.num_hidden)
        linear = dense(self, "linear", fields, self.num_linear)
        return jnp.concatenate([hidden, linear, jnp.ones_like(hidden[..., :1])], axis=-1)


def without_value_weights(user: User) -> tuple[UserFields, Array]:
    """(B, M, k) user fields -> their first k - 1 entries, and the sum (B,) over fields of the last.

    Derivatives treat the sum as a constant.
    """
    user = UserFields.of(user)
    shared, own = user.columns(slice(None, -1)), user.columns(slice(-1, None))
    return shared, jax.lax.stop_gradient(own.dense().sum(axis=(-2, -1)))


@dataclass(frozen=True)
class SolvedHead:
    """A `Network` of a tower and a campaign's head.

    The head is zero in a general model, which belongs to no campaign.
    """

    tower: UserTower = field(default_factory=UserTower)

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Any]:
        """Parameters, drawn with the key, for (B, M, k) user and (N, k) campaign fields."""
        del campaign
        fields, _ = without_value_weights(user)
        return {"tower": self.tower.init(key, fields), "head": jnp.zeros(self.tower.num_factors)}

    def apply(self, params: dict[str, Any], user: User, campaign: Array, /, *_: Any) -> Output:
        """(B, M, k) user fields -> `Output`; campaign fields are not read."""
        del campaign
        offset, factors = self.offset_and_factors(params, user)
        return sigmoid_output(offset + factors @ params["head"], factors)

    def offset_and_factors(self, params: dict[str, Any], user: User) -> tuple[Array, Array]:
        """(B, M, k) user fields -> offset (B,) with the value weights, and factors (B, F)."""
        fields, own = without_value_weights(user)
        sums: Any = self.tower.apply(params["tower"], fields)
        sums = sums.at[..., 0].add(own)
        return sums[..., 0], sums[..., 1:]
