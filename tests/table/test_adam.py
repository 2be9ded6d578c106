"""Adam on the touched rows equals dense Adam on the whole table."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaheac_jax.table.adam import table_adam

RATE = 0.01
#: How often each row is touched.
OFTEN = np.repeat([1.0, 0.5, 0.1, 0.02, 0.004, 0.0], 8)


def both(steps, often=OFTEN, *, scale=1.0, dtype=jnp.float64, **options):
    """Both optimisers on gradients in which row r is touched with probability ``often[r]``.

    Returns:
      The table's state, not flushed; the dense table and its optimiser's state; the initial table.
    """
    rng, rows = np.random.default_rng(0), len(often)
    start = rng.normal(size=(rows, 2)).astype(dtype)
    ours, dense = table_adam(RATE, **options), optax.adam(RATE, **options)
    state, table, opt_state = jax.jit(ours.init)(start), start, dense.init(start)

    @jax.jit
    def row_step(state, rows, gradient):
        local = ours.gather(state, rows)
        return ours.scatter(state, rows, local, ours.move(local, gradient, state.count))

    @jax.jit
    def dense_step(table, opt_state, gradient):
        updates, opt_state = dense.update(gradient, opt_state)
        return optax.apply_updates(table, updates), opt_state

    for _ in range(steps):
        touched = rng.random(rows) < often
        gradient = np.where(touched[:, None], scale * rng.normal(0.3, 1, (rows, 2)), 0)
        gradient = gradient.astype(dtype)
        state = row_step(state, np.where(touched, np.arange(rows), rows), gradient)
        table, opt_state = dense_step(table, opt_state, gradient)
    return *jax.device_get((state, (table, opt_state))), start


def flushed(state, **options):
    return np.asarray(jax.jit(table_adam(RATE, **options).flush)(state).table)


def test_equals_dense_adam_over_a_thousand_steps(x64):
    state, (dense, _), start = both(1000)
    ours = flushed(state)
    # Gradients far above eps: the closed form is exact.
    np.testing.assert_allclose(ours, dense, rtol=0, atol=1e-7)
    moved = np.abs(dense - start)
    assert moved[OFTEN > 0].max() > 0.1
    np.testing.assert_array_equal(ours[OFTEN == 0], start[OFTEN == 0])
    # Before the flush, rows that were not touched of late are behind.
    assert np.abs(state.table - dense).max() > 1e-4


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_flushed_moments_are_those_of_dense_adam(x64, monkeypatch, platform):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    state, (dense, (moments, *_)), _ = both(50)
    new = jax.jit(table_adam(RATE).flush)(state)
    np.testing.assert_allclose(new.table, dense, rtol=0, atol=1e-7)
    np.testing.assert_allclose(new.mu, moments.mu, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(new.nu, moments.nu, rtol=1e-10, atol=1e-15)
    np.testing.assert_array_equal(new.last, 50)
    assert new.count == state.count == moments.count == 50


def test_gathered_rows_are_up_to_date_and_padding_is_zero(x64):
    state, (dense, (moments, *_)), _ = both(50)
    rows = np.array([45, 3, 20, len(OFTEN), 30])
    local = jax.jit(table_adam(RATE).gather)(state, rows)
    real = rows < len(OFTEN)
    np.testing.assert_allclose(local.values[real], dense[rows[real]], rtol=0, atol=1e-7)
    np.testing.assert_allclose(local.mu[real], moments.mu[rows[real]], rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(local.nu[real], moments.nu[rows[real]], rtol=1e-10, atol=1e-15)
    for leaf in (local.values, local.mu, local.nu):
        np.testing.assert_array_equal(leaf[~real], 0)


@pytest.mark.parametrize("scale", [1e-7, 1e-8, 1e-9])
def test_where_eps_matters_the_error_is_small_against_the_movement(x64, scale):
    """Gradients about as small as eps = 1e-8: the stated error, relative to how far a row moved."""
    state, (dense, _), start = both(1000, scale=scale)
    moved = np.abs(dense - start).max()
    assert moved > 0.01
    np.testing.assert_allclose(flushed(state), dense, rtol=0, atol=2e-3 * moved)


@pytest.mark.parametrize("scale", [1, 1e-6])
def test_other_decays_and_another_eps_are_those_of_dense_adam(x64, scale):
    options = {"b1": 0.8, "b2": 0.99, "eps": 1e-6}
    state, (dense, _), start = both(200, scale=scale, **options)
    moved = np.abs(dense - start).max()
    assert moved > 0.1
    np.testing.assert_allclose(flushed(state, **options), dense, rtol=0, atol=2e-3 * moved)


def test_rows_skipped_beyond_the_table_of_factors_are_those_of_dense_adam(x64):
    """With these decays the table ends at step 197; later steps use its last factor."""
    options = {"b1": 0.5, "b2": 0.9}
    state, (dense, _), _ = both(400, **options)
    np.testing.assert_allclose(flushed(state, **options), dense, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.9), (0.9, 0.81), (0.9, 1.0), (-0.1, 0.9)])
def test_decays_without_finite_sums_are_refused(b1, b2):
    with pytest.raises(ValueError, match=f"b1 {b1} and b2 {b2}: expected 0 <= b1 < b2 < 1"):
        table_adam(0.1, b1=b1, b2=b2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_tables_whose_numbers_are_too_coarse_for_adam_are_refused(dtype):
    """In 16 bits .999 is 1, and Adam would divide by 0 or never move."""
    with pytest.raises(ValueError, match=f"table: expected float32 or float64, got {dtype.dtype}"):
        table_adam(0.1).init(jnp.ones((3, 2), dtype))


@pytest.mark.parametrize("scalar", [np.float64, jnp.float64])
def test_options_of_64_bits_leave_a_table_of_32_bits(x64, scalar):
    options = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.999, "eps": 1e-8}
    ours = table_adam(**{name: scalar(value) for name, value in options.items()})

    def both(table, rows, gradient):
        state = ours.init(table)
        local = ours.gather(state, rows)
        moved = ours.move(local, gradient, state.count)
        return local, moved, ours.flush(ours.scatter(state, rows, local, moved))

    ones = np.ones((4, 2), np.float32)
    for made in jax.eval_shape(both, ones, np.array([0, 2]), ones[:2]):
        dtypes = {array.dtype for array in jax.tree.leaves(made) if array.ndim > 1}
        assert dtypes == {np.dtype("float32")}


def test_a_schedule_as_rate_is_refused():
    with pytest.raises(ValueError, match="learning_rate: expected a number or a scalar array"):
        table_adam(optax.constant_schedule(0.1))


def test_equals_dense_adam_in_float32():
    state, (dense, _), _ = both(1000, dtype=jnp.float32)
    np.testing.assert_allclose(flushed(state), dense, rtol=0, atol=2e-5)
