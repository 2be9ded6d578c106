"""The options of the inner update: against plain loops, closed forms and finite differences."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratics import member

from metaheac_jax.training.inner import inner_update
from metaheac_jax.training.meta_step import build_meta_gradient, build_meta_step

ALPHA, DECAY = 0.1, 0.3
NUM_CAMPAIGNS, NUM_ROWS = 4, 3


def network(params, x):
    hidden = jnp.tanh(x @ params["body"]["kernel"] + params["body"]["bias"])
    return hidden @ params["head"]


def loss(params, batch):
    x, y = batch
    return jnp.mean((network(params, x) - y) ** 2)


def world(seed=0, inputs=2, hidden=3, batch=(NUM_CAMPAIGNS, NUM_ROWS)):
    """Parameters of a small network, support and query of a few campaigns."""
    rng = np.random.default_rng(seed)
    dtype = jax.dtypes.canonicalize_dtype(float)
    draw = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
    params = {
        "body": {"kernel": draw(inputs, hidden), "bias": draw(hidden)},
        "head": draw(hidden),
    }
    return params, *((draw(*batch, inputs), draw(*batch)) for _ in range(2))


HEAD = {"body": {"kernel": False, "bias": False}, "head": True}


ADAM = {"learning_rate": ALPHA, "eps_root": 1e-4}


def descent(theta, gradient, state, _):
    return jax.tree.map(lambda p, g: p - ALPHA * g, theta, gradient), state


def momentum(theta, gradient, trace, _):
    trace = gradient if trace is None else jax.tree.map(lambda g, t: g + 0.9 * t, gradient, trace)
    return jax.tree.map(lambda p, t: p - ALPHA * t, theta, trace), trace


def adam(theta, gradient, state, _):
    """Kingma and Ba (2015), algorithm 1, with a constant under the root."""
    count, mean, square = state or (0, *(jax.tree.map(jnp.zeros_like, theta) for _ in range(2)))
    count += 1
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, gradient)
    root = lambda v: jnp.sqrt(v / (1 - 0.999**count) + 1e-4) + 1e-8  # noqa: E731
    theta = jax.tree.map(
        lambda p, m, v: p - ALPHA * m / (1 - 0.9**count) / root(v), theta, mean, square
    )
    return theta, (count, mean, square)


def polyak(theta, gradient, state, value):
    """Polyak's step, for a least loss of 0."""
    rate = value / optax.tree.vdot(gradient, gradient)
    return jax.tree.map(lambda p, g: p - rate * g, theta, gradient), state


def plain_meta_loss(params, support, query, *, steps=1, adapt=None, rule=descent):
    """The meta-loss by Python loops, and no function of the package."""
    adapt = adapt or jax.tree.map(lambda _: True, params)
    total = 0.0
    for c in range(NUM_CAMPAIGNS):
        theta, state = params, None
        for _ in range(steps):
            value, gradient = jax.value_and_grad(loss)(theta, member(support, c))
            moved, state = rule(theta, gradient, state, value)
            theta = jax.tree.map(lambda flag, m, p: m if flag else p, adapt, moved, theta)
        total += loss(theta, member(query, c))
    return total / NUM_CAMPAIGNS


def decay(theta, gradient, state, _):
    """The optimiser needs the parameters as well."""
    return jax.tree.map(lambda p, g: p - ALPHA * (g + DECAY * p), theta, gradient), state


#: Options, and the arguments of `plain_meta_loss` that say the same.
CASES = {
    "adapt": (
        {"inner_learning_rate": ALPHA, "inner_steps": 2, "adapt": {"body": False, "head": True}},
        {"steps": 2, "adapt": HEAD},
    ),
    "momentum": (
        {"inner_optimizer": optax.sgd(ALPHA, momentum=0.9), "inner_steps": 3},
        {"steps": 3, "rule": momentum},
    ),
    "adam": (
        {"inner_optimizer": optax.adam(**ADAM), "inner_steps": 2},
        {"steps": 2, "rule": adam},
    ),
    "an optimiser that needs the loss": (
        {"inner_optimizer": optax.polyak_sgd(max_learning_rate=100.0), "inner_steps": 2},
        {"steps": 2, "rule": polyak},
    ),
    "decay": (
        {
            "inner_optimizer": optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(ALPHA)),
            "inner_steps": 2,
        },
        {"steps": 2, "rule": decay},
    ),
    "adam of the head": (
        {"inner_optimizer": optax.adam(**ADAM), "adapt": {"body": False, "head": True}},
        {"adapt": HEAD, "rule": adam},
    ),
}


@cache
def of_all(case):
    """The meta-gradient of a case, and its info, with all campaigns at once."""
    options, _ = CASES[case]
    gradient = build_meta_gradient(loss, **options, campaigns_per_chunk="all")
    return jax.jit(gradient)(*world())


def assert_same(ours, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9), ours, expected)


