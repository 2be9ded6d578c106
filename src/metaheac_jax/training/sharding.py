"""Training on several devices: where each array lives, and the step that runs there.

A mesh has two axes. ``campaign`` is the number of copies of the table, and ``row`` the number of
pieces of each copy: a device holds a range of rows, with their moments. Every device holds the
network, and the campaigns of a step are split over all devices. With ``campaign=4,row=2``, eight
devices hold four copies.

What the devices exchange in a step:

    rows       each sends the step's rows that it holds: a sum over ``row``      (U, k)
    gradient   each sends that of its own campaigns: a sum over both axes        (U, k), network
    update     each writes the rows that it holds                                nothing

The result is the same as on one device, up to the order of sums.

>>> general = method.fit(data, mesh=device_mesh(campaign=4, row=2))

Axes: C campaigns of a step, R rows of the table, U rows that a step touches, V that one of its
campaigns touches, k embedding width.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from metaheac_jax.data.batches import Batch, CampaignBatch
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.processes import from_each
from metaheac_jax.settings import Reduction
from metaheac_jax.table.adam import TableOptimizer, TableState
from metaheac_jax.training.donation import copied, refusing_consumed
from metaheac_jax.training.step import Gradient, RowState, RowStep, row_step

_CAMPAIGN, _ROW = _AXES = "campaign", "row"
_EVERYWHERE, _ROWS, _CAMPAIGNS = Spec(), Spec(_ROW), Spec(_AXES)
_BLOCK = 1 << 16  # rows sent at a time when a state is saved


def _state(everywhere: Any, rows: Any) -> RowState:
    """A prefix of a state: one value for replicated leaves, one for those split by rows."""
    return RowState(everywhere, everywhere, TableState(rows, rows, rows, rows, everywhere))


_STATE = _state(_EVERYWHERE, _ROWS)


def parse_mesh(text: str) -> dict[str, int]:
    """The sizes of the axes in a text such as ``campaign=4,row=2``.

    Raises:
      InputError: the text has another form.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        found = re.fullmatch(rf"({_CAMPAIGN}|{_ROW})=([1-9]\d{{0,5}})", part)
        if found is None or found[1] in sizes:
            raise InputError(
                f"mesh {text!r}: expected the size of one axis or both, such as campaign=4,row=2"
            )
        sizes[found[1]] = int(found[2])
    return sizes


def device_mesh(*, campaign: int = 1, row: int = 1) -> Mesh:
    """A mesh of jax's first devices; in several processes, of all devices.

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
    types = (AxisType.Auto, AxisType.Auto)
    return Mesh(np.array(devices).reshape(campaign, row), _AXES, axis_types=types)


def own_devices(mesh: Mesh) -> Mesh | None:
    """This process's devices of a mesh, on one axis; None if there is only one."""
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return Mesh(np.array(own), (_CAMPAIGN,)) if len(own) > 1 else None


