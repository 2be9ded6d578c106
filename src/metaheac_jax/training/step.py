"""Row-local training steps: a network, and the table rows that a step touches.

Axes: R rows of the table, U rows touched by a step, k embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metaheac_jax.backend import jit, profile
from metaheac_jax.table.adam import LocalRows, TableOptimizer, TableState
from metaheac_jax.training.losses import Reduction
from metaheac_jax.training.meta_step import copied
from metaheac_jax.training.sharding import (
    AXES,
    BY_ITEM,
    BY_ROW,
    EVERYWHERE,
    ROW,
    TABLE,
    Placement,
    local_rows,
)

P = ParamSpec("P")
#: ``gradient(params, *batches) -> (gradient, info)`` over the touched rows. The parameters are
#: ``{"network": ..., "table": (U, k)}``, ids in the batches point into the U rows, the gradient has
#: the structure of the parameters, and info has a field ``loss``. The id of padding is U: a loss
#: that may get it reads ``table.at[ids].get(mode="fill", fill_value=0)``: ``table[ids]`` would
#: read the last row. A meta-gradient with ``has_state`` is no such gradient, since a `RowState` has
#: no place for the model's state.
Gradient = Callable[Concatenate[Any, P], tuple[Any, Any]]


class RowState(NamedTuple):
    """What the next row-local step needs.

    Attributes:
      network: parameters of the network.
      opt_state: state of the network's optimiser.
      table: the table and its optimiser's state.
    """

    network: Any
    opt_state: Any
    table: TableState


_STATE = RowState(EVERYWHERE, EVERYWHERE, TABLE)  # how the arrays of a state are divided


class RowStep(NamedTuple):
    """The two functions of training.

    Attributes:
      init: ``init(network, table) -> state`` from copies of the network and the table (R, k).
      step: ``step(state, rows, *batches) -> (state, info)``, jitted; it consumes the state, whose
        memory it reuses. ``rows`` are (U,) distinct table rows that the step touches, R for
        padding; the batches are as the gradient takes them, and info is a `RowInfo`.
    """

    init: Callable[[Any, Array], RowState]
    step: Callable[..., tuple[RowState, RowInfo]]


class RowInfo(NamedTuple):
    """What a checked step reports; it is taken only if all of ``finite`` is true.

    Attributes:
      loss: ().
      taken: () bool; the state of a step that is not taken is that before it.
      finite: () bool for each array: the loss, the gradient, and the arrays of the next state. A
        number of the optimiser's state that was not finite before the step counts as finite.
    """

    loss: Array
    taken: Array
    finite: dict[str, Any]


class PlainInfo(NamedTuple):
    """Info of a gradient of plain training: the loss of the batch, ()."""

    loss: Array


def plain_gradient(loss: Callable[Concatenate[Any, P], Array]) -> Gradient[P]:
    """The gradient of training without meta-learning.

    Args:
      loss: ``loss(params, *batch) -> scalar``.
    """

    def gradient(params: Any, *batch: P.args, **options: P.kwargs) -> tuple[Any, PlainInfo]:
        value, grads = jax.value_and_grad(loss)(params, *batch, **options)
        return grads, PlainInfo(value)

    return gradient


def build_row_step(
    gradient: Gradient[...],
    optimizer: optax.GradientTransformation,
    table_optimizer: TableOptimizer,
    *,
    checked: bool = True,
    placement: Placement | None = None,
    reduction: Reduction = "mean",
) -> RowStep:
    """Builds a jitted step on a network and the table rows it touches.

    Args:
      gradient: see `Gradient`. With a placement, on a batch whose weights are all 0, which a device
        without an item gets, its losses must be 0 and have a gradient of 0. A penalty is not, nor
        is a weighted mean that divides 0 by 0.
      optimizer: the network's optimiser; it receives the loss as ``value``.
      table_optimizer: the table's optimiser, for example `table.adam.table_adam`.
      checked: whether a step is taken only if all is finite; one that is not checked costs less.
      placement: where the arrays live. ``init`` then also takes a table of
        `Placement.padded_rows`, and ``step`` takes what `Placement.place_batch` returns. None
        leaves the places to jax, as within another jitted function.
      reduction: of the gradient over the items that the devices share.

    Raises:
      InputError: at ``init`` with a placement, if the table does not fit into its devices.
    """

    def begin(network: Any, table: Array) -> RowState:
        network, opt_state = copied((network, optimizer.init(network)))
        return RowState(network, opt_state, table_optimizer.init(table))

    agreed: Callable[[Array], Array] = lambda finite: finite  # noqa: E731
    if placement is not None and placement.mesh.size > 1:  # else there is nothing to exchange
        gradient, agreed = _over_devices(gradient, placement, reduction), _finite_on_all_rows
    row = _row_step(gradient, optimizer, table_optimizer, checked, agreed)
    if placement is None:
        return RowStep(jit(begin), jit(row, donate_argnums=0))

    def on_device(state: RowState, rows: Array, *batches: Any) -> tuple[RowState, Any]:
        rows = jnp.where(rows < placement.num_rows, rows, -1)
        return row(state, local_rows(rows, len(state.table.last)), *batches)

    def on_mesh(state: RowState, rows: Any, *batches: Any) -> tuple[RowState, Any]:
        # No collective is differentiated, so jax need not check what varies between devices.
        return jax.shard_map(
            on_device,
            mesh=placement.mesh,
            in_specs=(_STATE, EVERYWHERE, *[BY_ITEM] * len(batches)),
            out_specs=(_STATE, EVERYWHERE),
            check_vma=False,
        )(state, rows, *batches)

    everywhere = placement.sharding(EVERYWHERE)
    places = RowState(everywhere, everywhere, placement.of_table)

    def begin_padded(network: Any, table: Array) -> RowState:
        return begin(network, jnp.pad(table, ((0, placement.padded_rows - len(table)), (0, 0))))

    begin_on_mesh = jit(begin_padded, out_shardings=places)

    def init(network: Any, table: Array) -> RowState:
        placement.check_memory(table.shape[1])
        made = begin_on_mesh(network, table)
        if getattr(table, "sharding", None) == placement.sharding(BY_ROW):
            table.delete()  # it is as large as a device may hold
        return made

    step = jit(on_mesh, donate_argnums=0, out_shardings=(places, everywhere))

    def waiting(state: RowState, rows: Any, *batches: Any) -> tuple[RowState, Any]:
        return jax.block_until_ready(step(state, rows, *batches))

    wait = jax.process_count() > 1 and profile().in_order
    return RowStep(init, waiting if wait else step)


def _over_devices(
    gradient: Gradient[...], placement: Placement, reduction: Reduction
) -> Gradient[...]:
    """The gradient over all items, by all rows; the given one is over a device's own items."""

    def over_all(params: Any, *batches: Any) -> tuple[Any, PlainInfo]:
        table = jax.lax.psum(params["table"], ROW)
        grads, info = gradient({"network": params["network"], "table": table}, *batches)
        num_own = len(jax.tree.leaves(batches)[0])
        scale = num_own / placement.num_items if reduction == "mean" else 1.0
        total = lambda leaf: jax.lax.psum(leaf, AXES) * scale  # noqa: E731
        return jax.tree.map(total, grads), PlainInfo(total(info.loss))

    return over_all


