"""Customising: a model of its own for each new campaign (paper section 3.3).

Adapting starts from a fresh Adam, so rows that the campaign's examples never touch keep their
general values: a customised model is the network's parameters and the touched rows.

Axes: G campaigns adapted together, n examples of a campaign, B examples of a minibatch, S slots of
a user, N campaign fields, U rows of a campaign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from metaheac_jax.backend import campaigns_at_once as fastest_group
from metaheac_jax.customise.early_stopping import EarlyStopping, hold_out
from metaheac_jax.customise.group import Models, build_group_steps, unstack
from metaheac_jax.customise.minibatches import GrowingSize, localise, stack_minibatches
from metaheac_jax.data.batches import Batch, check_batch, generator
from metaheac_jax.model import AdaptedWeights, Watch, Weights
from metaheac_jax.networks.base import Network
from metaheac_jax.progress import Progress, silent
from metaheac_jax.table.layout import Layout

A = TypeVar("A")
B = TypeVar("B")

_MAX_TOGETHER = 8  # campaigns adapted together on an accelerator


class _Online(NamedTuple):
    """The settings of one online stage; see `Customiser.__call__`."""

    seed: int
    learning_rate: float
    epochs: int
    patience: int | None
    holdout: float
    watch: Watch[AdaptedWeights] | None


class Customiser:
    """Adapts general weights to campaigns; build it once and use it for every campaign.

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
    ) -> None:
        """Args:
        network: any of the networks here.
        layout: of the ids in the examples.
        batch_size: B; examples are shuffled again in every epoch.
        campaigns_at_once: G, vmapped together. None takes what is fastest on this backend: one on a
          CPU, where two campaigns are then under way at a time, each in a thread.
        """
        self._layout, self._batch_size = layout, batch_size
        self._group_size = campaigns_at_once or fastest_group(_MAX_TOGETHER)
        self._steps = build_group_steps(network, layout, campaigns_at_once=self._group_size)
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
        holdout: float = 0.1,
        progress: Progress = silent,
        watch: Watch[AdaptedWeights] | None = None,
    ) -> list[AdaptedWeights]:
        """Adapts the general weights to each campaign.

        Args:
          weights: the general weights; unchanged.
          campaigns: D_c of each: leaves (n, ...), ids are table rows, all weights 1.
          seed: with a campaign's position in the list, decides its held-out examples and the order
            of its minibatches.
          learning_rate: of the Adam that adapts network and rows; it starts afresh.
          epochs: passes over the examples; with ``patience``, the maximum.
          patience: None runs all epochs (the authors' program). A number holds out a part of the
            examples, keeps the model with the least held-out loss, and stops after that many epochs
            without a lower one ("until the loss converges", the paper). The general model counts: a
            campaign with a single seed or non-seed keeps it.
          holdout: the fraction of seeds, and of non-seeds, held out if ``patience`` is given; at
            least one of each.
          progress: receives the number of campaigns done.
          watch: called before the first step and after every step; the largest campaigns come
            first, G at a time.

        Returns:
          The adapted weights of each campaign, in the order given.

        Raises:
          InputError: a campaign has no examples, lengths differ, an id is outside the table, or a
            label is not 0 or 1.
        """
        num_rows = weights.table.shape[0]
        for number, batch in enumerate(campaigns):
            check_batch(batch, self._layout, num_rows, f"campaign {number} of {len(campaigns)}")
        online = _Online(seed, float(learning_rate), epochs, patience, holdout, watch)
        index = self._layout.row_index(num_rows)
        touched = [index.distinct(batch.ids) for batch in campaigns]
        # One size for all: the cost of a step does not depend on it.
        size = self._campaign_rows.holding(max(map(len, touched), default=0))
        # Before the first step, or a later campaign might compile a step of its own.
        for c, batch in enumerate(campaigns):
            some = generator(seed, c).permutation(len(batch.label))[: self._batch_size]
            self._minibatch_rows.holding(len(index.distinct(batch.pick(some).ids)))
        by_size = sorted(range(len(campaigns)), key=lambda c: -len(campaigns[c].label))
        groups = [
            by_size[first : first + self._group_size]
            for first in range(0, len(campaigns), self._group_size)
        ]
        lock = Lock()

        def adapt(group: list[int]) -> list[AdaptedWeights]:
            members, table_rows = [], []
            for c in group:
                with lock:  # `index` is scratch memory
                    own, ids = index.renumber(touched[c], size, campaigns[c].ids)
                members.append(campaigns[c]._replace(ids=ids))
                table_rows.append(own)
            rngs = [generator(seed, c) for c in group]
            return self._adapt_group(weights, members, table_rows, rngs, online)

        results: dict[int, AdaptedWeights] = {}
        progress("customise", 0, len(campaigns))
        one_by_one = self._group_size > 1 or watch is not None
        adapted = map(adapt, groups) if one_by_one else _two_at_a_time(adapt, groups)
        for group, models in zip(groups, adapted, strict=True):
            results |= zip(group, models, strict=True)
            progress("customise", len(results), len(campaigns))
        return [results[c] for c in range(len(campaigns))]

    def _adapt_group(
        self,
        weights: Weights,
        members: Sequence[Batch],
        table_rows: Sequence[np.ndarray],
        rngs: Sequence[np.random.Generator],
        online: _Online,
    ) -> list[AdaptedWeights]:
        """Adapts up to G campaigns together; ids of the members point into their table rows."""
        rate, watch, steps = online.learning_rate, online.watch, self._steps
        size = len(table_rows[0])
        index = self._layout.row_index(size)
        num_idle = self._group_size - len(members)
        idle = [np.full(size, weights.table.shape[0], np.int32)] * num_idle
        fraction = 0.0 if online.patience is None else online.holdout
        split = [hold_out(m.label, fraction, rng) for m, rng in zip(members, rngs, strict=True)]
        fit, held = zip(*split, strict=True)

        def held_out_losses(models: Models) -> np.ndarray:
            length = -(-self._batch_size // 4)  # a tenth is held out, so small batches waste little
            batches = self._minibatches(members, held, length, num_idle, size)
            losses = [steps.summed_losses(models, batch) for batch in batches]
            return sum(jax.device_get(losses), np.zeros(self._group_size, np.float32))

        state = steps.start(weights, np.stack([*table_rows, *idle]))
        stopping = None
        if online.patience is not None:
            models = steps.current(state, rate)
            losses = held_out_losses(models)
            stopping = EarlyStopping(models, losses, patience=online.patience, select=steps.select)
        number = 0
        if watch is not None:
            watch(0, lambda: _adapted(steps.current(state, rate), table_rows))
        for _ in range(online.epochs):
            going = np.ones(len(members), bool) if stopping is None else stopping.going
            orders = [
                rng.permutation(pick) if go else pick[:0]
                for rng, pick, go in zip(rngs, fit, going, strict=False)
            ]
            for batch in self._minibatches(members, orders, self._batch_size, num_idle, size):
                rows, local = localise(index, batch, self._minibatch_rows)
                state = steps.adapt(state, rows, local, rate)
                number += 1
                if watch is not None:
                    watch(number, lambda s=state: _adapted(steps.current(s, rate), table_rows))
            if stopping is not None:
                models = steps.current(state, rate)
                stopping.update(models, held_out_losses(models))
                if not stopping.going.any():
                    break
        best = steps.current(state, rate) if stopping is None else stopping.best
        return _adapted(best, table_rows)

    @staticmethod
    def _minibatches(
        members: Sequence[Batch],
        picks: Sequence[np.ndarray],
        length: int,
        num_idle: int,
        pad: int,
    ) -> Iterator[Batch]:
        """The members' picked examples, ``length`` at a time."""
        for number in range(math.ceil(max(map(len, picks)) / length)):
            parts = [pick[number * length : (number + 1) * length] for pick in picks]
            yield stack_minibatches(members, parts, length, num_idle, pad)


def _adapted(models: Models, table_rows: Sequence[np.ndarray]) -> list[AdaptedWeights]:
    """The weights of each member from stacked models; idle places are left out."""
    return [
        AdaptedWeights(model["network"], own, model["table"])
        for own, model in zip(table_rows, unstack(models), strict=False)
    ]


def _two_at_a_time(function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    """As `map`, in two threads: while one waits, the other's products use a CPU's cores."""
    names = "jax_enable_x64", "jax_default_matmul_precision", "jax_default_device"
    x64, precision, device = (getattr(jax.config, name) for name in names)

    def call(item: A) -> B:
        # A thread does not inherit what its caller has set for a ``with`` block.
        with (
            jax.enable_x64(x64),
            jax.default_matmul_precision(precision),
            jax.default_device(device),
        ):
            return function(item)

    with ThreadPoolExecutor(2, "customise") as threads:
        yield from threads.map(call, items)
