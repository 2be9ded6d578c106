"""Canaries of speed: ratios of times within one run, for what libraries have broken before.

Left out of the suite, since a busy machine upsets them: `python -m pytest -m slow tests/canaries`
on an idle one. Each ratio is far from its bound where all is well; a broken library misses by far
more.
"""

import gc
import time
import weakref
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import dataset

from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.model import initialise
from metaheac_jax.networks import MetaHeac
from metaheac_jax.table.adam import table_adam
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta import build_meta_gradient
from metaheac_jax.training.step import build_row_step

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def optimized():
    """Times are of programs that are compiled as a user's own are."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


IDS, ROWS, WIDTH = 30_000, 8_000, 64  # about what a campaign of the official size touches


def seconds(function, *arguments, repeats=9):
    """The least of several runs, compilation left out."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - began)
    return min(times)


@pytest.fixture(scope="module")
def inputs():
    """ids (IDS,), values (IDS, WIDTH), a table (ROWS, WIDTH)."""
    key = jax.random.key(0)
    ids = jax.random.randint(key, (IDS,), 0, ROWS)
    return ids, jax.random.normal(key, (IDS, WIDTH)), jnp.zeros((ROWS, WIDTH))


def test_scatter_add_costs_no_more_than_a_few_gathers(inputs):
    """jaxlib 0.10.2 to 0.11.0 make a loop of it on NVIDIA cards, a hundred times slower."""
    ids, values, table = inputs
    gather = seconds(lambda t, i: t.at[i].get(mode="fill", fill_value=0), table, ids)
    scatter = seconds(lambda t, i, v: t.at[i].add(v, mode="drop"), table, ids, values)
    assert scatter < 10 * gather


def meta_step(rows):
    """A meta-step on a table of so many rows, and its first state."""
    network = MetaHeac(num_experts=3, num_critics=2, widths=(8, 8), gate_width=8)
    data = dataset()
    loss = build_loss(network, replace(data.layout, small_fields=()))
    gradient = build_meta_gradient(loss, inner_learning_rate=0.05, select=select_rows)
    step = build_row_step(gradient, optax.adam(1e-3), table_adam(1e-3))
    weights = initialise(network, jax.random.key(0), data.layout, num_rows=rows, width=WIDTH)
    draw = CampaignSampler(data, np.arange(8), seed=0, campaigns_per_step=2, batch_size=32)
    return step, step.init(*weights), draw


def test_a_step_does_not_touch_what_it_does_not_need():
    """Donation: without it the table and both moments are copied, 1.5 GB of them here."""
    times = {}
    for rows in (20_000, 2_000_000):
        step, state, draw = meta_step(rows)
        batches = [draw(number) for number in range(8)]
        spent = []
        for number in range(24):
            began = time.perf_counter()
            state, info = step.step(state, *batches[number % 8])
            jax.block_until_ready((state, info))
            spent.append(time.perf_counter() - began)
        times[rows] = min(spent[4:])
    assert times[2_000_000] < 3 * times[20_000]


def test_a_steps_old_state_is_gone():
    step, state, draw = meta_step(20_000)
    table = state.table.packed
    new, _ = step.step(state, *draw(0))
    assert table.is_deleted()
    reference = weakref.ref(table)
    del table, state
    gc.collect()
    assert reference() is None
    assert not new.table.packed.is_deleted()
