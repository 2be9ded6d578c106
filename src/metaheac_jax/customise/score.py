"""Scores of a pool of users.

Axes: P users of a pool, S slots of a user, N campaign fields, R rows of the table.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array

from metaheac_jax.customise.host_table import HostRows, on_host
from metaheac_jax.data.batches import check_ids, check_slots
from metaheac_jax.data.dataset import UserRows
from metaheac_jax.data.list_lengths import LengthenedUsers, Lengths
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.model import AdaptedWeights, Weights, with_own_parameters
from metaheac_jax.networks.base import Network
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.threads import at_a_time, in_threads

_HOST_BLOCK = 1 << 17  # users whose rows are sent at a time from a table in host memory


class PoolScorer:
    """Scores pools with general or adapted weights; build it once and use it for every model."""

    def __init__(self, network: Network, layout: Layout, *, chunk: int = 1024) -> None:
        """Args:
        network: network of the models.
        layout: layout of the users' ids.
        chunk: number of users scored at once. A thousand fit into the caches of a CPU.

        Raises:
          InputError: the chunk is not a whole number of 1 or more.
        """
        check_whole("chunk", chunk, 1)
        self.network, self.layout, self._chunk = network, layout, chunk

        @jax.jit
        def overlay(table: Array, rows: Array, values: Array) -> Array:
            return table.at[rows].set(values, mode="drop")

        @jax.jit
        def score_chunk(params: Any, table: Array, user: Array, campaign: Array) -> Array:
            output = network.apply(params, *layout.inputs(table, Ids(user, campaign)))
            return output.log_odds

        self._overlay, self._score_chunk = overlay, score_chunk
        self._host_rows = HostRows(layout)

    def __call__(
        self,
        weights: Weights,
        adapted: AdaptedWeights | None,
        campaign: np.ndarray,
        users: UserRows,
    ) -> np.ndarray:
        """Log-odds that each user of a pool converts.

        Args:
          weights: the general weights.
          adapted: the campaign's adapted weights; None scores with the general weights.
          campaign: (N,) table rows of the campaign.
          users: (P, S) table rows of the users, read in chunks, so it may be a memory map.

        Returns:
          (P,), with the dtype of the weights.

        Raises:
          InputError: an id is outside the table, or the number of slots of the users or of fields
            of the campaign is wrong.
        """
        params, table = weights
        self.check_campaign(campaign, table.shape[0])
        if adapted is not None:
            params = with_own_parameters(params, adapted.network)
        if on_host(table):
            return self._from_host(params, table, adapted, campaign, users)
        if adapted is not None:
            table = self.overlaid(table, adapted)

        def score(part: np.ndarray) -> Array:
            return self._score_chunk(params, table, part, campaign)

        return self.over_users(score, users, table.shape[0])

    def overlaid(self, table: Array, adapted: AdaptedWeights) -> Array:
        """A table on a device with a campaign's own rows; a copy, unless it has none."""
        if not len(adapted.rows):
            return table
        return self._overlay(table, adapted.rows, adapted.values)

    def _from_host(
        self,
        params: Any,
        table: Array,
        adapted: AdaptedWeights | None,
        campaign: np.ndarray,
        users: UserRows,
    ) -> np.ndarray:
        """As `__call__`, but sends a device only the rows that a block of users names."""
        check_slots(users, self.layout.num_slots)

        def score(block: np.ndarray) -> np.ndarray:
            check_ids(block, len(table), "the users' ids")
            own, (users, own_campaign) = self._host_rows.cut(table, (block, campaign), adapted)
            part = lambda some: self._score_chunk(params, own, some, own_campaign)  # noqa: E731
            return self.over_users(part, users, len(own))

        starts = range(0, max(len(users), 1), _HOST_BLOCK)
        return np.concatenate([score(np.asarray(users[s : s + _HOST_BLOCK])) for s in starts])

    def check_campaign(self, campaign: np.ndarray, num_rows: int) -> None:
        """Refuses invalid ids of a campaign.

        Raises:
          InputError: an id is outside a table of ``num_rows`` rows, or the shape is not (N,).
        """
        check_ids(np.asarray(campaign), num_rows, "the campaign's ids")
        if np.shape(campaign) != (self.layout.num_campaign_fields,):
            raise InputError(
                f"campaign ids of shape {np.shape(campaign)}, expected "
                f"{self.layout.num_campaign_fields} fields"
            )

    def over_users(
        self,
        function: Callable[[np.ndarray], Array],
        users: UserRows,
        num_rows: int,
    ) -> np.ndarray:
        """Applies a function to all users, one chunk at a time.

        Args:
          function: maps (chunk, S) table rows to (chunk, ...), each row independently.
          users: (P, S) table rows of the users.
          num_rows: R.

        Returns:
          (P, ...).

        Raises:
          InputError: an id is outside the table, or the number of slots of the users is wrong.
        """
        check_slots(users, self.layout.num_slots)

        def checked(part: np.ndarray) -> Array:
            check_ids(part, num_rows, "the users' ids")
            return function(part)

        return over_chunks(checked, users, chunk=self._chunk, fill=num_rows)


@dataclass(frozen=True, eq=False)
class AdaptedScorer:
    """The scorer of a campaign: a `Scorer` that exposes its parts.

    Attributes:
      pool_scorer: scores with its network.
      weights: the general weights.
      adapted: the campaign's adapted weights.
      campaign: (N,) table rows of the campaign.
      lengths: adds list lengths to users; None if the network has no fields for them.
    """

    pool_scorer: PoolScorer
    weights: Weights
    adapted: AdaptedWeights
    campaign: np.ndarray
    lengths: Lengths | None = None

    def with_own_table(self) -> AdaptedScorer:
        """The same scorer with a table of its own, for many calls, which then copy no table."""
        if on_host(self.weights.table):
            return self
        table = self.pool_scorer.overlaid(self.weights.table, self.adapted)
        adapted = self.adapted._replace(rows=self.adapted.rows[:0], values=self.adapted.values[:0])
        return replace(self, weights=self.weights._replace(table=table), adapted=adapted)

    def __call__(self, users: UserRows, /) -> np.ndarray:
        """(P, S) table rows of users -> (P,) log-odds that each converts."""
        if self.lengths is not None:
            users = LengthenedUsers(users, self.lengths)
        return self.pool_scorer(self.weights, self.adapted, self.campaign, users)


def over_chunks(
    function: Callable[..., Array | np.ndarray],
    *arrays: UserRows,
    chunk: int = 2048,
    fill: int = 0,
) -> np.ndarray:
    """Applies a function to rows of arrays, ``chunk`` at a time, so that it compiles once.

    Several chunks are computed at a time, each in a thread.

    Args:
      function: maps arrays (chunk, ...) to (chunk, ...), each row independently.
      *arrays: arrays (P, ...).
      chunk: number of rows at a time.
      fill: value that pads the last chunk.

    Returns:
      (P, ...).
    """
    count = len(arrays[0])
    starts = range(0, max(count, 1), chunk)

    def apply(start: int) -> np.ndarray:
        cut = [np.asarray(array[start : start + chunk]) for array in arrays]
        missing = chunk - len(cut[0])
        full = [
            np.pad(a, [(0, missing), *[(0, 0)] * (a.ndim - 1)], constant_values=fill) for a in cut
        ]
        return np.asarray(function(*full))

    with closing(in_threads(apply, starts, num_threads=at_a_time())) as results:
        return np.concatenate(list(results))[:count]
