"""The ways to compute a meta-step, compiled, with the figures of the compiled programs.

Axes: C campaigns, U table rows that a step touches, R rows of the table, k embedding width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.throughput.arithmetic import executed_flops
from experiments.throughput.inputs import Size
from experiments.throughput.machine_limits import precisions, theory_bytes, theory_flops
from metaheac_jax.backend import campaigns_at_once
from metaheac_jax.data.batches import CampaignBatch
from metaheac_jax.model import Weights, initialise
from metaheac_jax.networks.metaheac import MetaHeac
from metaheac_jax.ranking import auc
from metaheac_jax.settings import OFFICIAL
from metaheac_jax.table.adam import table_adam
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta import MetaState, build_meta_gradient, build_meta_step
from metaheac_jax.training.sharding import Placement, build_mesh_step, device_mesh
from metaheac_jax.training.step import PlainInfo, RowState, build_row_step

NETWORK = MetaHeac(num_experts=OFFICIAL.num_experts, num_critics=OFFICIAL.num_critics)


class Way(NamedTuple):
    """A way to compute the meta-step.

    Attributes:
      whole_table: ids point into the whole table, gradients are as large as the table, and Adam is
        dense.
      first_order: omits the second-order term.
      campaigns_per_chunk: campaigns that are vmapped together; see `build_meta_gradient`.
      precision: precision of the matrix products, a name in `machine_limits.PRECISIONS`.
      sharded: campaigns are spread over all devices.
    """

    whole_table: bool = False
    first_order: bool = False
    campaigns_per_chunk: int | Literal["auto", "all"] = "auto"
    precision: str = "default"
    sharded: bool = False

    def chunk_size(self, num_campaigns: int) -> int:
        """How many of C campaigns are vmapped together."""
        if isinstance(self.campaigns_per_chunk, int):
            return self.campaigns_per_chunk
        if self.campaigns_per_chunk == "all":
            return num_campaigns
        return campaigns_at_once(num_campaigns)

    def place(self, batch: CampaignBatch, pad: int) -> Sequence[Any]:
        """The step's arguments after the state; ``pad`` is the pad id of the whole table."""
        if self.whole_table:
            return global_ids(batch, pad)
        return _placement(len(batch.own_rows), pad).place_batch(batch) if self.sharded else batch


def ways(size: Size) -> dict[str, Way]:
    """The ways that this machine supports, by name; the one that methods use is the first."""
    in_turn = campaigns_at_once(size.campaigns) == 1
    spread = jax.device_count() > 1
    at_once, one_by_one = Way(campaigns_per_chunk="all"), Way(campaigns_per_chunk=1)
    return {
        "row-local": Way(),
        "first-order": Way(first_order=True),
        **({"at-once": at_once} if in_turn else {"in-turn": one_by_one}),
        **({"row-local sharded": at_once._replace(sharded=True)} if spread else {}),
        **{f"row-local {p}": Way(precision=p) for p in precisions() if p != "default"},
        "whole-table": Way(whole_table=True),
        # Last, since vmapped second-order gradients of whole tables may take all the memory.
        "whole-table at-once": at_once._replace(whole_table=True),
    }


def untrained(size: Size, layout: Layout) -> Weights:
    """Untrained weights of the official network."""
    return initialise(
        NETWORK, jax.random.key(0), layout, num_rows=size.table_rows, width=size.width
    )


