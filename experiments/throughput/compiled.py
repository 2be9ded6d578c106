"""What compilers say of the programs, for devices that this machine need not have.

``pip install "jax[tpu]"`` brings the compiler for TPUs; ``jax-cuda13-plugin``, ``jax-cuda13-pjrt``,
``nvidia-cuda-nvcc`` and ``nvidia-nvvm`` bring the one for NVIDIA's GPUs. Nothing runs. Cycles are
the TPU compiler's estimates, added up; a loop's body counts once, and gathers, scatters, sorts and
asynchronous copies have no estimate, so a sum is a lower bound.

Axes: C campaigns, B examples, P users, S slots, R rows of the table, U rows that a step touches,
V that one of its campaigns touches, k embedding width.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies

from experiments.throughput import options_meta
from experiments.throughput.inputs import FIXED_ROWS, Size, synthetic
from experiments.throughput.steps import NETWORK
from metaheac_jax.backend import Profile
from metaheac_jax.customising.customiser import AdaptingSteps
from metaheac_jax.customising.score import head_function, network_function
from metaheac_jax.data.batches import Batch
from metaheac_jax.errors import InputError
from metaheac_jax.methods import OFFICIAL
from metaheac_jax.methods.solved_head import NUM_FACTORS, SolvedHead
from metaheac_jax.model import Weights, initialise
from metaheac_jax.table.adam import table_adam
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.table.rows import NARROW, row_major, rows_of, select_rows
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta_step import build_meta_gradient
from metaheac_jax.training.sharding import BY_ITEM, EVERYWHERE, Placement, mesh_of
from metaheac_jax.training.step import RowState, build_row_step, plain_gradient

#: Rows that a step of five campaigns of 512 + 512 examples touches, and that one of them touches.
TOUCHED, OWN = 27_136, 10_752
#: Campaigns that a solved head scores together.
HEADS = 8
#: An H100 SXM as XLA describes a GPU, by NVIDIA's data sheet.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 memory_bandwidth: 3350000000000
  l2_cache_size: 52428800 device_memory_size: 85899345920 device_address_bits: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  device_vendor: "NVIDIA Corporation" name: "NVIDIA H100 80GB HBM3"
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
"""
#: Platform -> the module with its compiler, and what to install.
PLUGINS = {
    "tpu": ("libtpu", "'jax[tpu]'"),
    "cuda": (
        "jax_plugins",
        "jax-cuda13-plugin jax-cuda13-pjrt nvidia-cuda-nvcc nvidia-nvvm",
    ),
}
_LINE = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")
_CYCLES = re.compile(r'estimated_cycles"?:"?(\d+)')
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_UNESTIMATED = ("gather", "scatter", "sort", "copy-start", "slice-start")
#: What may have the size of a table: names of arrays, the start of a copy (its end counts), and a
#: scatter in place.
_FREE = ("parameter", "tuple", "get-tuple-element", "bitcast", "while", "fusion", "scatter")
_FREE += ("copy-start", "slice-start", "call-start", "call-update", "call-done")


class Figures(NamedTuple):
    """What a compiler says of a program.

    Attributes:
      target: the device or devices, as ``v5e:1x1`` or ``h100``.
      program: one of `PROGRAMS`.
      mesh: copies and pieces of the table, as ``1x1``.
      table_rows: R.
      items: what cycles are given per: users of a chunk, else 1.
      gigaflop: FLOPs, 1e9.
      megacycles: estimated cycles, 1e6; None for a GPU.
      unestimated: number of operations that have no estimate, by kind.
      gathered_mb: bytes of the results of gathers, 1e6.
      on_table: operations on a whole table, with their shapes; there should be none.
      collectives: kind -> number of them and megabytes that a device sends to them.
      temporary_mb, arguments_mb: megabytes per device.
    """

    target: str
    program: str
    mesh: str
    table_rows: int
    items: int
    gigaflop: float
    megacycles: float | None
    unestimated: dict[str, int]
    gathered_mb: float
    on_table: list[str]
    collectives: dict[str, tuple[int, float]]
    temporary_mb: float
    arguments_mb: float


