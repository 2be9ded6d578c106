"""The best users of a pool, kept on the devices that score them; the host fetches once.

Axes: P users of a chunk, S slots, C campaigns, K users kept per campaign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.backend import jit

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


def best_users(
    programs: Sequence[Callable[[Array], Array]],
    devices: Sequence[jax.Device],
    chunks: Iterable[Chunk],
    num_campaigns: int,
    size: int,
) -> Best:
    """Finds the ``size`` best users of each campaign, by several devices in turns.

    The result is that of `ranking.top` on all scores.

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
    scores, ranks = (np.take_along_axis(own, order, axis=1) for own in (scores, ranks))
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
