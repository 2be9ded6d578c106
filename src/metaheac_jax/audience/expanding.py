"""Expanding: the top users of a pool according to customised models (paper section 1).

The pool is read in blocks, once for all campaigns that are scored together. Memory grows with the
models and the audiences, and by one byte per user of the data.

Axes: U users of the data, P users of a block, K users of an audience, S slots, G campaigns, C of
them scored together.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np
import polars as pl
from scipy.special import expit

from metaheac_jax.audience.calibration import calibrate
from metaheac_jax.backend import in_threads, profile
from metaheac_jax.customising.device_top import PADDING, Chunk, best_users
from metaheac_jax.customising.score import Program, groups
from metaheac_jax.data.batches import check_ids
from metaheac_jax.data.campaign import GROUP, Campaign, groups_of
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.user_ids import UserIds
from metaheac_jax.data.views import UserRows
from metaheac_jax.errors import InputError, check_hold_out, check_whole
from metaheac_jax.files import inert_frame, whole_file
from metaheac_jax.methods import customise
from metaheac_jax.model import Customised, General, Scorer
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import RunningTop, percent_of

#: A model, (n,) ascending indices of its campaign's seeds, and the size K of the audience.
Wanted: TypeAlias = tuple[Customised, np.ndarray, int]
_BLOCK = 1 << 17  # users read and scored at a time
_SCORES = 1 << 24  # scores of a block, over all models; some blocks wait at a time


def expand(
    general: General,
    data: Dataset,
    campaigns: Campaign | int | str | Sequence[Campaign | int | str],
    *,
    size: int | None = None,
    percent: float | None = None,
    pool: UserIds | None = None,
    exclude: UserIds = (),
    probability: bool = False,
    hold_out: float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Finds the users of the data whom a general model, customised to a campaign, scores highest.

    A campaign's seeds are not in its audience.

    Args:
      data: the users and campaigns, with the schema of the model and one row per user.
      campaigns: one or several: ids of campaigns of the data, or campaigns from
        `Dataset.new_campaign`.
      size: K; fewer users are returned if there are fewer candidates.
      percent: K as a percentage of the candidates. Give exactly one of ``size`` and ``percent``.
      pool: ids, or files of them, of the users who may be in the audience; all users by default.
        Random non-seeds of a campaign of the data are drawn from them too.
      exclude: ids, or files of them, of users who are left out of these audiences only.
      probability: whether to calibrate probabilities of converting. The base rate is that of the
        campaign's seeds, without converts of audiences, among the users of the pool.
      hold_out: probability that a user of an audience is in its control group, see `groups_of`.
      seed: random seed of non-seeds, of customising and of calibrating.

    Returns:
      The audiences in the order of the campaigns, best user first; ties are ordered by ascending
      user id. Columns: campaign_id (null if the campaign has none), rank from 1, user_id, score
      and, if calibrated, probability (see `calibration.line`), and with control groups group, shown
      or control. A score of the library's methods
      is the log-odds that a user is a seed and not a non-seed at the ratio of the two in the
      campaign's examples, not in the pool.

    Raises:
      InputError: a campaign, the size or the pool makes no sense, the data has another schema or
        kind of ids, or may have several rows per user, or there are too few seeds to calibrate.
      Diverged: weights or scores are not finite.
    """
    check_size(size, percent)
    check_hold_out(hold_out)
    able = pool_mask(data, pool)
    kept = able & ~data.mask_of(exclude, "exclude")
    given = [campaigns] if isinstance(campaigns, Campaign | int | str) else campaigns
    data, wanted = find_campaigns(general, data, given, pool=able, seed=seed)
    lines = []
    if probability:  # first, since it refuses campaigns with few seeds
        rates = [own.num_given_seeds / able.sum() for own in wanted]
        for own, rate in zip(wanted, rates, strict=True):
            if rate >= 1:
                raise InputError(f"{own.name}: more seeds than users in the pool; omit probability")
        lines = calibrate(general, data, wanted, rates, seed=seed, progress=progress)
    models = customise(general, data, wanted, seed=seed, progress=progress)
    frames = _best(models, data, kept, size, percent, progress=progress)
    for place, (slope, intercept) in enumerate(lines):
        log_odds = slope * frames[place]["score"].to_numpy().astype(float) + intercept
        chances = expit(log_odds).astype(np.float32)
        frames[place] = frames[place].with_columns(probability=chances)
    audiences = pl.concat(frames, how="vertical_relaxed")
    if hold_out:
        group = groups_of(audiences["campaign_id"], audiences["user_id"], hold_out)
        audiences = audiences.with_columns(pl.Series(GROUP, group))
    return audiences


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


def pool_mask(data: Dataset, pool: UserIds | None) -> np.ndarray:
    """(U,) bool, the users who are named, or all users.

    Raises:
      InputError: nobody is named, or as `user_ids.find_named`.
    """
    mask = np.ones(data.num_users, bool) if pool is None else data.mask_of(pool, "pool")
    if not mask.any():
        raise InputError("pool: nobody is in it; give ids of users")
    return mask


