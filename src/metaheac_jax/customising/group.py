"""The jitted steps that adapt a group of campaigns together.

Axes: G campaigns adapted together, B examples of a minibatch, U rows of a campaign and U' of a
minibatch, R rows of the table, k its width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as Spec

from metaheac_jax.data.batches import Batch, unstacked
from metaheac_jax.networks.base import Network
from metaheac_jax.table.adam import TableState, table_adam
from metaheac_jax.table.layout import Layout
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.step import RowState, RowStep, build_row_step, plain_gradient

#: ``{"network": ..., "table": (G, U, k)}``: the models of a group, stacked.
Models = dict[str, Any]


class GroupSteps(NamedTuple):
    """The jitted functions that adapt a group.

    Attributes:
      start: the general network and (G, U, k) rows of each campaign -> stacked states.
      adapt: stacked states, (G, U') minibatch rows, a (G, B, ...) batch and the learning rate ->
        new states. The table's memory is reused. A campaign with an empty minibatch does not
        change.
      current: stacked states and the learning rate -> stacked models, every row up to date.
      summed_losses: stacked models and a (G, B, ...) batch -> (G,) summed losses in nats.
      select: (G,) ``better``, new and old models -> the new ones where it holds, the old ones
        elsewhere; the old ones are consumed.
    """

    start: Callable[[Any, Array], RowState]
    adapt: Callable[[RowState, np.ndarray, Batch, float], RowState]
    current: Callable[[RowState, float], Models]
    summed_losses: Callable[[Models, Batch], Array]
    select: Callable[[np.ndarray, Models, Models], Models]


def build_group_steps(
    network: Network, layout: Layout, *, campaigns_at_once: int, mesh: Mesh | None = None
) -> GroupSteps:
    """Builds the jitted steps for groups of G = ``campaigns_at_once`` campaigns.

    Each starts with a fresh Adam. On a mesh of one axis, whose size must divide G, each device has
    a part of the group.
    """
    num_devices = 1 if mesh is None else mesh.size
    loss = build_loss(network, layout)

    def row(rate: Any) -> RowStep:
        return build_row_step(plain_gradient(loss), optax.adam(rate), table_adam(rate))

    def start(network: Any, values: Array) -> RowState:
        return row(0).init(network, values)

    def adapt_plain(state: RowState, rows: Array, batch: Batch, rate: Array) -> RowState:
        return row(rate).step(state, rows, batch)[0]

    def adapt_masked(state: RowState, rows: Array, batch: Batch, rate: Array) -> RowState:
        # A campaign that is done gets empty minibatches and must not change. Its table does not:
        # all its rows become padding, which a scatter drops.
        keep = lambda a, b: jnp.where(batch.weight.any(), a, b)  # noqa: E731
        new, _ = row(rate).step(state, keep(rows, len(state.table.table)), batch)
        return RowState(
            jax.tree.map(keep, new.network, state.network),
            jax.tree.map(keep, new.opt_state, state.opt_state),
            new.table._replace(count=keep(new.table.count, state.table.count)),
        )

    def current(state: RowState, rate: Array) -> Models:
        return {"network": state.network, "table": table_adam(rate).flush(state.table).table}

    def select(better: Array, new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)

    # A group axis of length one would slow products down. One campaign without a mesh gets no empty
    # minibatch.
    adapt_one = adapt_plain if mesh is None else adapt_masked

    def adapt_alone(state: RowState, rows: Array, batch: Batch, rate: Array) -> RowState:
        state, rows, batch = jax.tree.map(lambda leaf: leaf[0], (state, rows, batch))
        new = adapt_one(state, rows, batch, rate)
        return jax.tree.map(lambda leaf: leaf[None], new)

    alone = campaigns_at_once <= num_devices
    together = adapt_alone if alone else jax.vmap(adapt_masked, (0, 0, 0, None))

    def on_devices(function: Callable[..., Any], *in_axes: int | None) -> Callable[..., Any]:
        """Makes a function divide its arrays among the devices, except those with axis None."""
        if mesh is None:
            return function
        specs = tuple(Spec() if axis is None else Spec(mesh.axis_names) for axis in in_axes)
        return jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=Spec(mesh.axis_names), check_vma=False
        )

    adapt_all = on_devices(together, 0, 0, 0, None)

    summed_losses = jax.vmap(build_loss(network, layout, reduction="sum"))

    # Only the table is donated: to write the network's moments in place, XLA would copy them first.
    @partial(jax.jit, donate_argnums=2)
    def steps(network: Any, opt_state: Any, table: TableState, *rest: Any) -> RowState:
        return adapt_all(RowState(network, opt_state, table), *rest)

    return GroupSteps(
        start=jax.jit(on_devices(jax.vmap(start, (None, 0)), None, 0)),
        adapt=lambda state, rows, batch, rate: steps(*state, rows, batch, rate),
        current=jax.jit(on_devices(jax.vmap(current, (0, None)), 0, None)),
        summed_losses=jax.jit(on_devices(summed_losses, 0, 0)),
        select=jax.jit(on_devices(jax.vmap(select), 0, 0, 0), donate_argnums=2),
    )


#: Splits stacked models; jitted, since slicing leaf by leaf would dispatch a program per leaf.
unstack = jax.jit(unstacked)
