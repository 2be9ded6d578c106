"""How audiences have done: who of their users converted, once they were shown the campaign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from metaheac_jax.audience.curve import Estimate, wilson_estimate
from metaheac_jax.audience.gains import Gain, TextTable, gains_of, gains_table
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.table_file import Table
from metaheac_jax.errors import InputError


@dataclass(frozen=True)
class ShownUsers:
    """Users who were shown a campaign.

    Attributes:
      users: number of users.
      converts: number of these users who converted.
    """

    users: int
    converts: int

    @property
    def rate(self) -> Estimate | None:
        """Fraction of the users who converted, with Wilson's interval; None without users."""
        if not self.users:
            return None
        return wilson_estimate(self.converts / self.users, self.users)


@dataclass(frozen=True)
class Outcome:
    """How the audiences of one or many campaigns have done.

    Attributes:
      size: number of users in the audiences.
      shown: the users of the audiences who were shown their campaign.
      others: the other users who were shown one of these campaigns as an audience.
      gains: the converts by tenth of ``shown``, best first; empty if there are none.
    """

    size: int
    shown: ShownUsers
    others: ShownUsers
    gains: Sequence[Gain]

    def tables(self) -> list[TextTable]:
        """Rates and gains as text."""
        rows = []
        for name, own in (("of the audience", self.shown), ("others", self.others)):
            rate = own.rate
            if rate is not None:
                text = f"{rate.value:.4f} ({rate.low:.4f} to {rate.high:.4f})"
                rows.append([name, f"{own.users:,}", f"{own.converts:,}", text])
        header = ["users", "shown", "converts", "rate"]
        tables = [TextTable("Users who were shown the campaign", header, rows, 1)]
        if self.gains:
            tables.append(gains_table(self.gains, "Converts by tenth of the audience"))
        return tables

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rates = {"shown": self.shown.rate, "others": self.others.rate}
        return asdict(self) | {"rates": {name: own and asdict(own) for name, own in rates.items()}}


def audience_outcome(audience: Path | pl.DataFrame, data: Dataset) -> Outcome:
    """Compares audiences with the later rows of ``examples`` that say so (``audience`` is 1).

    Args:
      audience: a table campaign_id, user_id and rank, as `Audience.frame`.
      data: the data with these rows.

    Raises:
      InputError: the table cannot be read, a column is missing, a cell has the wrong form, a user
        is twice in an audience, or no user is in such a row of the campaign.
    """
    table = Table(audience, ["campaign_id", "user_id", "rank"], name="audience")
    rank = pl.col("rank").cast(pl.Int64, strict=False)
    table.check("rank", rank.is_not_null(), "a whole number")
    table.check_ids("user_id")
    whole = data.user_ids.dtype.kind != "S"
    user = table.id_cells("user_id", whole=whole)
    if whole:
        table.check("user_id", user.is_not_null(), "a whole number, as the users of the data have")
    frame = table.collect(table.scan().select(pl.col("campaign_id").cast(pl.String), rank, user))
    shown, others, ranked = np.zeros(2, int), np.zeros(2, int), []
    parts = frame.sort("campaign_id", "rank").group_by("campaign_id", maintain_order=True)
    for (own,), part in parts:
        users = data.find_users(part["user_id"].to_list())
        known = users[users >= 0]
        if len(np.unique(known)) < len(known):
            raise InputError(f"{table.path}: campaign {own}: a user occurs twice; give each once")
        answered, labels = data.audience_of(data.index_of(own))
        answer = np.full(data.num_users + 1, -1, np.int8)  # the last one is for unknown users
        answer[answered] = labels
        hits = answer[users][answer[users] >= 0]
        shown += len(hits), hits.sum()
        others += len(labels) - len(hits), labels.sum() - hits.sum()
        ranked.append(hits)
    if not shown[0]:
        raise InputError(
            f"{table.path}: none of its {len(frame)} rows is in the examples of {data.where} with "
            "audience 1; add the users who were shown it with metaheac add"
        )
    totals = ShownUsers(*shown.tolist()), ShownUsers(*others.tolist())
    return Outcome(len(frame), *totals, gains_of(ranked))
