"""The ways to compute a meta-step, with the authors' settings.

Axes: C campaigns, R rows of the table, k embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import Array

from experiments.throughput.arithmetic import executed_flops
from experiments.throughput.inputs import Size
from metaheac_jax.backend import jit, profile
from metaheac_jax.data.batches import Batch, CampaignBatch
from metaheac_jax.methods import OFFICIAL
from metaheac_jax.model import Weights, initialise
from metaheac_jax.networks import MetaHeac
from metaheac_jax.table.adam import table_adam
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta_step import build_meta_gradient, build_meta_step
from metaheac_jax.training.step import build_row_step

NETWORK = MetaHeac(num_experts=OFFICIAL.num_experts, num_critics=OFFICIAL.num_critics)
#: row-local is what methods do; whole-table is gradient in gradient over the whole table with a
#: dense Adam, as the authors' program does it; first-order omits the second-order term.
WAYS = ("row-local", "first-order", "whole-table")


class Program(NamedTuple):
    """A compiled meta-step.

    Attributes:
      init: ``init(network, table) -> state``.
      step: ``step(state, *batch) -> (state, info)``; it reuses the state's memory.
      flops: FLOPs of the matrix products that a step executes.
      memory: bytes of arguments, results and temporaries.
    """

    init: Callable[..., Any]
    step: Callable[..., Any]
    flops: int
    memory: int


def untrained(size: Size, layout: Layout) -> Weights:
    """Untrained weights of the official network."""
    key = jax.random.key(0)
    return initialise(NETWORK, key, layout, num_rows=size.table_rows, width=size.width)


def shared(batch: CampaignBatch) -> tuple[np.ndarray, Batch, Batch]:
    """Rows, support and query, with ids that point into ``rows`` instead of ``own_rows``."""
    pad = np.full((len(batch.own_rows), 1), len(batch.rows), np.int32)
    position, campaign = np.hstack([batch.own_rows, pad]), np.arange(len(batch.own_rows))

    def moved(ids: np.ndarray) -> np.ndarray:
        return position[campaign.reshape(-1, *[1] * (ids.ndim - 1)), ids]

    support, query = (
        side._replace(ids=jax.tree.map(moved, side.ids)) for side in (batch.support, batch.query)
    )
    return batch.rows, support, query


def place(way: str, batch: CampaignBatch, size: Size) -> Sequence[Any]:
    """A step's arguments after the state."""
    if way != "whole-table":
        return batch
    # Ids point into the whole table, whose pad id is its number of rows.
    rows, *sides = shared(batch)
    table_row = np.append(rows, np.int32(size.table_rows))
    return [side._replace(ids=jax.tree.map(lambda ids: table_row[ids], side.ids)) for side in sides]


def compile_step(way: str, size: Size, batch: Sequence[Any], layout: Layout) -> Program:
    """Compiles the meta-step in one of `WAYS` for batches of one shape; allocates nothing."""
    rate = OFFICIAL.outer_learning_rate
    loss, adam = build_loss(NETWORK, layout, reduction=OFFICIAL.reduction), optax.adam(rate)
    options: dict[str, Any] = {
        "inner_learning_rate": OFFICIAL.inner_learning_rate,
        "first_order": way == "first-order",
        "campaigns_per_chunk": size.campaigns if profile().vmaps_campaigns else 1,
        "reduction": OFFICIAL.reduction,
    }
    if way == "whole-table":
        whole = build_meta_step(loss, adam, **options)

        def init(network: Any, table: Array) -> Any:
            return whole.init({"network": network, "table": table})

        step = whole.step
    else:
        gradient = build_meta_gradient(loss, select=select_rows, **options)
        init, step = build_row_step(gradient, adam, table_adam(rate))[:2]
    weights = jax.eval_shape(lambda: untrained(size, layout))
    state = jax.eval_shape(init, *weights)
    compiled = jit(step, donate_argnums=0).best.lower(state, *batch).compile()
    memory: Any = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes + results
    return Program(init, compiled, executed_flops(step, state, *batch), used)
