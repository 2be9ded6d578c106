"""The count of executed FLOPs: by hand, and against XLA's count on a CPU."""

import jax
import jax.numpy as jnp
import pytest

from experiments.throughput.arithmetic import executed_flops

A, B = jnp.ones((3, 5)), jnp.ones((5, 7))
PRODUCT = 2 * 3 * 5 * 7


def test_products_by_hand():
    assert executed_flops(jnp.matmul, A, B) == PRODUCT
    assert executed_flops(jax.jit(jnp.matmul), A, B) == PRODUCT
    assert executed_flops(lambda a: jnp.exp(a).sum() + a, A) == 0
    batched = jax.vmap(jnp.matmul)
    assert executed_flops(batched, jnp.ones((4, 3, 5)), jnp.ones((4, 5, 7))) == 4 * PRODUCT
    # y = a b forward, then da = dy b' and db = a' dy.
    loss = lambda a, b: jnp.sum((a @ b) ** 2)  # noqa: E731
    assert executed_flops(jax.grad(loss, (0, 1)), A, B) == 3 * PRODUCT
    assert executed_flops(jax.checkpoint(jnp.matmul), A, B) == PRODUCT
    assert executed_flops(jnp.matmul, jax.ShapeDtypeStruct(A.shape, A.dtype), B) == PRODUCT


def test_a_scan_counts_its_body_as_often_as_it_runs():
    def looped(b):
        return jax.lax.scan(lambda a, _: (a @ b, None), jnp.ones((3, 5)), length=6)[0]

    def nested(b):
        return jax.lax.map(lambda _: looped(b), jnp.arange(2))

    square = jnp.ones((5, 5))
    assert executed_flops(looped, square) == 6 * 2 * 3 * 5 * 5
    assert executed_flops(nested, square) == 2 * 6 * 2 * 3 * 5 * 5
    fixed = lambda b: jax.lax.fori_loop(0, 4, lambda _, a: a @ b, jnp.ones((3, 5)))  # noqa: E731
    assert executed_flops(fixed, square) == 4 * 2 * 3 * 5 * 5


def test_the_most_costly_branch_counts():
    def either(flag, a, b):
        return jax.lax.cond(flag, lambda: a @ b, lambda: jnp.zeros((3, 7)))

    assert executed_flops(either, True, A, B) == PRODUCT


def test_products_in_a_loop_of_unknown_length_are_refused():
    def unknown(square):
        return jax.lax.while_loop(lambda a: a.sum() < 9, lambda a: a @ square, jnp.ones((3, 5)))

    with pytest.raises(ValueError, match="while loop"):
        executed_flops(unknown, jnp.ones((5, 5)))
    counter = lambda n: jax.lax.while_loop(lambda i: i < n, lambda i: i + 1, 0)  # noqa: E731
    assert executed_flops(counter, 5) == 0


def test_xla_counts_the_same_in_a_program_of_products_alone():
    def products(a, b, square):
        return jax.vmap(jnp.matmul, (0, None))(a, b) @ square

    arguments = jnp.ones((4, 32, 64)), jnp.ones((64, 48)), jnp.ones((48, 48))
    compiled = jax.jit(products).lower(*arguments).compile()
    assert executed_flops(products, *arguments) == compiled.cost_analysis()["flops"]
