"""Row-local steps: the few table rows that a step touches, and the optimiser of those rows.

A minibatch touches a few thousand of a few hundred thousand rows. `RowIndex` finds them and
renumbers the ids, `TableOptimizer.gather` brings them up to date, everything (second order
included) runs on that little table, and `TableOptimizer.scatter` writes back once. Rows outside
have zero gradient, so this *equals* working on the whole table.

Axes: R rows of the table, U rows touched by a step and V by a campaign of it (both padded),
k embedding width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array


def select_rows(params: Any, own: Array) -> Any:
    """The parameters with ``params["table"]`` cut down to the rows ``own`` (V,); zeros for padding.

    What `meta.build_meta_gradient` takes as ``select``: a campaign of a step touches a part of the
    step's rows, and its inner steps and derivatives then cost what that part costs.
    """
    return params | {"table": params["table"].at[own].get(mode="fill", fill_value=0)}


class RowIndex:
    """Finds the distinct rows among ids, and renumbers the ids to point at them.

    A lookup as long as the table replaces `numpy.unique` and its inverse: both together took a
    twentieth of the time on 290,000 ids and 334,494 rows. It is scratch memory: give each thread
    its own.
    """

    def __init__(self, rows: int, small_rows: int = 0) -> None:
        """Args:
        rows: R.
        small_rows: so many first rows are always found, so they keep their numbers; what
          `fields.user_fields` needs of its ``small_fields``.
        """
        self.rows, self._small_rows = rows, small_rows
        self._seen = np.zeros(rows + 1, bool)
        self._position = np.zeros(rows + 1, np.int32)

    def distinct(self, *ids: np.ndarray) -> np.ndarray:
        """The rows that occur among the ids, ascending; without R, the pad id."""
        for array in ids:
            self._seen[np.asarray(array, np.intp)] = True  # a third of the time of 32 bits
        self._seen[: self._small_rows] = True
        self._seen[self.rows] = False
        found = np.flatnonzero(self._seen)
        self._seen[found] = False
        return found

    def renumber(
        self, found: np.ndarray, size: int, *ids: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Makes ids point into ``found`` rather than into the table.

        Args:
          found: from `distinct` on the same ids.
          size: U, what ``found`` is filled up to, so that many batches have one shape.
          *ids: integer arrays of rows, with R as the pad id.

        Returns:
          (U,) int32 rows, filled up with R; and the arrays of ids, int32, with U as the pad id.

        Raises:
          ValueError: more distinct rows than ``size``.
        """
        if len(found) > size:
            raise ValueError(f"{len(found)} distinct rows, more than {size}")
        self._position[found] = np.arange(len(found), dtype=np.int32)
        self._position[self.rows] = size
        rows = np.full(size, self.rows, np.int32)
        rows[: len(found)] = found
        return rows, tuple(self._position[np.asarray(array, np.intp)] for array in ids)


class TableState(NamedTuple):
    """A table and the state of its Adam.

    Attributes:
      table: (R, k).
      mu, nu: (R, k) first and second moment, as of each row's own last step.
      last: (R,) int32, the step up to which a row is up to date.
      count: () int32, steps taken.
    """

    table: Array
    mu: Array
    nu: Array
    last: Array
    count: Array


class LocalRows(NamedTuple):
    """Rows of a `TableState`, brought up to date.

    Attributes:
      values, mu, nu: (U, k).
      last: (U,) the step up to which they were up to date in the table.
    """

    values: Array
    mu: Array
    nu: Array
    last: Array


class TableOptimizer(NamedTuple):
    """Optimiser of a table whose steps cost what the touched rows cost.

    Attributes:
      init: ``init(table) -> TableState``.
      gather: ``gather(state, rows) -> LocalRows``; rows (U,) distinct, R for padding.
      scatter: ``scatter(state, rows, local, gradient) -> TableState``; one step with a (U, k)
        gradient of ``local.values``.
      flush: ``flush(state) -> TableState`` with every row up to date; do it before the table is
        read as a whole.
    """

    init: Callable[[Array], TableState]
    gather: Callable[[TableState, Array], LocalRows]
    scatter: Callable[[TableState, Array, LocalRows, Array], TableState]
    flush: Callable[[TableState], TableState]


