"""Batches as a function of (seed, step) alone, drawn from the memory-mapped columns.

A counter-based generator is keyed by (seed, step), so step 1000 can be drawn without the 999 before
it, and a resumed run draws what it would have drawn. Several threads may draw at a time.

Axes: C campaigns of a step, B examples, S slots of a user, N campaign fields, U table rows that a
step touches, V that one of its campaigns touches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset, UserRows
from metaheac_jax.errors import InputError
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.table.rows import RowIndex

Tree = TypeVar("Tree")

_PROBED = range(8)  # steps that are drawn to see how many rows a step touches
_QUANTUM = 512  # table rows of a step are rounded up to a multiple of this


class Batch(NamedTuple):
    """Examples whose ids point into a table (the whole one, or the few rows of a step).

    Attributes:
      ids: of users and campaigns.
      label: (B,) float32, 1 for a seed and 0 for a non-seed.
      weight: (B,) float32, 1 for an example and 0 for padding.
    """

    ids: Ids
    label: Any
    weight: Any

    def pick(self, examples: Any) -> Batch:
        """These examples, by position or mask, of a campaign that all examples share."""
        ids = self.ids._replace(user=self.ids.user[examples])
        return Batch(ids, self.label[examples], self.weight[examples])


class CampaignBatch(NamedTuple):
    """What a row-local meta-step takes: ``step(state, *batch)``.

    Attributes:
      rows: (U,) int32 table rows that the step touches; R for padding.
      support: leaves (C, B, ...), ids pointing into the campaign's ``own``.
      query: likewise; disjoint from the support set, or drawn independently.
      own: (C, V) int32, the positions in ``rows`` of each campaign's rows; U for padding. What
        `table.rows.select_rows` selects by.
    """

    rows: np.ndarray
    support: Batch
    query: Batch
    own: np.ndarray

    def shared(self) -> tuple[np.ndarray, Batch, Batch]:
        """Rows, support and query with ids that point into ``rows``, whatever the campaign."""
        pad = np.full((len(self.own), 1), len(self.rows), np.int32)
        position, campaign = np.hstack([self.own, pad]), np.arange(len(self.own))

        def moved(ids: np.ndarray) -> np.ndarray:
            return position[campaign.reshape(-1, *[1] * (ids.ndim - 1)), ids]

        support, query = (
            side._replace(ids=jax.tree.map(moved, side.ids)) for side in (self.support, self.query)
        )
        return self.rows, support, query


class ExampleBatch(NamedTuple):
    """What a row-local step of plain training takes; leaves of ``examples`` are (B, ...)."""

    rows: np.ndarray
    examples: Batch


class OwnedBatch(NamedTuple):
    """An `ExampleBatch` with the campaign of each example, for networks with campaigns' heads.

    Attributes:
      rows: (U,) int32 table rows that the step touches; R for padding.
      examples: leaves (B, ...), ids pointing into ``rows``.
      owner: (B,) int32 position of an example's campaign among the sampler's, in ascending order.
    """

    rows: np.ndarray
    examples: Batch
    owner: np.ndarray


def generator(seed: int, step: int) -> np.random.Generator:
    """The generator of one step: a function of (seed, step) and nothing else."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64)))


def left_out(
    shape: tuple[int, int], probability: float, seed: int, step: int, number: int
) -> np.ndarray:
    """Which values of users a step leaves out, each with this probability; bool of this shape.

    The draws depend on the seed, the step and the number alone, and are none of `generator`'s.
    """
    if not probability:
        return np.zeros(shape, bool)
    philox = np.random.Philox(key=np.array([seed, step], np.uint64)).jumped(1 + number)
    return np.random.Generator(philox).random(shape, np.float32) < probability


def check_batch(batch: Batch, layout: Layout, num_rows: int, name: str) -> None:
    """Refuses examples of one campaign that would be computed on in silence.

    Args:
      batch: leaves (n, ...); ids are rows of a table, or its length, the pad id.
      layout: where the fields lie among the ids.
      num_rows: R.
      name: what the message calls the campaign.

    Raises:
      InputError: there is no example, lengths differ, an id is outside the table, a label is not 0
        or 1, or a weight is not 1.
    """
    user, label, weight = (np.asarray(a) for a in (batch.ids.user, batch.label, batch.weight))
    if not len(label):
        raise InputError(f"{name}: no examples; give it seeds and non-seeds")
    if not len(user) == len(label) == len(weight):
        raise InputError(
            f"{name}: {len(user)} users, {len(label)} labels and {len(weight)} weights; expected "
            "as many of each"
        )
    check_slots(user, layout.num_slots)
    fields = np.shape(batch.ids.campaign)
    if fields != (layout.num_campaign_fields,):  # one campaign, which all examples share
        raise InputError(
            f"{name}: campaign ids of shape {fields}, expected {layout.num_campaign_fields} fields"
        )
    for ids in jax.tree.leaves(batch.ids):
        check_ids(np.asarray(ids), num_rows, f"{name}: the ids")
    wrong = ~np.isin(label, (0, 1))
    if wrong.any():
        raise InputError(f"{name}: label {label[wrong][0]}, expected 1 for a seed and 0 for others")
    if not (weight == 1).all():
        raise InputError(
            f"{name}: a weight is {weight[weight != 1][0]}, expected 1; take the examples to "
            "customise on with Batch.pick"
        )


