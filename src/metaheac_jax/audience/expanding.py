"""Expanding: the top users of a pool according to customised models (paper section 1).

Axes: U users of the data, K users of an audience, G campaigns.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from scipy.special import expit

from metaheac_jax.audience.best_users import Wanted, best_users
from metaheac_jax.audience.calibration import calibrate
from metaheac_jax.audience.sharing import Candidates, num_needed, share_in_order, share_users
from metaheac_jax.data.campaign import GROUP, Campaign, groups_of, plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.user_ids import UserIds
from metaheac_jax.errors import InputError, check_hold_out, check_whole
from metaheac_jax.methods import customise
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import percent_of


def expand(
    general: General,
    data: Dataset,
    campaigns: Campaign | int | str | Sequence[Campaign | int | str] | None = None,
    *,
    size: int | None = None,
    percent: float | None = None,
    pool: UserIds | None = None,
    exclude: UserIds = (),
    probability: bool = False,
    per_user: int | None = None,
    by_priority: bool = False,
    hold_out: float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Finds the users of the data whom a general model, customised to a campaign, scores highest.

    A campaign's seeds are not in its audience.

    Args:
      data: the users and campaigns, with the schema of the model and one row per user.
      campaigns: one or several: ids of campaigns of the data, or campaigns from
        `Dataset.new_campaign`; None for all that have seeds and that the model has not seen.
      size: K; fewer users are returned if there are fewer candidates.
      percent: K as a percentage of the candidates. Give exactly one of ``size`` and ``percent``.
      pool: ids, files of them, or (U,) bool: who may be in the audience; all users by default.
        Random non-seeds of a campaign of the data are drawn from them too.
      exclude: ids, or files of them, of users who are left out of these audiences only.
      probability: whether to calibrate probabilities of converting. The base rate is that of the
        campaign's seeds, without converts of audiences, among the users of the pool.
      per_user: number of these audiences that a user may be in; None for no limit. Users are in
        those in which most conversions are expected by calibrated probability, see
        `sharing.share_users`; a warning says how many are lost.
      by_priority: whether earlier campaigns choose first instead.
      hold_out: probability that a user of an audience is in its control group, see `groups_of`.
      seed: random seed of non-seeds, of customising and of calibrating.

    Returns:
      The audiences in the order of the campaigns, best user first; ties are ordered by ascending
      user id. Columns: campaign_id (null if the campaign has none), rank from 1, user_id, score
      and, if calibrated, probability (see `calibration.line`), and with control groups group, shown
      or control. A score of the library's methods is the log-odds that a user is a seed and not a
      non-seed at the ratio of the two in the campaign's examples, not in the pool.

    Raises:
      InputError: a campaign, the size or the pool makes no sense, the data has another schema or
        kind of ids, or may have several rows per user, or there are too few seeds to calibrate.
      Diverged: weights or scores are not finite.
    """
    check_size(size, percent)
    check_hold_out(hold_out)
    if per_user is not None:
        check_whole("per_user", per_user, 1)
    able = data.pool_mask(pool)
    kept = able & ~data.mask_of(exclude, "exclude")
    given = [campaigns] if isinstance(campaigns, Campaign | int | str) else campaigns
    data, wanted = find_campaigns(general, data, given, pool=able, seed=seed)
    lines = []
    if probability or per_user is not None:  # first, since it refuses campaigns with few seeds
        rates = [campaign.num_given_seeds / able.sum() for campaign in wanted]
        for campaign, rate in zip(wanted, rates, strict=True):
            if rate >= 1:
                raise InputError(
                    f"{campaign.name}: more seeds than users in the pool; omit probability"
                )
        lines = calibrate(general, data, wanted, rates, seed=seed, progress=progress)
    models = customise(general, data, wanted, seed=seed, progress=progress)
    seeds = [np.unique(campaign.seeds) for campaign in wanted]
    if percent is None:
        sizes = [size or 0] * len(seeds)
    else:
        candidates = [int(kept.sum() - kept[some].sum()) for some in seeds]
        sizes = [max(1, percent_of(number, percent)) for number in candidates]
    lengths = sizes if per_user is None else num_needed(sizes, per_user)
    best = best_users([*map(Wanted, models, seeds, lengths)], data, kept, progress=progress)
    chances = [
        expit(slope * scores.astype(float) + intercept).astype(np.float32)
        for (scores, _), (slope, intercept) in zip(best, lines, strict=False)
    ]
    if per_user is not None:
        every = np.unique(np.concatenate([ids for _, ids in best]))
        candidates = [
            Candidates(chance, np.searchsorted(every, ids).astype(np.int32), size)
            for chance, (_, ids), size in zip(chances, best, sizes, strict=True)
        ]
        chosen = (share_in_order if by_priority else share_users)(candidates, per_user)
        warnings.warn(_lost(wanted, candidates, chosen), stacklevel=2)
        best = [(each[0][own], each[1][own]) for each, own in zip(best, chosen, strict=True)]
        chances = [chance[own] for chance, own in zip(chances, chosen, strict=True)]
    frames = [_frame(campaign, *top) for campaign, top in zip(wanted, best, strict=True)]
    for place, chance in enumerate(chances):
        frames[place] = frames[place].with_columns(probability=chance)
    audiences = pl.concat(frames, how="vertical_relaxed")
    if hold_out:
        group = groups_of(audiences["campaign_id"], audiences["user_id"], hold_out)
        audiences = audiences.with_columns(pl.Series(GROUP, group))
    return audiences


