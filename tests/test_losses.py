"""The mixture of sigmoids stays finite and exact; masked examples count for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metaheac_jax.losses import Batch, build_loss, cross_entropy, masked, mixture_log_probabilities
from metaheac_jax.network import MetaHeac

LOGITS = hnp.arrays(np.float64, (3, 4), elements=st.floats(-8, 8))


@pytest.mark.parametrize("mixture", ["sum", "mean"])
@settings(max_examples=30, deadline=None)
@given(weights=LOGITS, logits=LOGITS)
def test_equals_the_naive_form_where_that_is_accurate(mixture, weights, logits):
    with jax.enable_x64(True):
        log_weights = jax.nn.log_softmax(jnp.asarray(weights))
        p = (np.exp(log_weights) / (1 + np.exp(-logits))).sum(-1)
        if mixture == "mean":
            p = p / 4
        log_p, log_not_p = mixture_log_probabilities(log_weights, jnp.asarray(logits), mixture)
        np.testing.assert_allclose(log_p, np.log(p), rtol=1e-9)
        np.testing.assert_allclose(log_not_p, np.log1p(-p), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("mixture", ["sum", "mean"])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("critics", [1, 5])
def test_finite_with_finite_gradients_for_huge_logits(mixture, sign, critics):
    log_weights = jnp.log(jnp.full(critics, 1 / critics))

    def loss(logits, label):
        log_p, log_not_p = mixture_log_probabilities(log_weights, logits, mixture)
        return cross_entropy(log_p, log_not_p, label)

    for label in (0.0, 1.0):
        logits = sign * jnp.full(critics, 1e4)
        value, grad = jax.value_and_grad(loss)(logits, label)
        hessian = jax.hessian(loss)(logits, label)
        assert np.isfinite(value)
        assert np.isfinite(grad).all()
        assert np.isfinite(hessian).all()
    if mixture == "sum":
        # A confident mistake costs its logit, and still pulls with full force.
        np.testing.assert_allclose(loss(jnp.full(critics, 1e4), 0.0), 1e4, rtol=1e-6)
        grad = jax.grad(loss)(jnp.full(critics, 1e4), 0.0)
        np.testing.assert_allclose(grad.sum(), 1, rtol=1e-6)


def test_masked_examples_equal_a_shorter_batch(x64):
    rng, slots = np.random.default_rng(0), (1, 2)
    network = MetaHeac(experts=2, critics=2, widths=(3, 3), gate_width=3)
    table = jnp.asarray(rng.normal(size=(10, 2)))
    params = {
        "network": network.init(jax.random.key(0), jnp.zeros((1, 2, 2)), jnp.zeros((1, 2))),
        "table": table,
    }
    full = Batch(
        rng.integers(0, 10, (6, 3)), np.array([4]), rng.integers(0, 2, 6).astype(float), np.ones(6)
    )
    short = Batch(full.user[:4], full.campaign, full.label[:4], full.weight[:4])
    padded = full._replace(weight=np.array([1.0, 1, 1, 1, 0, 0]))
    for reduction in ("mean", "sum"):
        loss = build_loss(network.apply, slots, reduction=reduction)
        np.testing.assert_allclose(loss(params, padded), loss(params, short), rtol=1e-12)
        assert abs(loss(params, full) - loss(params, short)) > 1e-6


def test_masked_mean_of_nothing_is_zero():
    assert masked(jnp.ones(3), jnp.zeros(3), "mean") == 0


def test_a_campaign_shared_or_repeated_for_each_example_is_the_same(x64):
    rng = np.random.default_rng(0)
    network = MetaHeac(experts=2, critics=2, widths=(3, 3), gate_width=3)
    user, campaign = jnp.asarray(rng.normal(size=(5, 2, 2))), jnp.asarray(rng.normal(size=(3, 2)))
    params = network.init(jax.random.key(0), user, campaign)
    repeated = jnp.broadcast_to(campaign, (5, 3, 2))
    np.testing.assert_allclose(
        network.apply(params, user, campaign).log_p,
        network.apply(params, user, repeated).log_p,
        rtol=1e-12,
    )
