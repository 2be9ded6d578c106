"""Fields of users: means of embeddings, whether their products are carried out or not."""

from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import drawn

from metaheac_jax.networks import MLP, MetaHeac
from metaheac_jax.table.pooling import UserFields, summed_fields, user_fields

SIZES, SLOTS = (2, 9, 3), (1, 3, 2, 2)  # the last field has many values
ROWS, WIDTH, USERS = sum(SIZES) + 6, 4, 9
# Operation by operation, each would be compiled.
fields = jax.jit(user_fields, static_argnames=("slots", "small_fields"))
dense, product = jax.jit(UserFields.dense), jax.jit(UserFields.product)


def world(seed=0):
    """A table, and users some of whom lack values or whole fields."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *SIZES])
    blocks = zip(starts, (*SIZES, 6), SLOTS, strict=True)
    ids = np.concatenate([first + rng.integers(0, n, (USERS, w)) for first, n, w in blocks], 1)
    ids[rng.random(ids.shape) < 0.3] = ROWS
    return rng.normal(size=(ROWS, WIDTH)), ids


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_field_vectors_have_the_type_of_the_table(x64, dtype):
    table, ids = world()
    made = jax.eval_shape(lambda *own: user_fields(*own, SLOTS).dense(), table.astype(dtype), ids)
    assert made.dtype == dtype


def test_fields_with_fewer_values_than_an_embedding_is_wide_stay_products():
    user = jax.eval_shape(partial(user_fields, slots=SLOTS, small_fields=SIZES), *world())
    assert user.num_values == (2, 0, 3, 0)
    assert user.fractions.shape == (USERS, 5)
    assert user.embeddings.shape == (5, WIDTH)
    assert user.vectors.shape == (USERS, 2, WIDTH)


@pytest.mark.parametrize("users", [0, USERS])
def test_where_all_fields_have_few_values_all_are_products(users):
    rng, sizes, slots = np.random.default_rng(0), (2, 3), (1, 2)
    table = rng.normal(size=(5, WIDTH))
    ids = rng.integers((0, 2, 2), (2, 5, 5), (users, 3))
    user = fields(table, ids, slots, small_fields=sizes)
    assert user.num_values == sizes
    assert user.vectors.shape == (users, 0, WIDTH)
    kernel = rng.normal(size=(2 * WIDTH, 3))
    vectors = np.asarray(dense(fields(table, ids, slots)))
    expected = vectors.reshape(users, 2 * WIDTH) @ kernel
    np.testing.assert_allclose(product(user, kernel), expected, atol=1e-5)


def test_a_field_of_few_values_may_come_between_others():
    rng, slots = np.random.default_rng(0), (2, 1, 2)
    table = rng.normal(size=(315, WIDTH))
    ids = rng.integers((0, 0, 300, 309, 309), (300, 300, 309, 315, 315), (USERS, 5))
    expected = dense(fields(table, ids, slots))
    found = dense(fields(table, ids, slots, small_fields=(300, 9)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("small", [(0, 9, 3), (2, 0, 3), (0, 0, 0)])
def test_a_field_without_a_value_is_zero(small):
    table = np.ones((sum(small) + 6, WIDTH))
    ids = np.full((USERS, sum(SLOTS)), len(table))
    user = fields(table, ids, SLOTS, small_fields=small)
    np.testing.assert_array_equal(dense(user), np.zeros((USERS, len(SLOTS), WIDTH)))
    assert jax.eval_shape(product, user, np.ones((len(SLOTS) * WIDTH, 2))).shape == (USERS, 2)


@pytest.mark.parametrize("small", [SIZES, (2, 9), ()])
def test_the_values_of_each_field_are_counted(small):
    table, ids = world()
    user = fields(table, ids, SLOTS, small_fields=small)
    ends = np.cumsum(SLOTS)
    blocks = np.split(np.asarray(ids) < ROWS, ends[:-1], axis=1)
    counts = np.stack([block.sum(axis=1) for block in blocks], axis=1)
    np.testing.assert_array_equal(user.counts, counts)
    assert set(counts.ravel().tolist()) == {0, 1, 2, 3}

    @jax.jit
    def others(user):
        longer = user.with_fields(jnp.ones((2, WIDTH)))
        return user.columns(slice(1, 3)).counts, longer.counts, UserFields.of(user.dense()).counts

    columns, longer, plain = others(user)
    np.testing.assert_array_equal(columns, counts)
    np.testing.assert_array_equal(longer, np.pad(counts, ((0, 0), (0, 2)), constant_values=1))
    np.testing.assert_array_equal(plain, np.ones_like(counts))


@pytest.mark.parametrize("leading", [(), (3, 3)])
def test_summed_fields_are_the_sum_of_the_vectors_of_all_fields(x64, leading):
    table, ids = world()
    ids = ids.reshape(*leading, ids.shape[-1]) if leading else ids
    expected = np.asarray(dense(fields(table, ids, SLOTS, small_fields=SIZES))).sum(axis=-2)
    found = jax.jit(partial(summed_fields, slots=SLOTS))(table, ids)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def pairs():
    """What is done with fields, as products and as plain vectors."""
    rng = np.random.default_rng(1)
    kernel, more = rng.normal(size=(len(SLOTS) * WIDTH, 5)), rng.normal(size=(2, WIDTH))
    flat = lambda user: user.reshape(USERS, -1)  # noqa: E731
    both = lambda user: jnp.concatenate(  # noqa: E731
        [user, jnp.broadcast_to(more, (USERS, 2, WIDTH))], axis=1
    )
    output = lambda net, *a: net.apply(drawn(net, *a), *a).log_p  # noqa: E731
    metaheac = MetaHeac(num_experts=3, num_critics=2, widths=(5, 4), gate_width=4)
    return {
        "product": (lambda u: u.product(kernel), lambda v: flat(v) @ kernel),
        "mean": (UserFields.mean, lambda v: v.mean(axis=1)),
        "with_fields": (lambda u: u.with_fields(more).dense(), both),
        "metaheac": (lambda u: output(metaheac, u, more),) * 2,
        "mlp": (lambda u: output(MLP((5, 4)), u, more),) * 2,
    }


@pytest.mark.parametrize(
    ("name", "small"),
    [(name, SIZES) for name in pairs()] + [(name, ()) for name in ("product", "mean")],
)
def test_products_equal_plain_vectors_in_value_and_derivatives(x64, name, small):
    """Value, gradient in the table, and its directional derivative, as the meta-step takes it."""
    ours, plain = pairs()[name]
    table, ids = world()
    shape = jax.eval_shape(plain, jnp.zeros((USERS, len(SLOTS), WIDTH))).shape
    weight = np.random.default_rng(2).normal(size=shape)

    @jax.jit
    def both(table, ids):
        def derivatives(function):
            loss = lambda table: (jnp.tanh(function(table)) * weight).sum()  # noqa: E731
            first, (_, along) = jax.jvp(jax.value_and_grad(loss), (table,), (jnp.cos(table),))
            return *first, along

        return (
            derivatives(lambda t: ours(user_fields(t, ids, SLOTS, small_fields=small))),
            derivatives(lambda t: plain(user_fields(t, ids, SLOTS).dense())),
        )

    products, vectors = both(table, ids)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-10), products, vectors)
    assert np.abs(vectors[2]).max() > 1e-6


@pytest.mark.parametrize("small", [SIZES, ()])
def test_what_accelerators_compute_is_the_same(x64, small):
    """Fields, counts, and derivatives of both orders, of two tables at once."""
    table, ids = world()
    tables, users = np.stack([table, np.sin(table)]), np.stack([ids, ids[::-1]])
    weight = np.random.default_rng(2).normal(size=(USERS, len(SLOTS), WIDTH))

    def results():
        def loss(table, ids):
            user = user_fields(table, ids, SLOTS, small_fields=small)
            return (jnp.tanh(user.dense()) * weight).sum(), (user.dense(), user.counts)

        def both(table, ids):
            gradient = jax.grad(lambda t: loss(t, ids)[0])
            along = jax.jvp(gradient, (table,), (jnp.cos(table),))
            twice = jax.grad(lambda t: (gradient(t) ** 2).sum())(table)
            return loss(table, ids), along, twice

        both_and_one = lambda two, one: (jax.vmap(both)(*two), loss(*one))  # noqa: E731
        return jax.jit(both_and_one)((tables, users), (table, ids))

    with mock.patch.object(jax, "default_backend", return_value="tpu"):
        accelerated = results()
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
    jax.tree.map(close, accelerated, results())
