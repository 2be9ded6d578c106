"""The expanded audience: the top users of a pool by a customised model (paper section 1).

Axes: U users of the data, K users of an audience.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.files import write_whole
from metaheac_jax.model import Customised
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import top

_BLOCK = 1 << 17  # users scored at a time; memory grows with it, not with the pool


@dataclass(frozen=True)
class Audience:
    """An expanded audience, best first; ties are in ascending order of user ids.

    Attributes:
      user_ids: (K,) int64, or text.
      scores: (K,) float32, the customised model's log-odds of converting (or another score, of a
        method that has no probabilities).
      num_candidates: number of candidates.
    """

    user_ids: np.ndarray
    scores: np.ndarray
    num_candidates: int

    def __len__(self) -> int:
        """K."""
        return len(self.user_ids)

    def write_csv(self, path: Path | str) -> None:
        """Writes ``rank,user_id,score`` lines, whole or not at all."""
        with write_whole(Path(path)) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("rank", "user_id", "score"))
            pairs = zip(self.user_ids.tolist(), self.scores.tolist(), strict=True)
            writer.writerows((rank, user, score) for rank, (user, score) in enumerate(pairs, 1))


def expand(
    model: Customised,
    data: Dataset,
    *,
    size: int | None = None,
    percent: float | None = None,
    include_seeds: bool = False,
    exclude: Sequence[int | str] | np.ndarray = (),
    progress: Progress = silent,
) -> Audience:
    """The users of the data that a customised model scores highest.

    Args:
      model: customised to the campaign.
      data: the pool, of any users with the fields and vocabulary of the model, one row per user.
      size: K; fewer are returned where there are fewer candidates.
      percent: K as a percentage of all users of the data. Give this or ``size``.
      include_seeds: whether the campaign's seeds may be in the audience.
      exclude: ids of users that may not be, for example who opted out; unknown ids are ignored.
      progress: receives the number of users scored.

    Raises:
      InputError: neither or both of ``size`` and ``percent``, one out of range, or data of another
        schema, with another kind of user ids, or with several rows per user.
      Diverged: a score is not a number.
    """
    model.general.check_data(data)
    data.check_one_row_per_user()
    count = audience_size(size, percent, data.num_users)
    excluded = data.checked_ids(exclude)
    if not include_seeds:
        if model.seed_ids.dtype.kind == "S" and data.user_key.dtype.kind != "S":
            raise InputError(f"{data.name}: has whole numbers as user ids, the seeds have text")
        seeds = data.checked_ids([plain_id(key) for key in model.seed_ids])
        excluded = np.concatenate([excluded, seeds])
    users, scores, num_candidates = _running_top(model.score, data, excluded, count, progress)
    keys = np.asarray(data.user_key[users])
    user_ids = np.char.decode(keys, "utf-8") if keys.dtype.kind == "S" else keys
    return Audience(user_ids, scores, num_candidates)


def audience_size(size: int | None, percent: float | None, num_users: int) -> int:
    """K, from a number of users or a percentage of all.

    Raises:
      InputError: neither or both are given, or one is out of range.
    """
    if size is not None and percent is None:
        check_whole("size", size, 1)
        return size
    if percent is not None and size is None:
        if not 0 < percent <= 100:
            raise InputError(f"percent: expected more than 0 and at most 100, got {percent}")
        return max(1, math.floor(num_users * percent / 100))
    raise InputError("expand: give either size or percent")


def _running_top(
    score: Callable[[Any], np.ndarray],
    data: Dataset,
    excluded: np.ndarray,
    count: int,
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Index and score of the top candidates, and the number of candidates.

    Memory holds the top candidates and one block of users.
    """
    users, scores, num_candidates = np.empty(0, np.int64), np.empty(0, np.float32), 0
    for block in _blocks(data.num_users):
        able = np.flatnonzero(~np.isin(data.user_key[block], excluded))
        num_candidates += len(able)
        if len(able):
            own = score(np.asarray(data.user_rows[block])[able]).astype(np.float32)
            users = np.concatenate([users, block.start + able])
            scores = np.concatenate([scores, own])
            best = top(scores, data.user_key[users], count)
            users, scores = users[best], scores[best]
        progress("score the pool", block.stop, data.num_users)
    return users, scores, num_candidates


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, min(start + _BLOCK, count))
