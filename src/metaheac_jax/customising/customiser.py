"""Customising: a separate model for each new campaign (paper section 3.3).

Adapting starts with a fresh Adam, so rows that the campaign's examples never touch keep their
general values. A customised model consists of the network's parameters and the touched rows.

Axes: G campaigns adapted together, n examples of a campaign, B examples of a minibatch, S slots of
a user, N campaign fields, U rows of a campaign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metaheac_jax.backend import campaigns_at_once as fastest_group
from metaheac_jax.customising.early_stopping import EarlyStopping, hold_out
from metaheac_jax.customising.group import Models, build_group_steps, unstack
from metaheac_jax.customising.minibatches import (
    GrowingSize,
    localise,
    stack_minibatches,
    usual_size,
)
from metaheac_jax.data.batches import Batch, check_batch, generator
from metaheac_jax.errors import Diverged, check_whole
from metaheac_jax.model import AdaptedWeights, Watch, Weights
from metaheac_jax.networks.base import Network
from metaheac_jax.progress import Progress, silent
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.rows import RowIndex, rows_of
from metaheac_jax.threads import in_threads

_MAX_TOGETHER = 8  # campaigns adapted together on an accelerator
_HELD_OUT = 0.1  # fraction of the seeds, and of the non-seeds, that decide when to stop

#: Positions among the examples of each of the G campaigns.
Picks = Sequence[np.ndarray]


class Customiser:
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

        Raises:
          InputError: the batch size or number of campaigns is not a whole number of 1 or more.
        """
        check_whole("batch_size", batch_size, 1)
        self._layout, self._batch_size = layout, batch_size
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

    def __call__(
        self,
        weights: Weights,
        campaigns: Sequence[Batch],
        *,
        seed: int = 0,
        learning_rate: float = 1e-3,
        epochs: int = 2,
        patience: int | None = None,
        names: Sequence[str] | None = None,
        progress: Progress = silent,
        watch: Watch[AdaptedWeights] | None = None,
    ) -> list[AdaptedWeights]:
        """Adapts the general weights to each campaign.

        Args:
          weights: the general weights; unchanged.
          campaigns: examples D_c per campaign: leaves (n, ...), ids are table rows, all weights 1.
          seed: random seed of held-out examples and minibatches. Each campaign draws from a
            generator of its own, so its weights do not depend on the others, but for rounding.
          learning_rate: learning rate of Adam, which starts afresh for each campaign.
          epochs: passes over the examples; with ``patience``, the maximum.
          patience: None runs all epochs, as the authors' program does. With a number, a
            tenth of the seeds and of the non-seeds (at least one of each) is held out, the model
            with the lowest held-out loss is kept, and adapting stops after that many epochs without
            a lower one (the paper: "until the loss converges"). The general model counts too: a
            campaign with a single seed or non-seed keeps it.
          names: names of the campaigns, for messages.
          progress: receives the number of campaigns done.
          watch: called before the first step and after every step; the largest campaigns come
            first, G at a time.

        Returns:
          The adapted weights of each campaign, in the order given.

        Raises:
          InputError: ``epochs`` or ``patience`` is out of range, or a campaign has no examples, or
            invalid ones; see `batches.check_batch`.
          Diverged: a campaign's weights are not finite and, with ``patience``, no earlier epoch was
            better than the general model.
        """
        check_whole("epochs", epochs, 0)
        if patience is not None:
            check_whole("patience", patience, 1)
        num_rows = weights.table.shape[0]
        if names is None:
            names = [f"campaign {c} of {len(campaigns)}" for c in range(len(campaigns))]
        for name, batch in zip(names, campaigns, strict=True):
            check_batch(batch, self._layout, num_rows, name)
        if self._everywhere is not None:
            weights = Weights(*jax.device_put(tuple(weights), self._everywhere))
        index = self._layout.row_index(num_rows)
        touched = self._touched(index, campaigns, seed)
        # One size for all campaigns: the cost of a step does not depend on it.
        size = self._campaign_rows.holding(max(map(len, touched), default=0))

        def adapt(group: list[int]) -> list[AdaptedWeights]:
            members, table_rows = [], []
            for c in group:
                batch = campaigns[c]
                own, ids = index.renumber(touched[c], size, batch.ids)
                members.append(batch._replace(ids=ids))
                table_rows.append(own)
            adapted = run_epochs(
                _Group(self, weights, members, table_rows, float(learning_rate)),
                [member.label for member in members],
                [generator(seed, 0) for _ in group],
                batch_size=self._batch_size,
                epochs=epochs,
                patience=patience,
                watch=watch,
                names=[names[c] for c in group],
            )
            return [_cut(own, len(touched[c])) for c, own in zip(group, adapted, strict=True)]

        return adapt_groups(
            adapt,
            campaigns,
            group_size=self._group_size,
            in_turn=self._group_size > 1 or watch is not None,
            progress=progress,
        )

    def _touched(self, index: RowIndex, campaigns: Sequence[Batch], seed: int) -> list[np.ndarray]:
        """The table rows of each campaign; also makes room for those of a minibatch.

        Without room before the first step, a later campaign might compile another step.
        """
        touched = []
        for batch in campaigns:
            touched.append(index.distinct(batch.ids))
            order = generator(seed, 0).permutation(len(batch.label))
            some = batch.pick(order[: self._batch_size])
            self._minibatch_rows.holding(len(index.distinct(some.ids)))
        return touched


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
    """Up to G campaigns that are being adapted: their networks, rows and optimisers."""

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
        """Adapts with one minibatch per campaign: at most B examples, none if it is done."""
        batch = self._stack(picks, self._stage._batch_size)
        rows, local = localise(self._index, batch, self._stage._minibatch_rows)
        self._state = self._stage._steps.adapt(self._state, rows, local, self._rate)

    def models(self) -> Models:
        """The current models, stacked."""
        return self._stage._steps.current(self._state, self._rate)

    def summed_losses(self, models: Models, picks: Picks) -> np.ndarray:
        """(G,) losses of the models, summed over the picked examples of each campaign."""
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


