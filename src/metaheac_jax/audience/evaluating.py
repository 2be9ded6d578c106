"""Quality of audiences: for campaigns that a model does not know, and once users have answered.

A campaign is customised as `expanding.expand` does it. Its users of stage 2, of whom it is known
who converted, are its pool (paper section 4.1).

Axes: P users of a campaign's pool, S slots of a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from metaheac_jax.audience.rates import Lift
from metaheac_jax.data.campaign import CONTROL, GROUP, SHOWN, plain_id
from metaheac_jax.data.dataset import Dataset, Split, small_campaigns
from metaheac_jax.data.table_file import Table
from metaheac_jax.errors import InputError
from metaheac_jax.methods import customise
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import Metrics, campaign_metrics

PERCENT = 5.0  # K of P@K% and R@K%
_COLUMNS = {"campaign": None, "seeds": pl.Int64, "group": pl.String}
_COLUMNS |= {**dict.fromkeys(Metrics._fields, pl.Float64), "why": pl.String}


def pool_rows(dataset: Dataset, campaign: int) -> np.ndarray:
    """(P, S) table rows of the users in a campaign's pool, which is its stage 2."""
    stage, of = dataset.stage2, dataset.stage2.of(campaign)
    times = None if stage.time is None else stage.time[of]
    return dataset.user_rows.of_examples(stage.user[of], campaign, times)


def judge_all(
    dataset: Dataset, split: Split, scores: Sequence[np.ndarray]
) -> dict[str, list[dict[str, Any]]]:
    """Metrics of every test campaign, from the scores of its pool.

    Args:
      dataset: the data; its stage 2 has the pools.
      split: the split with the test campaigns.
      scores: (P,) scores of each test campaign's pool.

    Returns:
      ``campaigns`` (one entry per judged campaign), and ``left_out`` (the campaigns that cannot be
      judged, with the reason).
    """
    campaigns, left_out, seeds = [], [], dataset.stage1.positives
    for c, values in zip(split.test, scores, strict=True):
        of, entry = dataset.stage2.of(c), {"campaign": plain_id(dataset.campaign_ids[c])}
        ids = dataset.user_ids[dataset.stage2.user[of]]
        weights = None if dataset.stage2.weight is None else dataset.stage2.weight[of]
        verdict = campaign_metrics(values, dataset.stage2.label[of], ids, PERCENT, weights)
        if isinstance(verdict, str):
            left_out.append(entry | {"why": verdict})
        else:
            group = "small" if split.small[c] else "large"
            campaigns.append(entry | {"seeds": int(seeds[c]), "group": group, **verdict._asdict()})
    return {"campaigns": campaigns, "left_out": left_out}