def table_adam(
    learning_rate: Any,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    lazy: bool = False,
) -> TableOptimizer:
    """Adam on a table: what dense Adam computes, at the price of the touched rows.

    Dense Adam moves every row at every step by its momentum. A row untouched since step s moves at
    step s + i, with m and v its moments at s, by

        -lr a_i m / (sqrt(v) + eps e_i),   e_i = sqrt(1 - b2^(s+i)) / sqrt(b2)^i,
                                           a_i = e_i b1^i / (1 - b1^(s+i)).

    For eps = 0 the sum over i = 1..j is -lr m / sqrt(v) sum a_i: a number that depends on s and j
    alone, G(s) - r^j G(s + j) with the tail G(s) = sum over all i of a_i and r = b1 / sqrt(b2). It
    is applied when the row is gathered next. With eps > 0 each e_i is replaced by the a-weighted
    mean E of them all, the centre of its first-order term, which leaves a relative error in the
    missed movement of at most the weighted variance of e_i / E, and that only where sqrt(v) is not
    large against eps: 3e-5 after the first few hundred steps.

    Args:
      learning_rate: beta, constant; a number, or a scalar array.
      b1, b2, eps: as in `optax.adam`.
      lazy: only rows with a gradient ever move, and their moments do not decay in between ("sparse"
        or "lazy" Adam, a different optimiser).
    """
    tails = None if lazy else _tails(b1, b2)

    def init(table: Array) -> TableState:
        rows = table.shape[0]
        return TableState(
            table=table,
            mu=jnp.zeros_like(table),
            nu=jnp.zeros_like(table),
            last=jnp.zeros(rows, jnp.int32),
            count=jnp.zeros((), jnp.int32),
        )

    def catch_up(local: LocalRows, count: Array) -> LocalRows:
        if tails is None:
            return local
        dtype = local.values.dtype
        missed = (count - local.last).astype(dtype)[:, None]

        def total(tail: np.ndarray, ratio: float) -> Array:
            constant = jnp.asarray(tail, dtype)
            at = lambda step: constant[jnp.minimum(step, len(tail) - 1)]  # noqa: E731
            return at(local.last)[:, None] - ratio**missed * at(count)

        a = total(tails[0], b1 / b2**0.5)
        a_e = total(tails[1], b1 / b2)
        centre = a_e / jnp.where(a > 0, a, 1)
        step = local.mu * a / (jnp.sqrt(local.nu) + eps * jnp.maximum(centre, 1e-3))
        return LocalRows(
            values=local.values - learning_rate * step,
            mu=local.mu * b1**missed,
            nu=local.nu * b2**missed,
            last=local.last,
        )

    def gather(state: TableState, rows: Array) -> LocalRows:
        take = lambda array: array.at[rows].get(mode="fill", fill_value=0)  # noqa: E731
        return catch_up(LocalRows(*map(take, state[:-1])), state.count)

    def scatter(state: TableState, rows: Array, local: LocalRows, gradient: Array) -> TableState:
        count = state.count + 1
        mu = b1 * local.mu + (1 - b1) * gradient
        nu = b2 * local.nu + (1 - b2) * gradient**2
        t = count.astype(gradient.dtype)
        step = mu / (1 - b1**t) / (jnp.sqrt(nu / (1 - b2**t)) + eps)
        if lazy:
            rows = jnp.where((gradient != 0).any(axis=-1), rows, state.table.shape[0])
        put = lambda array, values: array.at[rows].set(values, mode="drop")  # noqa: E731
        return TableState(
            table=put(state.table, local.values - learning_rate * step),
            mu=put(state.mu, mu),
            nu=put(state.nu, nu),
            # Added to, since what is set does not depend on what `gather` has read of this column:
            # XLA then copies all R of it in every step, at 33 million rows half as long again.
            last=state.last.at[rows].add(count - local.last, mode="drop"),
            count=count,
        )

    def flush(state: TableState) -> TableState:
        local = catch_up(LocalRows(*state[:-1]), state.count)
        last = jnp.full_like(state.last, state.count)
        return TableState(local.values, local.mu, local.nu, last, state.count)

    return TableOptimizer(init, gather, scatter, flush)


@functools.cache  # some 20,000 steps of a loop
def _tails(b1: float, b2: float) -> tuple[np.ndarray, np.ndarray]:
    """G(s) = sum_i a_i and sum_i a_i e_i from step s on; constant once b2^s is negligible."""
    steps = int(np.ceil(np.log(1e-9) / np.log(b2)))
    s = np.arange(1, steps + 1, dtype=np.float64)
    a = np.sqrt(1 - b2**s) / (1 - b1**s)
    a_e = (1 - b2**s) / (1 - b1**s)
    tails = []
    for term, ratio in ((a, b1 / np.sqrt(b2)), (a_e, b1 / b2)):
        tail = np.empty(steps + 1)
        tail[steps] = ratio / (1 - ratio)
        for step in range(steps, 0, -1):
            tail[step - 1] = ratio * (term[step - 1] + tail[step])
        tails.append(tail)
    return tails[0], tails[1]


class RowState(NamedTuple):
    """What the next row-local step needs.

    Attributes:
      network: parameters of the network.
      opt_state: of the network's optimiser.
      table: the table and its optimiser's state.
    """

    network: Any
    opt_state: Any
    table: TableState


class RowStep(NamedTuple):
    """``init(network, table) -> state`` and ``step(state, rows, *batches) -> (state, info)``."""

    init: Callable[[Any, Array], RowState]
    step: Callable[..., tuple[RowState, Any]]


def build_row_step(
    gradient: Callable[..., tuple[Any, Any]],
    optimizer: optax.GradientTransformation,
    table_optimizer: TableOptimizer,
) -> RowStep:
    """A jitted training step on a network and the table rows it touches; reuses state's memory.

    Args:
      gradient: ``gradient({"network": ..., "table": (U, k)}, *batches) -> (gradient, info)``, for
        example from `meta.build_meta_gradient`; ids in the batches point into the U rows.
      optimizer: of the network.
      table_optimizer: of the table, for example `table_adam`.
    """

    def init(network: Any, table: Array) -> RowState:
        return RowState(network, optimizer.init(network), table_optimizer.init(table))

    def step(state: RowState, rows: Array, *batches: Any) -> tuple[RowState, Any]:
        local = table_optimizer.gather(state.table, rows)
        grads, info = gradient({"network": state.network, "table": local.values}, *batches)
        updates, opt_state = optimizer.update(grads["network"], state.opt_state, state.network)
        network = optax.apply_updates(state.network, updates)
        table = table_optimizer.scatter(state.table, rows, local, grads["table"])
        return RowState(network, opt_state, table), info

    return RowStep(init, jax.jit(step, donate_argnums=0))
