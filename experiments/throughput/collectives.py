"""Bytes that the devices of a mesh exchange in a meta-step, counted in the compiled program.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu \\
      python -m experiments.throughput.collectives --mesh campaign=4,row=2 --campaigns 8

One CPU may simulate the devices, since the number of bytes does not depend on their speed.

Axes: C campaigns of a step, U table rows that it touches, k embedding width.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.throughput.inputs import (
    MIN_CAMPAIGNS,
    Size,
    check_option,
    draw_field,
    field_sizes,
    synthetic,
)
from experiments.throughput.meta_steps import Way, build_step, num_parameters, untrained
from metaheac_jax.cli import terminal
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.schema import TENCENT
from metaheac_jax.training.sharding import Placement, device_mesh, parse_mesh

_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "f64": 8, "s64": 8}
_COLLECTIVE = re.compile(
    r" = (?P<result>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(-start)?\("
)


@dataclass(frozen=True)
class Options:
    """Counts the bytes of each collective of a meta-step on a mesh."""

    mesh: str = "campaign=4,row=2"
    """Mesh, as for `metaheac fit --mesh`."""
    campaigns: int = 8
    """Campaigns per step."""
    batch_size: int = 512
    """Examples of a support set, and of a query set."""
    width: int = 64
    """Embedding width."""
    table_rows: int = 334_494
    """Rows of the table."""
    users: int = 20_000
    """Number of users from whom examples are drawn."""
    only_rows: bool = False
    """Compile nothing; print how many rows a step touches if each example has a different user."""


class Collective(NamedTuple):
    """An operation in which devices exchange data.

    Attributes:
      kind: name of the operation, such as "all-reduce".
      groups: the devices that take part, as XLA writes them.
      num_bytes: size of the result on one device.
    """

    kind: str
    groups: str
    num_bytes: int


def collectives(program: str) -> list[Collective]:
    """The collectives in the text of a compiled program, one entry per occurrence."""
    found = []
    for line in program.splitlines():
        match = _COLLECTIVE.search(line)
        if match is not None:
            groups = re.search(r"replica_groups=(.*?), [a-z_]+=", line)
            size = sum(
                _BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)
                for kind, shape in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", match["result"])
            )
            found.append(Collective(match["kind"], groups[1] if groups else "", size))
    return found


def touched_rows(size: Size) -> int:
    """Number of rows that a step touches if each of its examples has a different user."""
    rng, users = np.random.default_rng(0), 2 * size.campaigns * size.batch_size
    fields = zip(TENCENT.fields, field_sizes(size.table_rows), strict=True)
    return sum(
        len(np.unique(draw_field(rng, field, count, users, first=1, pad=0))) - (field.slots > 1)
        for field, count in fields
    )


def main(options: Options) -> None:
    """Prints the bytes that are sent, and the bytes that the sizes of the arrays predict."""
    size = Size(options.campaigns, options.batch_size, options.width, options.table_rows)
    for name, value in size._asdict().items():
        check_option(name, value)
    terminal.check_minimum("--users", options.users, max(size.campaigns, MIN_CAMPAIGNS))
    if options.only_rows:
        print(f"{size}: {touched_rows(size):,} rows touched")
        return
    data = synthetic(size, options.users)
    chosen = np.arange(data.num_campaigns)
    sampler = CampaignSampler(
        data, chosen, seed=0, campaigns_per_step=size.campaigns, batch_size=size.batch_size
    )
    mesh = device_mesh(**parse_mesh(options.mesh))
    placement = Placement(mesh, size.campaigns, size.table_rows)
    batch, way = placement.place_batch(sampler(0)), Way(campaigns_per_chunk=1)
    built = build_step(way, size.campaigns, data.layout, placement)
    weights = jax.eval_shape(partial(untrained, size, data.layout))
    state: Any = placement.shapes(jax.eval_shape(built.init, *weights))
    compiled = built.step.lower(state, *batch).compile()
    num_rows, width = len(batch.rows), size.width
    parameters = num_parameters(weights.network)
    print(f"{size}, {num_rows:,} of them touched, {parameters:,} parameters, {options.mesh}")
    for kind, groups, num_bytes in collectives(compiled.as_text() or ""):
        print(f"  {kind:12s} {num_bytes:14,} bytes  {groups}")
    print(f"rows U k 4: {4 * num_rows * width:,} bytes")
    print(f"gradient (U k + parameters) 4: {4 * (num_rows * width + parameters):,} bytes")
    held = 4 * placement.padded_rows // mesh.shape["row"] * (3 * width + 1)
    print(f"table, moments and steps on a device: {held:,} bytes")


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.throughput.collectives")
