"""Expanding: the top users of a pool according to customised models (paper section 1).

The pool is read once, in blocks, for any number of campaigns. Models that share the first layer
compute it once. Memory grows with the models and the audiences, not with the pool.

Axes: U users of the data, P users of a block, S slots of a user, G campaigns.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from numbers import Real
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from metaheac_jax.audience.audience import Audience
from metaheac_jax.customise.joint import BlockScorer, score_jointly
from metaheac_jax.customise.score import AdaptedScorer
from metaheac_jax.data.campaign import UserIds
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, about, check_whole
from metaheac_jax.model import Customised, Scorer, Weights
from metaheac_jax.processes import check_same, from_each
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import RunningTop, percent_of
from metaheac_jax.threads import in_threads
from metaheac_jax.training.checkpoint import array_digest

T = TypeVar("T")

_BLOCK = 1 << 17  # users read and scored at a time
_SCORES = 1 << 24  # scores of a block, over all models; some blocks wait at a time
_COPYING = 1 << 26  # the same if models copy the table for every block


def expand(
    model: Customised,
    data: Dataset,
    *,
    size: int | None = None,
    percent: float | None = None,
    from_percent: float | None = None,
    to_percent: float | None = None,
    include_seeds: bool = False,
    exclude: UserIds = (),
    mesh: Mesh | None = None,
    progress: Progress = silent,
) -> Audience:
    """The users of the data that a customised model scores highest.

    Args:
      model: customised to its campaign.
      data: the pool: any users with the fields and vocabulary of the model, one row per user.
      size: K; fewer users are returned if there are fewer candidates.
      percent: K as a percentage of all users of the data.
      from_percent, to_percent: a band: the ranks after the first percentage of all users, up to the
        second. Give exactly one of ``size``, ``percent`` and the band.
      include_seeds: whether the campaign's seeds may be in the audience.
      exclude: ids of users who may not be in the audience, such as opt-outs; unknown ids are
        ignored. `Customised.excluded_ids` are left out in any case.
      mesh: several devices, see `methods.Method.fit`. Each has the whole model and scores its part
        of the users. A process reads the users of its devices; all processes get the audience.
      progress: receives the number of users looked up and scored.

    Returns:
      The audience, best user first.

    Raises:
      InputError: none or several of ``size``, ``percent`` and the band are given, one is out of
        range, the model is no `Customised`, or the data has another schema or kind of ids, or may
        have several rows per user.
      Diverged: a score is not a number.
    """
    [audience] = expand_all(
        [model],
        data,
        size=size,
        percent=percent,
        from_percent=from_percent,
        to_percent=to_percent,
        include_seeds=include_seeds,
        exclude=exclude,
        mesh=mesh,
        progress=progress,
    )
    return audience


def expand_all(
    models: Sequence[Customised],
    data: Dataset,
    *,
    size: int | None = None,
    percent: float | None = None,
    from_percent: float | None = None,
    to_percent: float | None = None,
    ranks: Sequence[range] | None = None,
    include_seeds: bool = False,
    exclude: UserIds = (),
    mesh: Mesh | None = None,
    progress: Progress = silent,
) -> list[Audience]:
    """The audiences of several models, which score the users in one pass; see `expand`.

    Args:
      models: each customised to its campaign.
      data, size, percent, from_percent, to_percent, include_seeds, exclude, mesh, progress: as in
        `expand`, for all audiences.
      ranks: instead of one size for all: the ranks of each model's audience, counted from 0, such
        as ``range(5000)`` for its best 5,000 users.

    Returns:
      The audience of each model.

    Raises:
      InputError: as in `expand`, the models are no list, or the ranks are not one range per model.
      Diverged: a score is not a number.
    """
    if isinstance(models, Customised):
        raise InputError("models: expected a list of customised models, got one; write [model]")
    for model in models:
        if not isinstance(model, Customised):
            raise InputError(f"expected a customised model, got a {type(model).__name__}")
        model.general.check_data(data)
    data.check_one_row_per_user()
    if ranks is None:
        ranks_of_all = audience_ranks(
            data.num_users,
            size=size,
            percent=percent,
            from_percent=from_percent,
            to_percent=to_percent,
        )
        ranks = [ranks_of_all] * len(models)
    elif any(value is not None for value in (size, percent, from_percent, to_percent)):
        raise InputError("audience: give ranks, or one of size, percent and the band; not both")
    _check_ranks(ranks, len(models))
    left_out = _left_out(models, data, exclude, include_seeds=include_seeds)
    if mesh is not None:
        check_same("ranks and users left out", ([*ranks], [array_digest(ids) for ids in left_out]))
    part = (0, 1) if mesh is None else (jax.process_index(), jax.process_count())
    excluded, *left_out = _find_each(left_out, data, part, progress)
    left_out = [_not_among(users, excluded) for users in left_out]
    # One more than the audience has tells whether its last score is that of others, too.
    tops = [RunningTop(own.stop + 1, data.user_ids.dtype) for own in ranks]

    size_of_block = _block_size([model.scorer for model in models])

    def read(start: int) -> _Block:
        return _read_block(data, start, min(start + size_of_block, data.num_users), excluded)

    starts = range(0, data.num_users, size_of_block)[part[0] :: part[1]]
    with closing(_scored(models, read, starts, mesh)) as blocks:
        for start, (block, each) in zip(starts, blocks, strict=True):
            scored = zip(models, tops, left_out, each, strict=True) if each else ()  # no users left
            for model, top, users, scores in scored:
                able = block.without(users)
                top.add(model.check_scores(scores)[able], block.ids[able])
            done = min(start + size_of_block, data.num_users)
            progress("score the pool", done, data.num_users)
    if part[1] > 1:
        tops = [
            _merged(top, own.stop + 1, data.user_ids.dtype)
            for top, own in zip(tops, ranks, strict=True)
        ]
    able = [data.num_users - len(excluded) - len(users) for users in left_out]
    return [_audience(*own) for own in zip(tops, ranks, able, strict=True)]


def _check_ranks(ranks: Sequence[range], num_models: int) -> None:
    """Refuses ranks that are not one range per model."""
    if len(ranks) != num_models:
        raise InputError(f"ranks: expected one range per model, {num_models}, got {len(ranks)}")
    for own in ranks:
        if not isinstance(own, range) or own.step != 1 or own.start < 0 or not own:
            raise InputError(f"ranks: expected ranges of ranks such as range(5000), got {own!r}")


def _audience(top: RunningTop, ranks: range, num_candidates: int) -> Audience:
    """The audience of these ranks, from a top that holds one candidate more if there is one."""
    best, best_ids = top.best()
    scores, ids = (values[ranks.start : ranks.stop] for values in (best, best_ids))
    is_tied = len(best) > ranks.stop and best[-1] == best[-2]
    num_tied = int((scores == best[-1]).sum()) if is_tied else 0
    return Audience(ids, scores, num_candidates, ranks.start + 1, num_tied=num_tied)


def audience_ranks(
    num_users: int,
    *,
    size: int | None = None,
    percent: float | None = None,
    from_percent: float | None = None,
    to_percent: float | None = None,
) -> range:
    """The ranks of an audience, counted from 0; see `expand_all`.

    Raises:
      InputError: none or several of ``size``, ``percent`` and the band are given, or one is out of
        range.
    """
    band = from_percent is not None or to_percent is not None
    if (size is not None) + (percent is not None) + band != 1:
        raise InputError("audience: give one of size, percent, and from_percent with to_percent")
    if size is not None:
        check_whole("size", size, 1)
        return range(size)
    percents = {"percent": percent, "from_percent": from_percent, "to_percent": to_percent}
    for name, value in percents.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise InputError(f"{name}: expected a number, got {value!r}")
    if percent is not None:
        if not 0 < percent <= 100:
            raise InputError(f"percent: expected more than 0 and at most 100, got {percent}")
        return range(max(1, percent_of(num_users, percent)))
    if from_percent is None or to_percent is None or not 0 <= from_percent < to_percent <= 100:
        raise InputError(
            "from_percent and to_percent: expected 0 <= from_percent < to_percent <= 100, "
            f"got {from_percent} and {to_percent}"
        )
    first, last = (percent_of(num_users, edge) for edge in (from_percent, to_percent))
    if first == last:
        raise InputError(
            f"from_percent {from_percent} to_percent {to_percent}: holds none of {num_users} users"
        )
    return range(first, last)


def _block_size(scorers: Sequence[Scorer]) -> int:
    """Number of users scored at a time."""
    copying = any(isinstance(s, AdaptedScorer) and len(s.adapted.rows) for s in scorers)
    most = _COPYING if copying else _SCORES
    return max(1, min(_BLOCK, most // max(1, len(scorers))))


def _scored(
    models: Sequence[Customised], read: Callable[[int], _Block], starts: range, mesh: Mesh | None
) -> Generator[tuple[_Block, list[np.ndarray]]]:
    """Yields each block without its rows, and its scores by every model; an empty one has none."""
    devices = [None] if mesh is None or len(mesh.local_devices) == 1 else mesh.local_devices
    free = SimpleQueue[BlockScorer]()
    for device in devices:
        free.put(score_jointly(_on_device([model.scorer for model in models], device)))

    def scored(start: int) -> tuple[_Block, list[np.ndarray]]:
        block = read(start)
        if not len(block.ids):
            return block, []
        score = free.get()
        try:
            scores = score(block.rows)
            return block._replace(rows=block.rows[:0].copy()), scores  # rows are freed meanwhile
        finally:
            free.put(score)

    # One more thread than devices, to read a block while others are scored.
    return in_threads(scored, starts, num_threads=len(devices) + 1)


def _on_device(scorers: Sequence[Scorer], device: jax.Device | None) -> Sequence[Scorer]:
    """The scorers with their weights on a device; None leaves them where they are."""
    if device is None:
        return scorers

    def put(tree: T) -> T:
        """Moves all arrays except a table in host memory."""
        arrays, place = jax.tree.flatten(tree)
        on = [jax.device_put(a, device) if isinstance(a, jax.Array) else a for a in arrays]
        return place.unflatten(on)

    def of(weights: Weights) -> tuple[int, int]:
        return id(weights.network), id(weights.table)

    # Shared weights are moved once, so that the models are still recognised as sharing them.
    general = {of(s.weights): s.weights for s in scorers if isinstance(s, AdaptedScorer)}
    general = {own: put(weights) for own, weights in general.items()}

    def placed(scorer: Scorer) -> Scorer:
        if not isinstance(scorer, AdaptedScorer):
            return scorer
        weights = general[of(scorer.weights)]
        return replace(scorer, weights=weights, adapted=put(scorer.adapted))

    return list(map(placed, scorers))


def _left_out(
    models: Sequence[Customised], data: Dataset, exclude: UserIds, *, include_seeds: bool
) -> list[np.ndarray]:
    """Ids of users who may be in no audience; then, per model, of others who may not be in its own.

    They are in the form that the data uses.
    """
    # Campaigns from one call of `Dataset.new_campaigns` have one array, which may be long.
    excluded = {id(model.excluded_ids): model.excluded_ids for model in models}
    several = [exclude, *(excluded.values() if len(excluded) == 1 else ())]
    shared = np.unique(np.concatenate([data.checked_ids(ids) for ids in several]))
    rest = {key: _not_among(data.checked_ids(ids), shared) for key, ids in excluded.items()}
    own = []
    for model in models:
        with about(f"{data.where}: seeds"):
            seeds = data.checked_ids(() if include_seeds else model.seed_ids)
        own.append(np.concatenate([rest[id(model.excluded_ids)], seeds]))
    return [shared, *own]


def _not_among(few: np.ndarray, many: np.ndarray) -> np.ndarray:
    """The values of ``few`` that are not in ``many``, which is ascending and may be long."""
    if not len(many):
        return few
    position = np.searchsorted(many, few).clip(max=len(many) - 1)
    return few[many[position] != few]


def _find_each(
    several: Sequence[np.ndarray], data: Dataset, part: tuple[int, int], progress: Progress
) -> list[np.ndarray]:
    """Ascending indices of the users in each of several arrays of ids; reads the users' ids once.

    ``part`` is the index of this process and the number of processes; each reads its own part.
    """
    found = data.find_users(np.concatenate(several), part=part, progress=progress)
    if part[1] > 1:
        found = np.max(from_each(found), axis=0)
    parts = np.split(found, np.cumsum([len(ids) for ids in several])[:-1])
    return [np.unique(part[part >= 0]) for part in parts]


def _merged(top: RunningTop, size: int, id_type: np.dtype) -> RunningTop:
    """Merges the tops of all processes."""
    merged = RunningTop(size, id_type)
    for scores, ids in from_each(top.best()):
        merged.add(scores, ids)
    return merged


class _Block(NamedTuple):
    """A block of the pool, without excluded users.

    Attributes:
      index: (P,) ascending user indices.
      ids: (P,) user ids.
      rows: (P, S) table rows.
    """

    index: np.ndarray
    ids: np.ndarray
    rows: np.ndarray

    def without(self, users: np.ndarray) -> np.ndarray:
        """(P,) bool, which users are not among ``users``, which are ascending indices."""
        first, last = np.searchsorted(users, [self.index[0], self.index[-1] + 1])
        able = np.ones(len(self.index), bool)
        able[np.searchsorted(self.index, users[first:last])] = False
        return able


def _read_block(data: Dataset, start: int, stop: int, excluded: np.ndarray) -> _Block:
    first, last = np.searchsorted(excluded, [start, stop])
    kept = np.delete(np.arange(start, stop), excluded[first:last] - start)
    rows, ids = data.user_rows[start:stop], data.user_ids[start:stop]
    return _Block(kept, np.asarray(ids[kept - start]), np.asarray(rows[kept - start]))
