"""LR as a network: a weight per value, summed over all values of a user."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import dataset

from metaheac_jax.networks.linear import Linear
from metaheac_jax.table.layout import Ids
from metaheac_jax.table.sparse import value_counts

DATA = dataset()


@pytest.mark.parametrize("repeated", [False, True])
def test_its_log_odds_are_the_sum_of_the_weights_of_all_values(repeated):
    weights = np.random.default_rng(0).normal(size=DATA.num_rows)
    users = np.array(DATA.user_rows)
    if repeated:  # the last field is a list
        users[:, -1] = users[:, -2]
    campaign = DATA.campaign_rows[0]
    table = jnp.asarray(weights[:, None], jnp.float32)
    inputs = DATA.layout.inputs(table, Ids(users, campaign))
    output = jax.jit(Linear().apply)({"bias": jnp.float32(0.25)}, *inputs)
    expected = value_counts(users, DATA.num_rows) @ weights + 0.25
    np.testing.assert_allclose(output.log_odds, expected, atol=1e-5)


def test_it_starts_without_a_preference():
    user, campaign = jnp.ones((3, 2, 1)), jnp.ones((2, 1))
    params = Linear().init(jax.random.key(0), user, campaign)
    np.testing.assert_array_equal(params["bias"], 0)
    plain = Linear().apply({"bias": jnp.float32(-1)}, user, campaign)
    np.testing.assert_allclose(plain.log_odds, [1.0] * 3, atol=1e-6)
