"""Batches as a function of (seed, step) alone, drawn from the memory-mapped columns.

A counter-based generator is keyed by (seed, step), so step 1000 can be had without the 999 before
it: a run that resumes draws what it would have drawn. Rows are fetched by a background thread ahead
of the step.

Axes: C campaigns of a step, B examples, S slots of a user, N campaign fields, U table rows that a
step touches, V that a campaign of it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.losses import Batch
from metaheac_jax.rows import RowIndex

#: How likely a campaign is drawn: by its examples, their square root, or all alike.
CampaignWeights = Literal["normal", "sqrt", "unit"]

T = TypeVar("T")

_PROBED = range(8)  # steps that tell how many rows a step touches
_QUANTUM = 512  # table rows of a step are rounded up to a multiple of this


class CampaignBatch(NamedTuple):
    """What a row-local meta-step takes: ``step(state, *batch)``.

    Attributes:
      rows: (U,) int32 table rows that the step touches; R for padding.
      support: leaves (C, B, ...), ids pointing into the campaign's ``own``.
      query: likewise; disjoint from the support set, or drawn independently.
      own: (C, V) int32, where among ``rows`` the rows of each campaign are; U for padding. What
        `rows.select_rows` selects by.
    """

    rows: np.ndarray
    support: Batch
    query: Batch
    own: np.ndarray

    def shared(self) -> tuple[np.ndarray, Batch, Batch]:
        """Rows, support and query with ids that point into ``rows``, whatever the campaign."""
        pad = np.full((len(self.own), 1), len(self.rows), np.int32)
        position, campaign = np.hstack([self.own, pad]), np.arange(len(self.own))[:, None]
        support, query = (
            side._replace(
                user=position[campaign[..., None], side.user],
                campaign=position[campaign, side.campaign],
            )
            for side in (self.support, self.query)
        )
        return self.rows, support, query


class ExampleBatch(NamedTuple):
    """What a row-local step of plain training takes; leaves of ``examples`` are (B, ...)."""

    rows: np.ndarray
    examples: Batch


class OwnedBatch(NamedTuple):
    """An `ExampleBatch` that also tells whose each example is, for networks with campaigns' heads.

    Attributes:
      rows: (U,) int32 table rows that the step touches; R for padding.
      examples: leaves (B, ...), ids pointing into ``rows``.
      owner: (B,) int32 place of an example's campaign among the sampler's, in ascending order.
    """

    rows: np.ndarray
    examples: Batch
    owner: np.ndarray


def generator(seed: int, step: int) -> np.random.Generator:
    """The generator of one step: a function of (seed, step) and nothing else."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64)))


def check_campaigns(
    dataset: Dataset, campaigns: Sequence[int] | np.ndarray, least: int = 20
) -> None:
    """Refuses campaigns that no model can be trained on.

    Raises:
      InputError: stage 1 of a campaign has fewer than ``least`` examples, or a single class.
    """
    counts, positives = dataset.stage1.counts, dataset.stage1.positives
    for campaign in campaigns:
        n, seeds = counts[campaign], positives[campaign]
        if n < least or seeds in (0, n):
            raise InputError(
                f"campaign {dataset.campaign_key[campaign]}: stage 1 has {seeds} seeds among {n} "
                f"examples; expected seeds and non-seeds, {least} examples or more; "
                "remove the campaign or add examples"
            )


def gather(dataset: Dataset, examples: np.ndarray, campaign: np.ndarray, pad_to: int) -> Batch:
    """Stage-1 examples by position, padded to ``pad_to`` with weight 0; ids are table rows."""
    stage, n = dataset.stage1, len(examples)
    user = np.full((pad_to, dataset.user_rows.shape[1]), dataset.rows, np.int32)
    user[:n] = dataset.user_rows[stage.user[examples]]
    label, weight = np.zeros(pad_to, np.float32), np.zeros(pad_to, np.float32)
    label[:n], weight[:n] = stage.label[examples], 1
    return Batch(user, campaign, label, weight)


def campaign_examples(dataset: Dataset, campaign: int) -> Batch:
    """D_c, all stage-1 examples of a campaign: what it is customised on; ids are table rows."""
    of = dataset.stage1.of(campaign)
    examples = np.arange(of.start, of.stop)
    return gather(dataset, examples, dataset.campaign_rows[campaign], len(examples))


