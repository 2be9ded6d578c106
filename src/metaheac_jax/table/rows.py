"""Row-local access: the few table rows that a step touches.

A minibatch touches a few thousand of a few hundred thousand rows. `RowIndex` finds them and
renumbers the ids, `adam.TableOptimizer.gather` brings these rows up to date, the step runs on that
small table, and `adam.TableOptimizer.scatter` writes it back once. All other rows have zero
gradient, so the gradient *equals* that of the whole table; `adam` says how exact its steps are.

Axes: R rows of the table, U rows touched by a step and V by one of its campaigns (both padded),
k embedding width.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
from jax import Array
from jax.experimental.layout import Format, Layout
from jax.sharding import Sharding

from metaheac_jax.backend import jit

Tree = TypeVar("Tree")


class Ids(NamedTuple):
    """Rows of a table (the whole table, or the few rows of a step); its length is the pad id.

    Attributes:
      user: (B, S) int32, the values of the users. The first slots may hold numbers, see `layout`.
      campaign: (N,) int32, the values of the campaign that all examples share; or (B, N).
    """

    user: Any
    campaign: Any


#: A TPU gathers the rows of a table of at most this width as they are.
NARROW = 32


def row_major(sharding: Sharding) -> Any:
    """Where a table with this sharding is to live: on a TPU, with whole rows in adjacent lanes.

    A TPU's own choice for a narrow table puts adjacent rows in adjacent lanes, and each program
    that gathers rows would first copy the table. Elsewhere it is the sharding itself.
    """
    [platform] = {device.platform for device in sharding.device_set}
    return Format(Layout((0, 1)), sharding) if platform == "tpu" else sharding


def pinned(table: Array) -> Array:
    """The table (R, k) as `row_major` puts it; itself if it is `NARROW` or nothing changes."""
    place = row_major(table.sharding)
    there = not isinstance(place, Format) or cast(Any, table).format == place
    if there or table.ndim != 2 or table.shape[1] <= NARROW:
        return table
    return jax.device_put(table, place)


@jit
def rows_of(table: Array, rows: Any) -> Array:
    """(R, k) table and (...,) rows -> (..., k), zero for the pad id R."""
    return table.at[rows].get(mode="fill", fill_value=0)


def select_rows(params: Any, own: Array) -> Any:
    """The parameters with ``params["table"]`` cut down to the rows ``own`` (V,).

    Padding selects any row, since no id points to it. It is the ``select`` argument of
    `training.meta_step.build_meta_gradient`. A campaign touches a part of the step's rows, and its
    inner steps and derivatives then cost only what that part costs.
    """
    return params | {"table": params["table"].at[own].get(mode="clip")}


class _Scratch(threading.local):
    """Scratch memory of a thread, allocated when the thread first uses it.

    Attributes:
      seen: (R + 1,) whether each row is touched; all False between calls.
      position: (R + 1,) position of each touched row among all touched rows.
    """

    def __init__(self, num_rows: int) -> None:
        self.seen = np.zeros(num_rows + 1, bool)
        self.position = np.zeros(num_rows + 1, np.int32)


class RowIndex:
    """Finds the distinct rows among ids, and renumbers the ids to point at them.

    A lookup array as long as the table replaces the sort of `numpy.unique`. Each thread that uses
    the index has its own array.
    """

    def __init__(self, num_rows: int, num_small_rows: int = 0, num_numbers: int = 0) -> None:
        """Args: `Layout.row_index` gives the last two.

        num_rows: R.
        num_small_rows: number of first rows that always count as touched, so that they keep their
          numbers.
        num_numbers: number of first slots of users that hold numbers, which stay as they are.
        """
        self.num_rows, self._num_small_rows = num_rows, num_small_rows
        self._num_numbers = num_numbers
        self._scratch = _Scratch(num_rows)

    def distinct(self, *ids: Any) -> np.ndarray:
        """The rows that occur in trees of `Ids` or of arrays, ascending, without the pad id R.

        Raises:
          IndexError: an id is above R.
        """
        seen = self._scratch.seen
        try:
            for leaf in jax.tree.leaves(jax.tree.map(self._rows_in, ids, is_leaf=_is_ids)):
                seen[np.asarray(leaf, np.intp)] = True  # native indices are the fastest
        except IndexError:
            seen[:] = False
            raise
        seen[: self._num_small_rows] = True
        seen[self.num_rows] = False
        touched = np.flatnonzero(seen)
        seen[touched] = False
        return touched

    def renumber(self, touched: np.ndarray, size: int, ids: Tree) -> tuple[np.ndarray, Tree]:
        """Makes ids point into ``touched`` rather than into the table.

        Args:
          touched: result of `distinct` for the same ids.
          size: U, to which ``touched`` is padded, so that many batches have the same shape.
          ids: a tree of integer arrays of rows, with R as the pad id.

        Returns:
          (U,) int32 rows, padded with R; and the tree of ids, int32, with U as the pad id.

        Raises:
          ValueError: there are more distinct rows than ``size``.
        """
        if len(touched) > size:
            raise ValueError(f"{len(touched)} distinct rows, more than {size}")
        position = self._scratch.position
        position[touched] = np.arange(len(touched), dtype=np.int32)
        position[self.num_rows] = size
        rows = np.full(size, self.num_rows, np.int32)
        rows[: len(touched)] = touched

        def moved(ids: Any) -> Any:
            if not isinstance(ids, Ids):
                return position[np.asarray(ids, np.intp)]
            user, campaign = map(moved, self._rows_in(ids))
            numbers = np.asarray(ids.user)[..., : self._num_numbers]
            return Ids(np.concatenate([numbers, user], axis=-1), campaign)

        return rows, jax.tree.map(moved, ids, is_leaf=_is_ids)

    def _rows_in(self, ids: Any) -> Any:
        """`Ids` without the slots of numbers; arrays as they are."""
        if not isinstance(ids, Ids):
            return ids
        return ids._replace(user=ids.user[..., self._num_numbers :])


def _is_ids(tree: Any) -> bool:
    return isinstance(tree, Ids)
