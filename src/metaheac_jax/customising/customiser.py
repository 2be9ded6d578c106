"""Customising: a separate model for each new campaign (paper section 3.3).

Adapting starts with a fresh Adam, so rows that the campaign's examples never touch keep their
general values. A customised model consists of the network's parameters and the touched rows.

Axes: n examples of a campaign, B examples of a minibatch, U rows of a campaign and U' of a
minibatch, k embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from metaheac_jax.backend import in_threads, jit
from metaheac_jax.customising.sizes import GrowingSize, usual_size
from metaheac_jax.data.batches import Batch, generator
from metaheac_jax.data.folds import hold_out
from metaheac_jax.errors import Diverged
from metaheac_jax.model import AdaptedWeights, Weights
from metaheac_jax.networks import Network
from metaheac_jax.progress import Progress, silent
from metaheac_jax.table.adam import TableState, table_adam
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.rows import RowIndex, rows_of
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.step import RowState, RowStep, build_row_step, plain_gradient

_HELD_OUT = 0.1  # fraction of the seeds, and of the non-seeds, that decide when to stop


class Customiser:
    """Adapts the whole network and the rows that a campaign touches.

    Two campaigns are adapted at a time, each in a thread. The sizes of tables never shrink, so a
    campaign that touches fewer rows than an earlier one compiles nothing.
    """

    def __init__(self, network: Network, layout: Layout, *, batch_size: int = 512) -> None:
        """Args:
        batch_size: B; examples are shuffled again in every epoch.
        """
        self._layout, self._batch_size = layout, batch_size
        self._steps = AdaptingSteps(network, layout)
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
        names: Sequence[str] = (),
        progress: Progress = silent,
    ) -> list[AdaptedWeights]:
        """Adapts the general weights to each campaign, the largest first.

        Args:
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

        Returns:
          The adapted weights of each campaign, in the order given.

        Raises:
          Diverged: a campaign's weights are not finite and, with ``patience``, no earlier epoch was
            better than the general model.
        """
        names = names or [f"campaign {c}" for c in range(len(campaigns))]
        index = self._layout.row_index(weights.table.shape[0])
        touched = self._touched(index, campaigns, seed)
        # One size for all campaigns: the cost of a step does not depend on it.
        size = self._campaign_rows.holding(max(map(len, touched), default=0))

        def adapt(c: int) -> AdaptedWeights:
            rows, ids = index.renumber(touched[c], size, campaigns[c].ids)
            examples, rate = campaigns[c]._replace(ids=ids), float(learning_rate)
            model = self._adapt(weights, examples, rows, seed, rate, epochs, patience, names[c])
            return _cut(AdaptedWeights(model["network"], rows, model["table"]), len(touched[c]))

        by_size = sorted(range(len(touched)), key=lambda c: -len(campaigns[c].label))
        results: dict[int, AdaptedWeights] = {}
        progress("customise", 0, len(touched))
        with closing(in_threads(adapt, by_size, num_threads=2)) as each:
            for c, model in zip(by_size, each, strict=True):
                results[c] = model
                progress("customise", len(results), len(touched))
        return [results[c] for c in range(len(touched))]

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

    def _adapt(
        self,
        weights: Weights,
        examples: Batch,
        rows: np.ndarray,
        seed: int,
        rate: float,
        epochs: int,
        patience: int | None,
        name: str,
    ) -> dict[str, Any]:
        """The adapted ``network`` and ``table`` of a campaign; ids point into its (U,) ``rows``."""
        rng, index = generator(seed, 0), self._layout.row_index(len(rows))
        fit, held = hold_out(examples.label, 0.0 if patience is None else _HELD_OUT, rng)
        state = self._steps.start(weights.network, rows_of(weights.table, rows))
        model = best = self._steps.current(state, rate)
        least, waited, improved, number = np.inf, 0, False, 0
        if patience is not None:
            least = np.nan_to_num(self._summed_loss(model, examples, held), nan=np.inf)
        for _ in range(epochs):
            for batch in minibatches(examples, rng.permutation(fit), self._batch_size, len(rows)):
                some, local = localise(index, batch, self._minibatch_rows)
                state = self._steps.adapt(*state, some, local, rate)
                number += 1
            model = self._steps.current(state, rate)
            if not _finite(model):
                if improved:
                    break
                raise Diverged(
                    f"{name}: the adapted weights are not finite after step {number}; lower the "
                    "online learning rate"
                )
            if patience is not None:
                loss = self._summed_loss(model, examples, held)
                waited += 1
                if loss < least:
                    best, least, waited, improved = model, loss, 0, True
                if waited >= patience:
                    break
        return model if patience is None else best

    def _summed_loss(self, model: dict[str, Any], examples: Batch, picked: np.ndarray) -> Any:
        """The loss of a model, summed over the picked examples."""
        # Few examples are held out, so small batches waste less.
        batches = minibatches(examples, picked, -(-self._batch_size // 4), len(model["table"]))
        losses = [self._steps.summed_loss(model, batch) for batch in batches]
        return sum(jax.device_get(losses), np.float32(0))


class AdaptingSteps:
    """The jitted functions that adapt a network to one campaign, with a fresh Adam.

    ``start`` makes a state; ``adapt`` takes its parts, the (U',) rows of its table that a minibatch
    touches, the minibatch and a learning rate, and reuses the memory of the table; ``current``
    returns the weights.

    Arrays of a state have a leading axis of length 1. It fixes how XLA fuses a step, hence how a
    step rounds.
    """

    def __init__(self, network: Network, layout: Layout) -> None:
        loss = build_loss(network, layout)

        def row(rate: Any) -> RowStep:
            gradient, optimizer = plain_gradient(loss), optax.adam(rate)
            return build_row_step(gradient, optimizer, table_adam(rate), checked=False)

        def one(state: RowState) -> RowState:
            return jax.tree.map(lambda leaf: leaf[0], state)

        def stacked(state: RowState) -> RowState:
            return jax.tree.map(lambda leaf: leaf[None], state)

        @jit
        def start(network: Any, values: Array) -> RowState:
            return stacked(row(0).init(network, values))

        # Only the table is donated: to write the network's moments in place, XLA would copy them.
        @partial(jit, donate_argnums=2)
        def adapt(
            network: Any, opt_state: Any, table: TableState, rows: Array, batch: Batch, rate: Array
        ) -> RowState:
            state = one(RowState(network, opt_state, table))
            return stacked(row(rate).step(state, rows, batch)[0])

        @jit
        def current(state: RowState, rate: Array) -> dict[str, Any]:
            state = one(state)
            return {"network": state.network, "table": table_adam(rate).flush(state.table).table}

        self.start, self.current = start, current
        self.summed_loss = jit(build_loss(network, layout, reduction="sum"))
        self.adapt = adapt


def _cut(adapted: AdaptedWeights, num_rows: int) -> AdaptedWeights:
    """Adapted weights without most of the padding, which comes after the campaign's own rows.

    The host cuts them, which compiles nothing.
    """
    size = usual_size(num_rows)
    if size >= len(adapted.rows):
        return adapted
    values = np.array(jax.device_get(adapted.values)[:size])  # a copy, which frees the rest
    return adapted._replace(rows=adapted.rows[:size], values=jax.device_put(values))


@jit
def _finite(model: Any) -> Array:
    """Whether all weights are finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(model)]).all()


def minibatches(examples: Batch, picked: np.ndarray, size: int, pad: int) -> Iterator[Batch]:
    """Yields the picked examples of a campaign, ``size`` at a time.

    Args:
      examples: leaves (n, ...).
      picked: positions of examples.
      size: B. The last minibatch is padded with weight 0.
      pad: table row of padding.
    """
    for start in range(0, len(picked), size):
        batch = examples.pick(picked[start : start + size])
        missing = size - len(batch.label)
        label, weight = (np.pad(array, (0, missing)) for array in (batch.label, batch.weight))
        user = np.pad(batch.ids.user, ((0, missing), (0, 0)), constant_values=pad)
        label, weight = label.astype(np.float32), weight.astype(np.float32)
        yield Batch(batch.ids._replace(user=user), label, weight)


def localise(index: RowIndex, batch: Batch, size: GrowingSize) -> tuple[np.ndarray, Batch]:
    """(U',) rows that a minibatch touches, and the batch with ids into them."""
    touched = index.distinct(batch.ids)
    rows, ids = index.renumber(touched, size.holding(len(touched)), batch.ids)
    return rows, batch._replace(ids=ids)