def num_parameters(network: Any) -> int:
    """The number of a network's parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(network))


class Step(NamedTuple):
    """A meta-step that is not compiled yet.

    Attributes:
      init: ``init(network, table) -> state``.
      step: ``step(state, *batch) -> (state, info)``, with ``lower`` as what ``jax.jit`` returns.
      update: ``update(state, *first) -> ...``, the part of the step that follows the gradient;
        ``first`` are the leading elements of the batch.
      num_update_arguments: the number of elements in ``first``.
    """

    init: Callable[..., Any]
    step: Any
    update: Callable[..., Any]
    num_update_arguments: int


def _placement(num_campaigns: int, num_rows: int) -> Placement:
    """A placement on all devices, each of which holds the whole table."""
    return Placement(device_mesh(campaign=jax.device_count()), num_campaigns, num_rows)


def build_step(
    way: Way, num_campaigns: int, layout: Layout, placement: Placement | None = None
) -> Step:
    """The meta-step in one of the ways, with the official settings; with a placement, on a mesh.

    The row-local steps also check that they are finite, as methods do; the whole-table step does
    not.
    """
    rate = OFFICIAL.outer_learning_rate
    loss, adam = build_loss(NETWORK, layout, reduction=OFFICIAL.reduction), optax.adam(rate)
    options: dict[str, Any] = {
        "inner_learning_rate": OFFICIAL.inner_learning_rate,
        "first_order": way.first_order,
        "campaigns_per_chunk": way.campaigns_per_chunk
        if placement
        else way.chunk_size(num_campaigns),
        "reduction": OFFICIAL.reduction,
    }
    if way.whole_table:
        whole = build_meta_step(loss, adam, **options)

        def start(network: Any, table: Array) -> MetaState:
            return whole.init({"network": network, "table": table})

        def update(state: MetaState) -> MetaState:
            updates, opt_state = adam.update(state.params, state.opt_state, state.params)
            return MetaState(optax.apply_updates(state.params, updates), opt_state)

        return Step(start, whole.step, update, 0)

    gradient = build_meta_gradient(loss, select=select_rows, **options)
    if placement is not None:
        reduction = OFFICIAL.reduction
        mesh = build_mesh_step(
            gradient, adam, table_adam(rate), placement, reduction=reduction, checked=True
        )
        return Step(mesh.init, mesh.step, mesh.step, len(CampaignBatch._fields))
    row = build_row_step(gradient, adam, table_adam(rate), checked=True)
    no_gradient = lambda params: (params, PlainInfo(jnp.zeros(())))  # noqa: E731
    rest = build_row_step(no_gradient, adam, table_adam(rate), checked=True)
    return Step(row.init, row.step, rest.step, 1)


class Program(NamedTuple):
    """A compiled meta-step.

    Attributes:
      step: ``step(state, *batch) -> (state, info)``; it reuses the state's memory.
      init: ``init(network, table) -> state``.
      figures: the figures that are known before it runs, named as in `records.Record`.
      text: ``text()`` returns the text of the compiled program, which `breakdown.kinds` reads.
    """

    step: Callable[..., Any]
    init: Callable[..., Any]
    figures: dict[str, Any]
    text: Callable[[], str] = str


def compile_step(way: Way, size: Size, batch: Sequence[Any], layout: Layout) -> Program:
    """Compiles the meta-step for batches of one shape; allocates nothing.

    Args:
      way: how the step is computed.
      size: size of the step and the table.
      batch: a result of `Way.place`.
      layout: layout of the ids.
    """
    placement = _placement(size.campaigns, size.table_rows) if way.sharded else None
    built = build_step(way, size.campaigns, layout, placement)
    weights = jax.eval_shape(partial(untrained, size, layout))
    with jax.default_matmul_precision(precisions()[way.precision]):
        state = jax.eval_shape(built.init, *weights)
        if placement is not None:
            state = placement.shapes(state)
        began = time.perf_counter()
        compiled = _compile(built.step, state, *batch)
        seconds = time.perf_counter() - began
        executed = executed_flops(built.step, state, *batch)
        counted = _counted(compiled)
        num_chunks = size.campaigns // way.chunk_size(size.campaigns)
        if num_chunks > 1:
            # XLA counts the body of a loop once, though it runs for every chunk. The body is the
            # gradient, so everything in the step except the update is multiplied.
            first = batch[: built.num_update_arguments]
            outside = _counted(_compile(built.update, state, *first))
            counted = outside + num_chunks * (counted - outside)
    memory = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    figures = {
        "compile_seconds": seconds,
        "executed_flops": executed,
        "counted_flops": counted[0].item(),
        "counted_bytes": counted[1].item(),
        "theory_flops": theory_flops(
            NETWORK,
            num_examples=size.campaigns * size.batch_size,
            num_campaigns=size.campaigns,
            width=size.width,
            derivative="first-order" if way.first_order else "second-order",
        ),
        "theory_bytes": theory_bytes(
            num_rows=size.table_rows if way.whole_table else len(batch[0]),
            width=size.width,
            num_parameters=num_parameters(weights.network),
        ),
        "peak_memory_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes + results,
    }
    return Program(compiled, built.init, figures, compiled.as_text)


def quality(
    program: Program, size: Size, batches: Sequence[Any], layout: Layout, *, num_steps: int
) -> dict[str, float]:
    """Loss and AUC after a few row-local steps from untrained weights; see `records.Record`.

    Between precisions both differ by rounding alone, so they show what a precision costs.

    Args:
      program: a row-local step.
      size: size of the step and the table.
      batches: batches from the sampler, used in turn.
      layout: layout of the ids.
      num_steps: a multiple of the number of batches.
    """
    state, losses = program.init(*untrained(size, layout)), []
    for number in range(num_steps):
        state, info = program.step(state, *batches[number % len(batches)])
        losses.append(info.loss)

    @jax.jit
    def scores(state: RowState, rows: Array, user: Array, campaign: Array) -> Array:
        table = table_adam(OFFICIAL.outer_learning_rate).gather(state.table, rows).values

        def of_campaign(user: Array, campaign: Array) -> Array:
            inputs = layout.inputs(table, Ids(user, campaign))
            output: Any = NETWORK.apply(state.network, *inputs)
            return output.log_odds

        return jax.vmap(of_campaign)(user, campaign)

    found, labels = [], []
    for batch in batches:
        rows, support, query = CampaignBatch(*batch).shared()
        for side in (support, query):
            found.append(np.asarray(scores(state, rows, *side.ids[:2])).ravel())
            labels.append(np.asarray(side.label).ravel())
    last = np.asarray(losses[-len(batches) :])
    return {"loss": float(last.mean()), "auc": auc(np.concatenate(found), np.concatenate(labels))}


def _compile(step: Callable[..., Any], *arguments: Any) -> Any:
    return jax.jit(step, donate_argnums=0).lower(*arguments).compile()


def _counted(compiled: Any) -> np.ndarray:
    """(2,) FLOPs and bytes of a compiled program, as XLA counts them."""
    cost = compiled.cost_analysis()
    return np.array([cost["flops"], cost["bytes accessed"]])


def global_ids(batch: CampaignBatch, pad: int) -> tuple[Any, ...]:
    """Support and query with ids that point into the whole table, whose pad id is ``pad``."""
    rows, *sides = batch.shared()
    table_row = np.append(rows, np.int32(pad))
    return tuple(
        side._replace(ids=jax.tree.map(lambda ids: table_row[ids], side.ids)) for side in sides
    )
