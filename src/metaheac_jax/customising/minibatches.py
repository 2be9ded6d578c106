"""Minibatches of several campaigns that are adapted together.

Axes: G campaigns adapted together, n examples of a campaign, B examples of a minibatch, S slots of
a user, N campaign fields, Q users on each side of a reference set, U rows that a minibatch touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import jax
import numpy as np

from metaheac_jax.data.batches import Batch, stacked, unstacked
from metaheac_jax.table.layout import Ids
from metaheac_jax.table.rows import RowIndex

_MIN_SIZE = 4096  # see `usual_size`


class GrowingSize:
    """A number of rows that never shrinks, since every new size compiles a step."""

    def __init__(self, multiple: int) -> None:
        """Args:
        multiple: the size is a multiple of it.
        """
        self._multiple, self._size, self._lock = multiple, 0, Lock()

    def holding(self, count: int) -> int:
        """A size of at least ``count``: the current one, or one with a sixteenth to spare."""
        with self._lock:  # otherwise two threads that start could each set a size
            if count > self._size:
                self._size = -(-(count + count // 16) // self._multiple) * self._multiple
            return self._size


def usual_size(count: int) -> int:
    """A size of at least ``count``: one of few, since every size compiles programs."""
    return max(_MIN_SIZE, 1 << (count - 1).bit_length())


def padded_rows(rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Table rows, padded with the pad id ``num_rows`` to a `usual_size`."""
    missing = usual_size(len(rows)) - len(rows)
    return np.pad(rows.astype(np.int32), (0, missing), constant_values=num_rows)


def stack_minibatches(
    examples: Sequence[Batch], picks: Sequence[np.ndarray], size: int, num_idle: int, pad: int
) -> Batch:
    """Stacks picked examples of each campaign into one batch (G, B, ...), padded with weight 0.

    Args:
      examples: examples of each campaign: users (n, S), campaign (N,).
      picks: positions of at most B examples per campaign; none for a campaign that is done.
      size: B.
      num_idle: number of places without a campaign, which make up G.
      pad: the pad id.
    """
    places = len(examples) + num_idle
    some = examples[0].ids
    user = np.full((places, size, some.user.shape[1]), pad, np.int32)
    label, weight = np.zeros((2, places, size), np.float32)
    shared = jax.tree.map(
        lambda leaf: np.full((places, *leaf.shape), pad, np.int32), some._replace(user=None)
    )
    for place, (member, pick) in enumerate(zip(examples, picks, strict=True)):
        user[place, : len(pick)] = member.ids.user[pick]
        label[place, : len(pick)] = member.label[pick]
        weight[place, : len(pick)] = 1
        if len(pick):
            own = member.ids._replace(user=None)
            for target, leaf in zip(*map(jax.tree.leaves, (shared, own)), strict=True):
                target[place] = leaf
    return Batch(Ids(user, shared.campaign, shared.reference), label, weight)


def localise(index: RowIndex, batch: Batch, size: GrowingSize) -> tuple[np.ndarray, Batch]:
    """(G, U) rows that each campaign's minibatch touches, and the batch with ids into them."""
    each = unstacked(batch.ids)
    touched = [index.distinct(ids) for ids in each]
    fixed = size.holding(max(map(len, touched)))
    pairs = zip(touched, each, strict=True)
    rows, local = zip(*(index.renumber(own, fixed, ids) for own, ids in pairs), strict=True)
    return np.stack(rows), batch._replace(ids=stacked(local))
