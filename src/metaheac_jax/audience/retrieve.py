"""Expanding: the top users of a pool according to customised models (paper section 1).

The pool is read once, in blocks, for any number of campaigns. Memory grows with the models and the
audiences, and by one byte per user of the data.

Axes: U users of the data, P users of a block, S slots of a user, G campaigns.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from numbers import Real
from queue import SimpleQueue
from typing import Any

import jax
import numpy as np

from metaheac_jax.audience.audience import Audience
from metaheac_jax.audience.calibration import calibrate
from metaheac_jax.customising.score import score_many
from metaheac_jax.data.campaign import Campaign, UserIds
from metaheac_jax.data.dataset import Dataset, UserRows
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.methods import customise
from metaheac_jax.model import Customised, General, Scorer
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import RunningTop, percent_of
from metaheac_jax.threads import in_threads

BlockScorer = Callable[[UserRows], np.ndarray]  # (P, S) table rows -> (G, P) scores

_BLOCK = 1 << 17  # users read and scored at a time
_SCORES = 1 << 24  # scores of a block, over all models; some blocks wait at a time
_COPYING = 1 << 26  # the same if models copy the table for every block


def expand(
    general: General,
    data: Dataset,
    campaign: Campaign | int | str,
    *,
    size: int | None = None,
    percent: float | None = None,
    pool: UserIds | None = None,
    exclude: UserIds = (),
    probability: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> Audience:
    """The users of the data whom a general model, customised to a campaign, scores highest.

    The campaign's seeds are not in its audience.

    Args:
      general: the general model.
      data: the users and campaigns, with the schema of the model and one row per user.
      campaign: id of a campaign of the data, or a campaign from `Dataset.new_campaign`.
      size: K; fewer users are returned if there are fewer candidates.
      percent: K as a percentage of the candidates. Give exactly one of ``size`` and ``percent``.
      pool: ids of the users who may be in the audience; all users by default. Random non-seeds of a
        campaign of the data are drawn from them too.
      exclude: ids of users who are left out of this audience only. Unknown ids are ignored.
      probability: whether to calibrate probabilities of converting. They are at the rate
        `seed_rate`.
      seed: random seed of non-seeds, of customising and of calibrating.
      progress: receives the progress of each part.

    Raises:
      InputError: the campaign, the size or the pool makes no sense, the data has another schema or
        kind of ids, or may have several rows per user, or there are too few seeds to calibrate.
      Diverged: weights or scores are not finite.
    """
    [audience] = expand_all(
        general,
        data,
        [campaign],
        size=size,
        percent=percent,
        pool=pool,
        exclude=exclude,
        probability=probability,
        seed=seed,
        progress=progress,
    )
    return audience


def expand_all(
    general: General,
    data: Dataset,
    campaigns: Sequence[Campaign | int | str],
    *,
    size: int | None = None,
    percent: float | None = None,
    pool: UserIds | None = None,
    exclude: UserIds = (),
    probability: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Audience]:
    """The audiences of G campaigns, in the same order, for which the users are read once.

    Arguments and errors are those of `expand`.
    """
    check_size(size, percent)
    in_pool = pool_mask(data, pool)
    data, wanted = find_campaigns(general, data, campaigns, pool=in_pool, seed=seed)
    scales = []
    if probability:  # first, since it refuses campaigns with few seeds
        scales = calibrate(general, data, wanted, seed=seed, progress=progress)
    models = customise(general, data, wanted, seed=seed, progress=progress)
    able = np.ones(data.num_users, bool) if in_pool is None else in_pool
    audiences = _best(models, data, able & ~data.mask_of(exclude), size, percent, progress=progress)
    num_users = int(able.sum())
    for place, scale in enumerate(scales):
        rate = seed_rate(wanted[place], num_users)
        chances = scale.probability(audiences[place].scores, rate).astype(np.float32)
        audiences[place] = replace(audiences[place], probabilities=chances)
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
    elif isinstance(percent, bool) or not isinstance(percent, Real) or not 0 < percent <= 100:
        raise InputError(f"percent: expected more than 0 and at most 100, got {percent!r}")


def seed_rate(campaign: Campaign, num_users: int) -> float:
    """The base rate of a campaign: its seeds, per user of the pool.

    Converts of an audience do not count, so that the rate does not change with it.

    Raises:
      InputError: there are at least as many seeds as users.
    """
    if campaign.num_given_seeds >= num_users:
        raise InputError(
            f"{campaign.name}: {campaign.num_given_seeds} seeds for a pool of {num_users} users, "
            "so its rate is not known; omit probabilities, or use a larger pool"
        )
    return campaign.num_given_seeds / num_users


def pool_mask(data: Dataset, pool: UserIds | None) -> np.ndarray | None:
    """(U,) bool, the users with these ids; None for all users.

    Raises:
      InputError: none of the ids is that of a user.
    """
    if pool is None:
        return None
    mask = data.mask_of(pool)
    if not mask.any():
        raise InputError(
            f"pool: none of {len(np.asarray(pool))} ids is a user of {data.where}; give ids as "
            "they are in its users"
        )
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
      general: the model.
      data: the data.
      campaigns: G ids, or campaigns that this data has made.
      pool: (U,) bool, the users among whom random non-seeds are drawn; None for all.
      seed: random seed of the draw.

    Raises:
      InputError: the campaigns are no list, there is no campaign of an id, or the data has another
        schema than the model.
    """
    if isinstance(campaigns, Campaign | str):
        raise InputError("campaigns: expected a list of campaigns, got one; write [campaign]")
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
) -> list[Audience]:
    """The best of (U,) bool ``able`` users who are not the campaign's seeds, by each model."""
    seeds = [np.unique(model.campaign.seeds) for model in models]
    candidates = [int(able.sum() - able[own].sum()) for own in seeds]
    sizes = [size or max(1, percent_of(count, percent or 0)) for count in candidates]
    tops = [RunningTop(own, data.user_ids.dtype) for own in sizes]
    block_size = _block_size([model.scorer for model in models])

    def read(start: int) -> tuple[np.ndarray, np.ndarray]:
        kept = np.flatnonzero(able[start : start + block_size])
        return start + kept, np.asarray(data.user_rows[start : start + block_size][kept])

    starts = range(0, data.num_users, block_size)
    with closing(_scored(models, read, starts)) as blocks:
        for start, (users, each) in zip(starts, blocks, strict=True):
            ids = np.asarray(data.user_ids[users])
            for model, top, own, scores in zip(models, tops, seeds, each, strict=True):
                first, last = np.searchsorted(own, [start, start + block_size])
                kept = ~np.isin(users, own[first:last], assume_unique=True)
                top.add(model.check_scores(scores)[kept], ids[kept])
            done = min(start + block_size, data.num_users)
            progress("score the pool", done, data.num_users)
    audiences = []
    for model, top, count in zip(models, tops, candidates, strict=True):
        scores, ids = top.best()
        audiences.append(Audience(model.campaign.id, ids, scores, count))
    return audiences