def check_slots(users: UserRows, num_slots: int) -> None:
    """Refuses (P, S) rows of users with another number of slots.

    Raises:
      InputError: it names both numbers.
    """
    if len(users.shape) != 2 or users.shape[1] != num_slots:
        raise InputError(
            f"users: ids of shape {users.shape}, expected {num_slots} slots per user; they "
            "come from data of another schema"
        )


def check_ids(ids: np.ndarray, num_rows: int, what: str) -> None:
    """Refuses ids outside the table: a gather would wrap a negative one and drop a large one.

    Raises:
      InputError: it names the first such id.
    """
    if ids.dtype.kind not in "iu":
        raise InputError(f"{what} are {ids.dtype}, expected whole numbers")
    if ids.size and (ids.min() < 0 or ids.max() > num_rows):
        wrong = ids[(ids < 0) | (ids > num_rows)].ravel()[0]
        raise InputError(f"{what} have {wrong}, expected 0 to {num_rows - 1}, or {num_rows} to pad")


def check_campaigns(
    dataset: Dataset, campaigns: Sequence[int] | np.ndarray, minimum: int = 20
) -> None:
    """Refuses campaigns that no model can be trained on.

    Raises:
      InputError: they are not distinct indices of campaigns, or stage 1 of one has fewer than
        ``minimum`` examples, or a single class.
    """
    counts, positives = dataset.stage1.counts, dataset.stage1.positives
    chosen = np.asarray(campaigns)
    once = chosen.ndim == 1 and len(np.unique(chosen)) == len(chosen) > 0
    if not once or chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= len(counts):
        raise InputError(
            f"{dataset.where}: campaigns: expected one index or more from 0 to {len(counts) - 1}, "
            "each once"
        )
    for campaign in chosen:
        n, seeds = counts[campaign], positives[campaign]
        if n < minimum or seeds in (0, n):
            raise InputError(
                f"campaign {dataset.campaign_key[campaign]}: stage 1 has {seeds} seeds among {n} "
                f"examples; expected seeds and non-seeds, {minimum} examples or more; "
                "remove the campaign or add examples"
            )


def gather(dataset: Dataset, examples: np.ndarray, campaign: np.ndarray, pad_to: int) -> Batch:
    """Stage-1 examples by position, padded to ``pad_to`` with weight 0; ids are table rows.

    Args:
      dataset: the examples come from its stage 1.
      examples: positions in stage 1.
      campaign: (N,) table rows of their campaign, or (B, N).
      pad_to: B.
    """
    stage = dataset.stage1
    return as_batch(dataset, stage.user[examples], stage.label[examples], campaign, pad_to)


def as_batch(
    dataset: Dataset, users: np.ndarray, label: np.ndarray, campaign: np.ndarray, pad_to: int
) -> Batch:
    """Users by index, with labels (n,), as a `Batch`; see `gather`."""
    n = len(users)
    user = np.full((pad_to, dataset.user_rows.shape[1]), dataset.num_rows, np.int32)
    user[:n] = dataset.user_rows[users]
    padded, weight = np.zeros(pad_to, np.float32), np.zeros(pad_to, np.float32)
    padded[:n], weight[:n] = label, 1
    return Batch(Ids(user, campaign), padded, weight)


def campaign_examples(dataset: Dataset, campaign: Campaign) -> Batch:
    """D_c, the examples that a campaign is customised on; ids are table rows."""
    users, labels = campaign.users, campaign.labels
    return as_batch(dataset, users, labels, campaign.rows, len(users))


