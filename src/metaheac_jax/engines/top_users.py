"""The users with the highest scores, found in parts and merged.

Axes: P users, C campaigns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from metaheac_jax.data.campaign import GROUP, groups_of
from metaheac_jax.errors import Diverged, InputError

#: Columns of an audience.
CAMPAIGN, RANK, USER, SCORE = "campaign_id", "rank", "user_id", "score"
#: Number of users that are scored at a time, and of those whose values are checked first.
BLOCK, SAMPLE = 1 << 16, 1000


def keys_of(
    kinds: Mapping[str, pa.DataType], campaign: pa.DataType, user: pa.DataType
) -> dict[str, pa.DataType]:
    """The columns by which users are excluded, with the types of ids of campaigns and of users.

    Raises:
      InputError: of the columns that have these types, there is no ``user_id``, or one has ids of
        the other type.
    """
    keys = {CAMPAIGN: campaign, USER: user} if CAMPAIGN in kinds else {USER: user}
    for name, expected in keys.items():
        if name not in kinds:
            raise InputError(f"exclude: no column {name!r}; add it")
        if types.is_integer(kinds[name]) != types.is_integer(expected):
            raise InputError(
                f"exclude: {name!r} is of type {kinds[name]}, expected {expected}; cast it"
            )
    return keys


def with_groups(audiences: pa.Table, hold_out: float) -> pa.Table:
    """Adds the column ``group`` to rows of audiences; see `groups_of`."""
    campaigns, users = audiences[CAMPAIGN].to_pylist(), audiences[USER].to_pylist()
    group = pa.array(groups_of(campaigns, users, hold_out), pa.string())
    return audiences.append_column(GROUP, group)


class TopUsers:
    """The ``size`` users with the highest scores for each campaign; the smaller id wins a tie.

    A user who is added twice counts once. Memory grows with the audiences, not with the users.
    """

    def __init__(self, campaigns: pa.Array, id_type: pa.DataType, size: int) -> None:
        self._campaigns, self._size = campaigns, size
        columns = {"campaign": pa.int32(), USER: id_type, SCORE: pa.float32()}
        self._schema = pa.schema(columns)
        self._parts, self._held = [self._schema.empty_table()], 0
        self._lowest = np.full(len(campaigns), -np.inf, np.float32)

    def add(self, ids: pa.ChunkedArray, scores: np.ndarray) -> pa.Table:
        """Adds P users by their ids and (P, C) scores, and returns those among the best so far.

        Raises:
          Diverged: a score is not a number.
        """
        if np.isnan(scores).any():
            raise Diverged("a score of the export is not a number")
        user, campaign = np.nonzero(scores >= self._lowest)
        best = scores[user, campaign] + np.float32(0)  # -0 and 0 are a tie
        return self._add(campaign.astype(np.int32), ids.take(pa.array(user)), best)

    def add_table(self, table: pa.Table) -> None:
        """Adds rows of other top users."""
        campaign = pc.index_in(table[CAMPAIGN], self._campaigns).to_numpy()
        able = table[SCORE].to_numpy() >= self._lowest[campaign]
        table = table.filter(pa.array(able))
        self._add(campaign[able], table[USER], table[SCORE])

    def table(self) -> pa.Table:
        """Columns campaign_id, rank (from 1), user_id and score, best first."""
        rank = self._reduce()
        return self._named(self._parts[0]).add_column(1, RANK, pa.array(rank))

    def _named(self, table: pa.Table) -> pa.Table:
        """Rows with the ids of campaigns."""
        return table.set_column(0, CAMPAIGN, self._campaigns.take(table["campaign"]))

    def _add(self, *columns: Any) -> pa.Table:
        table = pa.table([*columns], self._schema.names).cast(self._schema)
        self._parts.append(table)
        self._held += table.num_rows
        if self._held > 2 * self._size * len(self._campaigns):
            self._reduce()
        return self._named(table)

    def _reduce(self) -> np.ndarray:
        """Keeps the best users in one table, and returns their ranks."""
        keys = [("campaign", "ascending"), (SCORE, "descending"), (USER, "ascending")]
        table = pa.concat_tables(self._parts)
        table = table.take(pc.sort_indices(table, keys)).combine_chunks()
        campaign, ids, size = table["campaign"].to_numpy(), table[USER], self._size
        first = np.ones(len(campaign), bool)  # of a user's rows
        first[1:] = (campaign[1:] != campaign[:-1]) | pc.not_equal(ids[1:], ids[:-1]).to_numpy()
        length = np.bincount(campaign[first], minlength=len(self._campaigns))
        rank = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        table = table.take(pa.array(np.flatnonzero(first)[rank < size]))
        full, last = length >= size, np.cumsum(np.minimum(length, size)) - 1
        self._lowest[full] = table[SCORE].to_numpy()[last[full]]
        self._parts, self._held = [table], table.num_rows
        return rank[rank < size].astype(np.int32) + 1
