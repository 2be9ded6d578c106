"""Losses with more than a value, of their own for query or step, and implicit gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratics import (
    ALPHA,
    MEMORY,
    member,
    quadratic,
    quadratic_campaigns,
    signature,
    with_memory,
)

from metaheac_jax.training.implicit import Implicit
from metaheac_jax.training.inner import inner_update
from metaheac_jax.training.meta_step import build_meta_gradient, build_meta_step

DESCENT = {"inner_learning_rate": ALPHA, "reduction": "sum"}
close = partial(np.testing.assert_allclose, rtol=1e-10)


def sums(w, support, query, of):
    """The sum over campaigns of ``of(w, support, query)``."""
    return sum(of(w, *member((support, query), c)) for c in range(len(query[0])))


def with_distance(w, batch):
    return quadratic(w, batch), {"distance": w - batch[1]}


@pytest.mark.parametrize("chunk", [1, 2, "all"])
def test_aux_is_that_of_the_query_after_adaptation(x64, chunk):
    w, support, query = quadratic_campaigns(4)
    gradient = build_meta_gradient(
        with_distance, has_aux=True, campaigns_per_chunk=chunk, **DESCENT
    )
    ours, info = jax.jit(gradient)(w, support, query)
    close(ours, sums(w, support, query, signature))
    adapted = [w - ALPHA * A @ (w - a) for A, a in zip(*support, strict=True)]
    close(info.aux["distance"], np.array(adapted) - query[1])


@pytest.mark.parametrize("options", [{}, {"step_weights": [1.0]}])
@pytest.mark.parametrize("chunk", [1, 2, "all", "auto"])
def test_aux_may_have_plain_numbers(chunk, options):
    w, support, query = quadratic_campaigns(4)
    counted = lambda w, batch: (quadratic(w, batch), {"examples": 3})  # noqa: E731
    options = options | {"has_aux": True, "campaigns_per_chunk": chunk} | DESCENT
    info = jax.jit(build_meta_gradient(counted, **options))(w, support, query)[1]
    assert info.aux["examples"].tolist() == [3] * 4


def by_hand(w, support, query, steps=2):
    """The meta-loss of `with_memory`, and the states, by the matrices alone."""
    losses, means = [], []
    for c in range(len(query[0])):
        (A, a), theta, mean = member(support, c), w, MEMORY["mean"]
        for _ in range(steps):
            theta, mean = (theta - ALPHA * A @ (theta - a - mean), 0.9 * mean + 0.1 * theta)
        losses.append(with_memory(theta, member(query, c), {"mean": mean, "steps": 0})[0])
        means.append(0.9 * mean + 0.1 * theta)
    return np.sum(losses), means


@pytest.mark.parametrize("chunk", [1, "all"])
def test_a_state_goes_through_the_steps_and_is_averaged_over_campaigns(x64, chunk):
    w, support, query = quadratic_campaigns(3)
    options = {"has_state": True, "has_aux": True, "inner_steps": 2} | DESCENT
    gradient = build_meta_gradient(with_memory, campaigns_per_chunk=chunk, **options)
    ours, info = jax.jit(gradient)(w, support, query, model_state=MEMORY)
    loss, means = by_hand(w, support, query)
    close(info.loss, loss)
    close(info.model_state["mean"], np.mean(means, axis=0))
    assert info.model_state["steps"] == 5 + 2 + 1
    assert info.aux.shape == (3, 4)
    for axis in np.eye(4) * 1e-5:
        slope = (by_hand(w + axis, support, query)[0] - by_hand(w - axis, support, query)[0]) / 2e-5
        np.testing.assert_allclose(ours @ axis, slope * 1e-5, rtol=1e-7)


def test_first_order_takes_the_state_for_a_constant(x64):
    w, support, query = quadratic_campaigns(1)
    options = {"has_state": True, "has_aux": True, "first_order": True} | DESCENT
    gradient = jax.jit(build_meta_gradient(with_memory, **options))
    ours, _ = gradient(w, support, query, model_state=MEMORY)
    (A, a), (B, b) = member((support, query), 0)
    adapted = w - ALPHA * A @ (w - a - MEMORY["mean"])
    close(ours, B @ (adapted - b - (0.9 * MEMORY["mean"] + 0.1 * w)))


def test_a_step_keeps_the_state_of_the_model(x64):
    w, support, query = quadratic_campaigns(3)
    init, step = build_meta_step(
        with_memory, optax.sgd(0.01), inner_learning_rate=ALPHA, has_state=True, has_aux=True
    )
    state = init(w, MEMORY)
    for number in range(2):
        state, info = step(state, support, query)
        assert state.model_state["steps"] == 5 + 2 * (number + 1)
    assert info.model_state is None
    state, options = jax.device_get(state), {"inner_learning_rate": ALPHA}
    update = jax.jit(partial(inner_update, with_memory, has_state=True, has_aux=True, **options))
    adapted = update(state.params, member(support, 0), state.model_state)
    close(adapted.model_state["mean"], 0.9 * state.model_state["mean"] + 0.1 * state.params)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_query_loss_of_its_own(x64, steps):
    """The query loss c' w has the meta-gradient (I - alpha A)^steps c."""
    w, support, (_, centres) = quadratic_campaigns(3)
    gradient = build_meta_gradient(
        quadratic, query_loss=lambda w, c: c @ w, inner_steps=steps, **DESCENT
    )
    ours, _ = jax.jit(gradient)(w, support, centres)
    shrink = [np.linalg.matrix_power(np.eye(4) - ALPHA * A, steps) for A in support[0]]
    close(ours, sum(s @ c for s, c in zip(shrink, centres, strict=True)))


