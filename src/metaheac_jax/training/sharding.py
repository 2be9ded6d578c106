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

>>> general = method.fit(data, mesh=device_mesh(campaign=4, row=2))

Axes: I items of a step, R rows of the table, U rows that a step touches, V that one of its
campaigns touches, k embedding width.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from metaheac_jax.data.batches import Batch, CampaignBatch, ExampleBatch
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.processes import from_each
from metaheac_jax.table.adam import TableState
from metaheac_jax.table.rows import row_major

Tree = TypeVar("Tree")
Items = CampaignBatch | ExampleBatch

ROW = "row"
AXES = ("campaign", ROW)
EVERYWHERE, BY_ROW, BY_ITEM = Spec(), Spec(ROW), Spec(AXES)
_OF_TABLE: tuple[Any, ...] = (BY_ROW, BY_ROW, EVERYWHERE)
TABLE = TableState(*_OF_TABLE)  # how the arrays of a table are divided
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
    # Sorted by process, so that each process takes consecutive campaigns.
    devices = sorted(jax.devices()[:size], key=lambda device: (device.process_index, device.id))
    return mesh_of(np.array(devices).reshape(campaign, row))


def one_device() -> Mesh:
    """A mesh of the device that jax uses by default."""
    return mesh_of(np.array(list(jnp.zeros(()).devices())).reshape(1, 1))