@cache
def devices_of(target: str) -> list[Any]:
    """The devices of a target that need not be there: ``v5e:4x4``, ``v5p:2x2x4``, ``h100``.

    Raises:
      InputError: its compiler is not installed, or it does not know the target.
    """
    for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        os.environ.setdefault(name, "1")
    options: dict[str, Any] = {"platform": "tpu", "topology_name": target}
    if target.endswith(":1x1"):  # else some versions expect the four chips of a host
        options["chips_per_host_bounds"] = [1, 1, 1]
    if target == "h100":
        options = {"platform": "cuda", "target_config": _H100, "topology": "1x1x1"}
    plugin, package = PLUGINS[options["platform"]]
    if find_spec(plugin) is None:
        raise InputError(f"--compile-for {target}: its compiler is missing; pip install {package}")
    try:
        return list(topologies.get_topology_desc(**options).devices)
    except jax.errors.JaxRuntimeError as error:
        told = str(error).partition("\n")[0]
        raise InputError(f"--compile-for {target}: {told}; give a device as v5e:1x1") from error


class World(NamedTuple):
    """What the programs are made for.

    Attributes:
      size: C campaigns of a step on all devices, B, k and R.
      layout: of the users' ids.
      placement: on the target's devices.
      touched, own: U and V.
    """

    size: Size
    layout: Layout
    placement: Placement
    touched: int
    own: int

    def array(self, shape: tuple[int, ...], dtype: Any = jnp.float32, spec: Any = None) -> Any:
        """An array that is only described; by default on every device."""
        sharding = self.placement.sharding(EVERYWHERE if spec is None else spec)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def table(self, width: int, num_rows: int | None = None) -> Any:
        """A table of R rows on one device, where programs expect it."""
        place: Any = self.placement.sharding(EVERYWHERE)
        place = row_major(place) if width > NARROW else place
        return jax.ShapeDtypeStruct(
            (num_rows or self.size.table_rows, width), jnp.float32, sharding=place
        )

    def like(self, tree: Any) -> Any:
        """The arrays of a tree, described on every device."""
        return jax.tree.map(lambda leaf: self.array(leaf.shape, leaf.dtype), tree)

    def batch(self, *leading: int, spec: Any = None) -> Batch:
        """Examples (..., B) that share a campaign."""
        shape, fields = (*leading, self.size.batch_size), self.layout.num_campaign_fields
        ids = Ids(
            self.array((*shape, self.layout.num_slots), jnp.int32, spec),
            self.array((*leading, fields), jnp.int32, spec),
        )
        return Batch(ids, self.array(shape, spec=spec), self.array(shape, spec=spec))


def world(target: str, size: Size, *, campaign: int = 1, row: int = 1) -> World:
    """The world of a target; with a mesh, C is the number of campaigns of a step on all devices."""
    devices = devices_of(target)[: campaign * row]
    if len(devices) < campaign * row:
        raise InputError(f"--compile-for {target}: has fewer than {campaign * row} devices")
    mesh = mesh_of(np.array(devices).reshape(campaign, row))
    share = size.batch_size / 512 * size.campaigns / 5
    own = min(OWN, max(512, int(OWN * size.batch_size / 512)))
    touched = min(size.table_rows, max(1024, math.ceil(TOUCHED * share / 512) * 512))
    layout = _layout(size.table_rows)
    return World(size, layout, Placement(mesh, size.campaigns, size.table_rows), touched, own)


@cache
def _layout(table_rows: int) -> Layout:
    return synthetic(Size(1, 1, 1, table_rows), num_users=100).layout


