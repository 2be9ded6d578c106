"""Where each array of a training lives: on one device, on a mesh of devices, in several processes.

A mesh has two axes. ``campaign`` is the number of copies of the table, and ``row`` the number of
pieces of each copy: a device holds a range of rows, with their moments. Every device holds the
network, and the items of a step, its campaigns or examples, are divided over all devices. With
``campaign=4,row=2``, eight devices hold four copies. `step.build_row_step` builds the step, which
is the same program on all of them.

What the devices exchange in a step:

    rows       each sends the step's rows that it holds: a sum over ``row``      (U, k)
    gradient   each sends that of its own items: a sum over both axes            (U, k), network
    update     each writes the rows that it holds                                nothing

The result is the same as on one device, up to the order of sums.

>>> general = fit(data, mesh=device_mesh(campaign=4, row=2))

Axes: I items of a step, R rows of the table, U rows that a step touches, k embedding width.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from metaheac_jax.backend import jit
from metaheac_jax.data.batches import Batch
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.table.adam import TableState
from metaheac_jax.table.rows import row_major

Tree = TypeVar("Tree")

ROW = "row"
AXES = ("campaign", ROW)
EVERYWHERE, BY_ROW, BY_ITEM = Spec(), Spec(ROW), Spec(AXES)
TABLE = cast(Any, TableState)(BY_ROW, BY_ROW, EVERYWHERE)  # how the arrays of a table are divided
_BLOCK = 1 << 16  # rows sent at a time when a state is fetched


def parse_mesh(text: str) -> dict[str, int]:
    """The sizes of the axes in a text such as ``campaign=4,row=2``.

    Raises:
      InputError: the text has another form.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        found = re.fullmatch(rf"({'|'.join(AXES)})=([1-9]\d{{0,5}})", part)
        if found is None or found[1] in sizes:
            raise InputError(
                f"mesh {text!r}: expected the size of one axis or both, such as campaign=4,row=2"
            )
        sizes[found[1]] = int(found[2])
    return sizes


def device_mesh(*, campaign: int = 1, row: int = 1) -> Mesh:
    """Makes a mesh of jax's first devices; in several processes, of all devices.

    Args:
      campaign: number of copies of the table.
      row: number of pieces of each copy.

    Raises:
      InputError: a number is below 1, or there are fewer devices (in several processes, also more).
    """
    check_whole("mesh: campaign", campaign, 1)
    check_whole("mesh: row", row, 1)
    size, count, several = campaign * row, jax.device_count(), jax.process_count() > 1
    if size > count or (several and size < count):
        raise InputError(
            f"mesh campaign={campaign},row={row}: takes {size} devices, and jax has {count} "
            f"({jax.default_backend()}); choose numbers with a product of "
            f"{'exactly' if several else 'at most'} {count}"
        )
    return mesh_of(np.array(jax.devices()[:size]).reshape(campaign, row))


def one_device() -> Mesh:
    """A mesh of the device that jax uses by default."""
    return mesh_of(np.array(list(jnp.zeros(()).devices())).reshape(1, 1))


