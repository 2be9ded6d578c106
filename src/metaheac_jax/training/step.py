"""Row-local training steps: a network, and the table rows that a step touches.

Axes: R rows of the table, U rows touched by a step, k embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metaheac_jax.table.adam import TableOptimizer, TableState
from metaheac_jax.training.donation import copied, placed_together, refusing_consumed

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


class RowInit(Protocol):
    """Starts training."""

    def __call__(self, network: Any, table: Array) -> RowState:
        """Makes the initial state from a copy of the network and from the table (R, k) itself.

        The first step consumes the table; to keep it, pass a copy.
        """


class RowUpdate(Protocol):
    """Trains by one step."""

    def __call__(self, state: RowState, rows: Any, *batches: Any) -> tuple[RowState, Any]:
        """Maps a state and what a sampler draws to the next state and info.

        Args:
          state: consumed; its memory is reused.
          rows: (U,) distinct table rows that the step touches; R for padding.
          *batches: as the gradient takes them.
        """


class RowStep(NamedTuple):
    """``init(network, table) -> state`` and ``step(state, rows, *batches) -> (state, info)``."""

    init: RowInit
    step: RowUpdate


class CheckedInfo(NamedTuple):
    """Info of a checked step, which is taken only if all of ``finite`` is true.

    It replaces the gradient's info, of which it has the loss only.

    Attributes:
      loss: ().
      taken: () bool.
      finite: () bool for each array: the loss, the gradient, and the arrays of the next state. An
        array of the optimiser's state that was not finite before the step counts as finite.
    """

    loss: Array
    taken: Array
    finite: Any


class PlainInfo(NamedTuple):
    """Info of a step of plain training: the loss of the batch, ()."""

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
    checked: bool = False,
) -> RowStep:
    """Builds a jitted step on a network and the table rows it touches.

    A step consumes its state, whose memory it reuses. ``init`` copies the network and takes over
    the table, which the first step consumes.

    Args:
      gradient: see `Gradient`.
      optimizer: the network's optimiser; it receives the loss as ``value``.
      table_optimizer: the table's optimiser, for example `table.adam.table_adam`.
      checked: whether a non-finite step leaves the state unchanged; info is then `CheckedInfo`.

    Raises:
      ValueError: at a step, if an earlier step consumed the state, or another state's table that
        is the same array.
    """

    def init(network: Any, table: Array) -> RowState:
        own = copied((network, optimizer.init(network)))
        return placed_together(RowState(*own, table_optimizer.init(jnp.asarray(table))))

    step = row_step(gradient, optimizer, table_optimizer, checked=checked)
    return RowStep(init, refusing_consumed(jax.jit(step, donate_argnums=0)))


def row_step(
    gradient: Gradient[...],
    optimizer: optax.GradientTransformation,
    table_optimizer: TableOptimizer,
    *,
    checked: bool,
    agreed: Callable[[Array], Array] = lambda finite: finite,
) -> Callable[Concatenate[RowState, Any, ...], tuple[RowState, Any]]:
    """The step of `build_row_step` before it is jitted.

    ``agreed`` maps whether an array is finite on this device to whether it is on all devices.
    """

    def step(state: RowState, rows: Any, *batches: Any) -> tuple[RowState, Any]:
        local = table_optimizer.gather(state.table, rows)
        grads, info = gradient({"network": state.network, "table": local.values}, *batches)
        with jax.named_scope("adam"):  # for profilers
            update = optax.with_extra_args_support(optimizer).update
            updates, opt_state = update(
                grads["network"], state.opt_state, state.network, value=info.loss
            )
            network = optax.apply_updates(state.network, updates)
        moved = table_optimizer.move(local, grads["table"], state.table.count)
        if checked:
            made = {"network": network, "opt_state": opt_state, "table": moved}
            finite = leaves_finite({"loss": info.loss, "gradient": grads, **made})
            # Some optimisers begin with a best value of infinity.
            before = leaves_finite(state.opt_state)
            finite["opt_state"] = jax.tree.map(
                lambda new, old: new | ~old, finite["opt_state"], before
            )
            finite = jax.tree.map(agreed, finite)
            info = CheckedInfo(info.loss, jnp.stack(jax.tree.leaves(finite)).all(), finite)
            keep = lambda new, old: jnp.where(info.taken, new, old)  # noqa: E731
            network, opt_state = jax.tree.map(
                keep, (network, opt_state), (state.network, state.opt_state)
            )
            rows = keep(rows, len(state.table.table))  # past the end, so the scatter drops them
            table = table_optimizer.scatter(state.table, rows, local, moved)
            table = table._replace(count=keep(table.count, state.table.count))
        else:
            table = table_optimizer.scatter(state.table, rows, local, moved)
        return RowState(network, opt_state, table), info

    return step


def leaves_finite(tree: Any) -> Any:
    """Whether each leaf is finite: a tree of () bools."""
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)
