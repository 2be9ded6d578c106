"""The linear head of field vectors."""

import jax
import numpy as np

from metaheac_jax.methods.linear_head import LinearHead
from metaheac_jax.table.layout import Layout


def test_log_odds_are_the_product_of_factors_and_head():
    network, rng = LinearHead(), np.random.default_rng(0)
    user, campaign = rng.normal(size=(5, 3, 2)), np.zeros((1, 2))
    start = network.init(jax.random.key(0), user, campaign)
    assert start["head"].shape == (7,)
    apply = jax.jit(network.apply)
    np.testing.assert_array_equal(apply(start, user, campaign).log_odds, 0)
    head = rng.normal(size=7)
    expected = user.reshape(5, 6) @ head[:-1] + head[-1]
    np.testing.assert_allclose(apply({"head": head}, user, campaign).log_odds, expected, rtol=1e-5)
    offset, factors = map(np.asarray, jax.jit(network.offset_and_factors)({}, user))
    np.testing.assert_allclose(offset + factors @ head, expected, rtol=1e-5)


def test_sums_are_means_times_the_number_of_values():
    layout = Layout(user_slots=(1, 3), small_fields=(), num_campaign_fields=0)
    table = np.random.default_rng(2).normal(size=(6, 2))

    @jax.jit
    def both(table, ids):
        user = layout.users(table, ids)
        return [LinearHead(own).offset_and_factors({}, user)[1] for own in ((), (1,))]

    both = both(table, np.array([[0, 2, 3, 5], [1, 4, 6, 6], [0, 6, 6, 6]]))
    mean, total = map(np.asarray, both)
    np.testing.assert_allclose(total[0, 2:4], table[[2, 3, 5]].sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(mean[0, 2:4], table[[2, 3, 5]].mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(total[:, :2], mean[:, :2])
    np.testing.assert_array_equal(total[1], mean[1])
    np.testing.assert_array_equal(total[2, 2:], [0, 0, 1])
