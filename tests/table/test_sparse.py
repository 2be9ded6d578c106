"""The values of users as numbers: by hand, and as what pooling makes of a one-wide table."""

import jax.numpy as jnp
import numpy as np
from toy import dataset

from metaheac_jax.table.layout import Layout
from metaheac_jax.table.sparse import full_lists, value_counts


def test_every_value_of_a_user_counts():
    layout = Layout(user_slots=(1, 3), small_fields=(), num_campaign_fields=0)
    found = value_counts(layout, np.array([[0, 2, 3, 5], [1, 4, 4, 2], [5, 5, 5, 5]]), 5)
    expected = [[1, 0, 1, 1, 0], [0, 1, 1, 0, 2], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(found.toarray(), expected)


def test_a_list_counts_as_if_it_were_full():
    layout = Layout(user_slots=(1, 3), small_fields=(), num_campaign_fields=0)
    ids = np.array([[0, 2, 3, 5], [1, 4, 4, 2], [5, 5, 5, 5]])
    found, num_slots = full_lists(layout, ids, 5)
    expected = [[1, 0, 1.5, 1.5, 0], [0, 1, 1, 0, 2], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(found.toarray(), expected)
    np.testing.assert_array_equal(num_slots, [1, 1, 3, 3, 3])


def test_weights_over_slots_are_what_pooling_adds_up():
    data = dataset()
    weights = np.random.default_rng(0).normal(size=data.num_rows)
    found, num_slots = full_lists(data.layout, data.user_rows[:], data.num_rows)
    table = jnp.asarray((weights * num_slots)[:, None], jnp.float32)
    pooled = data.layout.users(table, data.user_rows[:]).dense()
    np.testing.assert_allclose(found @ weights, pooled.sum(axis=(1, 2)), atol=1e-5)