def find_campaigns(
    general: General,
    data: Dataset,
    campaigns: Sequence[Campaign | int | str],
    *,
    pool: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[Dataset, list[Campaign]]:
    """The data with the table rows of a model, and campaigns with these rows.

    Args:
      campaigns: G ids, or campaigns that this data has made.
      pool: (U,) bool, the users among whom random non-seeds are drawn; None for all.

    Raises:
      InputError: there is no campaign of an id, or the data has another schema than the model.
    """
    encoded = data.encoded_for(general.schema, general.vocabulary)
    found = []
    for own in campaigns:
        if not isinstance(own, Campaign):
            own = encoded.campaign(encoded.index_of(own), seed=seed, pool=pool)
        elif encoded is not data:
            rows = general.vocabulary.rows_of(data.vocabulary)[own.rows]
            own = replace(own, rows=rows, unknown_attributes=encoded.unknown_attributes(rows))
        found.append(own)
    return encoded, found


def _best(
    models: Sequence[Customised],
    data: Dataset,
    able: np.ndarray,
    size: int | None,
    percent: float | None,
    *,
    progress: Progress,
) -> list[pl.DataFrame]:
    """The best of (U,) bool ``able`` users who are not the campaign's seeds, by each model."""
    seeds = [np.unique(model.campaign.seeds) for model in models]
    sizes = [
        size or max(1, percent_of(int(able.sum() - able[own].sum()), percent or 0)) for own in seeds
    ]
    tops = dict[int, tuple[np.ndarray, np.ndarray]]()
    for some, program in groups([model.scorer for model in models]):
        of_group = [(models[n], seeds[n], sizes[n]) for n in some]
        if program is None or not profile().keeps_top:
            score = program or _one_column(models[some[0]].scorer)
            found = _best_on_host(score, of_group, data, able, progress)
        else:
            found = _best_on_devices(program, of_group, data, able)
        tops.update(zip(some, found, strict=True))
    frames = []
    for number, model in enumerate(models):
        scores, ids = tops[number]
        kind = pl.Int64 if isinstance(model.campaign.id, int) else pl.String
        users = pl.Series("user_id", ids)
        columns = {
            "rank": np.arange(1, len(ids) + 1),
            "user_id": users if users.dtype == pl.Int64 else users.cast(pl.String),
            "score": scores,
        }
        own = pl.lit(model.campaign.id, kind).alias("campaign_id")
        frames.append(pl.DataFrame(columns).select(own, pl.all()))
    return frames


def _one_column(scorer: Scorer) -> Callable[[UserRows], np.ndarray]:
    """(P, S) -> (P, 1) scores of a scorer."""
    return lambda users: scorer(users)[:, None]


def _best_on_host(
    score: Callable[[UserRows], np.ndarray],
    group: Sequence[Wanted],
    data: Dataset,
    able: np.ndarray,
    progress: Progress,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The scores and ids of the best users for each campaign of a group.

    Args:
      score: (P, S) -> (P, C).
      group: C.
      data: the users.
      able: (U,) bool, who may be in an audience.
      progress: receives the number of users scored.
    """
    tops = [RunningTop(size, data.user_ids.dtype) for *_, size in group]
    block_size = max(1, min(_BLOCK, _SCORES // len(group)))

    def read(start: int) -> tuple[np.ndarray, np.ndarray]:
        users = start + np.flatnonzero(able[start : start + block_size])
        return users, np.asarray(data.user_rows[users])

    starts = range(0, data.num_users, block_size)
    with closing(in_threads(read, starts, num_threads=1)) as blocks:
        for start, (users, rows) in zip(starts, blocks, strict=True):
            if len(users):
                ids, scores = np.asarray(data.user_ids[users]), score(rows)
                for column, (model, seeds, _) in enumerate(group):
                    kept = _are_not(seeds, users)
                    tops[column].add(model.check_scores(scores[:, column])[kept], ids[kept])
            progress("score the pool", min(start + block_size, data.num_users), data.num_users)
    return [top.best() for top in tops]


def _best_on_devices(
    program: Program, group: Sequence[Wanted], data: Dataset, able: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """As `_best_on_host`; devices keep the best users, and the host fetches them at the end."""
    devices = jax.local_devices()
    size_of_chunk = profile().chunk
    pool, order = np.flatnonzero(able), np.argsort(data.user_ids, kind="stable")
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order))

    def chunk(start: int) -> Chunk:
        users = pool[start : start + size_of_chunk]
        pad = 0, size_of_chunk - len(users)
        rows = np.asarray(data.user_rows[users])
        check_ids(rows, program.num_rows, "the users' ids")
        return Chunk(
            np.pad(rows, (pad, (0, 0)), constant_values=program.num_rows),
            np.pad(ranks[users], pad, constant_values=PADDING),
            np.pad([_are_not(seeds, users) for _, seeds, _ in group], ((0, 0), pad)),
        )

    starts = range(0, len(pool), size_of_chunk)
    most = max(size for *_, size in group)
    with closing(in_threads(chunk, starts, num_threads=2)) as chunks:
        best = best_users([*map(program.on, devices)], devices, chunks, len(group), most)
    tops = []
    for (model, _, size), scores, users, wrong in zip(group, *best, strict=True):
        kept = users[:size] < PADDING
        own = model.check_scores(np.where(wrong, np.nan, scores[:size][kept]))
        tops.append((own, np.asarray(data.user_ids)[order[users[:size][kept]]]))
    return tops


def _are_not(some: np.ndarray, users: np.ndarray) -> np.ndarray:
    """(P,) whether ascending user indices are not among some other, ascending ones."""
    first, last = np.searchsorted(some, [users[0], users[-1] + 1]) if len(users) else (0, 0)
    return ~np.isin(users, some[first:last], assume_unique=True)


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Writes a table completely or not at all.

    In CSV, no text is a formula of a spreadsheet; see `files.inert_frame`.

    Args:
      path: the file; its ending, one of `table_file.ENDINGS` in any case, selects the format.
      frame: the rows.
    """
    name = path.name.lower()
    with whole_file(path) as temporary:
        if name.endswith(".parquet"):
            frame.write_parquet(temporary)
        else:
            text = inert_frame(frame).write_csv().encode()
            temporary.write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