@pytest.mark.parametrize("case", CASES)
def test_the_meta_gradient_of_a_plain_loop(x64, case):
    _, plain = CASES[case]
    params, support, query = world()
    ours, info = of_all(case)
    meta_loss = jax.jit(partial(plain_meta_loss, **plain))
    np.testing.assert_allclose(info.loss, meta_loss(params, support, query), rtol=1e-12)

    # Central differences, along the gradient itself and across it.
    ours = jax.device_get(ours)
    other = jax.tree.map(lambda leaf: np.cos(np.arange(leaf.size)).reshape(leaf.shape), params)
    for direction in (ours, other):
        moved = lambda t, d=direction: meta_loss(  # noqa: E731
            jax.tree.map(lambda p, d: p + t * d, params, d), support, query
        )
        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
        along = sum(map(np.vdot, jax.tree.leaves(ours), jax.tree.leaves(direction)))
        np.testing.assert_allclose(along, slope, rtol=1e-6)


@pytest.mark.parametrize("case", ["adapt", "an optimiser that needs the loss", "adam of the head"])
def test_chunks_remat_and_select_change_nothing(x64, case):
    options, _ = CASES[case]
    # Each campaign selects the head, which all have alike.
    select = lambda params, part: params | {"head": params["head"][part]}  # noqa: E731
    part = np.tile(np.arange(3), (NUM_CAMPAIGNS, 1))
    gradient = build_meta_gradient(
        loss, **options, remat=True, campaigns_per_chunk=2, select=select
    )
    assert_same(jax.jit(gradient)(*world(), part), of_all(case))


def test_a_step_takes_the_options(x64):
    case = "adam of the head"
    options, _ = CASES[case]
    params, support, query = world()
    init, step = build_meta_step(loss, optax.sgd(0.1), **options, campaigns_per_chunk=1)
    state, info = step(init(params), support, query)
    grads, expected = of_all(case)
    assert_same(info, expected)
    moved = jax.tree.map(lambda p, g: p - 0.1 * np.asarray(g), params, grads)
    assert_same(state.params, moved)


@pytest.mark.parametrize("case", ["adapt", "momentum", "decay", "adam of the head"])
def test_first_order_is_the_query_gradient_at_the_adapted_parameters(x64, case):
    options, _ = CASES[case]
    params, support, query = world()
    first_order = build_meta_gradient(loss, **options, first_order=True, reduction="sum")
    ours, _ = jax.jit(first_order)(params, support, query)

    def at_adapted(support, query):
        return jax.grad(loss)(inner_update(loss, params, support, **options).params, query)

    # Decay is no gradient: its own derivative, in both steps, stays.
    keeps = (1 - ALPHA * DECAY) ** 2 if case == "decay" else 1
    slopes = jax.jit(jax.vmap(at_adapted))(support, query)
    assert_same(ours, jax.tree.map(lambda leaf: keeps * np.sum(leaf, axis=0), slopes))


def test_what_is_not_adapted_stays_as_it_is(x64):
    params, support, _ = world()
    update = partial(inner_update, loss, params, member(support, 0), inner_learning_rate=ALPHA)
    adapted = update(adapt={"body": {"kernel": False, "bias": True}, "head": False}).params
    assert jax.tree.structure(adapted) == jax.tree.structure(params)
    assert adapted["body"]["kernel"] is params["body"]["kernel"]
    assert adapted["head"] is params["head"]
    gradient = jax.grad(loss)(params, member(support, 0))["body"]["bias"]
    np.testing.assert_allclose(
        adapted["body"]["bias"], params["body"]["bias"] - ALPHA * gradient, rtol=1e-12
    )
    by_name = update(adapt=lambda params: {name: name == "head" for name in params})[0]
    by_prefix = update(adapt={"body": np.False_, "head": np.True_}).params
    jax.tree.map(np.testing.assert_array_equal, by_name, by_prefix)
    with pytest.raises(ValueError, match="adapt must consist of True and False"):
        update(adapt={"body": 0.0, "head": 1.0})


def test_a_rate_that_does_not_broadcast_to_its_leaf_is_refused():
    params, support, query = world()
    rates = {"body": ALPHA, "head": jnp.full((5, 1), ALPHA)}
    gradient = build_meta_gradient(loss, inner_learning_rate=rates)
    with pytest.raises(ValueError, match=r"inner_learning_rate: a rate with shape \(5, 1\) for a"):
        gradient(params, support, query)


@jax.tree_util.register_dataclass
@dataclass
class Module:
    """Parameters that can be called, as Equinox modules can."""

    kernel: Any
    bias: Any

    def __call__(self, x):
        return x @ self.kernel + self.bias


def test_a_prefix_may_be_a_pytree_that_can_be_called():
    params, (_, support, _) = Module(jnp.ones(2), jnp.zeros(())), world()
    fit = lambda module, batch: jnp.mean((module(batch[0]) - batch[1]) ** 2)  # noqa: E731
    update = partial(inner_update, fit, params, member(support, 0))
    given = {"adapt": Module(False, True), "inner_learning_rate": Module(0.1, 0.2)}
    returned = {name: lambda _, value=value: value for name, value in given.items()}
    jax.tree.map(np.testing.assert_array_equal, update(**given), update(**returned))


def flops(batch, **options):
    params, support, query = world(inputs=64, hidden=64, batch=batch)
    gradient = build_meta_gradient(loss, **options)
    compiled = jax.jit(gradient).lower(params, support, query).compile()
    return compiled.cost_analysis()["flops"]


def test_adapting_a_head_is_cheaper_than_a_rate_of_0():
    head = flops((1, 64), inner_learning_rate=ALPHA, adapt={"body": False, "head": True})
    whole = flops((1, 64), inner_learning_rate={"body": 0.0, "head": ALPHA})
    assert head < 0.7 * whole
