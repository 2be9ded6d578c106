"""The ensemble's network: each member reads its own columns."""

import jax
import jax.numpy as jnp
import numpy as np
from toy import drawn

from metaheac_jax.networks.base import sigmoid_output
from metaheac_jax.networks.ensemble import Ensemble, Member
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.table.pooling import UserFields


class Weighted:
    """Log-odds: a weight times the sum of all user fields, less the sum of the campaign's."""

    def init(self, key, user, campaign):
        return jax.random.normal(key, user.dense().shape[-1:])

    def apply(self, weight, user, campaign):
        return sigmoid_output(user.dense().sum(-2) @ weight - campaign.sum())


ONE_WIDE = Member("c", Weighted(), 1)


def test_its_log_odds_are_the_weighted_sum_of_those_of_its_members():
    user, campaign = jnp.arange(12.0).reshape(1, 2, 6) / 10, jnp.arange(6.0).reshape(1, 6)
    network = Ensemble((Member("a", Weighted(), 2), Member("b", Weighted(), 3), ONE_WIDE))
    params = {"a": jnp.ones(2), "b": 10 * jnp.ones(3), "c": 100 * jnp.ones(1)}
    output = network.apply(params | {"shares": jnp.array([1.0, 0.5, 2])}, user, campaign)
    # Columns (0, 1), (2, 3, 4) and (5,) of both fields, and the campaign's 0 + 1, 2 + 3 + 4 and 5.
    expected = (1.4 - 1) + 0.5 * (36.0 - 9) + 2 * (160.0 - 5)
    np.testing.assert_allclose(output.log_p - output.log_not_p, [expected], rtol=1e-6)


def test_members_are_drawn_apart():
    network = Ensemble((Member("a", Weighted(), 3), Member("b", Weighted(), 3), ONE_WIDE))
    params = network.init(jax.random.key(0), jnp.zeros((1, 2, 7)), jnp.zeros((1, 7)))
    assert params["a"].shape == params["b"].shape == (3,)
    assert params["c"].shape == (1,)
    assert not np.array_equal(params["a"], params["b"])
    np.testing.assert_allclose(params["shares"], [1 / 3] * 3)


def test_fields_kept_as_products_give_the_same():
    """`UserFields`, whose values have embeddings in common, and their dense form."""
    rng = np.random.default_rng(0)
    parts = [(3, 4), (4, 6), (3, 1, 6), (3, 2)]
    fields = UserFields(*(jnp.asarray(rng.normal(size=shape)) for shape in parts), (4, 0))
    campaign = jnp.asarray(rng.normal(size=(2, 6)))
    network = Ensemble((Member("a", MLP(), 3), Member("b", MLP(), 3)))
    params = drawn(network, fields.dense(), campaign)
    ours, theirs = (network.apply(params, user, campaign) for user in (fields, fields.dense()))
    np.testing.assert_allclose(ours.log_p, theirs.log_p, rtol=1e-4)
    assert np.ptp(ours.log_p) > 0.01
