"""Hubble-like: who attends to whom in the graph, and the method as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import aucs, dataset, with_own_rows

from experiments.baselines import graph as module
from experiments.baselines.campaign_graph import CampaignGraph
from experiments.baselines.graph import (
    TABLE_MULTIPLE,
    Graph,
    Hubble,
    assign_folds,
    campaign_nodes,
    graph_gradient,
    join,
    new_head,
    represent,
    representation_customiser,
    user_nodes,
)
from metaheac_jax.data.batches import Batch, campaign_examples, unstacked
from metaheac_jax.methods import Trained, customise, fit
from metaheac_jax.model import Weights
from metaheac_jax.table.layout import Ids

DATA = dataset(tastes=2, campaigns=16)
TRAIN, NEW = np.arange(12), np.arange(12, 16)
LAYOUT = DATA.layout
METHOD = Hubble().changed(
    batch_size=64,
    campaigns_per_step=4,
    offline_epochs=5,
    offline_patience=None,
    outer_learning_rate=0.005,
)


@pytest.fixture(scope="module")
def general():
    return fit(DATA, METHOD, campaigns=TRAIN)


@pytest.fixture(scope="module")
def graph(general):
    return Graph(**general.state)


@pytest.mark.slow
def test_learns_across_campaigns_and_on_new_ones(general):
    models = customise(general, DATA, [DATA.campaign(c) for c in NEW])
    found = aucs(DATA, NEW, [model.score for model in models])
    assert found.mean() > 0.65
    assert found.min() > 0.55


def nodes_of(graph, users):
    return np.asarray(user_nodes(graph.network, graph.table, users, layout=LAYOUT))


def represented(graph, users, campaigns):
    attended = np.ones((len(users), len(campaigns)), bool)
    nodes = nodes_of(graph, users)
    return np.asarray(represent(graph.network, campaigns, nodes, attended))


def test_messages_equal_a_naive_loop():
    network, rng = CampaignGraph(features=3), np.random.default_rng(0)
    init = jax.jit(network.init)
    params = init(jax.random.key(0), jnp.zeros((2, 2, 4)), jnp.zeros((1, 4)))
    apply = jax.jit(network.apply, static_argnames="method")
    weights = jax.tree.map(np.asarray, params["params"])
    users, campaigns = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    attended = np.array(
        [[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 1]], bool
    )
    found = apply(params, users, campaigns, attended, method="represent")

    def layer(name, x):
        return x @ weights[name]["affine_kernel"] + weights[name]["affine_bias"]

    for user, own, whom in zip(users, np.asarray(found), attended, strict=True):
        odds = [np.dot(layer("queries", user), layer("keys", c)) / 3**0.5 for c in campaigns[whom]]
        attention = np.exp(odds) / np.exp(odds).sum()
        message = sum(a * c for a, c in zip(attention, campaigns[whom], strict=True))
        expected = np.maximum(layer("joined", np.concatenate([user, message])), 0)
        np.testing.assert_allclose(own, expected, atol=1e-5)

    padding = apply(params, users, campaigns, np.zeros_like(attended), method="represent")
    assert np.isfinite(padding).all()

    seed = np.array([1.0, 0, 1, 0, 0])
    made = apply(params, users, seed, method="campaign")
    expected = np.maximum(layer("seeds", (users[0] + users[2]) / 2), 0)
    np.testing.assert_allclose(made, expected, atol=1e-5)
    nobody = apply(params, users, 0 * seed, method="campaign")
    np.testing.assert_allclose(nobody, np.maximum(layer("seeds", np.zeros(3)), 0), atol=1e-6)


@pytest.mark.parametrize(("seeds", "folds"), [(1, 2), (2, 2), (4, 4), (5, 5), (23, 5)])
def test_folds_share_seeds_and_non_seeds_alike(seeds, folds):
    label = np.random.default_rng(seeds).permutation(np.arange(40) < seeds).astype(np.float32)
    fold = assign_folds(label)
    for kind in (0, 1):
        sizes = np.bincount(fold[label == kind], minlength=folds)
        assert len(sizes) == folds
        assert sizes.max() - sizes.min() <= 1


def examples_of(user, label):
    return Batch(Ids(user, DATA.campaign_rows[NEW[0]]), label, np.ones_like(label))


def test_a_seed_is_left_out_of_the_campaign_that_it_attends_to(graph):
    examples = campaign_examples(DATA, DATA.campaign(NEW[0]))
    user, label = examples.ids.user[:60], examples.label[:60]
    fold = assign_folds(label)
    seed, other = np.flatnonzero(label == 1)[0], np.flatnonzero(label == 0)[0]
    before = join(graph, examples_of(user, label), LAYOUT)

    # Another user in the seed's place changes what the other folds attend to, not its own.
    moved = user.copy()
    moved[seed] = next(row for row in DATA.user_rows if (row[:2] != user[seed, :2]).all())
    after = join(graph, examples_of(moved, label), LAYOUT)
    change = np.abs(after.examples - before.examples).max(axis=1)
    rest = np.arange(len(user)) != seed
    assert (change[(fold == fold[seed]) & rest] == 0).all()
    assert (change[fold != fold[seed]] > 0).all()

    # Nobody attends to a non-seed.
    moved = user.copy()
    moved[other] = user[seed]
    after = join(graph, examples_of(moved, label), LAYOUT)
    rest = np.arange(len(user)) != other
    np.testing.assert_array_equal(after.examples[rest], before.examples[rest])
    # It attends to what its whole fold attends to, which does not tell seeds from non-seeds.
    mate = np.flatnonzero((label == 1) & (fold == fold[other]))[0]
    moved = user.copy()
    moved[other] = user[mate]
    after = join(graph, examples_of(moved, label), LAYOUT)
    np.testing.assert_array_equal(after.examples[other], after.examples[mate])
    # A pool attends to all seeds, and to the training campaigns as they were.
    np.testing.assert_array_equal(after.campaigns[:-1], graph.campaigns)
    nodes = nodes_of(graph, moved)[label == 1]
    whole = campaign_nodes(graph.network, nodes, np.zeros(len(nodes)), 1)
    np.testing.assert_allclose(after.campaigns[-1:], whole, rtol=1e-5, atol=1e-6)


def test_no_user_is_in_both_halves_of_a_step(monkeypatch):
    drawn = []

    def draw_once(run, config, weights, gradient, draw, **_):
        drawn.append(draw(0))
        return Trained({})

    monkeypatch.setattr(module, "train_rows", draw_once)
    method = Hubble().changed(width=3, offline_patience=None)
    fit(with_own_rows(DATA), method, campaigns=TRAIN)
    [(_, support, query)] = drawn
    for own, other in zip(unstacked(support), unstacked(query), strict=True):
        users = [set(side.ids.user[side.weight > 0].flat) for side in (own, other)]
        assert not set.intersection(*users)
        assert [len(side) for side in users] == [150, 150]  # a campaign has 300 examples


def test_offline_each_half_is_predicted_by_the_seeds_of_the_other(graph):
    rng = np.random.default_rng(0)
    user = rng.integers(0, DATA.num_rows, (2, 3, 8, LAYOUT.num_slots)).astype(np.int32)
    label = (np.arange(48).reshape(2, 3, 8) % 4 == 0).astype(np.float32)
    campaign = np.zeros((3, 2), np.int32)
    side = [Batch(Ids(u, campaign), y, np.ones_like(y)) for u, y in zip(user, label, strict=True)]
    params = {"network": graph.network, "table": graph.table}
    gradient = jax.jit(graph_gradient(LAYOUT))
    _, info = gradient(params, *side)

    nodes = [np.stack([nodes_of(graph, u) for u in half]) for half in user]
    apply = jax.jit(CampaignGraph().apply, static_argnames="method")
    losses = []
    for own, other in ((0, 1), (1, 0)):
        seeds = [n[y == 1] for n, y in zip(nodes[other], label[other], strict=True)]
        campaigns = np.concatenate(
            [campaign_nodes(graph.network, s, np.zeros(len(s)), 1) for s in seeds]
        )
        for c, y in enumerate(label[own]):
            vectors = represented(graph, user[own, c], campaigns)
            output = apply(graph.network, vectors, campaigns[c], method="predict")
            losses.append(-np.where(y == 1, output.log_p, output.log_not_p).mean())
    assert info.loss == pytest.approx(np.mean(losses), abs=1e-5)
    # What is padded counts for nothing, neither as a seed nor as an example.
    weight = np.ones((3, 8), np.float32)
    weight[0, :4] = 0
    cut = [b._replace(weight=weight) for b in side]
    _, less = gradient(params, *cut)
    flipped = [b._replace(label=np.where(weight == 0, 1 - b.label, b.label)) for b in cut]
    _, same = gradient(params, *flipped)
    assert less.loss == same.loss != info.loss


def test_the_mlp_learns_and_the_representations_do_not():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(TABLE_MULTIPLE, 64)).astype(np.float32)
    label = (vectors[:50, 0] > 0).astype(np.float32)
    rows = np.arange(50, dtype=np.int32)[:, None]
    examples = Batch(Ids(rows, np.empty(0, np.int32)), label, np.ones_like(label))
    head = new_head(jax.random.key(0))
    customiser = representation_customiser(64)
    [model] = customiser(
        Weights(head, jnp.asarray(vectors)), [examples], learning_rate=0.003, epochs=5
    )
    np.testing.assert_array_equal(model.values[:50], vectors[:50])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), model.network, head)
    assert all(jax.tree.leaves(moved))