def _weights(world: World, network: Any = NETWORK, width: int | None = None) -> Any:
    """The shapes of weights."""
    return jax.eval_shape(
        lambda: initialise(
            network,
            jax.random.key(0),
            world.layout,
            num_rows=world.placement.padded_rows,
            width=width or world.size.width,
        )
    )


def _step(world: World, gradient: Any, *batch: Any) -> Any:
    """A row-local step, lowered."""
    adam, table_optimizer = optax.adam(1e-3), table_adam(1e-3)
    weights, placement = _weights(world), world.placement
    step: Any = build_row_step(gradient, adam, table_optimizer, placement=placement).step
    table = jax.eval_shape(table_optimizer.init, weights.table)
    described = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
        for leaf, place in zip(table, placement.of_table, strict=True)
    ]
    network, opt_state = weights.network, jax.eval_shape(adam.init, weights.network)
    network, opt_state = world.like((network, opt_state))
    rows = world.array((world.touched,), jnp.int32)
    return step.plain.lower(RowState(network, opt_state, table._make(described)), rows, *batch)


def meta_step(world: World) -> Any:
    """The meta-step of C campaigns."""
    loss = build_loss(NETWORK, world.layout, reduction=OFFICIAL.reduction)
    gradient = build_meta_gradient(
        loss,
        inner_learning_rate=OFFICIAL.inner_learning_rate,
        reduction=OFFICIAL.reduction,
        select=select_rows,
    )
    own, spec = world.size.campaigns, BY_ITEM
    sides = world.batch(own, spec=spec), world.batch(own, spec=spec)
    return _step(world, gradient, *sides, world.array((own, world.own), jnp.int32, spec))


def plain_step(world: World) -> Any:
    """A step of plain training on as many examples as a meta-step has query examples."""
    loss = build_loss(NETWORK, world.layout)
    number = world.size.campaigns * world.size.batch_size
    slots, fields = world.layout.num_slots, world.layout.num_campaign_fields
    ids = [world.array((number, own), jnp.int32, BY_ITEM) for own in (slots, fields)]
    side = [world.array((number,), spec=BY_ITEM)] * 2
    return _step(world, plain_gradient(loss), Batch(Ids(*ids), *side))


def customise(world: World) -> Any:
    """A minibatch of a campaign that is adapted; the program has its rows, and not all R."""
    steps = AdaptingSteps(NETWORK, world.layout)
    values = jax.ShapeDtypeStruct((world.own, world.size.width), jnp.float32)
    state = world.like(jax.eval_shape(steps.start, _weights(world).network, values))
    rows, rate = world.array((world.own,), jnp.int32), world.array(())
    return steps.adapt.plain.lower(*state, rows, world.batch(), rate)


def customised_rows(world: World) -> Any:
    """The rows of a campaign that is adapted, read from the general table."""
    rows = world.array((world.own,), jnp.int32)
    return rows_of.plain.lower(world.table(world.size.width), rows)


def score(world: World) -> Any:
    """A chunk of users with a customised model."""
    campaign = world.array((world.layout.num_campaign_fields,), jnp.int32)
    users = world.array((Profile().chunk, world.layout.num_slots), jnp.int32)
    network = world.like(_weights(world).network)
    arrays = {"network": network, "table": world.table(world.size.width), "campaign": campaign}
    given: Any = NETWORK
    scorer: Any = network_function(given, world.layout)
    return scorer.plain.lower(arrays, users)


def score_heads(world: World) -> Any:
    """A chunk of users with the solved heads of several campaigns, which have value weights."""
    network = SolvedHead()
    weights = Weights(world.like(_weights(world, network, 16).network), world.table(16))
    users = world.array((Profile().chunk, world.layout.num_slots), jnp.int32)
    heads = world.array((HEADS, NUM_FACTORS))
    arrays = {**weights._asdict(), "heads": heads, "own": {"table": world.table(HEADS)}}
    scorer: Any = head_function(network, world.layout)
    return scorer.plain.lower(arrays, users)