def _lost(
    campaigns: Sequence[Campaign], candidates: Sequence[Candidates], chosen: Sequence[np.ndarray]
) -> str:
    """How many conversions are not expected because users are in few audiences, in words."""
    taken = zip(candidates, chosen, strict=True)
    free = np.array([one.chances[: one.size].sum(dtype=float) for one in candidates])
    kept = np.array([one.chances[some].sum(dtype=float) for one, some in taken])
    lost = 1 - kept / np.maximum(free, np.finfo(float).tiny)
    worst = int(lost.argmax())
    return (
        f"users are in few audiences: {1 - kept.sum() / free.sum():.1%} fewer conversions are "
        f"expected than without this limit, and {lost[worst]:.1%} for {campaigns[worst].name}"
    )


def _frame(campaign: Campaign, scores: np.ndarray, ids: np.ndarray) -> pl.DataFrame:
    """The audience of one campaign; see `expand`."""
    kind, users = pl.Int64 if isinstance(campaign.id, int) else pl.String, pl.Series("user_id", ids)
    columns = {
        "rank": np.arange(1, len(ids) + 1),
        "user_id": users if users.dtype == pl.Int64 else users.cast(pl.String),
        "score": scores,
    }
    name = pl.lit(campaign.id, kind).alias("campaign_id")
    return pl.DataFrame(columns).select(name, pl.all())


def check_size(size: int | None, percent: float | None) -> None:
    """Refuses anything but one of the two, in its range.

    Raises:
      InputError: none or both are given, or one is out of range.
    """
    if (size is None) == (percent is None):
        raise InputError("size: give one of size and percent")
    if size is not None:
        check_whole("size", size, 1)
    elif percent is not None and not 0 < percent <= 100:
        raise InputError(f"percent: expected more than 0 and at most 100, got {percent}")


def find_campaigns(
    general: General,
    data: Dataset,
    campaigns: Sequence[Campaign | int | str] | None = None,
    *,
    pool: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[Dataset, list[Campaign]]:
    """The data with the table rows of a model, and campaigns with these rows.

    None of these campaigns is in histories of the data.

    Args:
      campaigns: G ids, or campaigns that this data has made; None as in `expand`.
      pool: (U,) bool, the users among whom random non-seeds are drawn; None for all.

    Raises:
      InputError: there is no campaign of an id, none is new to the model, or the data has another
        schema than the model.
    """
    encoded, found = general.read(data), []
    for each in _new_campaigns(general, data) if campaigns is None else campaigns:
        if not isinstance(each, Campaign):
            each = encoded.campaign(encoded.index_of(each), seed=seed, pool=pool)
        elif encoded is not data:
            rows = encoded.rows_of(each, data)
            each = replace(each, rows=rows, unknown_attributes=encoded.unknown_attributes(rows))
        found.append(each)
    return encoded.without_history_of([one.id for one in found if one.id is not None]), found


def _new_campaigns(general: General, data: Dataset) -> list[int | str]:
    """Ids of the campaigns with seeds that a model has not seen.

    Raises:
      InputError: there are none.
    """
    seen = data.campaigns_among((*general.campaigns, *general.held_out))
    new = np.flatnonzero(~seen & (data.stage1.positives > 0))
    if not len(new):
        raise InputError(
            f"{data.where}: the model has seen all campaigns that have seeds; add others, or name "
            "the campaigns"
        )
    return [plain_id(key) for key in data.campaign_ids[new]]
