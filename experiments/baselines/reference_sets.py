"""Reference sets: seeds and non-seeds that users are compared with (`baselines.seed_features`).

No member of a reference set may be an example in the loss. (Leaving each user out of the means for
that user is not enough: of two equal users, only the seed misses itself among the seeds, which
reveals its label.) Therefore half of the examples, or as many as there is room for, are the
reference set of the other half. The examples are the support set in meta-training and D_c online.
The users of a query set or a pool are compared with all of these examples. A campaign with a single
seed thus adapts with features of 0, but has features in its pool.

Axes: C campaigns, B examples, Q seeds (and as many non-seeds) of a reference set, S slots of a
user, R rows of the table.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from metaheac_jax.data.batches import Batch, CampaignBatch, stacked, unstacked


def reference_set(examples: Batch, size: int, pad: int) -> np.ndarray:
    """(2, Q, S) int32 rows of a campaign's seeds and of its non-seeds.

    Args:
      examples: examples of one campaign; leaves (B, ...). Those with weight 0 are not taken.
      size: Q. If there are more seeds or non-seeds, evenly spaced ones are taken.
      pad: the pad id.
    """
    sides = []
    for kind in (1, 0):
        users = examples.ids.user[(examples.label == kind) & (examples.weight > 0)]
        users = _evenly_spaced(users, size)
        missing = ((0, size - len(users)), (0, 0))
        sides.append(np.pad(users, missing, constant_values=pad))
    return np.stack(sides).astype(np.int32)


def _evenly_spaced(array: np.ndarray, size: int) -> np.ndarray:
    """At most ``size`` members of an array, evenly spaced."""
    if len(array) <= size:
        return array
    return array[np.linspace(0, len(array) - 1, size).astype(int)]


def with_reference(examples: Batch, size: int, pad: int) -> Batch:
    """One campaign's examples, some of which become the reference set of the others.

    Args:
      examples: leaves (B, ...).
      size: Q. Every second seed and every second non-seed is taken, up to Q of each.
      pad: the pad id.

    Returns:
      The same examples with ``ids.reference`` (2, Q, S), and weight 0 for its members.
    """
    taken = np.zeros(len(examples.label), bool)
    for kind in (1, 0):
        of_kind = np.flatnonzero((examples.label == kind) & (examples.weight > 0))
        taken[_evenly_spaced(of_kind[1::2], size)] = True
    reference = reference_set(examples._replace(weight=examples.weight * taken), size, pad)
    return Batch(
        examples.ids._replace(reference=reference), examples.label, examples.weight * ~taken
    )


class ReferenceSampler:
    """Adds reference sets: half of the support set for itself, all of it for the query set."""

    def __init__(self, sampler: Callable[[int], CampaignBatch], *, size: int) -> None:
        """Args:
        sampler: draws support and query sets that share no user, for example `CampaignSampler`.
        size: Q; see `reference_set`.
        """
        self._sampler, self._size = sampler, size

    def __call__(self, step: int) -> CampaignBatch:
        """The batch of one step; ``ids.reference`` of its sets is (C, 2, Q, S)."""
        batch = self._sampler(step)
        pad, size = batch.own_rows.shape[1], self._size
        each = unstacked(batch.support)
        split = [with_reference(examples, size, pad) for examples in each]
        everyone = np.stack([reference_set(examples, size, pad) for examples in each])
        query = batch.query
        return batch._replace(
            support=stacked(split),
            query=query._replace(ids=query.ids._replace(reference=everyone)),
        )
