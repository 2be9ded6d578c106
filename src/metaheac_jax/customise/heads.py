"""Customising only the layers after the first, so that many campaigns share the rest.

The table and the first layer stay those of the general model. The first layer of a campaign's
examples is computed once, and a minibatch differentiates only the later layers.

Axes: n examples of a campaign (padded), B examples of a minibatch, S slots of a user, N campaign
fields, k embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from metaheac_jax.customise.host_table import HostRows, on_host
from metaheac_jax.customise.minibatches import GrowingSize
from metaheac_jax.customise.online_stage import (
    OnlineOptions,
    OnlineStage,
    Picks,
    adapt_groups,
    minibatches,
    run_epochs,
)
from metaheac_jax.data.batches import Batch, generator
from metaheac_jax.model import AdaptedWeights, Weights, with_own_parameters
from metaheac_jax.networks.base import FirstLayer, SplitNetwork
from metaheac_jax.progress import Progress
from metaheac_jax.settings import Reduction
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.training.losses import output_loss

_CHUNK = 2048  # examples whose first layer is computed at a time


class _Examples(NamedTuple):
    """A campaign's examples.

    Attributes:
      first: output of the first layer; leaves (n, ...), zero where padded.
      campaign: (N, k) campaign fields.
      label: (n,) labels.
    """

    first: FirstLayer
    campaign: Array
    label: Array


class _State(NamedTuple):
    """Parameters of the later layers, and their optimiser's state."""

    later: Any
    opt_state: Any


class HeadCustomiser(OnlineStage):
    """Adapts the later layers of a network.

    The results are those of `customiser.Customiser` with a gradient of zero for the table and the
    first layer. The adapted weights have no table rows, and only the later layers' parameters.
    """

    def __init__(self, network: SplitNetwork, layout: Layout, *, batch_size: int = 512) -> None:
        """Args:
        network: network of the models.
        layout: layout of the ids in the examples.
        batch_size: B; examples are shuffled again in every epoch.
        """
        super().__init__(layout, batch_size)
        self._network = network
        self._steps = _build_steps(network, layout)
        self._num_examples = GrowingSize(2 * _CHUNK)
        self._host_rows = HostRows(layout)

    def _customise(
        self,
        weights: Weights,
        campaigns: Sequence[Batch],
        names: Sequence[str],
        seed: int,
        options: OnlineOptions,
        progress: Progress,
    ) -> list[AdaptedWeights]:
        self._num_examples.holding(max((len(batch.label) for batch in campaigns), default=0))
        start = self._steps.start(self._network.later_layers(weights.network))

        def adapt(group: list[int]) -> list[AdaptedWeights]:
            [c] = group
            adaptation = _Campaign(
                self._steps,
                weights,
                self._first_layer(weights, campaigns[c]),
                start,
                batch_size=self._batch_size,
                learning_rate=options.learning_rate,
            )
            return run_epochs(
                adaptation,
                [campaigns[c].label],
                [generator(seed, 0)],
                options,
                batch_size=self._batch_size,
                names=[names[c]],
            )

        in_turn = options.watch is not None or jax.default_backend() != "cpu"
        return adapt_groups(
            adapt, campaigns, options, group_size=1, in_turn=in_turn, progress=progress
        )

    def _first_layer(self, weights: Weights, batch: Batch) -> _Examples:
        """The first layer of a campaign's examples, padded so that campaigns share programs."""
        if on_host(weights.table):
            table, ids = self._host_rows.cut(weights.table, batch.ids)
            weights, batch = weights._replace(table=table), batch._replace(ids=ids)
        count, size = len(batch.label), self._num_examples.holding(len(batch.label))
        missing = size - count
        users = np.pad(batch.ids.user, ((0, missing), (0, 0)), constant_values=len(weights.table))

        def chunk(start: int) -> Ids:
            return batch.ids._replace(user=users[start : start + _CHUNK])

        shapes, campaign = jax.eval_shape(self._steps.first_layer, weights, chunk(0))
        first = jax.tree.map(lambda a: jnp.zeros((size, *a.shape[1:]), a.dtype), shapes)
        for start in range(0, count, _CHUNK):
            first, campaign = self._steps.fill(first, weights, chunk(start), start)
        return _Examples(first, campaign, jnp.asarray(np.pad(batch.label, (0, missing))))


