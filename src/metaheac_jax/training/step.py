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
from metaheac_jax.training.meta import owned, unconsumed

P = ParamSpec("P")
#: ``gradient(params, *batches) -> (gradient, info)`` over the touched rows. The parameters are
#: ``{"network": ..., "table": (U, k)}``, ids in the batches point into the U rows, the gradient has
#: the form of the parameters, and info has a field ``loss``.
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


class Init(Protocol):
    """Starts training."""

    def __call__(self, network: Any, table: Array) -> RowState:
        """Parameters of a network and a table (R, k), which steps consume -> the initial state."""


class Step(Protocol):
    """Trains by one step."""

    def __call__(self, state: RowState, rows: Any, *batches: Any) -> tuple[RowState, Any]:
        """A state and what a sampler draws -> the next state, and info.

        Args:
          state: consumed; its memory is reused.
          rows: (U,) table rows that the step touches; R for padding.
          *batches: as the gradient takes them.
        """


class RowStep(NamedTuple):
    """A training step; see `Init` and `Step`."""

    init: Init
    step: Step


class CheckedInfo(NamedTuple):
    """What is told of a step that is not taken if anything of it is not finite.

    Attributes:
      loss: ().
      taken: () bool.
      finite: () bool of each array: the loss, the gradient, and what it would have made.
    """

    loss: Array
    taken: Array
    finite: Any


class PlainInfo(NamedTuple):
    """What a report of plain training needs: the batch's mean loss, ()."""

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
    """A jitted training step on a network and the table rows it touches; reuses state's memory.

    Args:
      gradient: see `Gradient`.
      optimizer: of the network.
      table_optimizer: of the table, for example `table.adam.table_adam`.
      checked: whether a step that is not finite leaves the state as it was; info is `CheckedInfo`.
    """

    def init(network: Any, table: Array) -> RowState:
        own = owned((network, optimizer.init(network)))
        return RowState(*own, table_optimizer.init(table))

    step = row_step(gradient, optimizer, table_optimizer, checked=checked)
    return RowStep(init, unconsumed(jax.jit(step, donate_argnums=0)))


def row_step(
    gradient: Gradient[...],
    optimizer: optax.GradientTransformation,
    table_optimizer: TableOptimizer,
    *,
    checked: bool,
    agreed: Callable[[Array], Array] = lambda finite: finite,
) -> Step:
    """The step of `build_row_step` before it is jitted.

    ``agreed`` makes of what is finite on a device what is finite on all.
    """

    def step(state: RowState, rows: Any, *batches: Any) -> tuple[RowState, Any]:
        local = table_optimizer.gather(state.table, rows)
        grads, info = gradient({"network": state.network, "table": local.values}, *batches)
        with jax.named_scope("adam"):  # for profilers
            updates, opt_state = optimizer.update(grads["network"], state.opt_state, state.network)
            network = optax.apply_updates(state.network, updates)
        moved = table_optimizer.move(local, grads["table"], state.table.count)
        if checked:
            made = {"network": network, "opt_state": opt_state, "table": moved}
            finite = leaves_finite({"loss": info.loss, "gradient": grads, **made})
            finite = jax.tree.map(agreed, finite)
            info = CheckedInfo(info.loss, jnp.stack(jax.tree.leaves(finite)).all(), finite)
            keep = lambda new, old: jnp.where(info.taken, new, old)  # noqa: E731
            network, opt_state = jax.tree.map(
                keep, (network, opt_state), (state.network, state.opt_state)
            )
            rows = keep(rows, len(state.table.table))  # a scatter drops these
            table = table_optimizer.scatter(state.table, rows, local, moved)
            table = table._replace(count=keep(table.count, state.table.count))
        else:
            table = table_optimizer.scatter(state.table, rows, local, moved)
        return RowState(network, opt_state, table), info

    return step


def leaves_finite(tree: Any) -> Any:
    """Whether each leaf is finite, a tree of ()."""
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)
