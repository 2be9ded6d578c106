"""Batches: examples as arrays of table rows, labels and weights.

Axes: C campaigns of a step, B examples, S slots of a user, N campaign fields, U table rows that a
step touches, V that one of its campaigns touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from metaheac_jax.data.campaign import Campaign, plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.views import UserRows
from metaheac_jax.errors import InputError
from metaheac_jax.table.layout import Ids

Tree = TypeVar("Tree")
_MIN_EXAMPLES = 20  # per training campaign
_HELD = 32  # campaigns whose examples are in memory at a time
_SHOWN = 50  # campaigns that a list in a message names


class Batch(NamedTuple):
    """Examples whose ids point into a table (the whole one, or the few rows of a step).

    Attributes:
      ids: ids of users and campaigns.
      label: (B,) float32, 1 for a seed and 0 for a non-seed.
      weight: (B,) float32, above 0 for an example, by default 1, and 0 for padding.
    """

    ids: Ids
    label: Any
    weight: Any

    def pick(self, examples: Any) -> Batch:
        """Selects examples by position or mask; all examples must share one campaign."""
        ids = self.ids._replace(user=self.ids.user[examples])
        return Batch(ids, self.label[examples], self.weight[examples])


class CampaignBatch(NamedTuple):
    """The arguments of a row-local meta-step, ``step(state, *batch)``.

    Attributes:
      rows: (U,) int32 table rows that the step touches, padded with R.
      support: leaves (C, B, ...), with ids that point into the campaign's ``own_rows``.
      query: likewise; disjoint from the support set, or drawn independently of it.
      own_rows: (C, V) int32 positions in ``rows`` of the rows that each campaign touches, padded
        with U; `table.rows.select_rows` takes them.
    """

    rows: np.ndarray
    support: Batch
    query: Batch
    own_rows: np.ndarray


def generator(seed: int, step: int) -> np.random.Generator:
    """The random generator of one step, which depends only on (seed, step)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64)))


def check_slots(users: UserRows, num_slots: int) -> None:
    """Refuses with an `InputError` rows of users whose shape is not (P, ``num_slots``)."""
    if len(users.shape) != 2 or users.shape[1] != num_slots:
        raise InputError(
            f"users: ids of shape {users.shape}, expected {num_slots} slots per user; they "
            "come from data with another schema"
        )


def check_ids(ids: np.ndarray, num_rows: int, what: str) -> None:
    """Refuses ids outside the table: a gather would wrap a negative one and drop a large one.

    Raises:
      InputError: there is such an id, or one that is not a whole number.
    """
    if ids.dtype.kind not in "iu":
        raise InputError(f"{what} are {ids.dtype}, expected whole numbers")
    if ids.size and (ids.min() < 0 or ids.max() > num_rows):
        wrong = ids[(ids < 0) | (ids > num_rows)].ravel()[0]
        raise InputError(
            f"{what} include {wrong}, expected 0 to {num_rows - 1}, or {num_rows} to pad"
        )


def whole_chunk(users: UserRows, chunk: int, num_rows: int) -> np.ndarray:
    """(P, S) table rows of users -> (chunk, S), with the pad id R after them."""
    rows = np.asarray(users)
    return np.pad(rows, ((0, chunk - len(rows)), (0, 0)), constant_values=num_rows)


def check_indices(dataset: Dataset, campaigns: np.ndarray) -> None:
    """Refuses with an `InputError` an array that is not one or more distinct campaign indices."""
    most = dataset.num_campaigns - 1
    whole = campaigns.ndim == 1 and campaigns.dtype.kind in "iu" and campaigns.size
    distinct = whole and len(np.unique(campaigns)) == len(campaigns)
    if not distinct or campaigns.min() < 0 or campaigns.max() > most:
        raise InputError(
            f"{dataset.where}: campaigns: expected one or more distinct indices from 0 to {most}"
        )


def is_usable(dataset: Dataset) -> np.ndarray:
    """(campaigns,) bool, whether a model can be trained on each campaign of a data set.

    Such a campaign has 20 examples or more in stage 1, of both classes.
    """
    counts, positives = dataset.stage1.counts, dataset.stage1.positives
    return (counts >= _MIN_EXAMPLES) & (positives > 0) & (positives < counts)