def evaluate(
    general: General,
    data: Dataset,
    *,
    since: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Judges a general model on the campaigns that it does not know, with seeds and stage 2.

    Args:
      data: stage 1 of a campaign is for customising; users of stage 2 are ranked.
      since: a time, see `data.times`: what was before is for customising instead, and the users
        from then on are ranked. If the model has learned only from what was before, see
        `Dataset.until`, all campaigns are judged.

    Returns:
      A row per campaign: campaign (its id), seeds, group (small or large, by its number of seeds),
      auc, precision and recall; or null, and ``why`` it cannot be judged.

    Raises:
      InputError: no campaign can be judged, or the data does not fit the model.
      Diverged: a score is not a number.
    """
    data = general.read(data)
    # Held-out campaigns are not new either, since they decided when training stopped.
    known = data.campaigns_among((*general.campaigns, *general.held_out))
    if since is not None:
        data = data.divided(since)
        known &= general.end is None or general.end > since
    able = (data.stage1.positives > 0) & (data.stage2.counts > 0)
    test = np.flatnonzero(~known & able)
    if not len(test):
        raise InputError(
            f"{data.where}: no campaign that is new to the model has seeds to customise on and "
            "users to judge on; leave campaigns out with metaheac fit --leave-out, and give users "
            "to judge on as rows of examples with stage 2"
        )
    new = test.tolist()
    wanted = [data.campaign(c, seed=seed) for c in new]
    models = customise(general, data, wanted, seed=seed, progress=progress)
    scores = [model.score(pool_rows(data, c)) for model, c in zip(models, new, strict=True)]
    split = Split(np.flatnonzero(known), test, *small_campaigns(data.stage1.positives))
    found = judge_all(data, split, scores)
    if not found["campaigns"]:
        one = found["left_out"][0]
        raise InputError(
            f"campaign {one['campaign']}: cannot be judged: {one['why']}; give it more examples of "
            "stage 2"
        )
    return pl.DataFrame([*found["campaigns"], *found["left_out"]], schema=_COLUMNS)


def group_means(judged: pl.DataFrame) -> pl.DataFrame:
    """Averages the metrics of `evaluate`: group, campaigns (their number), max_seeds and means."""
    counts = [pl.len().alias("campaigns"), pl.max("seeds").alias("max_seeds")]
    parts = judged.filter(pl.col("why").is_null()).group_by("group")
    return parts.agg(*counts, pl.col(Metrics._fields).mean()).sort("max_seeds")


def group_differences(judged: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Tells how much higher the metrics of a model are than those of another, by `evaluate`.

    Returns:
      A row per group of the campaigns that both models were judged on: group, campaigns, and per
      metric the mean difference and its standard error over the campaigns (null for one). The error
      does not include what another training of the same model would change.

    Raises:
      InputError: there are no such campaigns.
    """
    both = judged.join(other, on="campaign", suffix="_other").filter(pl.col("why").is_null())
    if both.is_empty():
        raise InputError(
            "the two models have no campaign in common that is new to both; leave the same "
            "campaigns out of both with metaheac fit --leave-out"
        )
    columns = [pl.len().alias("campaigns")]
    for name in Metrics._fields:
        change = pl.col(name) - pl.col(f"{name}_other")
        columns += [change.mean(), (change.std() / pl.len().sqrt()).alias(f"{name}_error")]
    return both.group_by("group").agg(columns).sort("group", descending=True)


def audience_outcome(audience: Path | pl.DataFrame, data: Dataset) -> pl.DataFrame:
    """Counts the converts of audiences by tenths, from the later rows of ``examples``.

    These rows have ``audience`` 1. Every campaign's audience is divided separately. Control groups
    are left out.

    Args:
      audience: a table campaign_id, user_id and rank, as `expanding.expand` returns.
      data: the data with these rows.

    Returns:
      A row for each tenth with users: tenth (1 is the best), users who were shown the campaign,
      converts, rate, lift (the rate, divided by that of all users), and share (of all converts, the
      fraction in this tenth or a better one). Without converts, lift and share are null.

    Raises:
      InputError: the table cannot be read, a column is missing, a cell has the wrong form, or no
        user is in such a row of the campaign.
    """
    shown = _answers(audience, data).filter(pl.col(GROUP) == SHOWN)
    place, size = pl.col("rank").rank("ordinal").over("campaign_id"), pl.len().over("campaign_id")
    users, converts = pl.col("users"), pl.col("converts")
    counts = shown.group_by(tenth=1 + 10 * (place - 1) // size)
    return (
        counts.agg(users=pl.len(), converts=pl.sum("label"))
        .sort("tenth")
        .with_columns(
            rate=converts / users,
            lift=(converts / users / (converts.sum() / users.sum())).fill_nan(None),
            share=(converts.cum_sum() / converts.sum()).fill_nan(None),
        )
    )


def control_outcome(audience: Path | pl.DataFrame, data: Dataset) -> Lift | None:
    """Compares the users of audiences who were shown their campaigns with the control groups.

    Args:
      audience, data: as for `audience_outcome`; the column ``group`` tells the control groups.

    Returns:
      The comparison; None without control groups, or without rows of them.

    Raises:
      InputError: as `audience_outcome`.
    """
    counts = _answers(audience, data).group_by(GROUP).agg(pl.sum("label"), pl.len()).rows()
    found = {group: (converts, users) for group, converts, users in counts}
    if len(found) < 2:
        return None
    converts, users = zip(found[SHOWN], found[CONTROL], strict=True)
    return Lift(converts, users)


def _answers(audience: Path | pl.DataFrame, data: Dataset) -> pl.DataFrame:
    """The rows of audiences whose users have answered: campaign_id, user_id, rank, group, label."""
    table = Table(audience, ["campaign_id", "user_id", "rank"], name="audience")
    rank = pl.col("rank").cast(pl.Int64, strict=False)
    table.check("rank", rank.is_not_null(), "a whole number")
    group = pl.lit(SHOWN).alias(GROUP)
    if GROUP in table.names:
        group = pl.col(GROUP).cast(pl.String)
        table.check(GROUP, group.is_in([SHOWN, CONTROL]).fill_null(False), f"{SHOWN} or {CONTROL}")
    whole = data.user_ids.dtype.kind != "S"
    table.check_ids("campaign_id")
    table.check_ids("user_id", whole=whole)
    cells = table.id_cells("campaign_id", whole=False), table.id_cells("user_id", whole=whole)
    frame = table.collect(table.scan().select(*cells, rank, group))
    frame = frame.unique(["campaign_id", "user_id"], keep="first").sort("campaign_id", "rank")
    parts = []
    for (campaign,), part in frame.group_by("campaign_id", maintain_order=True):
        answered, label, _ = data.audience_of(data.index_of(campaign))
        answer = np.full(data.num_users + 1, -1)  # the last one is for unknown users
        answer[answered] = label
        labels = pl.Series("label", answer[data.find_users(part["user_id"])])
        parts.append(part.with_columns(labels).filter(labels >= 0))
    if not sum(map(len, parts)):
        raise InputError(
            f"{table.path}: none of its {len(frame)} rows is in the examples of {data.where} with "
            "audience 1; add the users who were shown it with metaheac add"
        )
    return pl.concat(parts)