@dataclass(frozen=True)
class Placement:
    """Where each array lives in training.

    Attributes:
      mesh: from `device_mesh`. Its sizes need not divide C or R; some devices then do or hold less
        than others. For a device without a campaign see `build_mesh_step`.
      num_campaigns: C.
      num_rows: R.
    """

    mesh: Mesh
    num_campaigns: int
    num_rows: int

    @property
    def padded_rows(self) -> int:
        """R, rounded up so that all devices hold equally many rows. No step touches the padding."""
        return -(-self.num_rows // self.mesh.shape[_ROW]) * self.mesh.shape[_ROW]

    @property
    def state(self) -> RowState:
        """Shardings of a state whose table has `padded_rows` rows, as a prefix of the state."""
        return _state(*(NamedSharding(self.mesh, spec) for spec in (_EVERYWHERE, _ROWS)))

    @property
    def _campaigns(self) -> NamedSharding:
        return NamedSharding(self.mesh, _CAMPAIGNS)

    @property
    def _campaigns_per_device(self) -> int:
        return -(-self.num_campaigns // self.mesh.size)

    def own_campaigns(self) -> range:
        """Which of a step's C campaigns the devices of this process take.

        Raises:
          InputError: they take none, or they do not follow each other in the mesh.
        """
        each, size = self._campaigns_per_device, self.mesh.size
        places = self._campaigns.addressable_devices_indices_map((each * size,))
        starts = sorted(index[0].start or 0 for index in places.values() if index is not None)
        if starts != [*range(starts[0], starts[0] + each * len(starts), each)]:
            raise InputError(
                "mesh: the devices of a process do not follow each other in it; make it with "
                "training.sharding.device_mesh"
            )
        own = range(starts[0], min(starts[-1] + each, self.num_campaigns))
        if not own:
            raise InputError(
                f"mesh: the {self.num_campaigns} campaigns of a step are too few for {size} devices"
                f" in {jax.process_count()} processes; take more campaigns, or fewer processes"
            )
        return own

    def place_batch(self, batch: CampaignBatch) -> CampaignBatch:
        """Puts the rows on every device, and each campaign's examples on one.

        A device that no campaign is left for gets a campaign of padding only. With several
        processes, each passes its `own_campaigns`, and the processes exchange which rows these
        touch.

        Raises:
          ValueError: the batch has another number of campaigns; or some places are left empty, and
            the examples are not `Batch`es, whose weights show what is padding.
        """
        own = self.own_campaigns()
        if len(batch.own_rows) != len(own):
            raise ValueError(
                f"a batch of {len(batch.own_rows)} campaigns, where this process takes {len(own)} "
                f"of the placement's {self.num_campaigns}"
            )
        if jax.process_count() > 1:
            batch = as_part(batch, from_each((batch.rows, batch.own_rows.shape[1])), self.num_rows)
        put = jax.make_array_from_process_local_data
        num_places = self._campaigns_per_device * len(self._campaigns.addressable_devices)
        number, last = np.arange(num_places), len(batch.own_rows) - 1
        sides = (batch.support, batch.query)
        if num_places > last + 1 and not all(isinstance(side, Batch) for side in sides):
            raise ValueError(
                f"{last + 1} campaigns on {num_places} places: only a batch with weights can be "
                "padded; take as many campaigns as places, or a multiple"
            )

        def spread(part: Any) -> Any:
            part = jax.tree.map(lambda leaf: leaf[np.minimum(number, last)], part)
            if isinstance(part, Batch):
                part = part._replace(weight=part.weight * (number <= last)[:, None])
            return jax.tree.map(partial(put, self._campaigns), part)

        rows = put(NamedSharding(self.mesh, _EVERYWHERE), batch.rows)
        return CampaignBatch(rows, *map(spread, batch[1:]))

    def place(self, tree: Any) -> Any:
        """Puts every `RowState` of a tree, given as arrays with R rows, on the devices."""

        def put(sharding: NamedSharding, leaf: np.ndarray | Array) -> Array:
            if isinstance(leaf, Array):  # steps consume what they get, and this stays the caller's
                leaf = np.array(leaf)
            if sharding.spec == _ROWS:
                missing = self.padded_rows - self.num_rows
                leaf = np.pad(leaf, ((0, missing), *[(0, 0)] * (leaf.ndim - 1)))
            return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

        return self._map_states(put, tree)

    def fetch(self, tree: Any) -> Any:
        """Returns a tree with every `RowState` as it is without a mesh: numpy arrays of R rows."""

        def get(sharding: NamedSharding, leaf: Array) -> np.ndarray:
            if sharding.spec != _ROWS:
                return np.array(leaf)
            if leaf.is_fully_addressable:
                return np.array(leaf)[: self.num_rows]
            read = _block_reader(self.mesh)
            blocks = [np.asarray(read(leaf, i)) for i in range(0, self.num_rows, _BLOCK)]
            return np.concatenate(blocks)[: self.num_rows]

        return self._map_states(get, tree)

    def like(self, tree: Any) -> Any:
        """Arrays with the shapes and dtypes of what `fetch` returns, which take no memory."""

        def show(sharding: NamedSharding, leaf: Array) -> np.ndarray:
            shape = leaf.shape
            if sharding.spec == _ROWS:
                shape = (self.num_rows, *shape[1:])
            return np.broadcast_to(np.zeros((), leaf.dtype), shape)

        return self._map_states(show, tree)

    def shapes(self, state: Any) -> Any:
        """Adds shardings to the shapes of a state with `padded_rows` (from `jax.eval_shape`).

        A step can be compiled for them before the state exists.
        """

        def show(sharding: NamedSharding, leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return self._map_states(show, state)

    def flush(self, state: RowState, table_optimizer: TableOptimizer) -> RowState:
        """Returns the state with every row up to date."""
        return state._replace(table=_flusher(self.mesh, table_optimizer)(state.table))

    def _map_states(self, function: Callable[[NamedSharding, Any], Any], tree: Any) -> Any:
        def apply(part: Any) -> Any:
            if not isinstance(part, RowState):
                return np.asarray(part)
            return jax.tree.map(function, jax.tree.broadcast(self.state, part), part)

        return jax.tree.map(apply, tree, is_leaf=lambda part: isinstance(part, RowState))


def as_part(
    batch: CampaignBatch, each: Sequence[tuple[np.ndarray, int]], num_rows: int
) -> CampaignBatch:
    """Converts the batch of some campaigns to its part of the batch of the whole step.

    Args:
      batch: the batch of these campaigns.
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
    own = np.append(position, size).astype(np.int32)[batch.own_rows]
    before, after = batch.own_rows.shape[1], max(sizes)
    own = np.pad(own, ((0, 0), (0, after - before)), constant_values=size)

    def moved(side: Batch) -> Batch:
        padded = lambda ids: np.where(ids == before, np.int32(after), ids)  # noqa: E731
        return side._replace(ids=jax.tree.map(padded, side.ids))

    return CampaignBatch(rows, moved(batch.support), moved(batch.query), own)


def build_mesh_step(
    gradient: Gradient[...],
    optimizer: optax.GradientTransformation,
    table_optimizer: TableOptimizer,
    placement: Placement,
    *,
    reduction: Reduction,
    checked: bool = False,
) -> RowStep:
    """`step.build_row_step` on a mesh.

    ``init`` takes a table with R or `Placement.padded_rows` rows, and ``step`` takes what
    `Placement.place_batch` returns.

    Args:
      gradient: from `meta.build_meta_gradient`. On a batch whose weights are all 0, which a device
        without a campaign gets, its losses must be 0 and have a gradient of 0. A penalty is not,
        nor is a weighted mean that divides 0 by 0.
      optimizer: the network's optimiser.
      table_optimizer: the table's optimiser.
      placement: where the arrays live.
      reduction: over the campaigns, as in the gradient.
      checked: as in `step.build_row_step`.
    """
    num_rows, num_campaigns = placement.num_rows, placement.num_campaigns

    def init(network: Any, table: Array) -> RowState:
        table = jnp.pad(table, ((0, placement.padded_rows - len(table)), (0, 0)))
        own = copied((network, optimizer.init(network)))
        return RowState(*own, table_optimizer.init(table))

    def of_all(params: Any, *batches: Any) -> tuple[Any, Any]:
        """The gradient over all campaigns, by all rows; ``params`` has this device's rows."""
        table = jax.lax.psum(params["table"], _ROW)
        grads, info = gradient({"network": params["network"], "table": table}, *batches)
        num_own = len(jax.tree.leaves(batches)[0])
        scale = num_own / num_campaigns if reduction == "mean" else 1.0

        def total(leaf: Array) -> Array:
            return jax.lax.psum(leaf, _AXES) * scale

        def every(leaf: Array) -> Array:
            return jax.lax.all_gather(leaf, _AXES, tiled=True)[:num_campaigns]

        info = jax.tree.map(lambda leaf: every(leaf) if leaf.ndim else total(leaf), info)
        return jax.tree.map(total, grads), info

    row = row_step(
        of_all,
        optimizer,
        table_optimizer,
        checked=checked,
        agreed=lambda finite: jax.lax.pmin(finite.astype(int), _ROW) > 0,
    )

    def on_device(state: RowState, rows: Array, *batches: Any) -> tuple[RowState, Any]:
        rows = jnp.where(rows < num_rows, rows, -1)
        return row(state, _held(rows, len(state.table.last)), *batches)

    def step(state: RowState, rows: Any, *batches: Any) -> tuple[RowState, Any]:
        # No collective is differentiated, so jax need not check what varies between devices.
        return jax.shard_map(
            on_device,
            mesh=placement.mesh,
            in_specs=(_STATE, _EVERYWHERE, *[_CAMPAIGNS] * len(batches)),
            out_specs=(_STATE, _EVERYWHERE),
            check_vma=False,
        )(state, rows, *batches)

    jitted = refusing_consumed(jax.jit(step, donate_argnums=0))

    def waiting(state: RowState, rows: Any, *batches: Any) -> tuple[RowState, Any]:
        # On CPUs, messages of two concurrent computations may arrive in another order.
        return jax.block_until_ready(jitted(state, rows, *batches))

    wait = jax.process_count() > 1 and jax.default_backend() == "cpu"
    return RowStep(jax.jit(init, out_shardings=placement.state), waiting if wait else jitted)


def _held(rows: Array, num_held: int) -> Array:
    """Positions of table rows among those that a device holds; ``num_held`` for all others.

    The others are read as 0 and not written.
    """
    place = rows - jax.lax.axis_index(_ROW) * num_held
    return jnp.where((rows >= 0) & (place >= 0) & (place < num_held), place, num_held)


@functools.cache
def _block_reader(mesh: Mesh) -> Callable[[Array, int], Array]:
    """Builds ``read(array, start)``: `_BLOCK` rows of a split array, zero beyond its end."""

    def read(array: Array, start: Array) -> Array:
        held = _held(start + jnp.arange(_BLOCK), len(array))
        return jax.lax.psum(array.at[held].get(mode="fill", fill_value=0), _ROW)

    specs = {"in_specs": (_ROWS, _EVERYWHERE), "out_specs": _EVERYWHERE}
    return jax.jit(jax.shard_map(read, mesh=mesh, check_vma=False, **specs))


@functools.lru_cache(maxsize=1)
def _flusher(mesh: Mesh, table_optimizer: TableOptimizer) -> Callable[[TableState], TableState]:
    """Builds the ``flush`` of an optimiser for a table that is split by rows."""
    specs = {"in_specs": (_STATE.table,), "out_specs": _STATE.table}
    return jax.jit(jax.shard_map(table_optimizer.flush, mesh=mesh, check_vma=False, **specs))