@pytest.mark.parametrize("weights", [[1.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])
def test_weights_over_inner_steps(x64, weights):
    w, support, query = quadratic_campaigns(2)
    after = range(1, len(weights) + 1)
    build = partial(build_meta_gradient, quadratic, inner_steps=len(weights), **DESCENT)

    @jax.jit
    def by_weights(weights):  # as they change during training
        last = build()(w, support, query)[1]
        each = [
            build_meta_gradient(quadratic, inner_steps=i, **DESCENT)(w, support, query)[1].loss
            for i in after
        ]
        return *build(step_weights=weights, campaigns_per_chunk=1)(w, support, query), last, each

    ours, info, last, each = by_weights(np.array(weights))
    close(
        ours,
        sum(
            v * sums(w, support, query, partial(signature, steps=i))
            for i, v in zip(after, weights, strict=True)
        ),
    )
    close(info.query_loss, last.query_loss)
    close(info.support_loss, [quadratic(w, member(support, c)) for c in range(2)])  # at w
    close(info.loss, np.dot(weights, each))


def test_weighted_losses_are_no_product_which_a_tpu_would_round(x64):
    gradient = build_meta_gradient(lambda w, a: (w - a) ** 2, step_weights=[1.0], **DESCENT)
    program = jax.make_jaxpr(gradient)(jnp.ones(()), jnp.ones(2), jnp.ones(2))
    assert "dot_general" not in str(program)


def with_penalty(w, batch, state):
    """Its state does not depend on the campaign, and the gradient not on its state."""
    value = quadratic(w, batch) + state["mean"].sum()
    return value, {"mean": 0.9 * state["mean"], "steps": state["steps"] + 1}


@pytest.mark.parametrize("loss", [quadratic, with_penalty])
def test_the_implicit_gradient_of_quadratic_campaigns(x64, loss):
    """lambda (A + lambda)^-1 B (w' - b), with w' = (A + lambda)^-1 (A a + lambda w)."""
    w, support, query = quadratic_campaigns(3)
    strength, state = 2.0, None if loss is quadratic else MEMORY

    def of(w, support, query):
        (A, a), (B, b) = support, query
        inverse = np.linalg.inv(A + strength * np.eye(4))
        return strength * inverse @ B @ (inverse @ (A @ a + strength * w) - b)

    def gradient(num_cg_steps):
        return jax.jit(
            build_meta_gradient(
                loss,
                inner_steps=400,
                has_state=state is not None,
                implicit=Implicit(strength, num_cg_steps),
                campaigns_per_chunk="all",
                **DESCENT,
            )
        )(w, support, query, model_state=state)

    ours, info = gradient(num_cg_steps=4)
    close(ours, sums(w, support, query, of))
    if state is None:
        assert np.abs(gradient(num_cg_steps=1)[0] - ours).max() > 1e-3
    else:
        assert info.model_state["steps"] == 5 + 400 + 1


@pytest.mark.parametrize("chunk", [1, "all"])
def test_the_strength_of_implicit_gradients_may_change_during_training(chunk):
    """Also for parameters of fewer bits than the strength."""
    w, *sides = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), quadratic_campaigns(3))
    build = partial(
        build_meta_gradient, quadratic, inner_steps=3, campaigns_per_chunk=chunk, **DESCENT
    )

    @jax.jit
    def both(strength):
        return [build(implicit=Implicit(own))(w, *sides) for own in (strength, 2.0)]

    by_strength, constant = both(np.float32(2.0))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0.02), by_strength, constant)
    assert by_strength[0].dtype == jnp.bfloat16


