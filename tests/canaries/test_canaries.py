"""Canaries of speed: ratios of times within one run, for what libraries have broken before.

Left out of the suite, since a busy machine upsets them: `python -m pytest -m slow tests/canaries`
on an idle one. Each ratio is far from its bound where all is well; a broken library misses by far
more.
"""

import time

import jax
import jax.numpy as jnp
import pytest

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
