"""The best users of a pool by each of many models, found in blocks on the host or on devices.

The pool is read in blocks, once for all campaigns that are scored together. Memory grows with the
models and the audiences, and by one byte per user of the data.

Axes: U users of the data, P users of a block, S slots, C campaigns scored together, K users kept
per campaign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.backend import in_threads, jit, profile
from metaheac_jax.customising.score import Program, groups
from metaheac_jax.data.batches import whole_chunk
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.model import Customised
from metaheac_jax.progress import Progress
from metaheac_jax.ranking import top

_BLOCK = 1 << 17  # users read and scored at a time
_SCORES = 1 << 24  # scores of a block, over all models; some blocks wait at a time


class Wanted(NamedTuple):
    """What is wanted: the ``size`` best users by a model, without its seeds, by ascending index."""

    model: Customised
    seeds: np.ndarray
    size: int


#: (K,) scores and user ids, best first.
Top = tuple[np.ndarray, np.ndarray]


def best_users(
    wanted: Sequence[Wanted], data: Dataset, able: np.ndarray, *, progress: Progress
) -> list[Top]:
    """Finds the best of (U,) bool ``able`` users by each model; ties are by ascending user id.

    Raises:
      Diverged: a score is not a number.
    """
    tops = dict[int, Top]()
    for some, program in groups([one.model.scorer for one in wanted]):
        group = [wanted[number] for number in some]
        if program is not None and profile().keeps_top:
            found = _on_devices(program, group, data, able)
        else:
            found = _on_host(program, group, data, able, progress)
        tops.update(zip(some, found, strict=True))
    return [tops[number] for number in range(len(wanted))]


def _on_host(
    program: Program | None,
    group: Sequence[Wanted],
    data: Dataset,
    able: np.ndarray,
    progress: Progress,
) -> list[Top]:
    """Scores users by a program, or else by the only scorer, and chooses on the host."""
    tops = [RunningTop(one.size, data.user_ids.dtype) for one in group]
    block_size = max(1, min(_BLOCK, _SCORES // len(group)))

    def read(start: int) -> tuple[np.ndarray, np.ndarray]:
        users = start + np.flatnonzero(able[start : start + block_size])
        return users, np.asarray(data.user_rows[users])

    starts = range(0, data.num_users, block_size)
    with closing(in_threads(read, starts, num_threads=1)) as blocks:
        for start, (users, rows) in zip(starts, blocks, strict=True):
            if len(users):
                ids = np.asarray(data.user_ids[users])
                scores = program(rows) if program else group[0].model.scorer(rows)[:, None]
                for (model, seeds, _), column, running in zip(group, scores.T, tops, strict=True):
                    kept = _are_not(seeds, users)
                    running.add(model.check_scores(column)[kept], ids[kept])
            progress("score the pool", min(start + block_size, data.num_users), data.num_users)
    return [running.best() for running in tops]


def _on_devices(
    program: Program, group: Sequence[Wanted], data: Dataset, able: np.ndarray
) -> list[Top]:
    """Scores users and keeps the best ones on devices; the host fetches them at the end."""
    devices = jax.local_devices()
    size = profile().chunk
    pool, order = np.flatnonzero(able), np.argsort(data.user_ids, kind="stable")
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order))

    def chunk(start: int) -> Chunk:
        users = pool[start : start + size]
        pad = 0, size - len(users)
        return Chunk(
            whole_chunk(data.user_rows[users], size, program.num_rows),
            np.pad(ranks[users], pad, constant_values=PADDING),
            np.pad([_are_not(one.seeds, users) for one in group], ((0, 0), pad)),
        )

    starts = range(0, len(pool), size)
    most = max(one.size for one in group)
    with closing(in_threads(chunk, starts, num_threads=2)) as chunks:
        best = best_on_devices([*map(program.on, devices)], devices, chunks, len(group), most)
    tops = []
    for (model, _, count), scores, users, wrong in zip(group, *best, strict=True):
        kept = users[:count] < PADDING
        checked = model.check_scores(np.where(wrong, np.nan, scores[:count][kept]))
        tops.append((checked, np.asarray(data.user_ids)[order[users[:count][kept]]]))
    return tops


def _are_not(some: np.ndarray, users: np.ndarray) -> np.ndarray:
    """(P,) whether ascending user indices are not among some other, ascending ones."""
    first, last = np.searchsorted(some, [users[0], users[-1] + 1]) if len(users) else (0, 0)
    return ~np.isin(users, some[first:last], assume_unique=True)


class RunningTop:
    """The ``size`` candidates with the highest scores among all that were added, as in `top`.

    Memory grows with ``size``, not with the number of candidates. Candidates below the current top
    are dropped at once, and the rest are reduced to the top when more than 1.25 ``size`` are held.
    """

    def __init__(self, size: int, id_type: np.dtype) -> None:
        """Args:
        size: maximum number of candidates.
        id_type: dtype of the user ids.
        """
        self._size, self._lowest = size, -np.inf
        self._scores, self._ids = np.empty(0, np.float32), np.empty(0, id_type)
        self._new: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, scores: np.ndarray, ids: np.ndarray) -> None:
        """Adds candidates by (P,) scores, which are rounded to float32, and (P,) user ids."""
        scores = np.asarray(scores, np.float32)
        able = scores >= self._lowest
        self._new.append((scores[able], ids[able]))
        held = len(self._scores) + sum(len(scores) for scores, _ in self._new)
        if held > self._size + self._size // 4:
            self._reduce()

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(K,) scores and user ids, best first."""
        self._reduce()
        return self._scores, self._ids

    def _reduce(self) -> None:
        scores, ids = zip((self._scores, self._ids), *self._new, strict=True)
        scores, ids = np.concatenate(scores), np.concatenate(ids)
        chosen = top(scores, ids, self._size)
        self._scores, self._ids, self._new = scores[chosen], ids[chosen], []
        if len(chosen) == self._size:
            self._lowest = self._scores.min()


