"""The online stage: a customised model for a new campaign, scores of a pool (paper section 3.3).

Adapting starts from a fresh Adam, so rows that the campaign's examples never touch keep their
general values: a customised model is the network's parameters and *those* rows.

Axes: G campaigns adapted at once, n examples of a campaign, B examples of a minibatch, S slots of a
user, N campaign fields, U rows of a campaign and U' of a minibatch, P users of a pool, R rows of
the table, k its width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter
from threading import Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from metaheac_jax.data.sampling import generator
from metaheac_jax.fields import user_fields
from metaheac_jax.losses import Batch, Loss, build_loss
from metaheac_jax.network import Network
from metaheac_jax.offline import General, plain_gradient
from metaheac_jax.progress import Progress, silent
from metaheac_jax.rows import RowIndex, RowState, RowStep, TableState, build_row_step, table_adam


class Customised(NamedTuple):
    """A campaign's own model: what differs from the general one.

    Attributes:
      network: parameters of the network.
      rows: (U,) table rows that adapting has touched; R for padding.
      values: (U, k) their embeddings.
    """

    network: Any
    rows: np.ndarray
    values: Array


#: Called as ``watch(step, models)`` before the first step and after every one; ``models()`` gives
#: the models as they are.
Watch = Callable[[int, Callable[[], list[Customised]]], None]


def build_customise(
    network: Network,
    user_slots: Sequence[int],
    *,
    small_fields: tuple[int, ...] = (),
    rows: int = 512,
    campaigns_at_once: int = 1,
    build_loss: Callable[..., Loss] = build_loss,
) -> Callable[..., list[Customised]]:
    """Builds ``customise``, jitted; build it once and use it for every campaign.

    Tables never shrink: a campaign that touches fewer rows than one before compiles nothing.

    Args:
      network: any of the networks here.
      user_slots: slots of each user field.
      small_fields: as `fields.user_fields` takes it.
      rows: B; examples are shuffled again in every epoch.
      campaigns_at_once: G, vmapped together; one is fastest on a CPU, and then two campaigns are
        under way at a time, each in a thread with steps of its own.
      build_loss: builds a loss from arguments like those of `losses.build_loss`.
    """
    losses = partial(build_loss, network.apply, tuple(user_slots), small_fields=small_fields)
    loss, summed_loss = losses(), losses(reduction="sum")

    def row(rate: Any) -> RowStep:
        return build_row_step(plain_gradient(loss), optax.adam(rate), table_adam(rate))

    def start(general: General, rows: Array) -> RowState:
        return row(0).init(general.network, general.table.at[rows].get(mode="fill", fill_value=0))

    def step_alone(state: RowState, rows: Array, batch: Batch, rate: Array) -> RowState:
        # As `step`, but vmapped products are slower even over one campaign, and one that waits for
        # no other gets no empty batch: 15.2 ms for 16.4 at the official size on a CPU.
        new, _ = row(rate).step(*jax.tree.map(lambda leaf: leaf[0], (state, rows, batch)))
        return jax.tree.map(lambda leaf: leaf[None], new)

    def step(state: RowState, rows: Array, batch: Batch, rate: Array) -> RowState:
        # A campaign that is through gets empty batches, and nothing of it may move. Of its table no
        # row does: all are made padding then, which a scatter drops.
        keep = lambda a, b: jnp.where(batch.weight.any(), a, b)  # noqa: E731
        new, _ = row(rate).step(state, keep(rows, len(state.table.table)), batch)
        return RowState(
            jax.tree.map(keep, new.network, state.network),
            jax.tree.map(keep, new.opt_state, state.opt_state),
            new.table._replace(count=keep(new.table.count, state.table.count)),
        )

    def current(state: RowState, rate: Array) -> dict[str, Any]:
        return {"network": state.network, "table": table_adam(rate).flush(state.table).table}

    def select(better: Array, new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)

    starts = jax.jit(jax.vmap(start, (None, 0)))
    together = jax.vmap(step, (0, 0, 0, None)) if campaigns_at_once > 1 else step_alone

    # Only the table is donated: to write the network's moments in place, XLA would copy them first.
    @partial(jax.jit, donate_argnums=2)
    def steps(network: Any, opt_state: Any, table: TableState, *rest: Any) -> RowState:
        return together(RowState(network, opt_state, table), *rest)

    currents = jax.jit(jax.vmap(current, (0, None)))
    summed_losses = jax.jit(jax.vmap(summed_loss))
    selects = jax.jit(jax.vmap(select), donate_argnums=2)
    campaign_room, minibatch_room = _Room(4096), _Room(1024)

    def adapt(
        general: General,
        members: Sequence[Batch],
        table_rows: Sequence[np.ndarray],
        rngs: Sequence[np.random.Generator],
        *,
        rate: float,
        epochs: int,
        patience: int | None,
        holdout: float,
        watch: Watch | None,
    ) -> list[Customised]:
        """Adapts up to G campaigns at once; ids of the members point into their table rows."""
        size = len(table_rows[0])
        index = RowIndex(size, sum(small_fields))
        idle = campaigns_at_once - len(members)  # places without a campaign stay empty
        nothing = np.full(size, general.table.shape[0], np.int32)
        share = 0.0 if patience is None else holdout
        split = [_hold_out(m.label, share, rng) for m, rng in zip(members, rngs, strict=True)]
        fit, held = zip(*split, strict=True)

        def minibatch(picks: Sequence[np.ndarray], length: int, number: int) -> Batch:
            parts = [pick[number * length : (number + 1) * length] for pick in picks]
            return _stack(members, parts, length, idle, size)

        def batches(picks: Sequence[np.ndarray], length: int) -> range:
            return range(math.ceil(max(map(len, picks)) / length))

        def held_out(models: dict[str, Any]) -> np.ndarray:
            few = -(-rows // 4)  # a tenth is held out: little is computed for nothing
            numbers = batches(held, few)
            losses = [summed_losses(models, minibatch(held, few, i)) for i in numbers]
            start = np.zeros(campaigns_at_once, np.float32)
            return sum(jax.device_get(losses), start)  # waits once, for all

        state = starts(general, np.stack([*table_rows, *[nothing] * idle]))
        best: Any = None
        least: Any = None
        if patience is not None:
            best = currents(state, rate)
            least = held_out(best)
        worse = np.zeros(campaigns_at_once, int)
        number = 0
        if watch is not None:
            watch(0, lambda: _unstack(currents(state, rate), table_rows))
        for _ in range(epochs):
            orders = [
                rng.permutation(pick) if patience is None or worse[g] < patience else pick[:0]
                for g, (rng, pick) in enumerate(zip(rngs, fit, strict=True))
            ]
            for i in batches(orders, rows):
                own, batch = _localise(index, minibatch(orders, rows, i), minibatch_room)
                state = steps(*state, own, batch, rate)
                number += 1
                if watch is not None:
                    watch(number, lambda state=state: _unstack(currents(state, rate), table_rows))
            if patience is not None:
                models = currents(state, rate)
                now = held_out(models)
                best = selects(now < least, models, best)
                worse = np.where(now < least, 0, worse + 1)
                least = np.minimum(now, least)
                if (worse >= patience).all():
                    break
        return _unstack(currents(state, rate) if patience is None else best, table_rows)

    def customise(
        general: General,
        campaigns: Sequence[Batch],
        *,
        seed: int = 0,
        learning_rate: float = 1e-3,
        epochs: int = 2,
        patience: int | None = None,
        holdout: float = 0.1,
        progress: Progress = silent,
        watch: Watch | None = None,
    ) -> list[Customised]:
        """Adapts the general model to each campaign.

        Args:
          general: the general model; unchanged.
          campaigns: D_c of each: leaves (n, ...), ids are table rows, all weights 1.
          seed: with a campaign's place in the list, decides its held-out examples and their order.
          learning_rate: of the Adam that adapts network and rows; it starts afresh.
          epochs: passes over the examples; the most, if ``patience`` is given.
          patience: None runs all epochs (the authors' program). A number holds out a part of the
            examples, keeps the model with the least held-out loss (the general model included: a
            campaign with a single seed or non-seed keeps it), and stops after that many epochs
            without a lower one ("until the loss converges", the paper).
          holdout: the share of seeds, and of non-seeds, held out if ``patience`` is given; one at
            least of both.
          progress: told the campaigns done.
          watch: for curves over the steps; sees the largest campaigns first, G at a time.

        Returns:
          A customised model for each campaign, in the order given.
        """
        index = RowIndex(general.table.shape[0], sum(small_fields))
        found = [index.distinct(batch.user, batch.campaign) for batch in campaigns]
        # One size for all: what a step costs does not depend on it.
        size = campaign_room.for_rows(max(map(len, found)))
        for c, batch in enumerate(campaigns):  # or a later campaign might compile a step of its own
            some = generator(seed, c).permutation(len(batch.label))[:rows]
            minibatch_room.for_rows(len(index.distinct(batch.user[some], batch.campaign)))
        by_size = sorted(range(len(campaigns)), key=lambda c: -len(campaigns[c].label))
        groups = [
            by_size[first : first + campaigns_at_once]
            for first in range(0, len(campaigns), campaigns_at_once)
        ]
        lock = Lock()

        def adapt_group(group: Sequence[int]) -> list[Customised]:
            members, table_rows = [], []
            for c in group:
                ids = campaigns[c].user, campaigns[c].campaign
                with lock:  # `index` is scratch memory
                    own, (user, campaign) = index.renumber(found[c], size, *ids)
                members.append(campaigns[c]._replace(user=user, campaign=campaign))
                table_rows.append(own)
            return adapt(
                general,
                members,
                table_rows,
                [generator(seed, c) for c in group],
                rate=float(learning_rate),
                epochs=epochs,
                patience=patience,
                holdout=holdout,
                watch=watch,
            )

        results: dict[int, Customised] = {}
        progress("customise", 0, len(campaigns))
        one_by_one = campaigns_at_once > 1 or watch is not None
        adapted = map(adapt_group, groups) if one_by_one else _two_at_a_time(adapt_group, groups)
        for group, models in zip(groups, adapted, strict=True):
            results |= zip(group, models, strict=True)
            progress("customise", len(results), len(campaigns))
        return [results[c] for c in range(len(campaigns))]

    return customise


def build_score(
    network: Network,
    user_slots: Sequence[int],
    *,
    small_fields: tuple[int, ...] = (),
    chunk: int = 1024,
) -> Callable[..., np.ndarray]:
    """Builds ``score``, jitted; build it once and use it for every model.

    Args:
      network: the models' network.
      user_slots: slots of each user field.
      small_fields: as `fields.user_fields` takes it.
      chunk: users scored at once; a thousand fit the caches of a CPU, an accelerator takes more.
    """

    @jax.jit
    def overlay(table: Array, rows: Array, values: Array) -> Array:
        return table.at[rows].set(values, mode="drop")

    @jax.jit
    def score_chunk(params: Any, table: Array, user: Array, campaign: Array) -> Array:
        fields = table.at[campaign].get(mode="fill", fill_value=0)
        users = user_fields(table, user, tuple(user_slots), small_fields=small_fields)
        output = network.apply(params, users, fields)
        return output.log_p - output.log_not_p

    def score(
        general: General,
        customised: Customised | None,
        campaign: np.ndarray,
        users: np.ndarray,
        *,
        progress: Progress = silent,
    ) -> np.ndarray:
        """Log-odds that each user of a pool converts.

        Args:
          general: the general model.
          customised: the campaign's own model; None scores with the general one.
          campaign: (N,) table rows of the campaign.
          users: (P, S) table rows of the users, read a chunk at a time (a memory map will do).
          progress: told the users done.

        Returns:
          (P,) float32.
        """
        params, table = general
        if customised is not None:
            params = customised.network
            table = overlay(table, customised.rows, customised.values)
        scores = []
        for first in range(0, len(users), chunk):
            part = np.asarray(users[first : first + chunk])
            pad = ((0, chunk - len(part)), (0, 0))
            part = np.pad(part, pad, constant_values=table.shape[0])
            scores.append(score_chunk(params, table, part, campaign))
            progress("score", min(first + chunk, len(users)), len(users))
        return np.concatenate(scores)[: len(users)] if scores else np.empty(0, np.float32)

    return score


def _two_at_a_time(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """As `map`, in two threads: while one waits, the other's products fill a CPU's cores."""
    names = "jax_enable_x64", "jax_default_matmul_precision", "jax_default_device"
    x64, precision, device = (getattr(jax.config, name) for name in names)

    def call(item: Any) -> Any:
        # A thread does not inherit what its caller has set for a ``with`` block.
        with (
            jax.enable_x64(x64),
            jax.default_matmul_precision(precision),
            jax.default_device(device),
        ):
            return function(item)

    with ThreadPoolExecutor(2, "customise") as threads:
        yield from threads.map(call, items)


def _hold_out(
    label: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to fit and positions held out: the share of each class, one at least of both.

    Without a seed among them, what says no most loudly would have the least held-out loss. So if a
    class has a single example, nothing is held out.
    """
    classes = [np.flatnonzero(label == kind) for kind in (0, 1)]
    if not share or min(map(len, classes)) < 2:
        return np.arange(len(label)), np.empty(0, int)
    held = [rng.permutation(of)[: max(1, int(share * len(of)))] for of in classes]
    out = np.concatenate(held)
    return np.setdiff1d(np.arange(len(label)), out), out


def _stack(
    members: Sequence[Batch], picks: Sequence[np.ndarray], rows: int, idle: int, pad: int
) -> Batch:
    """Picked examples of each member as one batch (G, B, ...), padded with weight 0."""
    places = len(members) + idle
    user = np.full((places, rows, members[0].user.shape[1]), pad, np.int32)
    campaign = np.full((places, len(members[0].campaign)), pad, np.int32)
    label, weight = np.zeros((2, places, rows), np.float32)
    for place, (member, pick) in enumerate(zip(members, picks, strict=True)):
        user[place, : len(pick)] = member.user[pick]
        label[place, : len(pick)] = member.label[pick]
        weight[place, : len(pick)] = 1
        if len(pick):
            campaign[place] = member.campaign
    return Batch(user, campaign, label, weight)


class _Room:
    """Rows of a table, a multiple of a unit: never shrinks, since every size compiles a step."""

    def __init__(self, unit: int) -> None:
        self._unit, self._rows, self._lock = unit, 0, Lock()

    def for_rows(self, most: int) -> int:
        """What holds so many: as before if it does, or more by a sixteenth."""
        with self._lock:  # or two threads that begin make room twice
            if most > self._rows:
                self._rows = -(-(most + most // 16) // self._unit) * self._unit
            return self._rows


def _localise(index: RowIndex, batch: Batch, room: _Room) -> tuple[np.ndarray, Batch]:
    """The rows that each member's minibatch touches, (G, U'), and ids that point into them."""
    ids = list(zip(batch.user, batch.campaign, strict=True))
    found = [index.distinct(*pair) for pair in ids]
    size = room.for_rows(max(map(len, found)))
    local = [index.renumber(rows, size, *pair) for rows, pair in zip(found, ids, strict=True)]
    user, campaign = (np.stack(side) for side in zip(*(ids for _, ids in local), strict=True))
    return np.stack([rows for rows, _ in local]), batch._replace(user=user, campaign=campaign)


def _unstack(models: dict[str, Any], rows: Sequence[np.ndarray]) -> list[Customised]:
    """One model a member from stacked ones; places without a member are left out."""
    return [
        Customised(model["network"], own, model["table"])
        for own, model in zip(rows, _places(models), strict=False)
    ]


@jax.jit  # all at once: slicing leaf by leaf dispatches a program a leaf
def _places(models: dict[str, Any]) -> list[dict[str, Any]]:
    """The stacked models one by one."""
    return [jax.tree.map(itemgetter(g), models) for g in range(len(models["table"]))]