class CampaignSampler:
    """Support and query sets of a few campaigns (Algorithm 1, lines 3 to 5).

    A campaign with fewer examples than asked for gives what it has, halved between the two sets
    where they are disjoint; the rest is padding.
    """

    def __init__(
        self,
        dataset: Dataset,
        campaigns: np.ndarray,
        *,
        seed: int,
        campaigns_per_step: int = 5,
        rows: int = 512,
        disjoint: bool = True,
        weights: CampaignWeights = "normal",
    ) -> None:
        """Args:
        dataset: examples come from its stage 1.
        campaigns: indices of the training campaigns.
        seed: with the step, decides every draw.
        campaigns_per_step: C, without replacement.
        rows: examples in a support set, and in a query set.
        disjoint: support and query share no example (the paper), or are drawn independently
          (the authors' program).
        weights: see `CampaignWeights`.

        Raises:
          InputError: a campaign has a single class or too few examples.
          ValueError: fewer campaigns than a step takes.
        """
        check_campaigns(dataset, campaigns)
        if len(campaigns) < campaigns_per_step:
            raise ValueError(f"{len(campaigns)} campaigns, a step takes {campaigns_per_step}")
        self._dataset, self._campaigns, self._seed = dataset, np.asarray(campaigns), seed
        self._per_step, self._rows, self._disjoint = campaigns_per_step, rows, disjoint
        power = {"normal": 1.0, "sqrt": 0.5, "unit": 0.0}[weights]
        weight = dataset.stage1.counts[self._campaigns] ** power
        self._weight = weight / weight.sum()
        self._index = RowIndex(dataset.rows, sum(dataset.small_fields))
        probed = [self._draw(step)[2:] for step in _PROBED]
        self._step_room = _room(max(len(found) for found, _ in probed))
        self._own_room = _room(max(len(rows) for _, own in probed for rows in own))

    def __call__(self, step: int) -> CampaignBatch:
        """The batch of one step."""
        support, query, found, own = self._draw(step)
        size = self._own_room(max(map(len, own)))
        sides = support.user, support.campaign, query.user, query.campaign
        local = [self._index.renumber(o, size, *ids) for o, *ids in zip(own, *sides, strict=True)]
        rows, (places,) = self._index.renumber(
            found, self._step_room(len(found)), np.stack([rows for rows, _ in local])
        )
        ids = [np.stack(side) for side in zip(*(ids for _, ids in local), strict=True)]
        return CampaignBatch(
            rows,
            support._replace(user=ids[0], campaign=ids[1]),
            query._replace(user=ids[2], campaign=ids[3]),
            places,
        )

    def _draw(self, step: int) -> tuple[Batch, Batch, np.ndarray, list[np.ndarray]]:
        """Support and query with ids into the whole table; the rows that all and each touch."""
        rng, offsets = generator(self._seed, step), self._dataset.stage1.offsets
        chosen = rng.choice(self._campaigns, self._per_step, replace=False, p=self._weight)
        sides: tuple[list[Batch], list[Batch]] = ([], [])
        for c in chosen:
            n, fields = int(offsets[c + 1] - offsets[c]), self._dataset.campaign_rows[c]
            if self._disjoint:
                both = rng.choice(n, min(n, 2 * self._rows), replace=False)
                drawn = (both[: len(both) // 2], both[len(both) // 2 :])
            else:
                size = min(n, self._rows)
                drawn = tuple(rng.choice(n, size, replace=False) for _ in range(2))
            for side, positions in zip(sides, drawn, strict=True):
                side.append(gather(self._dataset, offsets[c] + positions, fields, self._rows))
        support, query = (Batch(*map(np.stack, zip(*side, strict=True))) for side in sides)
        ids = support.user, support.campaign, query.user, query.campaign
        own = [self._index.distinct(*ids) for ids in zip(*ids, strict=True)]
        return support, query, self._index.distinct(*own), own


class ExampleSampler:
    """Examples of all training campaigns alike, for plain training (the w/o Meta ablation)."""

    def __init__(self, dataset: Dataset, campaigns: np.ndarray, *, seed: int, rows: int) -> None:
        """Args: as `CampaignSampler`; ``rows`` is B, drawn without replacement within a step."""
        check_campaigns(dataset, campaigns)
        self._dataset, self._seed = dataset, seed
        stage = dataset.stage1
        self._campaigns = np.sort(campaigns)
        self._examples = np.concatenate(
            [np.arange(stage.offsets[c], stage.offsets[c + 1]) for c in self._campaigns]
        )
        self._rows = min(rows, len(self._examples))
        self._index = RowIndex(dataset.rows, sum(dataset.small_fields))
        self._room = _room(max(len(self._draw(step)[2]) for step in _PROBED))

    def __call__(self, step: int) -> ExampleBatch:
        """The batch of one step."""
        return ExampleBatch(*self.owned(step)[:2])

    def owned(self, step: int) -> OwnedBatch:
        """The same batch, and the campaign that each example belongs to."""
        batch, campaign, found = self._draw(step)
        size = self._room(len(found))
        rows, ids = self._index.renumber(found, size, batch.user, batch.campaign)
        owner = np.searchsorted(self._campaigns, campaign).astype(np.int32)
        return OwnedBatch(rows, batch._replace(user=ids[0], campaign=ids[1]), owner)

    def _draw(self, step: int) -> tuple[Batch, np.ndarray, np.ndarray]:
        """Examples with ids into the whole table, their campaigns, and the rows they touch."""
        rng = generator(self._seed, step)
        examples = self._examples[rng.choice(len(self._examples), self._rows, replace=False)]
        campaign = np.searchsorted(self._dataset.stage1.offsets, examples, side="right") - 1
        batch = gather(self._dataset, examples, self._dataset.campaign_rows[campaign], self._rows)
        return batch, campaign, self._index.distinct(batch.user, batch.campaign)


def _room(probed: int) -> Callable[[int], int]:
    """What to pad a number of rows to, so that nearly all steps have one shape and compile once.

    A few steps are drawn to see how many rows they touch; a later step that touches more takes a
    larger shape. Both depend on (seed, step) alone.
    """
    usual = -(-int(1.1 * probed) // _QUANTUM) * _QUANTUM
    return lambda n: usual if n <= usual else -(-n // (4 * _QUANTUM)) * 4 * _QUANTUM


def prefetch(draw: Callable[[int], T], steps: Sequence[int]) -> Iterator[tuple[int, T]]:
    """``(step, draw(step))`` in order, drawn by one background thread up to two steps ahead."""
    with ThreadPoolExecutor(1, "prefetch") as thread:
        ahead = [thread.submit(draw, step) for step in steps[:2]]
        for position, step in enumerate(steps):
            batch = ahead.pop(0).result()
            if position + 2 < len(steps):
                ahead.append(thread.submit(draw, steps[position + 2]))
            yield step, batch
