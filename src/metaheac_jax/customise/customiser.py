"""Customising: a separate model for each new campaign (paper section 3.3).

Adapting starts with a fresh Adam, so rows that the campaign's examples never touch keep their
general values. A customised model consists of the network's parameters and the touched rows.

Axes: G campaigns adapted together, n examples of a campaign, B examples of a minibatch, S slots of
a user, N campaign fields, U rows of a campaign.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metaheac_jax.backend import campaigns_at_once as fastest_group
from metaheac_jax.customise.group import Models, build_group_steps, unstack
from metaheac_jax.customise.host_table import on_host, rows_of
from metaheac_jax.customise.minibatches import (
    GrowingSize,
    localise,
    stack_minibatches,
    usual_size,
)
from metaheac_jax.customise.online_stage import (
    OnlineOptions,
    OnlineStage,
    Picks,
    adapt_groups,
    minibatches,
    run_epochs,
)
from metaheac_jax.data.batches import Batch, generator
from metaheac_jax.errors import check_whole
from metaheac_jax.model import AdaptedWeights, Weights
from metaheac_jax.networks.base import Network
from metaheac_jax.progress import Progress
from metaheac_jax.table.layout import Layout

_MAX_TOGETHER = 8  # campaigns adapted together on an accelerator


class Customiser(OnlineStage):
    """Adapts the whole network and the rows that a campaign touches.

    The sizes of tables never shrink, so a campaign that touches fewer rows than an earlier one
    compiles nothing.
    """

    def __init__(
        self,
        network: Network,
        layout: Layout,
        *,
        batch_size: int = 512,
        campaigns_at_once: int | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """Args:
        network: a network with the interface `networks.base.Network`.
        layout: layout of the ids in the examples.
        batch_size: B; examples are shuffled again in every epoch.
        campaigns_at_once: number of campaigns that each device adapts together. None takes what is
          fastest on this backend: one on a CPU, where two campaigns are then adapted at a time,
          each in a thread.
        mesh: mesh of one axis, whose devices divide the campaigns.
        """
        super().__init__(layout, batch_size)
        if campaigns_at_once is None:
            campaigns_at_once = fastest_group(_MAX_TOGETHER)
        check_whole("campaigns_at_once", campaigns_at_once, 1)
        self._group_size = campaigns_at_once
        self._everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        self._group_size *= 1 if mesh is None else mesh.size
        self._steps = build_group_steps(
            network, layout, campaigns_at_once=self._group_size, mesh=mesh
        )
        self._campaign_rows, self._minibatch_rows = GrowingSize(4096), GrowingSize(1024)

    def _customise(
        self,
        weights: Weights,
        campaigns: Sequence[Batch],
        names: Sequence[str],
        seed: int,
        options: OnlineOptions,
        progress: Progress,
    ) -> list[AdaptedWeights]:
        if self._everywhere is not None:
            network, table = weights
            table = table if on_host(table) else jax.device_put(table, self._everywhere)
            weights = Weights(jax.device_put(network, self._everywhere), table)
        index = self._layout.row_index(weights.table.shape[0])
        touched = []
        for batch in campaigns:
            touched.append(index.distinct(batch.ids))
            # Set the size before the first step, or a later campaign might compile another step.
            order = generator(seed, 0).permutation(len(batch.label))
            some = batch.pick(order[: self._batch_size])
            self._minibatch_rows.holding(len(index.distinct(some.ids)))
        # One size for all campaigns: the cost of a step does not depend on it.
        size = self._campaign_rows.holding(max(map(len, touched), default=0))

        def adapt(group: list[int]) -> list[AdaptedWeights]:
            members, table_rows = [], []
            for c in group:
                batch = campaigns[c]
                own, ids = index.renumber(touched[c], size, batch.ids)
                members.append(batch._replace(ids=ids))
                table_rows.append(own)
            rngs = [generator(seed, 0) for _ in group]
            adaptation = _Group(self, weights, members, table_rows, options.learning_rate)
            labels = [member.label for member in members]
            told, batch_size = [names[c] for c in group], self._batch_size
            adapted = run_epochs(
                adaptation, labels, rngs, options, batch_size=batch_size, names=told
            )
            return [_cut(own, len(touched[c])) for c, own in zip(group, adapted, strict=True)]

        return adapt_groups(
            adapt,
            campaigns,
            options,
            group_size=self._group_size,
            in_turn=self._group_size > 1 or options.watch is not None,
            progress=progress,
        )


def _cut(adapted: AdaptedWeights, num_rows: int) -> AdaptedWeights:
    """Adapted weights without most of the padding, which comes after the campaign's own rows.

    The host cuts them, which compiles nothing.
    """
    size = usual_size(num_rows)
    if size >= len(adapted.rows):
        return adapted
    values = np.array(jax.device_get(adapted.values)[:size])  # a copy, which frees the rest
    if isinstance(adapted.values, jax.Array):
        values = jax.device_put(values)
    return adapted._replace(rows=adapted.rows[:size], values=values)


class _Group:
    """Up to G campaigns that are being adapted: an `Adaptation` of networks and their rows."""

    def __init__(
        self,
        stage: Customiser,
        weights: Weights,
        members: Sequence[Batch],
        table_rows: Sequence[np.ndarray],
        learning_rate: float,
    ) -> None:
        """Args:
        stage: has the jitted steps and the sizes.
        weights: the general weights.
        members: the campaigns' examples, with ids that point into their table rows.
        table_rows: (U,) table rows of each campaign.
        learning_rate: rate of both optimisers.
        """
        self._stage, self._members, self._table_rows = stage, members, table_rows
        self._num_idle, self._rate = stage._group_size - len(members), learning_rate
        size = len(table_rows[0])
        idle = [np.full(size, weights.table.shape[0], np.int32)] * self._num_idle
        rows = rows_of(weights.table, np.stack([*table_rows, *idle]))
        self._state = stage._steps.start(weights.network, rows)
        self._index = stage._layout.row_index(size)
        self.select = stage._steps.select

    def step(self, picks: Picks) -> None:
        batch = self._stack(picks, self._stage._batch_size)
        rows, local = localise(self._index, batch, self._stage._minibatch_rows)
        self._state = self._stage._steps.adapt(self._state, rows, local, self._rate)

    def models(self) -> Models:
        return self._stage._steps.current(self._state, self._rate)

    def summed_losses(self, models: Models, picks: Picks) -> np.ndarray:
        # Few examples are held out, so small batches waste less.
        length = -(-self._stage._batch_size // 4)
        batches = (self._stack(some, length) for some in minibatches(picks, length))
        losses = [self._stage._steps.summed_losses(models, batch) for batch in batches]
        return sum(jax.device_get(losses), np.zeros(len(picks) + self._num_idle, np.float32))

    def adapted(self, models: Models) -> list[AdaptedWeights]:
        """The adapted weights of each campaign; idle places are left out."""
        if self._stage._everywhere is not None:  # so that they end up where the general weights are
            models = jax.device_get(models)
        return [
            AdaptedWeights(model["network"], own, model["table"])
            for own, model in zip(self._table_rows, unstack(models), strict=False)
        ]

    def _stack(self, picks: Picks, length: int) -> Batch:
        return stack_minibatches(
            self._members, picks, length, self._num_idle, len(self._table_rows[0])
        )