def mesh_of(devices: np.ndarray) -> Mesh:
    """A mesh of (campaign, row) devices."""
    return Mesh(devices, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


@dataclass(frozen=True)
class Placement:
    """Where each array lives in training.

    Attributes:
      mesh: from `device_mesh`. Its sizes need not divide I or R; some devices then do or hold less
        than others.
      num_items: I, the campaigns or examples that a step divides over the devices.
      num_rows: R.
    """

    mesh: Mesh
    num_items: int
    num_rows: int

    @property
    def padded_rows(self) -> int:
        """R, rounded up so that all devices hold equally many rows. No step touches the padding."""
        return -(-self.num_rows // self.mesh.shape[ROW]) * self.mesh.shape[ROW]

    def sharding(self, spec: Spec) -> NamedSharding:
        """The sharding of an array that is divided by one of this module's specs."""
        return NamedSharding(self.mesh, spec)

    @property
    def of_table(self) -> TableState:
        """Where the arrays of a table live, and on a TPU in which layout."""
        by_row, everywhere = self.sharding(BY_ROW), self.sharding(EVERYWHERE)
        return cast(Any, TableState)(row_major(by_row), by_row, everywhere)

    def check_memory(self, width: int) -> None:
        """Refuses with an `InputError` a table that does not fit into the devices' memory."""
        device = self.mesh.local_devices[0]  # of another process's device nothing is known
        columns = -(-3 * width // 128) * 128 if device.platform == "tpu" else 3 * width
        needed = self.padded_rows // self.mesh.shape[ROW] * 4 * (columns + 1)
        memory = (device.memory_stats() or {}).get("bytes_limit")  # not known on a CPU
        if memory is not None and needed > memory:
            pieces = self.mesh.shape[ROW] * -(-needed // memory)
            raise InputError(
                f"mesh: a table of {self.num_rows:,} rows takes {needed / 1e9:.3g} GB on each "
                f"device with its moments, and a device has {memory / 1e9:.3g} GB; divide the rows "
                f"over more devices, as with row={pieces}, or take a smaller width"
            )

    def place_batch(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        """Puts the rows on every device, and each item on one.

        Each process passes the whole batch of the step. One device takes it as it is. A device that
        no item is left for gets padding only.
        """
        if self.mesh.size == 1:
            return batch
        rows, *parts = batch
        count = self.num_items
        number = np.arange(-(-count // self.mesh.size) * self.mesh.size)

        def put(spec: Spec, leaf: np.ndarray) -> Array:
            place = self.sharding(spec)
            return jax.make_array_from_callback(leaf.shape, place, leaf.__getitem__)

        def spread(part: Any) -> Any:
            part = jax.tree.map(lambda leaf: leaf[np.minimum(number, count - 1)], part)
            if isinstance(part, Batch):
                used = (number < count).reshape(-1, *[1] * (part.weight.ndim - 1))
                part = part._replace(weight=part.weight * used)
            return jax.tree.map(functools.partial(put, BY_ITEM), part)

        return put(EVERYWHERE, rows), *map(spread, parts)

    def map(self, function: Callable[[NamedSharding, Any], Any], tree: Tree) -> Tree:
        """Maps ``function(sharding, leaf)`` over the leaves of a tree of states."""

        def by(spec: Spec, part: Any) -> Any:
            return jax.tree.map(functools.partial(function, self.sharding(spec)), part)

        def apply(part: Any) -> Any:
            if isinstance(part, TableState):
                return TableState(*map(by, TABLE, part))
            return by(EVERYWHERE, part)

        return jax.tree.map(apply, tree, is_leaf=lambda part: isinstance(part, TableState))

    def place(self, tree: Tree) -> Tree:
        """Puts a tree of states, whose tables have R rows, on the devices."""

        def put(sharding: NamedSharding, leaf: np.ndarray | Array) -> Array:
            leaf, place = np.array(leaf), sharding  # steps consume it, and this is the caller's
            if sharding.spec == BY_ROW:
                missing = self.padded_rows - len(leaf)
                leaf = np.pad(leaf, ((0, missing), *[(0, 0)] * (leaf.ndim - 1)))
                place = row_major(sharding) if leaf.ndim > 1 else sharding
            return jax.make_array_from_callback(leaf.shape, place, leaf.__getitem__)

        return self.map(put, tree)

    def fetch(self, tree: Tree) -> Tree:
        """A tree of states as numpy arrays, whose tables have R rows."""

        def get(sharding: NamedSharding, leaf: Array) -> np.ndarray:
            return self.fetch_rows(leaf) if sharding.spec == BY_ROW else np.array(leaf)

        return self.map(get, tree)

    def fetch_rows(self, array: Array) -> Any:
        """An array that is divided by rows, and may be padded, as a numpy array of R rows."""
        if array.is_fully_addressable:
            return np.array(array)[: self.num_rows]
        read = _block_reader(self.mesh)
        blocks = [np.asarray(read(array, i)) for i in range(0, self.num_rows, _BLOCK)]
        return np.concatenate(blocks)[: self.num_rows]


def local_rows(rows: Array, num_local: int) -> Array:
    """Positions of table rows among those that a device holds; ``num_local`` for all others.

    The others, and rows below 0, are read as 0 and not written.
    """
    place = rows - jax.lax.axis_index(ROW) * num_local
    return jnp.where((rows >= 0) & (place >= 0) & (place < num_local), place, num_local)


@functools.cache
def _block_reader(mesh: Mesh) -> Callable[[Array, int], Array]:
    """Builds ``read(array, start)``: `_BLOCK` rows of a split array, zero beyond its end."""

    def read(array: Array, start: Array) -> Array:
        block = local_rows(start + jnp.arange(_BLOCK), len(array))
        return jax.lax.psum(array.at[block].get(mode="fill", fill_value=0), ROW)

    specs = {"in_specs": (BY_ROW, EVERYWHERE), "out_specs": EVERYWHERE}
    return jit(jax.shard_map(read, mesh=mesh, check_vma=False, **specs))
