"""Seed features: equal to a naive loop, differentiable twice, zero where there is nobody."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import dataset, distinct_users

from experiments.baselines.reference_sets import ReferenceSampler, reference_set, with_reference
from experiments.baselines.seed_features import SeedNetwork, direction, seed_features
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.model import initialise
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.table.layout import Reference
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta import build_meta_gradient

DATA = dataset()
LAYOUT, PAD = DATA.layout, DATA.num_rows
NETWORK = SeedNetwork(MLP(widths=(5, 5)))
WEIGHTS = initialise(NETWORK, jax.random.key(0), LAYOUT, num_rows=PAD, width=3)


def naive(table, users, reference, labels):
    """A loop over users and fields."""

    def vectors(ids):  # of one user, a field each
        fields, start = [], 0
        for width in LAYOUT.user_slots:
            values = [table[i] for i in ids[start : start + width] if i < len(table)]
            fields.append(np.mean(values, axis=0) if values else np.zeros(table.shape[1]))
            start += width
        return fields

    sides = [[vectors(r) for r, y in zip(reference, labels, strict=True) if y == k] for k in (1, 0)]
    if not all(sides):
        return np.zeros((len(users), len(LAYOUT.user_slots)))
    difference = np.subtract(*(np.mean(side, axis=0) for side in sides))
    lengths = np.linalg.norm(difference, axis=1) + 1e-3
    result = [[x @ d for x, d in zip(vectors(ids), difference, strict=True)] for ids in users]
    return np.array(result) / lengths


@jax.jit
def features_of(ids):
    """The seed features of the users of these ids, against their reference set."""
    user, _, reference = LAYOUT.inputs(WEIGHTS.table, ids)
    return seed_features(user, direction(reference))


apply = jax.jit(NETWORK.apply)


def compared(examples, reference):
    return examples.ids._replace(reference=reference)


def test_features_equal_a_loop():
    examples = distinct_users(DATA, 60)
    split = with_reference(examples, 50, PAD)
    taken, users = split.weight == 0, examples.ids.user
    assert 2 < examples.label[taken].sum() < taken.sum() < 40
    expected = naive(np.asarray(WEIGHTS.table), users, users[taken], examples.label[taken])
    np.testing.assert_allclose(features_of(split.ids), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [1, 0])
def test_nothing_to_compare_with_is_zero(kind):
    """A lone seed, or non-seed, is an example, so only a pool is compared with it."""
    label = np.where(np.arange(60) == 3, kind, 1 - kind).astype(np.float32)
    examples = distinct_users(DATA, 60)._replace(label=label)
    alone = with_reference(examples, 50, PAD)
    assert alone.weight[3] == 1
    np.testing.assert_array_equal(features_of(alone.ids), 0)
    features = features_of(compared(examples, reference_set(examples, 50, PAD)))
    assert (np.abs(features).max(axis=1) > 0).all()


def test_second_order_gradient_by_finite_differences(monkeypatch):
    """Through features, means and the inner step; in float64, along random directions.

    Differences see the lengths move, too: here they are no constants.
    """
    monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: x)
    sampler = CampaignSampler(DATA, np.arange(8), seed=1, campaigns_per_step=2, batch_size=16)
    rows, support, query, own = ReferenceSampler(sampler, size=6)(0)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64),
            {"network": WEIGHTS.network, "table": WEIGHTS.table[np.minimum(rows, PAD - 1)]},
        )
        loss = build_loss(NETWORK, LAYOUT)
        gradient = jax.jit(build_meta_gradient(loss, inner_learning_rate=0.5, select=select_rows))
        found, _ = gradient(params, support, query, own)
        assert np.abs(found["table"]).max() > 1e-3

        def meta_loss(step, way):
            moved = jax.tree.map(lambda p, w: p + step * w, params, way)
            return gradient(moved, support, query, own)[1].loss

        for _ in range(3):
            way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
            expected = (meta_loss(1e-6, way) - meta_loss(-1e-6, way)) / 2e-6
            slope = sum(jax.tree.leaves(jax.tree.map(lambda g, w: (g * w).sum(), found, way)))
            np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_lengths_are_constants_to_the_derivative():
    """Twice the vectors are twice the features: a derivative with the lengths would be 1, not 2."""
    rng = np.random.default_rng(0)
    user, users = rng.normal(size=(5, 3, 4)), rng.normal(size=(2, 6, 3, 4))
    set_of = lambda t: Reference(t * users, np.ones((2, 6)))  # noqa: E731
    grow = lambda t: seed_features(t * user, direction(set_of(t)))  # noqa: E731
    features, slope = jax.jvp(grow, (1.0,), (1.0,))
    np.testing.assert_allclose(slope, 2 * features, rtol=1e-5)
    np.testing.assert_allclose(grow(2.0), 2 * features, rtol=1e-2)
