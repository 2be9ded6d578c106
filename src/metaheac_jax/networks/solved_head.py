"""A head that is solved for: logistic regression on numbers of a user that all campaigns share.

    logit(u) = o(u) + f(u) . w_c

One tower over the user fields gives the offset o, what all campaigns' users have in common, and the
*factors* f; the last one is 1, for an intercept. Nothing else depends on the campaign than its head
w_c, so many campaigns are scored for little more than the cost of one. It is not in the paper.

Some factors lie behind hidden layers, the others are linear in the fields.

Axes: B examples, F factors, M user fields, N campaign fields, k embedding width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from metaheac_jax.networks.base import (
    FirstLayer,
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
      widths: of the hidden layers.
      num_hidden: number of factors behind the hidden layers.
      num_linear: number of those that are linear in the fields.
    """

    widths: tuple[int, ...] = (64, 64)
    num_hidden: int = 8
    num_linear: int = 32

    @property
    def num_factors(self) -> int:
        """F, with the intercept's."""
        return self.num_hidden + self.num_linear + 1

    @nn.compact
    def __call__(self, user: User) -> Array:
        """(B, M, k) user fields -> (B, 1 + F): the offset, and the factors."""
        fields = UserFields.of(user)
        x = hidden_layers(self, dense(self, "layer_0", fields, self.widths[0]), self.widths)
        hidden = dense(self, "hidden", x, 1 + self.num_hidden)
        linear = dense(self, "linear", fields, self.num_linear)
        return jnp.concatenate([hidden, linear, jnp.ones_like(hidden[..., :1])], axis=-1)


class SolvedHead(NamedTuple):
    """A tower and a campaign's head, as a `SplitNetwork` whose first layer is the whole tower.

    The head is zero in a general model, which belongs to no campaign.
    """

    tower: UserTower = UserTower()

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Any]:
        """Parameters, drawn with the key; (B, M, k) and (N, k)."""
        del campaign
        return {"tower": self.tower.init(key, user), "head": jnp.zeros(self.tower.num_factors)}

    def apply(
        self, params: dict[str, Any], user: User | FirstLayer, campaign: Array, /, *_: Any
    ) -> Output:
        """(B, M, k) user fields or their `FirstLayer` -> `Output`; campaign fields do not count."""
        del campaign
        first = user if isinstance(user, FirstLayer) else self.first_layer(params, user)
        offset, factors = first.sums[..., 0], first.sums[..., 1:]
        return sigmoid_output(offset + factors @ params["head"], factors)

    def first_layer(self, params: dict[str, Any], user: User, /, *_: Any) -> FirstLayer:
        """(B, M, k) user fields -> the tower's (B, 1 + F) as sums."""
        sums: Any = self.tower.apply(params["tower"], user)
        return FirstLayer(sums)

    def later_layers(self, params: dict[str, Any], /) -> dict[str, Any]:
        """The head."""
        return {"head": params["head"]}
