"""Adam on a table: the results of dense Adam, computed on the touched rows only.

Dense Adam moves every row at every step. A row untouched since step s, with moments m and v at
step s, moves at step s + i by

    -lr a_i m / (sqrt(v) + eps e_i),   e_i = sqrt(1 - b2^(s+i)) / sqrt(b2)^i,
                                       a_i = e_i b1^i / (1 - b1^(s+i)).

For eps = 0 the sum over i = 1..j is -lr m / sqrt(v) sum a_i. The sum of a_i depends only on s and
j: it is G(s) - r^j G(s + j), where G(s) is the sum over all i and r = b1 / sqrt(b2). The movement
is applied when the row is next gathered. For eps > 0 each e_i is replaced by their a-weighted mean
E. The relative error of the movement is at most the weighted variance of e_i / E.

Axes: R table rows, U rows touched by a step (padded), k embedding width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.backend import profile
from metaheac_jax.table.rows import rows_of


class TableState(NamedTuple):
    """A table and the state of its Adam optimiser.

    Attributes:
      packed: (R, 3 k) per row its values, first and second moments, all at its own step ``last``. A
        single array needs one gather and one scatter, and fills the lanes of a TPU better than
        three.
      last: (R,) int32, the last step that is applied to each row.
      count: () int32, number of steps taken.
    """

    packed: Array
    last: Array
    count: Array

    @property
    def table(self) -> Array:
        """(R, k) values."""
        return _unpacked(self.packed)[0]

    @property
    def mu(self) -> Array:
        """(R, k) first moments."""
        return _unpacked(self.packed)[1]

    @property
    def nu(self) -> Array:
        """(R, k) second moments."""
        return _unpacked(self.packed)[2]


def _columns(packed: Array) -> list[slice]:
    """The columns of (..., 3 k) that have values, first moments and second moments."""
    width = packed.shape[-1] // 3
    return [slice(start, start + width) for start in range(0, 3 * width, width)]


def _unpacked(packed: Array) -> tuple[Array, Array, Array]:
    """(..., 3 k) -> three times (..., k)."""
    values, mu, nu = (packed[..., column] for column in _columns(packed))
    return values, mu, nu


def _read(packed: Array, rows: Array) -> tuple[Array, Array, Array]:
    """(R, 3 k) and (U,) rows -> three times (U, k), zero for the pad id R."""
    if profile().reads_whole_rows:
        return _unpacked(rows_of(packed, rows))
    options: Any = {"mode": "fill", "fill_value": 0}  # a CPU would copy what it splits off
    values, mu, nu = (packed.at[rows, column].get(**options) for column in _columns(packed))
    return values, mu, nu


def _written(packed: Array, rows: Array, parts: Sequence[Array]) -> Array:
    """(R, 3 k) after (U, k) parts are written to distinct rows; rows of R or more are left out."""
    options: Any = {"mode": "drop", "unique_indices": True}
    if profile().reads_whole_rows:
        return packed.at[rows].set(jnp.concatenate(parts, axis=-1), **options)
    for column, part in zip(_columns(packed), parts, strict=True):  # without a concatenated copy
        packed = packed.at[rows, column].set(part, **options)
    return packed


class LocalRows(NamedTuple):
    """Rows of a `TableState`, up to date.

    Attributes:
      values, mu, nu: (U, k).
      last: (U,) their ``last`` in the state; after `TableOptimizer.move`, the number of that step.
    """

    values: Array
    mu: Array
    nu: Array
    last: Array


class TableOptimizer(NamedTuple):
    """Optimiser of a table; the cost of a step depends on the touched rows only.

    Attributes:
      init: ``init(table) -> TableState``.
      gather: ``gather(state, rows) -> LocalRows``; rows (U,) are distinct, R for padding.
      move: ``move(local, gradient, count) -> LocalRows``, the rows after a step with a (U, k)
        gradient of ``local.values``; ``count`` is that of the state before the step.
      scatter: ``scatter(state, rows, local, moved) -> TableState``, the state after that step.
      flush: ``flush(state) -> TableState`` with every row up to date; required before the table is
        read as a whole.
    """

    init: Callable[[Array], TableState]
    gather: Callable[[TableState, Array], LocalRows]
    move: Callable[[LocalRows, Array, Array], LocalRows]
    scatter: Callable[[TableState, Array, LocalRows, LocalRows], TableState]
    flush: Callable[[TableState], TableState]


def table_adam(
    learning_rate: float | Array, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> TableOptimizer:
    """Dense Adam on a table, computed on the touched rows only; see the module.

    Args:
      learning_rate: beta, a constant number or scalar array.
      b1, b2, eps: as in `optax.adam`, with b1 below b2, as the sums of the skipped steps need.

    Raises:
      ValueError: b1 and b2 are not in that order between 0 and 1, the rate is a schedule, or the
        table that ``init`` gets has fewer than 32 bits, which cannot hold the numbers near 1 that
        Adam divides by.
    """
    if callable(learning_rate):
        raise ValueError("learning_rate: expected a number or a scalar array, got a function")
    # Numpy's float64 scalars would promote a float32 table.
    b1, b2, eps = float(b1), float(b2), float(eps)
    if not 0 <= b1 < b2 < 1:
        raise ValueError(f"b1 {b1} and b2 {b2}: expected 0 <= b1 < b2 < 1")
    tails = _tails(b1, b2)

    def descend(values: Array, step: Array) -> Array:
        return values - jnp.asarray(learning_rate, values.dtype) * step

    def catch_up(local: LocalRows, count: Array) -> LocalRows:
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
            values=descend(local.values, step),
            mu=local.mu * b1**missed,
            nu=local.nu * b2**missed,
            last=local.last,
        )

    @jax.named_scope("adam")  # for profilers
    def gather(state: TableState, rows: Array) -> LocalRows:
        last = state.last.at[rows].get(mode="fill", fill_value=0)
        return catch_up(LocalRows(*_read(state.packed, rows), last), state.count)

    @jax.named_scope("adam")  # for profilers
    def move(local: LocalRows, gradient: Array, count: Array) -> LocalRows:
        count = count + 1
        mu = b1 * local.mu + (1 - b1) * gradient
        nu = b2 * local.nu + (1 - b2) * gradient**2
        t = count.astype(gradient.dtype)
        step = mu / (1 - b1**t) / (jnp.sqrt(nu / (1 - b2**t)) + eps)
        return LocalRows(descend(local.values, step), mu, nu, jnp.full_like(local.last, count))

    @jax.named_scope("adam")  # for profilers
    def scatter(state: TableState, rows: Array, local: LocalRows, moved: LocalRows) -> TableState:
        # Distinct rows, for padding too, so that they can be written in any order.
        num_rows = len(state.last)
        rows = jnp.where(rows < num_rows, rows, num_rows + jnp.arange(len(rows), dtype=jnp.int32))
        return TableState(
            packed=_written(state.packed, rows, moved[:3]),
            # `add` rather than `set`: a `set` does not depend on the values that `gather` read, and
            # XLA would copy the whole array in every step.
            last=state.last.at[rows].add(moved.last - local.last, mode="drop", unique_indices=True),
            count=state.count + 1,
        )

    def flush(state: TableState) -> TableState:
        local = catch_up(LocalRows(*_unpacked(state.packed), state.last), state.count)
        packed = jnp.concatenate(local[:3], axis=-1)
        return TableState(packed, jnp.full_like(state.last, state.count), state.count)

    return TableOptimizer(_initial, gather, move, scatter, flush)


def _initial(table: Array) -> TableState:
    if table.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"table: expected float32 or float64, got {table.dtype}")
    return TableState(
        packed=jnp.pad(table, ((0, 0), (0, 2 * table.shape[1]))),
        last=jnp.zeros(len(table), jnp.int32),
        count=jnp.zeros((), jnp.int32),
    )


@functools.cache  # a long loop in Python
def _tails(b1: float, b2: float) -> tuple[np.ndarray, np.ndarray]:
    """G(s) = sum_i a_i and sum_i a_i e_i, for s from 0 until b2^s is negligible."""
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
