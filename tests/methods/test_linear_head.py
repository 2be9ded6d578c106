"""The linear head of field vectors."""

import jax
import jax.numpy as jnp
import numpy as np

from metaheac_jax.methods.linear_head import LinearHead
from metaheac_jax.table.layout import Layout


def test_log_odds_are_the_product_of_factors_and_head():
    network, rng = LinearHead(2), np.random.default_rng(0)
    user, campaign = jnp.asarray(rng.normal(size=(5, 3, 2))), jnp.zeros((1, 2))
    start = network.init(jax.random.key(0), user, campaign)
    assert start["head"].shape == (7,)
    np.testing.assert_array_equal(network.apply(start, user, campaign).log_odds, 0)
    head = jnp.asarray(rng.normal(size=7), jnp.float32)
    expected = np.asarray(user).reshape(5, 6) @ np.asarray(head)[:-1] + head[-1]
    found = network.apply({"head": head}, user, campaign).log_odds
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    offset, factors = network.offset_and_factors({}, user)
    np.testing.assert_allclose(offset + factors @ head, expected, rtol=1e-5)


def test_sums_are_means_times_the_number_of_values():
    layout = Layout(user_slots=(1, 3), small_fields=(), num_campaign_fields=0)
    table = jnp.asarray(np.random.default_rng(2).normal(size=(6, 2)), jnp.float32)
    user = layout.users(table, jnp.array([[0, 2, 3, 5], [1, 4, 6, 6], [0, 6, 6, 6]]))
    mean, total = (LinearHead(2, own).offset_and_factors({}, user)[1] for own in (False, True))
    np.testing.assert_allclose(total[0, 2:4], table[jnp.array([2, 3, 5])].sum(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(total[1], mean[1])
    np.testing.assert_array_equal(total[2, 2:], [0, 0, 1])
