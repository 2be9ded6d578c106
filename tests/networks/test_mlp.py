"""The MLP, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from metaheac_jax.networks.mlp import MLP


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