def check_campaigns(dataset: Dataset, campaigns: Sequence[int] | np.ndarray) -> None:
    """Refuses campaigns that no model can be trained on.

    Raises:
      InputError: they are not distinct campaign indices, or some are not `is_usable`; the message
        names them.
    """
    chosen = np.asarray(campaigns)
    check_indices(dataset, chosen)
    bad = chosen[~is_usable(dataset)[chosen]]
    if len(bad):
        seeds, count = dataset.stage1.positives[bad[0]], dataset.stage1.counts[bad[0]]
        raise InputError(
            f"campaign {plain_id(dataset.campaign_ids[bad[0]])}: stage 1 has {seeds} seeds among "
            f"{count} examples; expected seeds and non-seeds, {_MIN_EXAMPLES} examples or more; "
            f"add examples, or leave out {list_campaigns(dataset, bad)}"
        )


def list_campaigns(dataset: Dataset, campaigns: np.ndarray) -> str:
    """The ids of campaigns, given by index, for a message; at most 50."""
    ids = [str(plain_id(key)) for key in dataset.campaign_ids[campaigns[:_SHOWN]]]
    return ", ".join(ids) + (", ..." if len(campaigns) > _SHOWN else "")


def gather(dataset: Dataset, examples: np.ndarray, campaign: np.ndarray, pad_to: int) -> Batch:
    """Stage-1 examples by position, padded to ``pad_to`` with weight 0; ids are table rows.

    Args:
      dataset: the examples come from its stage 1.
      examples: positions in stage 1.
      campaign: table rows, (N,) of the campaign that all examples share, or (B, N).
      pad_to: B.
    """
    stage, index = dataset.stage1, None
    users, label = stage.user[examples], stage.label[examples]
    if dataset.user_rows.history is not None:
        index = np.searchsorted(stage.offsets, examples, side="right") - 1
    times = None if stage.time is None else stage.time[examples]
    rows = dataset.user_rows.of_examples(users, index, times)
    weights = None if stage.weight is None else stage.weight[examples]
    return _as_batch(rows, label, weights, campaign, pad_to, dataset.num_rows)


def campaign_examples(dataset: Dataset, campaign: Campaign) -> Batch:
    """D_c, the examples on which a campaign's model is customised; ids are table rows."""
    rows = rows_of_examples(dataset, campaign)
    given = rows, campaign.labels, campaign.weights, campaign.rows
    return _as_batch(*given, len(rows), dataset.num_rows)


def rows_of_examples(dataset: Dataset, campaign: Campaign) -> np.ndarray:
    """(n, S) table rows of a campaign's examples, with the histories that the users had then."""
    index = None
    if dataset.user_rows.history is not None and campaign.id is not None:
        index = dataset.index_of(campaign.id)
    return dataset.user_rows.of_examples(campaign.users, index, campaign.times)


def _as_batch(
    rows: np.ndarray,
    label: np.ndarray,
    weights: np.ndarray | None,
    campaign: np.ndarray,
    pad_to: int,
    pad: int,
) -> Batch:
    n = len(rows)
    user = np.full((pad_to, rows.shape[1]), pad, np.int32)
    user[:n] = rows
    padded, weight = np.zeros(pad_to, np.float32), np.zeros(pad_to, np.float32)
    padded[:n], weight[:n] = label, 1 if weights is None else weights
    return Batch(Ids(user, campaign), padded, weight)


class CampaignExamples(Sequence[Batch]):
    """The `campaign_examples` of many campaigns; those used last are held in memory."""

    def __init__(
        self,
        dataset: Dataset,
        campaigns: Sequence[Campaign],
    ) -> None:
        self._campaigns = campaigns
        self._read = lru_cache(_HELD)(lambda c: campaign_examples(dataset, campaigns[c]))

    def __len__(self) -> int:
        return len(self._campaigns)

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self))[index]
        return self._read(places) if isinstance(places, int) else list(map(self._read, places))


def unstacked(tree: Tree) -> list[Tree]:
    """Splits a tree of arrays along the leading axis into a list of trees."""
    return [jax.tree.map(itemgetter(i), tree) for i in range(len(jax.tree.leaves(tree)[0]))]


def stacked(trees: Sequence[Tree]) -> Tree:
    """Stacks trees of arrays along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