def run_epochs(
    group: _Group,
    labels: Sequence[np.ndarray],
    rngs: Sequence[np.random.Generator],
    *,
    batch_size: int,
    epochs: int,
    patience: int | None,
    watch: Watch[AdaptedWeights] | None,
    names: Sequence[str],
) -> list[AdaptedWeights]:
    """Adapts campaigns for some epochs, or until their held-out losses stop falling.

    If weights become infinite or NaN, early stopping keeps the best finite model.

    Args:
      group: the campaigns.
      labels: (n,) labels of each campaign.
      rngs: one generator per campaign, for its held-out examples and the order of its minibatches.
      batch_size: B.
      epochs, patience, watch: see `Customiser.__call__`.
      names: names of the campaigns, for messages.

    Raises:
      Diverged: weights are not finite, and no earlier epoch was better than the start.
    """
    fraction = 0.0 if patience is None else _HELD_OUT
    split = [hold_out(label, fraction, rng) for label, rng in zip(labels, rngs, strict=True)]
    fit, held = zip(*split, strict=True)
    stopping = None
    if patience is not None:
        models = group.models()
        stopping = EarlyStopping(
            models,
            group.summed_losses(models, held),
            patience=patience,
            select=group.select,
        )
    number, diverged = 0, dict[int, int]()  # position of a campaign -> steps until then
    if watch is not None:
        watch(number, lambda: group.adapted(group.models()))
    for _ in range(epochs):
        going = np.ones(len(labels), bool) if stopping is None else stopping.going
        orders = [
            rng.permutation(pick) if go else pick[:0]
            for rng, pick, go in zip(rngs, fit, going, strict=False)
        ]
        for picks in minibatches(orders, batch_size):
            group.step(picks)
            number += 1
            if watch is not None:
                watch(number, lambda: group.adapted(group.models()))
        models = group.models()
        finite = np.array(jax.device_get(list(map(_finite, group.adapted(models)))))
        for place in np.flatnonzero(~finite).tolist():
            diverged.setdefault(place, number)
        if stopping is not None:
            losses = group.summed_losses(models, held)
            losses[: len(finite)][~finite] = np.inf
            stopping.update(models, losses)
            if not stopping.going.any():
                break
    for place, steps in diverged.items():
        if stopping is None or not stopping.improved[place]:
            raise Diverged(
                f"{names[place]}: the adapted weights are not finite after step {steps}; lower the "
                "online learning rate"
            )
    return group.adapted(group.models() if stopping is None else stopping.best)


@jax.jit
def _finite(adapted: AdaptedWeights) -> jax.Array:
    """Whether all weights are finite."""
    leaves = jax.tree.leaves((adapted.network, adapted.values))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def minibatches(picks: Picks, length: int) -> Iterator[Picks]:
    """Yields the picked examples of each campaign, ``length`` at a time, until none are left."""
    for number in range(math.ceil(max(map(len, picks)) / length)):
        yield [pick[number * length : (number + 1) * length] for pick in picks]


def adapt_groups(
    adapt: Callable[[list[int]], list[AdaptedWeights]],
    campaigns: Sequence[Batch],
    *,
    group_size: int,
    in_turn: bool,
    progress: Progress,
) -> list[AdaptedWeights]:
    """Adapts all campaigns, the largest first.

    Args:
      adapt: adapts a group of campaigns, by position.
      campaigns: examples of each campaign.
      group_size: G.
      in_turn: whether groups are adapted one after another; otherwise two are adapted at a time.
      progress: receives the number of campaigns done.
    """
    sizes = [len(batch.label) for batch in campaigns]
    by_size = sorted(range(len(sizes)), key=lambda c: -sizes[c])
    groups = [by_size[first : first + group_size] for first in range(0, len(by_size), group_size)]
    results: dict[int, AdaptedWeights] = {}
    progress("customise", 0, len(sizes))
    adapted = (
        (adapt(group) for group in groups) if in_turn else in_threads(adapt, groups, num_threads=2)
    )
    with closing(adapted):  # if this fails, waiting groups are not started
        for group, models in zip(groups, adapted, strict=True):
            results |= zip(group, models, strict=True)
            progress("customise", len(results), len(sizes))
    return [results[c] for c in range(len(sizes))]
