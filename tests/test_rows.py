"""Row-local steps equal whole-table steps; the table's Adam equals dense Adam."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metaheac_jax.losses import Batch, build_loss
from metaheac_jax.meta import build_meta_gradient
from metaheac_jax.network import MetaHeac
from metaheac_jax.rows import RowIndex, build_row_step, select_rows, table_adam

ROWS, WIDTH, SLOTS = 60, 3, (1, 1, 4)
NETWORK = MetaHeac(experts=3, critics=2, widths=(5, 4), gate_width=4)


def batches(campaigns=3, examples=7, seed=0, rows=ROWS):
    """Support and query over the whole table; lists hold padding, as do the last examples."""
    rng = np.random.default_rng(seed)

    def side():
        user = rng.integers(0, rows, (campaigns, examples, sum(SLOTS)))
        user[..., 2:][rng.random((campaigns, examples, 4)) < 0.4] = rows
        weight = np.ones((campaigns, examples))
        weight[1, -2:] = 0
        user[1, -2:] = rows
        return Batch(
            user.astype(np.int32),
            rng.integers(0, rows, (campaigns, 2)).astype(np.int32),
            rng.integers(0, 2, (campaigns, examples)).astype(float),
            weight,
        )

    return side(), side()


def localise(size, *sides, rows=ROWS):
    index = RowIndex(rows)
    ids = [ids for side in sides for ids in (side.user, side.campaign)]
    found, ids = index.renumber(index.distinct(*ids), size, *ids)
    local = [
        side._replace(user=ids[2 * i], campaign=ids[2 * i + 1]) for i, side in enumerate(sides)
    ]
    return found, local


def model(seed=0, rows=ROWS):
    table = jax.random.normal(jax.random.key(seed), (rows, WIDTH))
    network = NETWORK.init(jax.random.key(1), jnp.zeros((1, 3, WIDTH)), jnp.zeros((2, WIDTH)))
    network = jax.tree.map(lambda leaf: leaf.astype(table.dtype), network)
    return network, table


@given(
    hnp.arrays(
        np.int32, st.tuples(st.integers(0, 4), st.integers(1, 5)), elements=st.integers(0, 20)
    )
)
def test_renumbered_ids_point_at_the_same_rows(ids):
    index = RowIndex(20)
    for _ in range(2):  # scratch memory of the first use must not show in the second
        found = index.distinct(ids)
        np.testing.assert_array_equal(found, np.setdiff1d(ids, [20]))
        rows, (local,) = index.renumber(found, 25, ids)
        assert rows.shape == (25,)
        np.testing.assert_array_equal(np.append(rows, 20)[local], ids)
        np.testing.assert_array_equal(local == 25, ids == 20)


def test_more_rows_than_room_is_refused():
    index = RowIndex(20)
    ids = np.arange(5)
    with pytest.raises(ValueError, match="5 distinct rows, more than 4"):
        index.renumber(index.distinct(ids), 4, ids)


def test_small_rows_keep_their_numbers():
    index = RowIndex(20, small_rows=3)
    ids = np.array([[1, 7, 20], [12, 7, 7]])
    found = index.distinct(ids)
    np.testing.assert_array_equal(found, [0, 1, 2, 7, 12])
    np.testing.assert_array_equal(index.renumber(found, 6, ids)[1][0], [[1, 3, 6], [4, 3, 3]])


@pytest.mark.parametrize("chunk", [1, 3])
def test_each_campaign_on_its_own_rows_equals_all_on_the_steps_rows(x64, chunk):
    network, table = model()
    rows, (support, query) = localise(ROWS + 4, *batches())
    values = table.at[rows].get(mode="fill", fill_value=0)
    options = {"inner_learning_rate": 0.5, "campaigns_per_chunk": chunk}
    loss = build_loss(NETWORK.apply, SLOTS)
    params = {"network": network, "table": values}
    shared, _ = jax.jit(build_meta_gradient(loss, **options))(params, support, query)

    index, own, sides = RowIndex(len(rows)), [], []
    for c in range(3):
        ids = support.user[c], support.campaign[c], query.user[c], query.campaign[c]
        found, ids = index.renumber(index.distinct(*ids), 50, *ids)
        own.append(found)
        sides.append(ids)
    users, fields, others, other_fields = map(np.stack, zip(*sides, strict=True))
    ours, _ = jax.jit(build_meta_gradient(loss, select=select_rows, **options))(
        params,
        support._replace(user=users, campaign=fields),
        query._replace(user=others, campaign=other_fields),
        np.stack(own),
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-12), ours, shared)


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_meta_gradient_row_local_equals_whole_table(x64, inner_steps):
    network, table = model()
    sides = batches()
    gradient = jax.jit(
        build_meta_gradient(
            build_loss(NETWORK.apply, SLOTS), inner_learning_rate=0.5, inner_steps=inner_steps
        )
    )
    whole, whole_info = gradient({"network": network, "table": table}, *sides)
    rows, local = localise(ROWS + 4, *sides)
    values = table.at[rows].get(mode="fill", fill_value=0)
    ours, info = gradient({"network": network, "table": values}, *local)
    used = rows < ROWS
    np.testing.assert_allclose(ours["table"][used], whole["table"][rows[used]], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(ours["table"][~used], 0)
    others = np.setdiff1d(np.arange(ROWS), rows)
    assert len(others)
    np.testing.assert_array_equal(whole["table"][others], 0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10),
        (ours["network"], info),
        (whole["network"], whole_info),
    )


def test_fifty_row_local_steps_equal_fifty_whole_table_steps(x64):
    network, table = model()
    gradient = build_meta_gradient(build_loss(NETWORK.apply, SLOTS), inner_learning_rate=0.5)
    init, step = build_row_step(gradient, optax.adam(0.01), table_adam(0.01))
    state = init(jax.tree.map(jnp.copy, network), jnp.copy(table))
    params, optimizer = {"network": network, "table": table}, optax.adam(0.01)
    opt_state = optimizer.init(params)
    whole = jax.jit(gradient)
    for number in range(50):
        sides = batches(seed=number)
        rows, local = localise(ROWS, *sides)
        state, _ = step(state, rows, *local)
        grads, _ = whole(params, *sides)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
    ours = table_adam(0.01).flush(state.table).table
    np.testing.assert_allclose(ours, params["table"], rtol=0, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        state.network,
        params["network"],
    )


def run_adam(steps, rates, scale, *, lazy=False, dtype=jnp.float64, lr=0.01):
    """Both optimisers on gradients in which row r is touched at rate ``rates[r]``."""
    rng, rows = np.random.default_rng(0), len(rates)
    table = jnp.asarray(rng.normal(size=(rows, 2)), dtype)
    ours, dense = table_adam(lr, lazy=lazy), optax.adam(lr)
    state, params, opt_state = ours.init(table), table, dense.init(table)

    @jax.jit
    def row_step(state, rows, gradient):
        return ours.scatter(state, rows, ours.gather(state, rows), gradient)

    @jax.jit
    def dense_step(params, opt_state, gradient):
        updates, opt_state = dense.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(steps):
        touched = rng.random(rows) < rates
        gradient = np.where(touched[:, None], scale * rng.normal(0.3, 1, (rows, 2)), 0)
        where = np.where(touched, np.arange(rows), rows)
        state = row_step(state, where, jnp.asarray(gradient, dtype))
        params, opt_state = dense_step(params, opt_state, jnp.asarray(gradient, dtype))
    return np.asarray(ours.flush(state).table), np.asarray(params), np.asarray(table)


RATES = np.repeat([1.0, 0.5, 0.1, 0.02, 0.004, 0.0], 8)


def test_table_adam_equals_dense_adam_over_a_thousand_steps(x64):
    ours, dense, start = run_adam(1000, RATES, scale=1.0)
    # Gradients far above eps: the closed form is exact.
    np.testing.assert_allclose(ours, dense, rtol=0, atol=1e-7)
    moved = np.abs(dense - start)
    assert moved[RATES > 0].max() > 0.1
    np.testing.assert_array_equal(ours[RATES == 0], start[RATES == 0])


@pytest.mark.parametrize("scale", [1e-7, 1e-8, 1e-9])
def test_table_adam_where_eps_matters(x64, scale):
    """Gradients about as small as eps = 1e-8: the stated error, relative to how far a row moved."""
    ours, dense, start = run_adam(1000, RATES, scale=scale)
    moved = np.abs(dense - start).max()
    assert moved > 0.01
    np.testing.assert_allclose(ours, dense, rtol=0, atol=2e-3 * moved)


def test_table_adam_in_float32():
    ours, dense, _ = run_adam(1000, RATES, scale=1.0, dtype=jnp.float32)
    np.testing.assert_allclose(ours, dense, rtol=0, atol=2e-5)


def test_lazy_adam_moves_only_rows_that_are_touched(x64):
    lazy, dense, start = run_adam(200, RATES, scale=1.0, lazy=True)
    every = RATES == 1.0
    np.testing.assert_allclose(lazy[every], dense[every], rtol=0, atol=1e-12)
    assert np.abs(lazy - dense).max() > 1e-3
    np.testing.assert_array_equal(lazy[RATES == 0], start[RATES == 0])


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_flushing_in_between_changes_nothing(gaps):
    with jax.enable_x64(True):
        ours = table_adam(0.01)
        flush = jax.jit(ours.flush)
        step = jax.jit(lambda s, r, g: ours.scatter(s, r, ours.gather(s, r), g))
        once = often = ours.init(jnp.ones((1, 2)))
        rows, none = jnp.array([0]), jnp.array([1])
        for gap in gaps:
            gradient = jnp.full((1, 2), float(gap))
            once, often = step(once, rows, gradient), step(often, rows, gradient)
            for _ in range(gap):
                once = step(once, none, jnp.zeros((1, 2)))
                often = flush(step(often, none, jnp.zeros((1, 2))))
        np.testing.assert_allclose(ours.flush(once).table, often.table, rtol=0, atol=1e-8)


def test_a_step_reuses_the_memory_of_its_state():
    """Nothing as long as the table is copied: not the table, nor the column of last steps."""
    network, table = model()
    gradient = build_meta_gradient(build_loss(NETWORK.apply, SLOTS), inner_learning_rate=0.1)
    init, step = build_row_step(gradient, optax.adam(0.01), table_adam(0.01))
    tall = 1_000_000
    sides = batches(rows=tall)
    rows, local = localise(256, *sides, rows=tall)
    state = jax.eval_shape(init, network, jax.ShapeDtypeStruct((tall, WIDTH), table.dtype))
    memory = step.lower(state, rows, *local).compile().memory_analysis()
    column = 4 * tall
    assert memory.alias_size_in_bytes >= (3 * WIDTH + 1) * column
    assert memory.temp_size_in_bytes < column