#: The rank of padding, which is behind all users.
PADDING = np.iinfo(np.int32).max


class Chunk(NamedTuple):
    """Users to score.

    Attributes:
      users: (P, S) table rows.
      ranks: (P,) int32, which decide ties: the lower one wins; `PADDING` for padding.
      able: (C, P) bool, whether a user may be among the best of a campaign.
    """

    users: np.ndarray
    ranks: np.ndarray
    able: np.ndarray


class Best(NamedTuple):
    """The best users of each campaign.

    Attributes:
      scores, ranks: (C, K), best first; -inf and `PADDING` where there are fewer users.
      wrong: (C,) bool, whether the score of any user, able or not, is not a number.
    """

    scores: Any
    ranks: Any
    wrong: Any


def best_on_devices(
    programs: Sequence[Callable[[Array], Array]],
    devices: Sequence[jax.Device],
    chunks: Iterable[Chunk],
    num_campaigns: int,
    size: int,
) -> Best:
    """Finds the ``size`` best users of each campaign, by several devices in turns.

    The result is that of `ranking.top` on all scores. The host fetches once.

    Args:
      programs: maps (P, S) users to (P, C) scores, on each device.
      devices: the devices.
      chunks: all of one size.
      num_campaigns: C.
      size: K.

    Returns:
      Arrays of the host.
    """
    shape = num_campaigns, size
    none = Best(
        np.full(shape, -np.inf, np.float32), np.full(shape, PADDING), np.zeros(shape[:1]) > 0
    )
    bests = [jax.device_put(none, device) for device in devices]
    for number, chunk in enumerate(chunks):
        turn = number % len(devices)
        users, ranks, able = jax.device_put(chunk, devices[turn])
        bests[turn] = _joined(bests[turn], programs[turn](users).T, ranks, able)
    scores, ranks, wrong = zip(*jax.device_get(bests), strict=True)
    scores, ranks = np.concatenate(scores, axis=1), np.concatenate(ranks, axis=1)
    order = np.lexsort((ranks, -scores))[:, :size]
    scores, ranks = (np.take_along_axis(array, order, axis=1) for array in (scores, ranks))
    return Best(scores, ranks, np.any(wrong, axis=0))


@partial(jit, donate_argnums=0)
def _joined(best: Best, scores: Array, ranks: Array, able: Array) -> Best:
    """The best of those so far and of a chunk with (C, P) scores."""
    wrong = best.wrong | (jnp.isnan(scores) & (ranks != PADDING)).any(axis=1)
    keys = jnp.where(able, -scores.astype(jnp.float32), jnp.inf)
    ranks = jnp.where(able, ranks, PADDING)
    both = jnp.append(-best.scores, keys, axis=1), jnp.append(best.ranks, ranks, axis=1)
    keys, ranks = jax.lax.sort(both, dimension=1, num_keys=2)
    size = best.scores.shape[1]
    return Best(-keys[:, :size], ranks[:, :size], wrong)
