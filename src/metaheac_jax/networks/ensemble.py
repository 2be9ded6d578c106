"""An ensemble: networks side by side, whose log-odds are averaged.

Each network reads its own columns of the embedding table, so weights, adapted weights and scorers
have the same form as those of one network. The ensemble is not in the paper.

Axes: B examples, M user fields, N campaign fields, k embedding width of a member, K of all members.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from metaheac_jax.networks.base import Network, Output, User, sigmoid_output
from metaheac_jax.table.pooling import UserFields


@dataclass(frozen=True)
class Ensemble:
    """A `Network` of several networks.

    Attributes:
      members: name and network of each member; the name is the key of its parameters.
    """

    members: tuple[tuple[str, Network], ...]

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Any]:
        """Parameters, drawn with the key, for (B, M, K) user and (N, K) campaign fields."""
        keys = jax.random.split(key, len(self.members))
        inputs = self._inputs(user, campaign)
        return {
            name: network.init(own, *fields)
            for own, (name, network, fields) in zip(keys, inputs, strict=True)
        }

    def apply(self, params: dict[str, Any], user: User, campaign: Array, /, *_: Any) -> Output:
        """(B, M, K) user fields and (N, K) or (B, N, K) campaign fields -> `Output`."""
        outputs = [
            network.apply(params[name], *fields)
            for name, network, fields in self._inputs(user, campaign)
        ]
        log_odds = [output.log_odds for output in outputs]
        return sigmoid_output(sum(log_odds[1:], log_odds[0]) / len(log_odds))

    def _inputs(
        self, user: User, campaign: Array
    ) -> Iterator[tuple[str, Network, tuple[UserFields, Array]]]:
        """Each member's name, network, and user and campaign fields."""
        user, width = UserFields.of(user), campaign.shape[-1] // len(self.members)
        for number, (name, network) in enumerate(self.members):
            own = columns(number, width)
            yield name, network, (user.columns(own), campaign[..., own])


def columns(number: int, width: int) -> slice:
    """The k = ``width`` columns of the table that a member reads."""
    return slice(number * width, (number + 1) * width)