def _finite_on_all_rows(finite: Array) -> Array:
    """Whether an array is finite on all devices, from whether it is on this one."""
    return jax.lax.pmin(finite.astype(int), ROW) > 0


def _row_step(
    gradient: Gradient[...],
    optimizer: optax.GradientTransformation,
    table_optimizer: TableOptimizer,
    checked: bool,
    agreed: Callable[[Array], Array],
) -> Callable[Concatenate[RowState, Any, ...], tuple[RowState, RowInfo]]:
    """The step of `build_row_step` before it is jitted.

    ``agreed`` maps whether an array is finite on this device to whether it is on all devices.
    """

    def step(state: RowState, rows: Any, *batches: Any) -> tuple[RowState, RowInfo]:
        local = table_optimizer.gather(state.table, rows)
        grads, info = gradient({"network": state.network, "table": local.values}, *batches)
        with jax.named_scope("adam"):  # for profilers
            update = optax.with_extra_args_support(optimizer).update
            updates, opt_state = update(
                grads["network"], state.opt_state, state.network, value=info.loss
            )
            network = optax.apply_updates(state.network, updates)
        moved = table_optimizer.move(local, grads["table"], state.table.count)
        if not checked:
            table = table_optimizer.scatter(state.table, rows, local, moved)
            return RowState(network, opt_state, table), RowInfo(info.loss, jnp.array(True), {})
        made = {"loss": info.loss, "network": network, "opt_state": opt_state}
        finite = _leaves_finite({**made, "gradient": {"network": grads["network"]}})
        finite["table"] = _rows_finite(moved)
        # A gradient is finite if and only if the first moments after it are.
        finite["gradient"]["table"] = finite["table"].mu
        # Some optimisers begin with a best value of infinity.
        finite["opt_state"] = jax.tree.map(
            lambda new, old: new if old.ndim else new | ~jnp.isfinite(old),
            finite["opt_state"],
            state.opt_state,
        )
        finite = jax.tree.map(agreed, finite)
        taken = jnp.stack(jax.tree.leaves(finite)).all()
        keep = lambda new, old: jnp.where(taken, new, old)  # noqa: E731
        network, opt_state = jax.tree.map(
            keep, (network, opt_state), (state.network, state.opt_state)
        )
        rows = keep(rows, len(state.table.last))  # past the end, so the scatter drops them
        table = table_optimizer.scatter(state.table, rows, local, moved)
        table = table._replace(count=keep(table.count, state.table.count))
        return RowState(network, opt_state, table), RowInfo(info.loss, taken, finite)

    return step


def _rows_finite(rows: LocalRows) -> LocalRows:
    """`_leaves_finite` of rows; on an accelerator in one pass over what is scattered."""
    if not profile().reads_whole_rows:
        return _leaves_finite(rows)
    # Added up, since sums cost a TPU less than bools: 0 times a number that is not finite is none.
    finite = (0 * jnp.concatenate(rows[:3], axis=-1)).sum(axis=0) == 0
    return LocalRows(*finite.reshape(3, -1).all(axis=1), last=jnp.array(True))


def _leaves_finite(tree: Any) -> Any:
    """Whether each leaf is finite: a tree of () bools."""
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)