#: Name -> the lowered program.
PROGRAMS: dict[str, Callable[[World], Any]] = {
    "meta-step": meta_step,
    "plain step": plain_step,
    "customise, rows": customised_rows,
    "customise, minibatch": customise,
    "score": score,
    "score, solved heads": score_heads,
}
_CHUNKED = ("score", "score, solved heads")


def compile_for(
    target: str, program: str, size: Size, *, campaign: int = 1, row: int = 1
) -> Figures:
    """Compiles a program for a target and reads what its compiler says."""
    where = world(target, size, campaign=campaign, row=row)
    with _compiling_for(target):
        compiled = PROGRAMS[program](where).compile()
    items = Profile().chunk if program in _CHUNKED else 1
    return _figures(compiled, target, program, where.placement, items)


def compile_options(target: str) -> list[Figures]:
    """Compiles the meta-gradient of a network of one's own with each option; see `options_meta`."""
    placement = world(target, Size(1, 1, 1, FIXED_ROWS + 1000)).placement
    place = placement.sharding(EVERYWHERE)

    def described(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf), sharding=place)

    found = []
    with _compiling_for(target):
        for case in options_meta.cases(options_meta.Options()):
            lowered = jax.jit(case.gradient).lower(*jax.tree.map(described, case.arguments))
            found.append(_figures(lowered.compile(), target, case.name, placement, 1))
    return found


def _compiling_for(target: str) -> Any:
    """Makes programs as they are on the target's platform."""
    name = "gpu" if target == "h100" else "tpu"
    return mock.patch.object(jax, "default_backend", return_value=name)


def _figures(compiled: Any, target: str, program: str, placement: Placement, items: int) -> Figures:
    campaign, row = placement.mesh.devices.shape
    memory, text = compiled.memory_analysis(), compiled.as_text()
    operations = list(_operations(text))
    cycles = sum(own.cycles or 0 for own in operations)
    sizes = [own.megabytes for own in operations if own.kind == "gather"]
    unestimated = Counter(own.kind for own in operations if own.kind in _UNESTIMATED)
    return Figures(
        target,
        program,
        f"{campaign}x{row}",
        placement.num_rows,
        items,
        (compiled.cost_analysis() or {}).get("flops", 0) / 1e9,
        cycles / 1e6 if cycles else None,
        dict(unestimated),
        sum(sizes),
        on_table(text, placement.padded_rows // row),
        {
            kind: (len(own), sum(own))
            for kind in _COLLECTIVES
            if (own := [o.megabytes for o in operations if o.kind.removesuffix("-start") == kind])
        },
        memory.temp_size_in_bytes / 1e6,
        memory.argument_size_in_bytes / 1e6,
    )


def on_table(text: str, num_rows: int) -> list[str]:
    """Operations of a compiled program whose result is a matrix of ``num_rows`` rows or more.

    A copy of most of a table counts, too. Scatters in place do not.
    """
    found = []
    for own in _operations(text):
        for shape in own.shapes:
            tall = len(shape) > 1 and max(shape, default=0) >= 0.9 * num_rows
            if tall and own.kind not in _FREE:
                found.append(f"{own.kind} {list(shape)}")
    return found


class _Operation(NamedTuple):
    kind: str
    shapes: list[tuple[int, ...]]
    megabytes: float
    cycles: int | None


_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f64": 8, "s64": 8}


def _operations(text: str) -> Iterator[_Operation]:
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", found[2])
        shapes = [tuple(map(int, filter(None, own.split(",")))) for _, own in arrays]
        size = sum(
            _WIDTHS.get(kind, 4) * math.prod(shape)
            for (kind, _), shape in zip(arrays, shapes, strict=True)
        )
        told = _CYCLES.search(line)
        cycles = int(told[1]) if told else None
        # Where the compiler cannot tell, it may say 2^63 or so.
        known = None if cycles is None or cycles > 1 << 40 else cycles
        yield _Operation(found[3], shapes, size / 1e6, known)
