"""What `throughput` times: synthetic inputs, and the meta-step's ways, compiled.

Inputs have the Tencent data's vocabularies, list lengths and popularity of values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.limits import precisions, theory_bytes, theory_flops
from experiments.methods.method import campaigns_at_once
from metaheac_jax.data.dataset import Dataset, group_by_campaign
from metaheac_jax.data.sampling import CampaignBatch
from metaheac_jax.data.simulation import TENCENT as SHAPE
from metaheac_jax.losses import build_loss
from metaheac_jax.meta import MetaState, build_meta_gradient, build_meta_step
from metaheac_jax.network import MetaHeac
from metaheac_jax.offline import General, initialise
from metaheac_jax.presets import OFFICIAL
from metaheac_jax.rows import build_row_step, select_rows, table_adam
from metaheac_jax.schema import TENCENT, Vocabulary
from metaheac_jax.sharding import campaign_mesh, replicate

NETWORK = MetaHeac(experts=OFFICIAL.experts, critics=OFFICIAL.critics)
#: Rows of each field's table, user fields first (paper section 4.1).
ROWS_OF_FIELDS = (4, 3, 856, 6, 8, 3, 2, 125, 83, 13, 263_313, 49_781, 10_003, 9_985)
ROWS_OF_FIELDS += (79, 138, 15, 40, 33, 4)
SMALL_FIELDS = sum(rows for rows in ROWS_OF_FIELDS if rows < 2000)
MINIBATCHES = 4  # that a campaign's examples make


class Size(NamedTuple):
    """C, B, k and R of a benchmark."""

    campaigns: int
    rows: int
    width: int
    table_rows: int


class Way(NamedTuple):
    """A way of taking the meta-step.

    Attributes:
      whole_table: global ids, gradients as large as the table, dense Adam.
      first_order: without the second-order term.
      chunk: campaigns vmapped together; None does as the jobs do.
      precision: of the products, a name in `limits.PRECISIONS`.
      sharded: campaigns spread over all devices.
    """

    whole_table: bool = False
    first_order: bool = False
    chunk: int | None = None
    precision: str = "default"
    sharded: bool = False


def ways(size: Size) -> dict[str, Way]:
    """The meta-step's paths on this machine: what the jobs run, then its rivals."""
    together = campaigns_at_once(size.campaigns) == 1
    spread = jax.device_count() > 1 and size.campaigns % jax.device_count() == 0
    return {
        "row-local": Way(),
        "first-order": Way(first_order=True),
        **({"at-once": Way(chunk=size.campaigns)} if together else {"in-turn": Way(chunk=1)}),
        **({"row-local sharded": Way(chunk=size.campaigns, sharded=True)} if spread else {}),
        **{f"row-local {p}": Way(precision=p) for p in precisions() if p != "default"},
        "whole-table": Way(whole_table=True),
        # Last: grad in grad over whole tables, vmapped, may need all the memory there is.
        "whole-table at-once": Way(whole_table=True, chunk=size.campaigns),
    }


def synthetic(size: Size, users: int = 20_000) -> Dataset:
    """A data set of the Tencent schema, with ``size.table_rows`` rows and enough examples.

    The four large fields are scaled to the table; lists are as long, and their values as popular,
    as in the real data (`simulation`). One example in 20 is positive.
    """
    rng = np.random.default_rng(0)
    large = [rows for rows in ROWS_OF_FIELDS if rows >= 2000]
    scale = (size.table_rows - SMALL_FIELDS) / sum(large)
    counts = [rows if rows < 2000 else max(1, int(rows * scale)) for rows in ROWS_OF_FIELDS]
    counts[ROWS_OF_FIELDS.index(max(large))] += size.table_rows - sum(counts)
    vocabulary = Vocabulary(tuple(np.arange(count) for count in counts))
    columns = []
    for field, count, offset in zip(TENCENT.fields, counts, vocabulary.offsets, strict=True):
        if field.slots == 1:
            columns.append(offset + rng.integers(0, count, (users, 1)))
            continue
        shape = SHAPE.lists[field.name]
        # The chance of the 1, 10, 100, ... most popular values, inverted: a power law by pieces.
        known = [(10.0**i, s) for i, s in enumerate(shape.covered) if 10**i < count]
        rank, share = np.array([*known, (count, 1.0)]).T
        dart = np.log(rng.random((users, field.slots)))
        value = np.exp(np.interp(dart, np.log(share), np.log(rank))).astype(int) - 1
        length = rng.choice(len(shape.lengths), (users, 1), p=shape.lengths)
        columns.append(np.where(np.arange(field.slots) < length, value + offset, size.table_rows))
    rows = np.concatenate(columns, axis=1).astype(np.int32)
    user_slots, campaigns = sum(TENCENT.user_slots), max(size.campaigns, 20)
    campaign = np.repeat(np.arange(campaigns), max(MINIBATCHES * size.rows, 20))
    examples = group_by_campaign(
        campaign,
        rng.integers(0, users, len(campaign)),
        np.arange(len(campaign)) % 20 == 0,
        campaigns=campaigns,
    )
    return Dataset(
        name="synthetic inputs of a benchmark",
        schema=TENCENT,
        vocabulary=vocabulary,
        user_key=np.arange(users),
        user_rows=rows[:, :user_slots],
        campaign_key=np.arange(campaigns),
        campaign_rows=rows[:campaigns, user_slots:],
        stage1=examples,
        stage2=examples,
    )


