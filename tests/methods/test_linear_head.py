"""The linear head of field vectors."""

import jax
import numpy as np

from metaheac_jax.methods.linear_head import LinearHead


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
