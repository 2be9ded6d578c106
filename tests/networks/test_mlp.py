"""Networks of one logit, by hand; frozen fields get no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaheac_jax.networks.mlp import MLP, OnFrozenFields


def fields(width, dtype=jnp.float64):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(5, 3, width)), dtype),
        jnp.asarray(rng.normal(size=(2, width)), dtype),
    )


def test_mlp_is_layers_over_all_fields_in_their_order(x64):
    user, campaign = fields(4)
    network = MLP((6, 3))
    params = network.init(jax.random.key(0), user, campaign)
    output = network.apply(params, user, campaign)
    p = params["params"]
    x = np.hstack([user.reshape(5, -1), np.tile(campaign.reshape(1, -1), (5, 1))])
    for layer in range(2):
        x = np.maximum(x @ p[f"layer_{layer}_kernel"] + p[f"layer_{layer}_bias"], 0)
    np.testing.assert_allclose(output.representation, x, rtol=1e-10, atol=1e-12)
    logit = (x @ p["head_kernel"] + p["head_bias"])[:, 0]
    np.testing.assert_allclose(output.log_p - output.log_not_p, logit, rtol=1e-9)


def test_further_numbers_join_the_first_layer(x64):
    user, campaign = fields(4)
    features = jnp.asarray(np.random.default_rng(1).normal(size=(5, 2)))
    network = MLP((6, 3))
    params = network.init(jax.random.key(0), user, campaign, features)
    p = params["params"]
    x = np.hstack([user.reshape(5, -1), np.tile(campaign.reshape(1, -1), (5, 1)), features])
    first = np.vstack([p["layer_0_kernel"], p["features_kernel"]])
    x = np.maximum(x @ first + p["layer_0_bias"], 0)
    x = np.maximum(x @ p["layer_1_kernel"] + p["layer_1_bias"], 0)
    output = network.apply(params, user, campaign, features)
    np.testing.assert_allclose(output.representation, x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("frozen", [False, True])
def test_on_frozen_fields_only_the_network_gets_a_gradient(x64, frozen):
    user, campaign = fields(4)
    network = OnFrozenFields(MLP((6, 3))) if frozen else MLP((6, 3))
    params = network.init(jax.random.key(0), user, campaign)
    plain = MLP((6, 3)).apply(params, user, campaign)
    output = network.apply(params, user, campaign)
    jax.tree.map(np.testing.assert_array_equal, output, plain)

    loss = lambda *args: network.apply(*args).log_p.sum()  # noqa: E731
    own, *of_fields = jax.grad(loss, argnums=(0, 1, 2))(params, user, campaign)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(own))
    assert all((np.abs(leaf).max() == 0) == frozen for leaf in of_fields)