def new_general(size: Size) -> General:
    """A general model of the official network."""
    return initialise(
        NETWORK,
        jax.random.key(0),
        rows=size.table_rows,
        user_fields=len(TENCENT.user),
        campaign_fields=len(TENCENT.campaign),
        width=size.width,
    )


class Program(NamedTuple):
    """A compiled meta-step, and its figures as `records.Record` names them.

    Attributes:
      step: ``step(state, *batch) -> (state, info)``; reuses the state's memory.
      init: ``init(general) -> state``.
      figures: what is known before it runs.
    """

    step: Any
    init: Callable[..., Any]
    figures: dict[str, Any]


def compile_step(
    way: Way, size: Size, batch: Sequence[Any], small_fields: tuple[int, ...]
) -> Program:
    """Compiles a path's step for batches of one shape; allocates nothing.

    XLA counts the body of a loop once, though it runs for every chunk of campaigns. So the step is
    compiled a second time without its gradient, which is that body, and the difference multiplied.

    Args:
      way: the path.
      size: of the table.
      batch: from the sampler, or from `global_ids` where the path is whole-table.
      small_fields: of the data set.
    """
    chunk = way.chunk or campaigns_at_once(size.campaigns)
    loss = build_loss(
        NETWORK.apply,
        TENCENT.user_slots,
        small_fields=small_fields,
        reduction=OFFICIAL.reduction,
    )
    options: dict[str, Any] = {
        "inner_learning_rate": OFFICIAL.inner_learning_rate,
        "first_order": way.first_order,
        "campaigns_per_chunk": chunk,
        "reduction": OFFICIAL.reduction,
    }
    adam = optax.adam(OFFICIAL.outer_learning_rate)
    if way.whole_table:
        whole = build_meta_step(loss, adam, **options)
        step, init = whole.step, lambda general: whole.init(general._asdict())

        def update(state: MetaState) -> MetaState:
            updates, opt_state = adam.update(state.params, state.opt_state, state.params)
            return MetaState(optax.apply_updates(state.params, updates), opt_state)

        rest = jax.jit(update, donate_argnums=0)
    else:
        table_optimizer = table_adam(OFFICIAL.outer_learning_rate)
        row = build_row_step(
            build_meta_gradient(loss, select=select_rows, **options), adam, table_optimizer
        )
        step, init = row.step, lambda general: row.init(*general)
        if way.sharded:
            init = lambda general: replicate(row.init(*general), campaign_mesh())  # noqa: E731
        rest = build_row_step(lambda params: (params, None), adam, table_optimizer).step
    rows = size.table_rows if way.whole_table else len(batch[0])
    general = jax.eval_shape(partial(new_general, size))
    with jax.default_matmul_precision(precisions()[way.precision]):
        state = jax.eval_shape(init, general)
        began = time.perf_counter()
        compiled = _compile(step, state, *batch)
        seconds = time.perf_counter() - began
        memory, counted = compiled.memory_analysis(), _counted(compiled)
        if chunk < size.campaigns:
            outside = _counted(_compile(rest, state, *([] if way.whole_table else batch[:1])))
            counted = outside + size.campaigns // chunk * (counted - outside)
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    figures = {
        "compile_seconds": seconds,
        "counted_flops": counted[0].item(),
        "counted_bytes": counted[1].item(),
        "theory_flops": theory_flops(
            NETWORK,
            examples=size.campaigns * size.rows,
            campaigns=size.campaigns,
            width=size.width,
            derivative="first-order" if way.first_order else "second-order",
        ),
        "theory_bytes": theory_bytes(
            table_rows=rows,
            width=size.width,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(general.network)),
        ),
        "peak_memory_bytes": (memory.argument_size_in_bytes + memory.temp_size_in_bytes + results),
    }
    return Program(compiled, init, figures)


def _compile(jitted: Any, *arguments: Any) -> Any:
    return jitted.lower(*arguments).compile()


def _counted(compiled: Any) -> np.ndarray:
    """FLOPs and bytes of a compiled program, (2,), as XLA counts them."""
    cost = compiled.cost_analysis()
    return np.array([cost["flops"], cost["bytes accessed"]])


def global_ids(batch: CampaignBatch, pad: int) -> tuple[Any, ...]:
    """Support and query with ids that point into the whole table, whose pad id is ``pad``."""
    rows, *sides = batch.shared()
    table_row = np.append(rows, np.int32(pad))
    return tuple(
        side._replace(user=table_row[side.user], campaign=table_row[side.campaign])
        for side in sides
    )
