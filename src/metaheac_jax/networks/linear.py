"""Logistic regression as a network: one weight per value of a user, and a bias.

The weights are a table of width 1. They are summed over a user's values, not averaged over those of
a field, so a list counts by its length too.

Axes: B examples, M user fields, N campaign fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from metaheac_jax.networks.base import Output, User, sigmoid_output
from metaheac_jax.table.pooling import UserFields


@dataclass(frozen=True)
class Linear:
    """A `Network` whose log-odds are the sum of the weights of a user's values, and a bias."""

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Array]:
        """The bias, zero."""
        del key, user, campaign
        return {"bias": jnp.zeros(())}

    def apply(self, params: dict[str, Array], user: User, campaign: Array, /, *_: Any) -> Output:
        """(B, M, 1) user fields -> `Output`; campaign fields are not read.

        Fields of a plain array count as one value each.
        """
        del campaign
        user = UserFields.of(user)
        sums = (user.counts * user.dense()[..., 0]).sum(axis=-1)
        return sigmoid_output(sums + params["bias"])
