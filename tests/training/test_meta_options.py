"""The options of the inner update: against plain loops, closed forms and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaheac_jax.training.meta import build_meta_gradient, build_meta_step, inner_update

ALPHA = 0.1
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
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    params = {
        "body": {"kernel": draw(inputs, hidden), "bias": draw(hidden)},
        "head": draw(hidden),
    }
    return params, *((draw(*batch, inputs), draw(*batch)) for _ in range(2))


def member(tree, c):
    return jax.tree.map(lambda leaf: leaf[c], tree)


def only(params, flags):
    return jax.tree.map(lambda flag, leaf: leaf if flag else None, flags, params)


HEAD = {"body": {"kernel": False, "bias": False}, "head": True}


def plain_meta_loss(params, support, query, *, steps=1, adapt=None):
    """The meta-loss by Python loops, and no function of the package."""
    adapt = adapt or jax.tree.map(lambda _: True, params)
    total = 0.0
    for c in range(NUM_CAMPAIGNS):
        theta = params
        for _ in range(steps):
            gradient = jax.grad(loss)(theta, member(support, c))
            theta = jax.tree.map(
                lambda p, g, flag: p - ALPHA * g if flag else p, theta, gradient, adapt
            )
        total += loss(theta, member(query, c))
    return total / NUM_CAMPAIGNS


#: Options, and the arguments of `plain_meta_loss` that say the same.
CASES = {
    "adapt": (
        {"inner_learning_rate": ALPHA, "inner_steps": 2, "adapt": {"body": False, "head": True}},
        {"steps": 2, "adapt": HEAD},
    ),
}
in_all_cases = pytest.mark.parametrize("case", CASES)


def batches(options):
    return world()


@in_all_cases
def test_the_meta_gradient_of_a_plain_loop(x64, case):
    options, plain = CASES[case]
    params, support, query = batches(options)
    ours, info = jax.jit(build_meta_gradient(loss, **options))(params, support, query)
    meta_loss = jax.jit(partial(plain_meta_loss, **plain))
    np.testing.assert_allclose(info.loss, meta_loss(params, support, query), rtol=1e-12)

    # Central differences, along the gradient itself and across it.
    other = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params)
    for direction in (ours, other):
        moved = lambda t, d=direction: meta_loss(  # noqa: E731
            jax.tree.map(lambda p, d: p + t * d, params, d), support, query
        )
        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
        np.testing.assert_allclose(optax.tree.vdot(ours, direction), slope, rtol=1e-6)


@in_all_cases
@pytest.mark.parametrize(
    "layout",
    [{"campaigns_per_chunk": 1}, {"campaigns_per_chunk": 2}, {"remat": True}, {"select": True}],
    ids=str,
)
def test_chunks_remat_and_select_change_nothing(x64, case, layout):
    options, _ = CASES[case]
    params, support, query = batches(options)
    whole = build_meta_gradient(loss, **options, campaigns_per_chunk="all")
    expected = jax.jit(whole)(params, support, query)
    more = ()
    if "select" in layout:  # each campaign has the head of its own that all have alike
        layout = {"select": lambda params, part: params | {"head": params["head"][part]}}
        more = (jnp.tile(jnp.arange(3), (NUM_CAMPAIGNS, 1)),)
    ours = jax.jit(build_meta_gradient(loss, **options, **layout))(params, support, query, *more)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9), ours, expected)


@in_all_cases
def test_a_step_takes_the_options(x64, case):
    options, _ = CASES[case]
    params, support, query = batches(options)
    grads, info = jax.jit(build_meta_gradient(loss, **options))(params, support, query)
    init, step = build_meta_step(loss, optax.sgd(0.1), **options)
    state, own = step(init(jax.tree.map(jnp.copy, params)), support, query)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-9), (state.params, own), (expected, info)
    )


@in_all_cases
def test_first_order_is_the_query_gradient_at_the_adapted_parameters(x64, case):
    options, _ = CASES[case]
    params, support, query = batches(options)
    first_order = build_meta_gradient(loss, **options, first_order=True, reduction="sum")
    ours, _ = jax.jit(first_order)(params, support, query)

    def at_adapted(support, query):
        return jax.grad(loss)(inner_update(loss, params, support, **options)[0], query)

    expected = jax.tree.map(lambda leaf: leaf.sum(0), jax.vmap(at_adapted)(support, query))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9), ours, expected)


def test_what_is_not_adapted_stays_as_it_is(x64):
    params, support, _ = world()
    update = partial(inner_update, loss, params, member(support, 0), inner_learning_rate=ALPHA)
    adapted, _ = update(adapt={"body": {"kernel": False, "bias": True}, "head": False})
    assert jax.tree.structure(adapted) == jax.tree.structure(params)
    assert adapted["body"]["kernel"] is params["body"]["kernel"]
    assert adapted["head"] is params["head"]
    gradient = jax.grad(loss)(params, member(support, 0))["body"]["bias"]
    np.testing.assert_allclose(
        adapted["body"]["bias"], params["body"]["bias"] - ALPHA * gradient, rtol=1e-12
    )
    by_name = update(adapt=lambda params: {name: name == "head" for name in params})[0]
    by_prefix = update(adapt={"body": False, "head": True})[0]
    jax.tree.map(np.testing.assert_array_equal, by_name, by_prefix)
    with pytest.raises(ValueError, match="adapt must consist of True and False"):
        update(adapt={"body": 0.0, "head": 1.0})


def test_a_learned_rate_needs_no_rate_of_its_own(x64):
    """Meta-SGD: the derivative by the rate is -grad L_a . grad L_b(theta')."""
    params, support, query = world()

    def rated(params, batch):
        return loss(params["network"], batch)

    gradient = build_meta_gradient(
        rated,
        inner_learning_rate=lambda params: params["rate"],
        adapt={"network": True, "rate": False},
    )
    ours, _ = gradient({"network": params, "rate": jnp.asarray(ALPHA)}, support, query)
    slopes = []
    for c in range(NUM_CAMPAIGNS):
        inner = jax.grad(loss)(params, member(support, c))
        adapted = jax.tree.map(lambda p, g: p - ALPHA * g, params, inner)
        slopes.append(-optax.tree.vdot(inner, jax.grad(loss)(adapted, member(query, c))))
    np.testing.assert_allclose(ours["rate"], np.mean(slopes), rtol=1e-10)


def flops(batch, **options):
    params, support, query = world(inputs=64, hidden=64, batch=batch)
    gradient = build_meta_gradient(loss, **options)
    compiled = jax.jit(gradient).lower(params, support, query).compile()
    return compiled.cost_analysis()["flops"]


def test_adapting_a_head_is_cheaper_than_a_rate_of_0():
    head = flops((1, 64), inner_learning_rate=ALPHA, adapt={"body": False, "head": True})
    whole = flops((1, 64), inner_learning_rate={"body": 0.0, "head": ALPHA})
    assert head < 0.7 * whole
