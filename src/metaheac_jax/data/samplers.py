"""Samplers: batches as a function of (seed, step) alone, drawn from the memory-mapped columns.

A counter-based generator is keyed by (seed, step), so step 1000 can be drawn without the 999 before
it, and a resumed run draws the same batches. Several threads may draw at the same time.

Axes: C campaigns of a step, B examples, S slots of a user, N campaign fields, U table rows that a
step touches, V that one of its campaigns touches.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from metaheac_jax.data.batches import (
    Batch,
    CampaignBatch,
    gather,
    generator,
    stacked,
    unstacked,
)
from metaheac_jax.data.dataset import Dataset

_PROBED = range(8)  # steps drawn in advance, to see how many rows a step touches
_QUANTUM = 512  # the number of table rows of a step is rounded up to a multiple of this


class CampaignSampler:
    """Support and query sets of a few campaigns (Algorithm 1, lines 3 to 5).

    A campaign with too few examples gives all that it has, halved between the two sets if they are
    disjoint; the rest is padding. Campaigns are drawn with probability proportional to their number
    of examples.
    """

    def __init__(
        self,
        dataset: Dataset,
        campaigns: np.ndarray,
        *,
        seed: int,
        campaigns_per_step: int = 5,
        batch_size: int = 512,
        disjoint: bool = True,
        value_dropout: float = 0.0,
    ) -> None:
        """Args:
        dataset: examples come from its stage 1.
        campaigns: indices of the training campaigns, see `check_campaigns`.
        seed: determines every draw, together with the step.
        campaigns_per_step: C, drawn without replacement.
        batch_size: B, the number of examples in a support set, and in a query set.
        disjoint: whether support and query share no example (the paper) or are drawn independently
          (the authors' program).
        value_dropout: probability that a value of a user is left out.
        """
        self._dataset, self._campaigns, self._seed = dataset, np.asarray(campaigns), seed
        self._per_step, self._batch_size, self._disjoint = campaigns_per_step, batch_size, disjoint
        self._value_dropout = value_dropout
        weight = dataset.stage1.counts[self._campaigns].astype(float)
        self._weight = weight / weight.sum()
        self._index = dataset.layout.row_index(dataset.num_rows)
        probed = [self._touched(*self._draw(step)) for step in _PROBED]
        self._step_size = _padded_size(max(len(touched) for touched, _ in probed))
        self._own_size = _padded_size(max(len(rows) for _, part in probed for rows in part))

    def __call__(self, step: int) -> CampaignBatch:
        """The batch of one step."""
        support, query = self._draw(step)
        touched, own = self._touched(support, query)
        num_touched, num_own = self._step_size(len(touched)), self._own_size(max(map(len, own)))
        sides = zip(own, unstacked(support.ids), unstacked(query.ids), strict=True)
        local = [self._index.renumber(rows, num_own, both) for rows, *both in sides]
        of_campaigns = np.stack([rows for rows, _ in local])
        rows, position = self._index.renumber(touched, num_touched, of_campaigns)
        ids = [stacked(side) for side in zip(*(both for _, both in local), strict=True)]
        support, query = support._replace(ids=ids[0]), query._replace(ids=ids[1])
        return CampaignBatch(rows, support, query, position)

    def _choose(self, rng: np.random.Generator) -> np.ndarray:
        return rng.choice(self._campaigns, self._per_step, replace=False, p=self._weight)

    def _draw(self, step: int) -> tuple[Batch, Batch]:
        """Support and query sets with ids into the whole table."""
        rng, offsets = generator(self._seed, step), self._dataset.stage1.offsets
        chosen = self._choose(rng)
        sides: tuple[list[Batch], list[Batch]] = ([], [])
        for place, c in enumerate(chosen):
            n, fields = int(offsets[c + 1] - offsets[c]), self._dataset.campaign_rows[c]
            if self._disjoint:
                both = rng.choice(n, min(n, 2 * self._batch_size), replace=False)
                drawn = (both[: len(both) // 2], both[len(both) // 2 :])
            else:
                size = min(n, self._batch_size)
                drawn = tuple(rng.choice(n, size, replace=False) for _ in range(2))
            for number, (side, positions) in enumerate(zip(sides, drawn, strict=True)):
                batch = gather(self._dataset, offsets[c] + positions, fields, self._batch_size)
                if self._value_dropout:
                    users, of_set = batch.ids.user, 2 * place + number
                    missing = left_out(users.shape, self._value_dropout, self._seed, step, of_set)
                    users[missing] = self._index.num_rows
                side.append(batch)
        support, query = map(stacked, sides)
        return support, query

    def _touched(self, support: Batch, query: Batch) -> tuple[np.ndarray, list[np.ndarray]]:
        """The table rows that all campaigns touch, and those that each one does."""
        pairs = zip(unstacked(support.ids), unstacked(query.ids), strict=True)
        own = [self._index.distinct(pair) for pair in pairs]
        return self._index.distinct(*own), own


class ExampleSampler:
    """Examples drawn from all training campaigns, for plain training (the w/o Meta ablation)."""

    def __init__(
        self,
        dataset: Dataset,
        campaigns: np.ndarray,
        *,
        seed: int,
        batch_size: int,
        value_dropout: float = 0.0,
    ) -> None:
        """Args: as `CampaignSampler`; B examples are drawn without replacement within a step."""
        self._dataset, self._seed, self._value_dropout = dataset, seed, value_dropout
        self._campaigns = np.sort(campaigns)
        # (C + 1,) number of examples of the training campaigns before each one.
        counts = dataset.stage1.counts[self._campaigns]
        self._before = np.concatenate([[0], np.cumsum(counts)])
        self.batch_size = min(batch_size, int(self._before[-1]))
        self._index = dataset.layout.row_index(dataset.num_rows)
        self._size = _padded_size(max(len(self._draw(step)[1]) for step in _PROBED))

    def __call__(self, step: int) -> tuple[np.ndarray, Batch]:
        """Table rows, and the examples, of one step."""
        batch, touched = self._draw(step)
        rows, ids = self._index.renumber(touched, self._size(len(touched)), batch.ids)
        return rows, batch._replace(ids=ids)

    def positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Stage-1 positions of the examples of one step, and the campaign of each."""
        rng = generator(self._seed, step)
        drawn = rng.choice(int(self._before[-1]), self.batch_size, replace=False)
        place = np.searchsorted(self._before, drawn, side="right") - 1
        campaign = self._campaigns[place]
        return self._dataset.stage1.offsets[campaign] + drawn - self._before[place], campaign

    def _draw(self, step: int) -> tuple[Batch, np.ndarray]:
        """Examples with ids into the whole table, and the rows that they touch."""
        examples, campaign = self.positions(step)
        fields = self._dataset.campaign_rows[campaign]
        batch = gather(self._dataset, examples, fields, len(examples))
        users = batch.ids.user
        if self._value_dropout:
            missing = left_out(users.shape, self._value_dropout, self._seed, step, 0)
            users[missing] = self._index.num_rows
        return batch, self._index.distinct(batch.ids)


def left_out(
    shape: tuple[int, int], probability: float, seed: int, step: int, number: int
) -> np.ndarray:
    """Bool of this shape: which user values a step leaves out, each with this probability.

    The draws depend only on the seed, the step and the number, and do not overlap `generator`'s.
    """
    philox = np.random.Philox(key=np.array([seed, step], np.uint64)).jumped(1 + number)
    return np.random.Generator(philox).random(shape, np.float32) < probability


def _padded_size(probed: int) -> Callable[[int], int]:
    """A function from a number of rows to its padded size, so that most steps share one shape.

    ``probed`` is the largest number in a few steps drawn in advance. A later step that touches more
    rows may get a larger shape. Both depend only on (seed, step).
    """
    usual = -(-int(1.1 * probed) // _QUANTUM) * _QUANTUM
    return lambda n: usual if n <= usual else -(-n // (4 * _QUANTUM)) * 4 * _QUANTUM
