"""The networks: shapes, initial values, what depends on what, and the published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaheac_jax.baselines import MLP, LogisticRegression
from metaheac_jax.network import Experts, MetaHeac

M, N, K, B = 14, 6, 4, 5
NETWORKS = {
    "heac": (MetaHeac(experts=3, critics=2), K),
    "one expert": (MetaHeac(experts=1, critics=2), K),
    "one critic": (MetaHeac(experts=3, critics=1), K),
    "mean mixture": (MetaHeac(experts=3, critics=2, mixture="mean"), K),
    "mlp": (MLP(), K),
    "lr": (LogisticRegression(), 1),
}


def fields(width, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(B, M, width)), jnp.float32), jnp.asarray(
        rng.normal(size=(N, width)), jnp.float32
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_contract(name):
    network, width = NETWORKS[name]
    user, campaign = fields(width)
    params = network.init(jax.random.key(0), user, campaign)
    output = jax.jit(network.apply)(params, user, campaign)
    assert output.log_p.shape == output.log_not_p.shape == (B,)
    np.testing.assert_allclose(jnp.exp(output.log_p) + jnp.exp(output.log_not_p), 1, rtol=1e-5)
    # One example's output does not depend on the others in its batch.
    alone = network.apply(params, user[2:3], campaign)
    np.testing.assert_allclose(alone.log_p[0], output.log_p[2], rtol=1e-4)
    # The campaign matters.
    other = network.apply(params, user, campaign + 1)
    assert np.abs(other.log_p - output.log_p).max() > 1e-4


@pytest.mark.parametrize(("width", "parameters"), [(64, 551_186), (16, 164_114)])
def test_sizes_are_the_published_ones(width, parameters):
    user, campaign = jnp.zeros((1, M, width)), jnp.zeros((N, width))
    params = MetaHeac(experts=8, critics=5).init(jax.random.key(0), user, campaign)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def test_initial_values_fill_the_uniform_range():
    user, campaign = jnp.zeros((1, M, 64)), jnp.zeros((N, 64))
    params = MetaHeac().init(jax.random.key(0), user, campaign)["params"]
    kernel = np.asarray(params["expert"]["kernel_0"])
    bound = 1 / np.sqrt(M * 64)
    assert np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.01)
    assert 0 < np.abs(params["expert"]["bias_0"]).max() <= bound
    assert 0 < np.abs(params["critic_bias"]).max() <= 1 / 8


def test_experts_are_separate_mlps_of_the_user_alone(x64):
    user, _ = fields(K)
    user = user.astype(jnp.float64)
    experts = Experts(3, (5, 4))
    params = experts.init(jax.random.key(0), user)
    together = experts.apply(params, user)
    p = params["params"]
    x = user.reshape(B, -1)
    for i in range(3):
        hidden = np.maximum(x @ p["kernel_0"][:, i] + p["bias_0"][i], 0)
        hidden = np.maximum(hidden @ p["kernel_1"][i] + p["bias_1"][i], 0)
        np.testing.assert_allclose(together[:, i], hidden, rtol=1e-10, atol=1e-12)


def test_gates_weigh_experts_and_critics(x64):
    """With all weight on one critic and one expert, p is that critic of that expert."""
    network = MetaHeac(experts=3, critics=2, widths=(5, 4))
    user, campaign = fields(K)
    params = network.init(jax.random.key(0), user, campaign)["params"]
    sure = lambda choice, n: jnp.where(jnp.arange(n) == choice, 1e3, 0.0)  # noqa: E731
    params["expert_gate"]["choice_bias"] = sure(2, 3)
    params["critic_gate"]["choice_bias"] = sure(1, 2)
    output = network.apply({"params": params}, user, campaign)
    hidden = Experts(3, (5, 4)).apply({"params": params["expert"]}, user)[:, 2]
    np.testing.assert_allclose(output.representation, hidden, rtol=1e-6)
    logit = hidden @ params["critic_kernel"][:, 1] + params["critic_bias"][1]
    np.testing.assert_allclose(output.log_p, jax.nn.log_sigmoid(logit), rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(output.critic_log_weights).sum(-1), 1, rtol=1e-6)
