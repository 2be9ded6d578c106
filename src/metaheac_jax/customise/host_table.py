"""A table that stays in host memory, since no device has room for it.

Only the rows that some ids name are sent to a device, as a small table; the ids are renumbered to
point into it.

Axes: U rows that the ids name (padded), R rows of the table, k embedding width.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.customise.minibatches import GrowingSize
from metaheac_jax.model import AdaptedWeights
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.rows import RowIndex

Tree = TypeVar("Tree")


class HostRows:
    """Cuts the rows that ids name out of tables in host memory."""

    def __init__(self, layout: Layout, *, multiple: int = 4096) -> None:
        """Args:
        layout: layout of the ids.
        multiple: U is a multiple of it, and never shrinks, so that programs are shared.
        """
        self._layout, self._size = layout, GrowingSize(multiple)
        self._index: RowIndex | None = None

    def cut(
        self, table: Array | np.ndarray, ids: Tree, adapted: AdaptedWeights | None = None
    ) -> tuple[Array, Tree]:
        """Cuts the rows that ids name out of a table, as a small table.

        Args:
          table: (R, k) in host memory.
          ids: a tree of rows of the table; R is the pad id.
          adapted: weights of a campaign, whose rows replace those of the table.

        Returns:
          (U, k) table on jax's default device, and the ids as its rows, with U as the pad id.
        """
        index = self._index
        if index is None or index.num_rows != len(table):
            index = self._index = self._layout.row_index(len(table))
        touched = index.distinct(ids)
        rows, local = index.renumber(touched, self._size.holding(len(touched)), ids)
        values = rows_of(table, rows)
        if adapted is not None and len(touched):
            place = np.minimum(np.searchsorted(touched, adapted.rows), len(touched) - 1)
            found = touched[place] == adapted.rows
            values[place[found]] = np.asarray(adapted.values)[found]
        return jnp.asarray(values), local


def rows_of(table: Array | np.ndarray, rows: np.ndarray) -> Any:
    """(..., k) rows of a table (R, k), in the memory that holds it; zeros for the pad id R."""
    if not on_host(table):
        return _gather(table, rows)
    values = np.asarray(table).take(rows, axis=0, mode="clip")
    values[rows == len(table)] = 0
    return values


@jax.jit
def _gather(table: Array, rows: Array) -> Array:
    return table.at[rows].get(mode="fill", fill_value=0)


def on_host(table: Array | np.ndarray) -> bool:
    """Whether a table stays in host memory; see `model.on_device`."""
    return isinstance(table, np.ndarray)