class _Campaign:
    """A campaign that is being adapted: an `Adaptation` of later layers."""

    def __init__(
        self,
        steps: _Steps,
        weights: Weights,
        examples: _Examples,
        state: _State,
        *,
        batch_size: int,
        learning_rate: float,
    ) -> None:
        self._steps, self._weights, self._examples, self._state = steps, weights, examples, state
        self._batch_size, self._rate = batch_size, learning_rate

    def step(self, picks: Picks) -> None:
        some = self._padded(picks, self._batch_size)
        self._state = self._steps.step(
            self._state, self._weights.network, self._examples, some, self._rate
        )

    def models(self) -> Any:
        return self._state.later

    def summed_losses(self, models: Any, picks: Picks) -> np.ndarray:
        length = -(-self._batch_size // 4)
        losses = [
            self._steps.summed_loss(
                models, self._weights.network, self._examples, self._padded(some, length)
            )
            for some in minibatches(picks, length)
        ]
        return np.array([sum(jax.device_get(losses), 0.0)], np.float32)

    def select(self, better: np.ndarray, new: Any, old: Any) -> Any:
        return new if better[0] else old

    def adapted(self, models: Any) -> list[AdaptedWeights]:
        table = self._weights.table
        no_values = jnp.zeros((0, table.shape[1]), table.dtype)
        return [AdaptedWeights(models, np.empty(0, np.int32), no_values)]

    def _padded(self, picks: Picks, length: int) -> np.ndarray:
        [some] = picks
        pad = len(self._examples.label)
        return np.pad(some, (0, length - len(some)), constant_values=pad).astype(np.int32)


class _Steps(NamedTuple):
    """The functions of the online stage; all but ``first_layer`` are jitted.

    Attributes:
      start: parameters of the later layers -> the state before the first step.
      first_layer: weights and `Ids` -> `FirstLayer` of the users, and (N, k) campaign fields.
      fill: ``fill(first, weights, ids, start)`` writes the output of ``first_layer`` into the rows
        of ``first`` from ``start`` on; ``first`` is consumed.
      step: ``step(state, general, examples, picks, rate)``; picks are (B,), n for padding.
      summed_loss: ``summed_loss(later, general, examples, picks)``, in nats.
    """

    start: Callable[[Any], _State]
    first_layer: Callable[[Weights, Ids], tuple[FirstLayer, Array]]
    fill: Callable[[FirstLayer, Weights, Ids, int], tuple[FirstLayer, Array]]
    step: Callable[[_State, Any, _Examples, np.ndarray, float], _State]
    summed_loss: Callable[[Any, Any, _Examples, np.ndarray], Array]


def _build_steps(network: SplitNetwork, layout: Layout) -> _Steps:
    def first_layer(weights: Weights, ids: Ids) -> tuple[FirstLayer, Array]:
        user, campaign, *reference = layout.inputs(weights.table, ids)
        return network.first_layer(weights.network, user, *reference), campaign

    def fill(
        first: FirstLayer, weights: Weights, ids: Ids, start: Array
    ) -> tuple[FirstLayer, Array]:
        part, campaign = first_layer(weights, ids)
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return jax.tree.map(put, first, part), campaign

    def loss(
        later: Any, general: Any, examples: _Examples, picks: Array, *, reduction: Reduction
    ) -> Array:
        def take(leaf: Array) -> Array:
            return leaf.at[picks].get(mode="fill", fill_value=0)

        params = with_own_parameters(general, later)
        output = network.apply(params, jax.tree.map(take, examples.first), examples.campaign)
        weight = (picks < len(examples.label)).astype(output.log_p.dtype)
        return output_loss(output, take(examples.label), weight, reduction)

    def step(state: _State, general: Any, examples: _Examples, picks: Array, rate: Array) -> _State:
        grads = jax.grad(loss)(state.later, general, examples, picks, reduction="mean")
        updates, opt_state = optax.adam(rate).update(grads, state.opt_state, state.later)
        return _State(optax.apply_updates(state.later, updates), opt_state)

    return _Steps(
        start=jax.jit(lambda later: _State(later, optax.adam(0.0).init(later))),
        first_layer=first_layer,
        fill=jax.jit(fill, donate_argnums=0),
        step=jax.jit(step),
        summed_loss=jax.jit(partial(loss, reduction="sum")),
    )
