"""What every network returns, and the layers that several of them share."""

import jax
import numpy as np
import pytest
from linear_network import LogisticRegression
from toy import drawn

from metaheac_jax.networks import MLP, MetaHeac, sigmoid_output

M, N, K, B = 14, 6, 4, 5
NETWORKS = {
    "metaheac": (MetaHeac(num_experts=3, num_critics=2), K),
    "one expert": (MetaHeac(num_experts=1, num_critics=2), K),
    "one critic": (MetaHeac(num_experts=3, num_critics=1), K),
    "mlp": (MLP(), K),
    "lr": (LogisticRegression(), 1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_keeps_the_contract(name):
    network, width = NETWORKS[name]
    rng = np.random.default_rng(0)
    user, campaign = 0.3 * rng.normal(size=(B, M, width)), 0.3 * rng.normal(size=(N, width))
    params = drawn(network, user, campaign)
    apply = jax.jit(network.apply)
    output = jax.device_get(apply(params, user, campaign))
    assert output.log_p.shape == output.log_not_p.shape == (B,)
    np.testing.assert_allclose(np.exp(output.log_p) + np.exp(output.log_not_p), 1, rtol=1e-5)
    # One example's output does not depend on the others in its batch.
    alone = apply(params, np.where(np.arange(B)[:, None, None] == 2, user, 0), campaign)
    np.testing.assert_allclose(alone.log_p[2], output.log_p[2], rtol=1e-4)
    # The campaign matters.
    other = jax.device_get(apply(params, user, campaign + 1))
    assert np.abs(other.log_p - output.log_p).max() > 1e-4
    # A campaign that all examples share may as well be repeated for each of them.
    repeated = apply(params, user, np.broadcast_to(campaign, (B, N, width)))
    np.testing.assert_allclose(repeated.log_p, output.log_p, rtol=1e-4)


def test_a_layer_starts_uniform_within_its_bound():
    """A product with 900 inputs: weights and biases from U(-1/30, 1/30)."""
    init = jax.jit(MLP((64,)).init)
    params = init(jax.random.key(0), np.zeros((1, 90, 5)), np.zeros((90, 5)))["params"]
    kernel, bias = map(np.asarray, (params["layer_0_kernel"], params["layer_0_bias"]))
    assert np.abs(kernel).max() <= 1 / 30
    np.testing.assert_allclose(np.std(kernel), 1 / 30 / np.sqrt(3), rtol=0.01)
    assert 1 / 60 < np.abs(bias).max() <= 1 / 30


def test_the_output_of_one_logit(x64):
    output = jax.jit(sigmoid_output)(np.array([0.0, 2, -1e4]))
    np.testing.assert_allclose(output.log_p, [np.log(0.5), -np.log1p(np.exp(-2)), -1e4])
    np.testing.assert_allclose(output.log_not_p, [np.log(0.5), -np.log1p(np.exp(2)), 0])


def test_mlp_is_layers_over_all_fields_in_their_order(x64):
    rng = np.random.default_rng(0)
    user, campaign = rng.normal(size=(5, 3, 4)), rng.normal(size=(2, 4))
    network = MLP((6, 3))
    params = drawn(network, user, campaign)
    output = jax.device_get(jax.jit(network.apply)(params, user, campaign))
    p = jax.device_get(params)["params"]
    x = np.hstack([user.reshape(5, -1), np.tile(campaign.reshape(1, -1), (5, 1))])
    for layer in range(2):
        x = np.maximum(x @ p[f"layer_{layer}_kernel"] + p[f"layer_{layer}_bias"], 0)
    logit = (x @ p["head_kernel"] + p["head_bias"])[:, 0]
    np.testing.assert_allclose(output.log_p - output.log_not_p, logit, rtol=1e-9)