def test_finite_differences_of_an_implicit_gradient(x64):
    """A head adapts to its minimum; the body has its derivative through that minimum."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape)  # noqa: E731
    support, query = ({"x": draw(2, 5, 3), "y": draw(2, 5)} for _ in range(2))
    params = {"body": draw(3, 2), "head": draw(2)}

    def loss(params, batch):
        y = jnp.tanh(batch["x"] @ params["body"]) @ params["head"]
        return jnp.mean((y - batch["y"]) ** 2), y

    gradient = jax.jit(
        build_meta_gradient(
            loss,
            inner_optimizer=optax.sgd(0.1, momentum=0.5),
            inner_steps=300,
            adapt={"body": False, "head": True},
            has_aux=True,
            implicit=Implicit(0.5, 2),
        )
    )
    ours, _ = gradient(params, support, query)
    for name in params:
        direction = np.cos(np.arange(params[name].size)).reshape(params[name].shape)
        ends = [
            gradient(params | {name: params[name] + t * direction}, support, query)[1].loss
            for t in (1e-5, -1e-5)
        ]
        slope = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(np.vdot(ours[name], direction), slope, rtol=1e-6)


STRONG = Implicit(1.0)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"implicit": STRONG, "first_order": True}, "implicit does not go with first_order"),
        ({"implicit": STRONG, "remat": True}, "implicit does not go with remat"),
        ({"implicit": STRONG, "step_weights": [1.0]}, "implicit does not go with step_weights"),
        ({"implicit": STRONG, "inner_steps": 0}, "implicit needs inner_steps of 1 or more"),
        ({"implicit": Implicit(0.0)}, "implicit needs a strength above 0"),
        ({"implicit": Implicit(1.0, 0)}, "implicit needs a strength above 0 and num_cg"),
        ({"step_weights": [1.0, 2.0]}, r"one weight per inner step, shape \(1,\), got \(2,\)"),
        ({"step_weights": [], "inner_steps": 0}, "step_weights needs one weight per inner"),
        ({"inner_steps": 1.5}, r"inner_steps must be 0, 1, 2, ..., got 1\.5"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"campaigns_per_chunk": 0}, "campaigns_per_chunk"),
        ({"campaigns_per_chunk": "some"}, "campaigns_per_chunk"),
        ({"reduction": "max"}, "reduction"),
        ({"inner_learning_rate": None}, "give either inner_learning_rate or inner_optimizer"),
        ({"inner_optimizer": optax.sgd(ALPHA)}, "give either inner_learning_rate or"),
    ],
)
def test_options_that_do_not_go_together_are_refused_at_once(options, line):
    with pytest.raises(ValueError, match=line) as refused:
        build_meta_gradient(quadratic, **{"inner_learning_rate": ALPHA} | options)
    assert "\n" not in str(refused.value)


def by_entry(w, batch):
    return w - batch[1]


def state_only(w, batch, state):
    return quadratic(w, batch), {"mean": state["mean"]}


@pytest.mark.parametrize(
    ("loss", "options", "state", "line"),
    [
        (quadratic, {"has_aux": True}, None, "must return value, aux, got 1 values"),
        (by_entry, {}, None, r"the loss must be a scalar, got the shape \(4,\)"),
        (quadratic, {"query_loss": by_entry}, None, "the loss must be a scalar"),
        (with_distance, {}, None, "must return value, got 2 values"),
        (with_memory, {"has_state": True}, MEMORY, "return value, model_state, got 3 values"),
        (state_only, {"has_state": True}, MEMORY, "a model state of the structure it is given"),
        (quadratic, {}, MEMORY, "give a model_state if and only if has_state is set"),
        (with_memory, {"has_state": True}, None, "give a model_state if and only if"),
    ],
)
def test_a_loss_that_returns_something_else_is_refused(loss, options, state, line):
    w, support, query = quadratic_campaigns(1)
    with pytest.raises(ValueError, match=line):
        build_meta_gradient(loss, **DESCENT, **options)(w, support, query, model_state=state)
