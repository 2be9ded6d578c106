"""How audiences have done: who of their users converted, by tenths, best first.

Axis: P users of an audience.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from metaheac_jax.audience.held_out import wilson_estimate
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.table_file import Table
from metaheac_jax.errors import InputError


@dataclass(frozen=True, eq=False)
class Outcome:
    """How the audiences of one or many campaigns have done.

    Attributes:
      rates: users (``of the audience`` if they were in one, ``others`` if they were shown one of
        these campaigns as an audience but were not), shown, converts, rate, and low and high, its
        95% interval.
      gains: the users of the audiences who were shown their campaign, see `gains_of`.
    """

    rates: pl.DataFrame
    gains: pl.DataFrame


def gains_of(groups: Sequence[np.ndarray]) -> pl.DataFrame:
    """Counts users and converts by tenth, summed over groups, each of which is divided separately.

    Args:
      groups: (P,) labels of each group's users, best user first: 1 for converts and 0 for others.

    Returns:
      A row for each tenth with users: tenth (1 is the best), users, converts, rate, lift (the rate,
      divided by that of all users), and share (of all converts, the fraction in this tenth or a
      better one). Without converts, lift and share are null.
    """
    tenths = [1 + 10 * np.arange(len(own)) // max(1, len(own)) for own in groups]
    columns = {"tenth": np.concatenate(tenths), "label": np.concatenate(groups).astype(int)}
    users, converts = pl.col("users"), pl.col("converts")
    counts = pl.DataFrame(columns).group_by("tenth").agg(users=pl.len(), converts=pl.sum("label"))
    return counts.sort("tenth").with_columns(
        rate=converts / users,
        lift=(converts / users / (converts.sum() / users.sum())).fill_nan(None),
        share=(converts.cum_sum() / converts.sum()).fill_nan(None),
    )


def audience_outcome(audience: Path | pl.DataFrame, data: Dataset) -> Outcome:
    """Compares audiences with the later rows of ``examples`` that say so (``audience`` is 1).

    Args:
      audience: a table campaign_id, user_id and rank, as `retrieve.expand` returns.
      data: the data with these rows.

    Raises:
      InputError: the table cannot be read, a column is missing, a cell has the wrong form, or no
        user is in such a row of the campaign.
    """
    table = Table(audience, ["campaign_id", "user_id", "rank"], name="audience")
    rank = pl.col("rank").cast(pl.Int64, strict=False)
    table.check("rank", rank.is_not_null(), "a whole number")
    table.check_ids("user_id")
    user = table.id_cells("user_id", whole=data.user_ids.dtype.kind != "S")
    table.check("user_id", user.is_not_null(), "a whole number, as the users of the data have")
    frame = table.collect(table.scan().select(pl.col("campaign_id").cast(pl.String), rank, user))
    frame = frame.unique(["campaign_id", "user_id"], keep="first").sort("campaign_id", "rank")
    shown, others, ranked = np.zeros(2, int), np.zeros(2, int), []
    for (own,), part in frame.group_by("campaign_id", maintain_order=True):
        users = data.find_users(part["user_id"].to_list())
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
    groups = {"of the audience": shown.tolist(), "others": others.tolist()}
    rates = [
        (name, count, hits, *astuple(wilson_estimate(hits / count, count)))
        for name, (count, hits) in groups.items()
        if count
    ]
    header = ["users", "shown", "converts", "rate", "low", "high"]
    return Outcome(pl.DataFrame(rates, header, orient="row"), gains_of(ranked))
