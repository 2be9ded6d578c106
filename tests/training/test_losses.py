"""Losses over a table: cross-entropy by hand; masked examples count for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_network import LogisticRegression
from toy import drawn

from metaheac_jax.data.batches import Batch
from metaheac_jax.networks import MLP
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.training.losses import build_loss, masked

LAYOUT = Layout(user_slots=(1, 2), small_fields=(), num_campaign_fields=1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_by_hand(x64, reduction):
    """Logistic regression: the logit is the sum of the fields' weights and the campaign's."""
    table = np.array([[1.0], [-2], [0.5], [3]])
    user = np.array([[0, 1, 2], [3, 2, 4], [4, 4, 4]])  # row 4 is padding
    # 1 + (-2 + 0.5) / 2 + 0.5, 3 + 0.5 + 0.5, and 0.5 of the campaign alone.
    logits, label = np.array([0.75, 4, 0.5]), np.array([1.0, 0, 1])
    batch = Batch(Ids(user, np.array([2])), label, np.ones(3))
    loss = build_loss(LogisticRegression(), LAYOUT, reduction=reduction)
    params = {"network": {"params": {"bias": np.zeros(())}}, "table": table}
    each = np.where(label, np.log1p(np.exp(-logits)), np.log1p(np.exp(logits)))
    expected = each.mean() if reduction == "mean" else each.sum()
    np.testing.assert_allclose(jax.jit(loss)(params, batch), expected, rtol=1e-12)


def test_masked_examples_equal_a_shorter_batch(x64):
    rng = np.random.default_rng(0)
    network = MLP(widths=(3, 3))
    params = {
        "network": drawn(network, np.zeros((1, 2, 2)), np.zeros((1, 2))),
        "table": rng.normal(size=(10, 2)),
    }
    ids, label = Ids(rng.integers(0, 10, (6, 3)), np.array([4])), rng.integers(0, 2, 6)
    full = Batch(ids, label.astype(float), np.ones(6))
    short = full.pick(np.arange(4))
    padded = full._replace(weight=np.array([1.0, 1, 1, 1, 0, 0]))
    for reduction in ("mean", "sum"):
        loss = jax.jit(build_loss(network, LAYOUT, reduction=reduction))
        np.testing.assert_allclose(loss(params, padded), loss(params, short), rtol=1e-12)
        assert abs(loss(params, full) - loss(params, short)) > 1e-6


def test_masked_mean_of_nothing_is_zero():
    assert masked(jnp.ones(3), jnp.zeros(3), "mean") == 0