class CampaignSampler:
    """Support and query sets of a few campaigns (Algorithm 1, lines 3 to 5).

    A campaign with fewer examples than a set takes gives what it has, halved between the two sets
    where they are disjoint; the rest is padding. A campaign is drawn with a probability in
    proportion to its number of examples.
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
        part: range | None = None,
    ) -> None:
        """Args:
        dataset: examples come from its stage 1.
        campaigns: indices of the training campaigns.
        seed: with the step, decides every draw.
        campaigns_per_step: C, without replacement.
        batch_size: B, examples in a support set, and in a query set.
        disjoint: support and query share no example (the paper), or are drawn independently
          (the authors' program).
        value_dropout: see `settings.Settings`.
        part: which of a step's campaigns are read, where other processes read the others; None for
          all.

        Raises:
          InputError: a campaign has a single class or too few examples.
          ValueError: fewer campaigns than a step takes.
        """
        check_campaigns(dataset, campaigns)
        if len(campaigns) < campaigns_per_step:
            raise ValueError(f"{len(campaigns)} campaigns, a step takes {campaigns_per_step}")
        self._dataset, self._campaigns, self._seed = dataset, np.asarray(campaigns), seed
        self._per_step, self._batch_size, self._disjoint = campaigns_per_step, batch_size, disjoint
        self._part = range(campaigns_per_step) if part is None else part
        self._value_dropout = value_dropout
        weight = dataset.stage1.counts[self._campaigns].astype(float)
        self._weight = weight / weight.sum()
        self._index = dataset.layout.row_index(dataset.num_rows)
        probed = [self._draw(step)[2:] for step in _PROBED]
        self._step_size = _padded_size(max(len(touched) for touched, _ in probed))
        self._own_size = _padded_size(max(len(rows) for _, own in probed for rows in own))

    def __call__(self, step: int) -> CampaignBatch:
        """The batch of one step."""
        support, query, touched, own = self._draw(step)
        sizes = self._step_size(len(touched)), self._own_size(max(map(len, own)))
        return _campaign_batch(self._index, support, query, touched, own, sizes)

    def campaigns_of(self, step: int) -> np.ndarray:
        """(C,) ids of the campaigns of one step."""
        return self._dataset.campaign_key[self._choose(generator(self._seed, step))]

    def _choose(self, rng: np.random.Generator) -> np.ndarray:
        return rng.choice(self._campaigns, self._per_step, replace=False, p=self._weight)

    def _draw(self, step: int) -> tuple[Batch, Batch, np.ndarray, list[np.ndarray]]:
        """Support and query with ids into the whole table; the rows that all and each touch."""
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
            if place not in self._part:
                continue
            for number, (side, positions) in enumerate(zip(sides, drawn, strict=True)):
                batch = gather(self._dataset, offsets[c] + positions, fields, self._batch_size)
                users, number = batch.ids.user, 2 * place + number
                missing = left_out(users.shape, self._value_dropout, self._seed, step, number)
                users[missing] = self._dataset.num_rows
                side.append(batch)
        support, query = map(stacked, sides)
        pairs = zip(members(support.ids), members(query.ids), strict=True)
        own = [self._index.distinct(pair) for pair in pairs]
        return support, query, self._index.distinct(*own), own


def _campaign_batch(
    index: RowIndex,
    support: Batch,
    query: Batch,
    touched: np.ndarray,
    own: Sequence[np.ndarray],
    sizes: tuple[int, int],
) -> CampaignBatch:
    """A step's batch, of sets with ids into the whole table.

    Args:
      index: of the table's rows.
      support, query: leaves (C, B, ...).
      touched: the rows that all campaigns touch.
      own: those that each touches.
      sizes: U and V.
    """
    sides = zip(own, members(support.ids), members(query.ids), strict=True)
    local = [index.renumber(rows, sizes[1], both) for rows, *both in sides]
    rows, position = index.renumber(touched, sizes[0], np.stack([rows for rows, _ in local]))
    ids = [stacked(side) for side in zip(*(both for _, both in local), strict=True)]
    return CampaignBatch(rows, support._replace(ids=ids[0]), query._replace(ids=ids[1]), position)


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
        check_campaigns(dataset, campaigns)
        self._dataset, self._seed, self._value_dropout = dataset, seed, value_dropout
        stage = dataset.stage1
        self._campaigns = np.sort(campaigns)
        self._examples = np.concatenate(
            [np.arange(stage.offsets[c], stage.offsets[c + 1]) for c in self._campaigns]
        )
        self.batch_size = min(batch_size, len(self._examples))
        self._index = dataset.layout.row_index(dataset.num_rows)
        self._size = _padded_size(max(len(self._draw(step)[2]) for step in _PROBED))

    def __call__(self, step: int) -> ExampleBatch:
        """The batch of one step."""
        return ExampleBatch(*self.owned(step)[:2])

    def owned(self, step: int) -> OwnedBatch:
        """The same batch, and the campaign that each example belongs to."""
        batch, campaign, touched = self._draw(step)
        rows, ids = self._index.renumber(touched, self._size(len(touched)), batch.ids)
        owner = np.searchsorted(self._campaigns, campaign).astype(np.int32)
        return OwnedBatch(rows, batch._replace(ids=ids), owner)

    def left_out(self, step: int) -> np.ndarray:
        """(B, S) which values of its users a step leaves out."""
        shape = self.batch_size, self._dataset.user_rows.shape[1]
        return left_out(shape, self._value_dropout, self._seed, step, 0)

    def positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(B,) positions in stage 1 of the examples of one step, and the campaign of each."""
        rng = generator(self._seed, step)
        examples = self._examples[rng.choice(len(self._examples), self.batch_size, replace=False)]
        return examples, np.searchsorted(self._dataset.stage1.offsets, examples, side="right") - 1

    def _draw(self, step: int) -> tuple[Batch, np.ndarray, np.ndarray]:
        """Examples with ids into the whole table, their campaigns, and the rows they touch."""
        examples, campaign = self.positions(step)
        fields = self._dataset.campaign_rows[campaign]
        batch = gather(self._dataset, examples, fields, self.batch_size)
        batch.ids.user[self.left_out(step)] = self._dataset.num_rows
        return batch, campaign, self._index.distinct(batch.ids)


class GroupSampler:
    """The examples of `ExampleSampler` in groups, for devices that share a step of plain training.

    A group is the query set of a `CampaignBatch`, in the place of a campaign's, and its support set
    is empty.
    """

    def __init__(
        self, dataset: Dataset, sampler: ExampleSampler, *, num_groups: int, part: range
    ) -> None:
        """Args:
        dataset: of the sampler.
        sampler: of all examples of a step.
        num_groups: C, into which they are divided; the last ones may be smaller.
        part: which groups are read, where other processes read the others.
        """
        self._dataset, self._sampler, self._part = dataset, sampler, part
        self._group_size = -(-sampler.batch_size // num_groups)
        self._index = dataset.layout.row_index(dataset.num_rows)
        probed = [self._draw(step)[1:] for step in _PROBED]
        self._step_size = _padded_size(max(len(touched) for touched, _ in probed))
        self._own_size = _padded_size(max(len(rows) for _, own in probed for rows in own))

    def __call__(self, step: int) -> CampaignBatch:
        """The batch of one step."""
        query, touched, own = self._draw(step)
        nobody = jax.tree.map(lambda leaf: leaf[:, :0], query)
        sizes = self._step_size(len(touched)), self._own_size(max(map(len, own)))
        return _campaign_batch(self._index, nobody, query, touched, own, sizes)

    def _draw(self, step: int) -> tuple[Batch, np.ndarray, list[np.ndarray]]:
        """Groups with ids into the whole table; the rows that all and each touch."""
        examples, campaign = self._sampler.positions(step)
        groups, size, missing = [], self._group_size, self._sampler.left_out(step)
        for group in self._part:
            some = slice(group * size, (group + 1) * size)
            rows = self._dataset.campaign_rows[campaign[some]]
            fields = np.full((size, rows.shape[1]), self._dataset.num_rows, np.int32)
            fields[: len(rows)] = rows
            groups.append(gather(self._dataset, examples[some], fields, size))
            groups[-1].ids.user[: len(rows)][missing[some]] = self._dataset.num_rows
        query = stacked(groups)
        own = [self._index.distinct(ids) for ids in members(query.ids)]
        return query, self._index.distinct(*own), own


def members(tree: Tree) -> list[Tree]:
    """The members of a tree of arrays along their leading axis."""
    return [jax.tree.map(itemgetter(i), tree) for i in range(len(jax.tree.leaves(tree)[0]))]


def stacked(trees: Sequence[Tree]) -> Tree:
    """Trees of arrays as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _padded_size(probed: int) -> Callable[[int], int]:
    """The size to pad a number of rows to, so that most steps share one shape.

    A few steps are drawn to see how many rows they touch. A later step that touches more takes a
    larger shape. Both depend on (seed, step) alone.
    """
    usual = -(-int(1.1 * probed) // _QUANTUM) * _QUANTUM
    return lambda n: usual if n <= usual else -(-n // (4 * _QUANTUM)) * 4 * _QUANTUM
