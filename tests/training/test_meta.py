"""The meta-step against closed forms: quadratic campaigns, finite differences, independence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratics import ALPHA, member, quadratic, quadratic_campaigns, signature

from metaheac_jax.training.inner import inner_update
from metaheac_jax.training.meta_step import build_meta_gradient, build_meta_step


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("remat", [False, True])
def test_meta_gradient_of_quadratic_campaigns(x64, steps, remat):
    w, support, query = quadratic_campaigns(4)
    gradient = build_meta_gradient(
        quadratic,
        inner_learning_rate=ALPHA,
        inner_steps=steps,
        remat=remat,
        campaigns_per_chunk=np.int64(2),
        reduction="sum",
    )
    ours, info = jax.jit(gradient)(w, support, query)
    each = [signature(w, member(support, c), member(query, c), steps) for c in range(4)]
    np.testing.assert_allclose(ours, sum(each), rtol=1e-12)
    np.testing.assert_allclose(info.loss, info.query_loss.sum(), rtol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 6, "auto", "all"])
def test_chunks_and_reductions_equal_a_loop_over_campaigns(x64, chunk, reduction):
    w, support, query = quadratic_campaigns(6)
    total, support_losses, query_losses = np.zeros(len(w)), [], []
    for c in range(6):
        own, other = member(support, c), member(query, c)
        total += signature(w, own, other)
        adapted = w - ALPHA * own[0] @ (w - own[1])
        support_losses.append(quadratic(w, own))
        query_losses.append(quadratic(adapted, other))
    divisor = 6 if reduction == "mean" else 1  # the campaigns, however they are chunked

    gradient = build_meta_gradient(
        quadratic, inner_learning_rate=ALPHA, campaigns_per_chunk=chunk, reduction=reduction
    )
    ours, info = jax.jit(gradient)(w, support, query)
    np.testing.assert_allclose(ours, total / divisor, rtol=1e-12)
    np.testing.assert_allclose(info.support_loss, support_losses, rtol=1e-12)
    np.testing.assert_allclose(info.query_loss, query_losses, rtol=1e-12)
    np.testing.assert_allclose(info.loss, sum(query_losses) / divisor, rtol=1e-12)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 4, "all"])
def test_a_program_recomputes_and_loops_over_chunks_only_if_asked_to(remat, chunk):
    gradient = build_meta_gradient(
        quadratic, inner_learning_rate=ALPHA, remat=remat, campaigns_per_chunk=chunk
    )
    program = str(jax.make_jaxpr(gradient)(*quadratic_campaigns(4)))
    assert ("remat" in program) == remat
    assert ("scan[" in program) == (chunk in (1, 2))


@pytest.mark.parametrize("chunk", [1, 2, "all"])
def test_without_inner_steps_support_sets_may_be_empty(x64, chunk):
    """As in plain training on a mesh; a network may have no result for nobody."""

    def loss(w, x):
        assert len(x)
        return w**2 * x.sum()

    query = np.arange(12.0).reshape(4, 3)
    gradient = build_meta_gradient(
        loss,
        inner_learning_rate=ALPHA,
        inner_steps=0,
        campaigns_per_chunk=chunk,
        reduction="sum",
    )
    ours, info = jax.jit(gradient)(3.0, np.zeros((4, 0)), query)
    assert ours == 2 * 3 * query.sum()
    np.testing.assert_array_equal(info.support_loss, [0] * 4)


def test_a_campaign_adapts_the_part_that_is_selected(x64):
    """Campaign c sees two of six parameters: the signature there, and nothing elsewhere."""
    _, support, query = quadratic_campaigns(3, size=2)
    whole, part = np.arange(6.0) / 3, np.array([[0, 1], [1, 4], [5, 0]])
    gradient = build_meta_gradient(
        quadratic, inner_learning_rate=ALPHA, reduction="sum", select=lambda w, part: w[part]
    )
    ours, _ = jax.jit(gradient)(whole, support, query, part)
    expected = np.zeros(6)
    for c in range(3):
        expected[part[c]] += signature(whole[part[c]], *member((support, query), c))
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


def test_a_part_and_a_select_come_together():
    w, support, query = quadratic_campaigns(2)
    options = {"inner_learning_rate": ALPHA, "select": lambda w, _: w}
    plain = build_meta_gradient(quadratic, inner_learning_rate=ALPHA)
    for given in (
        lambda: plain(w, support, query, w),
        lambda: build_meta_gradient(quadratic, **options)(w, support, query),
    ):
        with pytest.raises(ValueError, match="give a part if and only if select is given"):
            given()


def test_one_rate_a_leaf_and_learned_rates(x64):
    """Meta-SGD: with the rates among the parameters, their gradient is -grad L_a . grad L_b."""
    w, support, query = quadratic_campaigns(1)

    def loss(params, batch):
        return quadratic(params["w"], batch)

    params = {"w": w, "rate": ALPHA}
    learned = build_meta_gradient(
        loss, inner_learning_rate=lambda p: {"w": p["rate"], "rate": 0.0}, reduction="sum"
    )
    grads, _ = jax.jit(learned)(params, support, query)
    one_support, one_query = member((support, query), 0)
    (A, a), (B, b) = one_support, one_query
    adapted = w - ALPHA * A @ (w - a)
    np.testing.assert_allclose(grads["w"], signature(w, one_support, one_query), rtol=1e-12)
    np.testing.assert_allclose(grads["rate"], -(A @ (w - a)) @ (B @ (adapted - b)), rtol=1e-12)

    rates = {"w": 0.0, "rate": ALPHA}
    update = jax.jit(partial(inner_update, loss, inner_learning_rate=rates))
    frozen = update(params, one_support)
    np.testing.assert_array_equal(frozen.params["w"], w)


def test_step_applies_the_optimiser_consumes_its_state_and_compiles_once(x64):
    w, support, query = quadratic_campaigns(4)
    traces = []

    def counted(params, batch):
        traces.append(1)
        return quadratic(params, batch)

    init, step = build_meta_step(counted, optax.sgd(0.01), inner_learning_rate=ALPHA)
    gradient = jax.jit(build_meta_gradient(quadratic, inner_learning_rate=ALPHA))
    expected = w - 0.01 * np.asarray(gradient(w, support, query)[0])
    first = init(w)
    state, info = step(first, support, query)
    np.testing.assert_allclose(state.params, expected, rtol=1e-12)
    assert first.params.is_deleted()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state.params) == (w.shape, w.dtype)
    number = len(traces)
    for _ in range(1000):
        state, after = step(state, support, query)
    assert len(traces) == number
    assert after.loss < info.loss


@pytest.mark.parametrize(
    "params", [jnp.full(4, 0.1), jax.device_put(np.full(4, 0.1, np.float32), jax.devices()[0])]
)
def test_weakly_typed_parameters_and_those_on_a_device_compile_once(params):
    _, support, query = quadratic_campaigns(2)
    init, step = build_meta_step(quadratic, optax.adam(0.01), inner_learning_rate=ALPHA)
    state = init(params)
    for _ in range(3):
        state, _ = step(state, support, query)
    assert step.best._cache_size() == 1


@pytest.mark.parametrize("name", ["prodigy", "dog", "cocob", "mechanize"])
def test_optimisers_that_keep_the_start_and_shared_arrays_can_be_trained(name):
    """A step that donates its state would refuse one array in two places."""
    w, support, query = jax.tree.map(jnp.asarray, quadratic_campaigns(2))
    make = getattr(optax.contrib, name)
    optimizer = make(optax.sgd(0.01)) if name == "mechanize" else make()
    loss = lambda params, batch: quadratic(params["a"] + params["b"], batch)  # noqa: E731
    init, step = build_meta_step(loss, optimizer, inner_learning_rate=ALPHA)
    state = init({"a": w, "b": w})
    for _ in range(3):
        state, info = step(state, support, query)
    assert jnp.isfinite(info.loss)
    assert not w.is_deleted()  # what is given to init stays the caller's


def test_the_optimiser_receives_the_loss():
    w, support, query = quadratic_campaigns(2)
    keeps_loss = optax.GradientTransformationExtraArgs(
        lambda _: jnp.zeros(()), lambda updates, state, _, *, value: (updates, value)
    )
    init, step = build_meta_step(quadratic, keeps_loss, inner_learning_rate=ALPHA)
    state, info = step(init(w), support, query)
    assert state.opt_state == info.loss


@pytest.mark.parametrize("steps", [1, 3])
def test_an_array_as_the_rate_leaves_the_type_of_the_parameters(steps):
    w, support, _ = jax.tree.map(lambda x: x.astype(jnp.bfloat16), quadratic_campaigns(1))
    options = {"inner_steps": steps}

    @jax.jit
    def both(w, batch):
        rates = jnp.float32(0.125), 0.125
        update = partial(inner_update, quadratic, w, batch, **options)
        return [update(inner_learning_rate=own) for own in rates]

    by_array, by_number = both(w, member(support, 0))
    assert by_array.params.dtype == jnp.bfloat16
    np.testing.assert_array_equal(by_array.params, by_number.params)


@pytest.mark.parametrize("chunk", [1, "all"])
def test_gradients_of_16_bits_lose_none_of_many_campaigns(chunk):
    ones = np.ones(512, jnp.bfloat16)
    gradient = build_meta_gradient(
        lambda w, x: w * x, inner_learning_rate=ALPHA, reduction="sum", campaigns_per_chunk=chunk
    )
    ours, _ = jax.jit(gradient)(ones[0], ones, ones)
    assert ours == 512
    assert ours.dtype == jnp.bfloat16


@pytest.mark.parametrize("chunk", [1, "all"])
def test_a_mean_in_float16_may_be_of_a_sum_that_float16_does_not_hold(chunk):
    """Five gradients and losses of 2^14; float16 ends at 2^16."""
    w, x = np.float16(1), np.full(5, 2.0**14, np.float16)
    gradient = build_meta_gradient(lambda w, x: w * x, inner_steps=0, campaigns_per_chunk=chunk)
    ours, info = jax.jit(gradient)(w, x, x)
    assert ours.dtype == info.loss.dtype == jnp.float16
    np.testing.assert_allclose([ours, info.loss], 2.0**14, rtol=1e-3)


@pytest.mark.parametrize("chunk", [1, "auto", "all"])
@pytest.mark.parametrize("counts", [(1, 3), (3, 1), (0, 0), (3, None)])
def test_support_and_query_of_different_campaigns_are_refused(counts, chunk):
    """Also a leaf without campaigns."""
    w, *batches = quadratic_campaigns(3)
    support, query = (
        jax.tree.map(lambda x, count=count: x[0, 0, 0] if count is None else x[:count], batch[0])
        for batch, count in zip(batches, counts, strict=True)
    )
    gradient = build_meta_gradient(quadratic, inner_learning_rate=ALPHA, campaigns_per_chunk=chunk)
    with pytest.raises(ValueError, match=r"the same leading axis of 1 or more campaigns, got"):
        gradient(w, support, query)


def test_a_chunk_that_does_not_divide_the_campaigns_is_refused():
    w, support, query = quadratic_campaigns(4)
    gradient = build_meta_gradient(quadratic, inner_learning_rate=ALPHA, campaigns_per_chunk=3)
    with pytest.raises(ValueError, match="chunks of 3 do not divide 4 campaigns"):
        gradient(w, support, query)
