"""An ensemble: networks side by side, whose log-odds are averaged.

Each network reads its own columns of the embedding table, so weights, adapted weights and scorers
have the same form as those of one network. The ensemble is not in the paper.

Axes: B examples, M user fields, N campaign fields, E members, K columns of all members together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.networks.base import Network, Output, User, sigmoid_output
from metaheac_jax.table.pooling import UserFields


class Member(NamedTuple):
    """A network of an ensemble.

    Attributes:
      name: the key of its parameters.
      network: the network.
      width: its embedding width, the number of columns that it reads.
    """

    name: str
    network: Network
    width: int


@dataclass(frozen=True)
class Ensemble:
    """A `Network` of several networks.

    The parameters are those of each member under its name, and ``shares`` (E,): the weights of the
    mean.
    """

    members: tuple[Member, ...]

    @property
    def columns(self) -> dict[str, slice]:
        """The columns of the table that each member reads, by name."""
        ends = accumulate(member.width for member in self.members)
        return {
            m.name: slice(end - m.width, end) for m, end in zip(self.members, ends, strict=True)
        }

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Any]:
        """Parameters, drawn with the key, for (B, M, K) user and (N, K) fields; equal shares."""
        keys = jax.random.split(key, len(self.members))
        drawn = {
            member.name: member.network.init(own, *fields)
            for own, (member, fields) in zip(keys, self._inputs(user, campaign), strict=True)
        }
        return drawn | {"shares": jnp.full(len(self.members), 1 / len(self.members))}

    def apply(self, params: dict[str, Any], user: User, campaign: Array, /, *_: Any) -> Output:
        """(B, M, K) user fields and (N, K) or (B, N, K) campaign fields -> `Output`."""
        log_odds = [
            member.network.apply(params[member.name], *fields).log_odds
            for member, fields in self._inputs(user, campaign)
        ]
        # No matrix product, which accelerators round.
        return sigmoid_output((params["shares"][:, None] * jnp.stack(log_odds)).sum(axis=0))

    def _inputs(
        self, user: User, campaign: Array
    ) -> Iterator[tuple[Member, tuple[UserFields, Array]]]:
        """Each member, with its user and campaign fields."""
        user = UserFields.of(user)
        for member, own in zip(self.members, self.columns.values(), strict=True):
            yield member, (user.columns(own), campaign[..., own])