def _block_size(scorers: Sequence[Scorer]) -> int:
    """Number of users scored at a time."""
    most = _COPYING if any(scorer.copies for scorer in scorers) else _SCORES
    return max(1, min(_BLOCK, most // max(1, len(scorers))))


def _scored(
    models: Sequence[Customised],
    read: Callable[[int], tuple[np.ndarray, np.ndarray]],
    starts: range,
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """Yields (P,) user indices and (G, P) scores of each block, by all local devices.

    Args:
      models: G models.
      read: returns (P,) user indices and (P, S) table rows of the block at this user.
      starts: first user of each block.
    """
    devices, scorers = jax.local_devices(), [model.scorer for model in models]
    free = SimpleQueue[BlockScorer]()
    for device in devices:
        free.put(score_many(scorers if len(devices) == 1 else _on_device(scorers, device)))

    def scored(start: int) -> tuple[np.ndarray, np.ndarray]:
        users, rows = read(start)
        if not len(users):
            return users, np.empty((len(models), 0), np.float32)
        score = free.get()
        try:
            return users, score(rows)
        finally:
            free.put(score)

    # One more thread than devices, to read a block while others are scored.
    return in_threads(scored, starts, num_threads=len(devices) + 1)


def _on_device(scorers: Sequence[Scorer], device: jax.Device) -> list[Scorer]:
    """The scorers with their weights on a device."""
    moved = dict[Any, Any]()  # shared weights are moved once
    return [scorer.on_device(device, moved) for scorer in scorers]
