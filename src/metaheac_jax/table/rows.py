"""Row-local access: the few table rows that a step touches.

A minibatch touches a few thousand of a few hundred thousand rows. `RowIndex` finds them and
renumbers the ids, `adam.TableOptimizer.gather` brings these rows up to date, the step runs on that
small table, and `adam.TableOptimizer.scatter` writes it back once. Rows outside have zero gradient,
so this *equals* working on the whole table.

Axes: R rows of the table, U rows touched by a step and V by one of its campaigns (both padded),
k embedding width.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array

Tree = TypeVar("Tree")


def select_rows(params: Any, own: Array) -> Any:
    """The parameters with ``params["table"]`` cut down to the rows ``own`` (V,); zeros for padding.

    What `training.meta.build_meta_gradient` takes as ``select``: a campaign touches a part of the
    step's rows, and its inner steps and derivatives then cost what that part costs.
    """
    return params | {"table": params["table"].at[own].get(mode="fill", fill_value=0)}


class _Scratch(threading.local):
    """Scratch memory of a thread, made when the thread first uses it.

    Attributes:
      seen: (R + 1,) False between calls.
      position: (R + 1,) of a row among those touched.
    """

    def __init__(self, num_rows: int) -> None:
        self.seen = np.zeros(num_rows + 1, bool)
        self.position = np.zeros(num_rows + 1, np.int32)


class RowIndex:
    """Finds the distinct rows among ids, and renumbers the ids to point at them.

    A lookup as long as the table saves the sort of `numpy.unique`. It is scratch memory, of which
    each thread that uses the index gets its own.
    """

    def __init__(self, num_rows: int, num_small_rows: int = 0) -> None:
        """Args:
        num_rows: R.
        num_small_rows: this many first rows always count as touched, so they keep their numbers.
          `Layout.row_index` sets it.
        """
        self.num_rows, self._num_small_rows = num_rows, num_small_rows
        self._scratch = _Scratch(num_rows)

    def distinct(self, *ids: Any) -> np.ndarray:
        """The rows that occur in the trees of ids, ascending; without R, the pad id."""
        seen = self._scratch.seen
        for leaf in jax.tree.leaves(ids):
            seen[np.asarray(leaf, np.intp)] = True  # native indices are the fastest
        seen[: self._num_small_rows] = True
        seen[self.num_rows] = False
        touched = np.flatnonzero(seen)
        seen[touched] = False
        return touched

    def renumber(self, touched: np.ndarray, size: int, ids: Tree) -> tuple[np.ndarray, Tree]:
        """Makes ids point into ``touched`` rather than into the table.

        Args:
          touched: from `distinct` on the same ids.
          size: U, to which ``touched`` is padded, so that many batches have one shape.
          ids: a tree of integer arrays of rows, with R as the pad id.

        Returns:
          (U,) int32 rows, padded with R; and the tree of ids, int32, with U as the pad id.

        Raises:
          ValueError: more distinct rows than ``size``.
        """
        if len(touched) > size:
            raise ValueError(f"{len(touched)} distinct rows, more than {size}")
        position = self._scratch.position
        position[touched] = np.arange(len(touched), dtype=np.int32)
        position[self.num_rows] = size
        rows = np.full(size, self.num_rows, np.int32)
        rows[: len(touched)] = touched
        return rows, jax.tree.map(lambda leaf: position[np.asarray(leaf, np.intp)], ids)
