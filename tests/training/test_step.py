"""Row-local training steps equal whole-table steps, and take the memory of their state."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_table import LAYOUT, NETWORK, ROWS, WIDTH, localised, support_and_query, weights

from metaheac_jax.data.batches import unstacked
from metaheac_jax.table.adam import LocalRows, table_adam
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta_step import build_meta_gradient
from metaheac_jax.training.step import _rows_finite, build_row_step, plain_gradient

LOSS = build_loss(NETWORK, LAYOUT)
META = build_meta_gradient(LOSS, inner_learning_rate=0.5)


def row_step(gradient):
    return build_row_step(gradient, optax.adam(0.01), table_adam(0.01))


def test_fifty_row_local_steps_equal_fifty_whole_table_steps(x64):
    network, table = weights()
    init, step = row_step(META)
    state = init(network, table)
    params, optimizer = {"network": network, "table": table}, optax.adam(0.01)
    opt_state = optimizer.init(params)

    @jax.jit
    def whole(params, opt_state, sides):
        grads, info = META(params, *sides)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, info

    for number in range(50):
        sides = support_and_query(seed=number)
        rows, local = localised(ROWS, *sides)
        state, info = step(state, rows, *local)
        params, opt_state, whole_info = whole(params, opt_state, sides)
        np.testing.assert_allclose(info.loss, whole_info.loss, rtol=0, atol=1e-6)
    flushed = jax.jit(table_adam(0.01).flush)(state.table).table
    ours = {"network": state.network, "table": flushed}
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), ours, params)


@pytest.mark.parametrize("committed", ["network", "both", "none, numpy"])
def test_a_step_is_compiled_once_wherever_the_parameters_are_put(committed):
    """Parameters that ``jax.device_put`` has put on a device, as those of a restored checkpoint."""
    network, table = weights()
    if committed in ("network", "both"):
        network = jax.device_put(network, jax.devices()[0])
    if committed == "both":
        table = jax.device_put(table, jax.devices()[0])
    if committed == "none, numpy":
        network, table = jax.tree.map(np.asarray, (network, table))
    init, step = build_row_step(plain_gradient(LOSS), optax.adam(0.01), table_adam(0.01))
    rows, local = localised(ROWS, unstacked(support_and_query()[0])[0])
    state = init(network, table)
    for _ in range(3):
        state, _ = step(state, rows, *local)
    assert step.best._cache_size() == 1


def test_the_optimiser_receives_the_loss():
    keeps_loss = optax.GradientTransformationExtraArgs(
        lambda _: jnp.zeros(()), lambda updates, state, _, *, value: (updates, value)
    )
    init, step = build_row_step(plain_gradient(LOSS), keeps_loss, table_adam(0.01))
    rows, local = localised(ROWS, unstacked(support_and_query()[0])[0])
    state, info = step(init(*weights()), rows, *local)
    assert state.opt_state == info.loss


def test_an_optimiser_may_begin_with_an_infinite_value():
    plateau = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(accumulation_size=3))
    init, step = build_row_step(plain_gradient(LOSS), plateau, table_adam(0.01))
    rows, local = localised(ROWS, unstacked(support_and_query()[0])[0])
    state = init(*weights())
    for _ in range(4):
        state, info = step(state, rows, *local)
        assert info.taken
    assert np.isfinite(state.opt_state[1].best_value)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan, None])
@pytest.mark.parametrize("array", ["values", "mu", "nu"])
def test_an_array_of_rows_that_is_not_finite_is_found(monkeypatch, platform, wrong, array):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    values = np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32)
    rows = LocalRows(*values, last=np.arange(7))
    if wrong is not None:
        getattr(rows, array)[4, 1] = wrong
    found = jax.jit(lambda rows: _rows_finite(rows))(rows)  # a function of its own per platform
    expected = {name: wrong is None or name != array for name in ("values", "mu", "nu")}
    assert {name: bool(getattr(found, name)) for name in expected} == expected


@pytest.mark.parametrize("meta", [False, True])
def test_a_step_reuses_the_memory_of_its_state(meta):
    """Nothing as long as the table is copied: not the table, nor the column of last steps."""
    network, table = weights()
    init, step = row_step(META if meta else plain_gradient(LOSS))
    tall = 1_000_000
    sides = support_and_query(rows=tall)
    batches = sides if meta else unstacked(sides[0])[:1]
    rows, local = localised(256, *batches, rows=tall)
    state = jax.eval_shape(init, network, jax.ShapeDtypeStruct((tall, WIDTH), table.dtype))
    memory = step.plain.lower(state, rows, *local).compile().memory_analysis()
    column = 4 * tall
    assert memory.alias_size_in_bytes >= (3 * WIDTH + 1) * column
    assert memory.temp_size_in_bytes < column
