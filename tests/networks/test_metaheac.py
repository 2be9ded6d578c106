"""MetaHeac's network: its formula by hand, the published sizes, a mixture that stays finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax
from toy import drawn

from metaheac_jax.networks import MetaHeac, mixture_log_probabilities
from metaheac_jax.training.losses import cross_entropy

M, N, K, B = 14, 6, 4, 5
LOGITS = hnp.arrays(np.float64, (3, 4), elements=st.floats(-8, 8))


@settings(max_examples=30)
@given(weights=LOGITS, logits=LOGITS)
def test_the_mixture_equals_the_naive_form_where_that_is_accurate(weights, logits):
    with jax.enable_x64(True):
        log_weights = log_softmax(weights, axis=-1)
        p = (np.exp(log_weights) / (1 + np.exp(-logits))).sum(-1)
        log_p, log_not_p = jax.jit(mixture_log_probabilities)(log_weights, logits)
        np.testing.assert_allclose(log_p, np.log(p), rtol=1e-9)
        np.testing.assert_allclose(log_not_p, np.log1p(-p), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("critics", [1, 5])
def test_the_mixture_is_finite_with_finite_gradients_for_huge_logits(sign, critics):
    def loss(logits, label):
        log_weights = jnp.log(jnp.full(critics, 1 / critics))
        log_p, log_not_p = mixture_log_probabilities(log_weights, logits)
        return cross_entropy(log_p, log_not_p, label)

    @jax.jit
    def derivatives(*given):
        return *jax.value_and_grad(loss)(*given), jax.hessian(loss)(*given)

    for label in (0.0, 1.0):
        value, gradient, hessian = derivatives(np.full(critics, sign * 1e4), label)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert np.isfinite(hessian).all()
        if sign == (-1 if label else 1):
            # A confident mistake costs its logit, and still pulls with full force.
            np.testing.assert_allclose(value, 1e4, rtol=1e-6)
            np.testing.assert_allclose(np.sum(gradient), sign, rtol=1e-6)


def fields():
    rng = np.random.default_rng(0)
    return rng.normal(size=(B, M, K)), rng.normal(size=(N, K))


def by_hand(params, user, campaign):
    """The probability of a user, an expert and a critic at a time."""
    p = jax.tree.map(np.asarray, params["params"])
    fields_mean = np.concatenate([user.mean(axis=0), campaign.reshape(-1)])

    def gate(own):
        hidden = np.maximum(fields_mean @ own["kernel"] + own["bias"], 0)
        odds = np.exp(hidden @ own["choice_kernel"] + own["choice_bias"])
        return odds / odds.sum()

    expert_weights, critic_weights = gate(p["expert_gate"]), gate(p["critic_gate"])
    representation, expert = 0.0, p["expert"]
    for i in range(len(expert_weights)):
        hidden = user.reshape(-1)
        hidden = np.maximum(hidden @ expert["kernel_0"][:, i] + expert["bias_0"][i], 0)
        hidden = np.maximum(hidden @ expert["kernel_1"][i] + expert["bias_1"][i], 0)
        representation += expert_weights[i] * hidden
    probability = 0.0
    for j in range(len(critic_weights)):
        logit = representation @ p["critic_kernel"][:, j] + p["critic_bias"][j]
        probability += critic_weights[j] / (1 + np.exp(-logit))
    return probability


def test_equals_the_papers_formula(x64):
    network = MetaHeac(num_experts=3, num_critics=2, widths=(5, 4), gate_width=6)
    user, campaign = fields()
    # Larger than initial values, so that no gate is close to uniform and no p to 1/2.
    params = drawn(network, user, campaign)
    output = jax.jit(network.apply)(params, user, campaign)
    for b in range(B):
        p = by_hand(params, user[b], campaign)
        np.testing.assert_allclose(output.log_p[b], np.log(p), rtol=1e-9)
        np.testing.assert_allclose(output.log_not_p[b], np.log1p(-p), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("width", "parameters"), [(64, 551_186), (16, 164_114)])
def test_sizes_are_the_published_ones(width, parameters):
    user, campaign = jnp.zeros((1, M, width)), jnp.zeros((N, width))
    network = MetaHeac(num_experts=8, num_critics=5)
    params = jax.eval_shape(network.init, jax.random.key(0), user, campaign)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