def mesh_of(devices: np.ndarray) -> Mesh:
    """A mesh of (campaign, row) devices."""
    return Mesh(devices, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def _memory(device: jax.Device) -> int | None:
    """Bytes that programs may use; None where that is not known, as on a CPU."""
    return (device.memory_stats() or {}).get("bytes_limit")


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
        places: tuple[Any, ...] = row_major(by_row), by_row, everywhere
        return TableState(*places)

    def table_bytes(self, width: int) -> int:
        """What a table of this width takes on each device, with its moments."""
        tpu = self.mesh.devices.flat[0].platform == "tpu"
        columns = -(-3 * width // 128) * 128 if tpu else 3 * width
        return self.padded_rows // self.mesh.shape[ROW] * 4 * (columns + 1)

    def check_memory(self, width: int) -> None:
        """Refuses with an `InputError` a table that does not fit into the devices' memory."""
        needed, memory = self.table_bytes(width), _memory(self.mesh.devices.flat[0])
        if memory is not None and needed > memory:
            pieces = self.mesh.shape[ROW] * -(-needed // memory)
            raise InputError(
                f"mesh: a table of {self.num_rows:,} rows takes {needed / 1e9:.3g} GB on each "
                f"device with its moments, and a device has {memory / 1e9:.3g} GB; divide the rows "
                f"over more devices, as with row={pieces}, or take a smaller width"
            )

    @functools.cached_property
    def several_processes(self) -> bool:
        """Whether the devices belong to more than one process."""
        return not self.sharding(EVERYWHERE).is_fully_addressable

    @property
    def _items_per_device(self) -> int:
        return -(-self.num_items // self.mesh.size)

    def own_items(self) -> range:
        """Which of a step's I items the devices of this process take.

        Raises:
          InputError: they take none, or they do not follow each other in the mesh.
        """
        each, size = self._items_per_device, self.mesh.size
        places = self.sharding(BY_ITEM).addressable_devices_indices_map((each * size,))
        starts = sorted(index[0].start or 0 for index in places.values() if index is not None)
        if starts != [*range(starts[0], starts[0] + each * len(starts), each)]:
            raise InputError(
                "mesh: the devices of a process do not follow each other in it; make it with "
                "training.sharding.device_mesh"
            )
        own = range(starts[0], min(starts[-1] + each, self.num_items))
        if not own:
            raise InputError(
                f"mesh: the {self.num_items} campaigns of a step are too few for {size} devices"
                f" in {jax.process_count()} processes; take more campaigns, or fewer processes"
            )
        return own

    def place_batch(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        """Puts the rows on every device, and each item on one.

        One device takes any batch as it is; several take the arrays of a `CampaignBatch` or an
        `ExampleBatch`. A device that no item is left for gets padding only. With several processes,
        each passes its `own_items`, and the processes exchange which rows these touch.

        Raises:
          ValueError: the batch has another number of items; or some places are left empty, and the
            examples are not `Batch`es, whose weights show what is padding.
        """
        if self.mesh.size == 1:
            return batch
        batch = (CampaignBatch if len(batch) == len(CampaignBatch._fields) else ExampleBatch)(
            *batch
        )
        count, own = len(jax.tree.leaves(batch[1:])[0]), self.own_items()
        if count != len(own):
            raise ValueError(
                f"a batch of {count} items, where this process takes {len(own)} of the placement's "
                f"{self.num_items}"
            )
        if self.several_processes:
            batch = as_part(batch, from_each((batch.rows, _num_own(batch))), self.num_rows)
        by_item = self.sharding(BY_ITEM)
        num_places = self._items_per_device * len(by_item.addressable_devices)
        number, last = np.arange(num_places), count - 1
        sides = [part for part in batch[1:] if not isinstance(part, np.ndarray)]
        if num_places > count and not all(isinstance(side, Batch) for side in sides):
            raise ValueError(
                f"{count} campaigns on {num_places} places: only a batch with weights can be "
                "padded; take as many campaigns as places, or a multiple"
            )
        put = jax.make_array_from_process_local_data

        def spread(part: Any) -> Any:
            part = jax.tree.map(lambda leaf: leaf[np.minimum(number, last)], part)
            if isinstance(part, Batch):
                used = (number <= last).reshape(-1, *[1] * (part.weight.ndim - 1))
                part = part._replace(weight=part.weight * used)
            return jax.tree.map(functools.partial(put, by_item), part)

        return batch._make([put(self.sharding(EVERYWHERE), batch[0]), *map(spread, batch[1:])])

    def map(self, function: Callable[[NamedSharding, Any], Any], tree: Tree) -> Tree:
        """Maps ``function(sharding, leaf)`` over the leaves of a tree of states."""

        def by(spec: Spec, part: Any) -> Any:
            return jax.tree.map(functools.partial(function, self.sharding(spec)), part)

        def apply(part: Any) -> Any:
            if isinstance(part, TableState):
                return TableState(*map(by, _OF_TABLE, part))
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
            if sharding.spec != BY_ROW:
                return np.array(leaf)
            if leaf.is_fully_addressable:
                return np.array(leaf)[: self.num_rows]
            read = _block_reader(self.mesh)
            blocks = [np.asarray(read(leaf, i)) for i in range(0, self.num_rows, _BLOCK)]
            return np.concatenate(blocks)[: self.num_rows]

        return self.map(get, tree)

    def unpadded(self, tree: Tree) -> Tree:
        """The shapes and dtypes of a tree of states, whose tables have R rows."""

        def show(sharding: NamedSharding, leaf: Array) -> jax.ShapeDtypeStruct:
            rows = (self.num_rows,) if sharding.spec == BY_ROW else leaf.shape[:1]
            return jax.ShapeDtypeStruct((*rows, *leaf.shape[1:]), leaf.dtype)

        return self.map(show, tree)


def _num_own(batch: Items) -> int:
    """V, the number of rows to which those of a campaign are padded; 0 for plain examples."""
    return batch.own_rows.shape[1] if isinstance(batch, CampaignBatch) else 0


def as_part(batch: Items, each: Sequence[tuple[np.ndarray, int]], num_rows: int) -> Items:
    """Converts the batch of some items to its part of the batch of the whole step.

    Args:
      batch: the batch of these items.
      each: ``rows`` and V of every part of the step.
      num_rows: R.
    """
    parts, sizes = zip(*each, strict=True)
    touched = np.unique(np.concatenate(parts))
    touched = touched[touched < num_rows]
    # Few shapes need few compilations.
    quantum = max(512, 1 << max(0, len(touched).bit_length() - 3))
    size = -(-len(touched) // quantum) * quantum
    rows = np.pad(touched, (0, size - len(touched)), constant_values=num_rows)
    position = np.where(batch.rows < num_rows, np.searchsorted(touched, batch.rows), size)
    position = np.append(position, size).astype(np.int32)
    if isinstance(batch, ExampleBatch):
        ids = jax.tree.map(position.__getitem__, batch.examples.ids)
        return ExampleBatch(rows, batch.examples._replace(ids=ids))
    before, after = _num_own(batch), max(sizes)
    own = np.pad(position[batch.own_rows], ((0, 0), (0, after - before)), constant_values=size)

    def moved(side: Batch) -> Batch:
        padded = lambda ids: np.where(ids == before, np.int32(after), ids)  # noqa: E731
        return side._replace(ids=jax.tree.map(padded, side.ids))

    return CampaignBatch(rows, moved(batch.support), moved(batch.query), own)


def held(rows: Array, num_held: int) -> Array:
    """Positions of table rows among those that a device holds; ``num_held`` for all others.

    The others, and rows below 0, are read as 0 and not written.
    """
    place = rows - jax.lax.axis_index(ROW) * num_held
    return jnp.where((rows >= 0) & (place >= 0) & (place < num_held), place, num_held)


@functools.cache
def _block_reader(mesh: Mesh) -> Callable[[Array, int], Array]:
    """Builds ``read(array, start)``: `_BLOCK` rows of a split array, zero beyond its end."""

    def read(array: Array, start: Array) -> Array:
        own = held(start + jnp.arange(_BLOCK), len(array))
        return jax.lax.psum(array.at[own].get(mode="fill", fill_value=0), ROW)

    specs = {"in_specs": (BY_ROW, EVERYWHERE), "out_specs": EVERYWHERE}
    return jax.jit(jax.shard_map(read, mesh=mesh, check_vma=False, **specs))
