"""Hubble: who hears whom in the graph, and the method as a whole."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import aucs, dataset, pool

from experiments.methods import METHODS, hubble
from experiments.methods.method import Job
from metaheac_jax.baselines import CampaignGraph
from metaheac_jax.data.sampling import campaign_examples
from metaheac_jax.losses import Batch
from metaheac_jax.metrics import auc
from metaheac_jax.offline import General
from metaheac_jax.presets import PAPER
from metaheac_jax.progress import silent

METHOD = METHODS["hubble"]
DATA = dataset(tastes=2, campaigns=16)
TRAIN, NEW = np.arange(12), np.arange(12, 16)
SLOTS = DATA.schema.user_slots


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    preset = replace(PAPER, rows=64, campaigns_per_step=4, epochs=5, outer_learning_rate=0.005)
    directory = tmp_path_factory.mktemp("hubble")
    job = Job(DATA, TRAIN, METHOD.preset(preset), 0, directory, None, silent)
    return job, METHOD.offline(job)


def test_learns(trained):
    found = aucs(DATA, NEW, METHOD.online(*trained, NEW))
    assert found.mean() > 0.65
    assert found.min() > 0.55


def hear(graph, users, campaigns):
    nodes = hubble.user_nodes(graph.network, graph.table, users, user_slots=SLOTS)
    heard = np.ones((len(users), len(campaigns)), bool)
    return np.asarray(hubble.represent(graph.network, campaigns, nodes, heard))


def test_a_user_never_seen_is_represented_and_messages_change_it(trained):
    _, graph = trained
    rng = np.random.default_rng(5)
    new = DATA.user_rows[:40].copy()
    new[:, :2] = rng.permuted(new[:, :2], axis=0)
    seen = {row.tobytes() for row in DATA.user_rows}
    new = np.array([row for row in new if row.tobytes() not in seen])
    assert len(new) > 3
    told = hear(graph, new, graph.campaigns)
    assert np.isfinite(told).all()
    assert len(np.unique(told.round(4), axis=0)) == len(np.unique(new, axis=0))
    # Two hops: other seeds of a campaign, other messages.
    nodes = np.asarray(hubble.user_nodes(graph.network, graph.table, new, user_slots=SLOTS))
    others = [
        hubble.campaign_nodes(graph.network, part, np.zeros(2), 1)
        for part in (nodes[:2], nodes[2:4])
    ]
    heard = [hear(graph, new, np.concatenate([graph.campaigns, other])) for other in others]
    assert (np.abs(heard[0] - heard[1]).max(axis=1) > 1e-4).all()
    assert (np.abs(heard[0] - told).max(axis=1) > 1e-4).all()


def test_messages_equal_a_naive_loop():
    network, rng = CampaignGraph(features=3), np.random.default_rng(0)
    init = jax.jit(network.init)
    params = init(jax.random.key(0), jnp.zeros((2, 2, 4)), jnp.zeros((1, 4)))
    apply = jax.jit(network.apply, static_argnames="method")
    weights = jax.tree.map(np.asarray, params["params"])
    users, campaigns = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    heard = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 1]], bool)
    found = apply(params, users, campaigns, heard, method="represent")

    def layer(name, x):
        return x @ weights[name]["affine_kernel"] + weights[name]["affine_bias"]

    for user, own, whom in zip(users, np.asarray(found), heard, strict=True):
        odds = [np.dot(layer("asks", user), layer("answers", c)) / 3**0.5 for c in campaigns[whom]]
        attention = np.exp(odds) / np.exp(odds).sum()
        message = sum(a * c for a, c in zip(attention, campaigns[whom], strict=True))
        expected = np.maximum(layer("joined", np.concatenate([user, message])), 0)
        np.testing.assert_allclose(own, expected, atol=1e-5)

    seed = np.array([1.0, 0, 1, 0, 0])
    made = apply(params, users, seed, method="campaign")
    expected = np.maximum(layer("seeds", (users[0] + users[2]) / 2), 0)
    np.testing.assert_allclose(made, expected, atol=1e-5)
    nobody = apply(params, users, 0 * seed, method="campaign")
    np.testing.assert_allclose(nobody, np.maximum(layer("seeds", np.zeros(3)), 0), atol=1e-6)


@pytest.mark.parametrize(("seeds", "folds"), [(1, 2), (2, 2), (4, 4), (5, 5), (23, 5)])
def test_folds_share_seeds_and_non_seeds_alike(seeds, folds):
    label = np.random.default_rng(seeds).permutation(np.arange(40) < seeds).astype(np.float32)
    fold = hubble.spread(label)
    for kind in (0, 1):
        sizes = np.bincount(fold[label == kind], minlength=folds)
        assert len(sizes) == folds
        assert sizes.max() - sizes.min() <= 1


def examples_of(user, label):
    return Batch(user, DATA.campaign_rows[NEW[0]], label, np.ones_like(label))


def test_a_seed_is_left_out_of_what_it_hears_itself(trained):
    _, graph = trained
    examples = campaign_examples(DATA, NEW[0])
    user, label = examples.user[:60], examples.label[:60]
    fold = hubble.spread(label)
    seed, other = np.flatnonzero(label == 1)[0], np.flatnonzero(label == 0)[0]
    before = hubble.join(graph, examples_of(user, label), SLOTS)

    # Another user in the seed's place changes what others hear, but nothing in its own fold.
    moved = user.copy()
    moved[seed] = next(row for row in DATA.user_rows if (row[:2] != user[seed, :2]).all())
    after = hubble.join(graph, examples_of(moved, label), SLOTS)
    change = np.abs(after.examples - before.examples).max(axis=1)
    rest = np.arange(len(user)) != seed
    assert (change[(fold == fold[seed]) & rest] == 0).all()
    assert (change[fold != fold[seed]] > 0).all()

    # A non-seed tells nobody anything.
    moved = user.copy()
    moved[other] = user[seed]
    after = hubble.join(graph, examples_of(moved, label), SLOTS)
    rest = np.arange(len(user)) != other
    np.testing.assert_array_equal(after.examples[rest], before.examples[rest])
    # It hears what its whole fold hears, which does not tell seeds from non-seeds.
    mate = np.flatnonzero((label == 1) & (fold == fold[other]))[0]
    moved = user.copy()
    moved[other] = user[mate]
    after = hubble.join(graph, examples_of(moved, label), SLOTS)
    np.testing.assert_array_equal(after.examples[other], after.examples[mate])
    # A pool hears all seeds, and the training campaigns as they were.
    np.testing.assert_array_equal(after.campaigns[:-1], graph.campaigns)
    nodes = np.asarray(hubble.user_nodes(graph.network, graph.table, moved, user_slots=SLOTS))[
        label == 1
    ]
    whole = hubble.campaign_nodes(graph.network, nodes, np.zeros(len(nodes)), 1)
    np.testing.assert_array_equal(after.campaigns[-1:], whole)


def test_offline_each_half_is_predicted_by_the_seeds_of_the_other(trained):
    _, graph = trained
    rng = np.random.default_rng(0)
    user = rng.integers(0, DATA.rows, (2, 3, 8, sum(SLOTS))).astype(np.int32)
    label = (np.arange(48).reshape(2, 3, 8) % 4 == 0).astype(np.float32)
    campaign = np.zeros((3, 2), np.int32)
    side = [Batch(u, campaign, y, np.ones_like(y)) for u, y in zip(user, label, strict=True)]
    params = {"network": graph.network, "table": graph.table}
    gradient = jax.jit(hubble.graph_gradient(SLOTS))
    _, info = gradient(params, *side)

    nodes = [
        np.stack([hubble.user_nodes(*graph[:2], u, user_slots=SLOTS) for u in half])
        for half in user
    ]
    apply = jax.jit(CampaignGraph().apply, static_argnames="method")
    losses = []
    for own, other in ((0, 1), (1, 0)):
        seeds = [n[y == 1] for n, y in zip(nodes[other], label[other], strict=True)]
        campaigns = np.concatenate(
            [hubble.campaign_nodes(graph.network, s, np.zeros(len(s)), 1) for s in seeds]
        )
        for c, y in enumerate(label[own]):
            told = hear(graph, user[own, c], campaigns)
            output = apply(graph.network, told, campaigns[c], method="predict")
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


def test_the_online_stage_trains_an_mlp_and_nothing_else(trained):
    job, graph = trained
    before = jax.tree.map(np.array, graph)
    users, label = pool(DATA, NEW[0])
    seen = {}

    def watch(step, models):
        [model] = models()
        seen[step] = model(users)

    [model] = METHOD.online(job, graph, NEW[:1], watch)
    jax.tree.map(np.testing.assert_array_equal, graph, before)
    assert list(seen) == list(range(len(seen)))
    # At first it knows nothing, and one step does not change all.
    assert abs(auc(seen[0], label) - 0.5) < 0.2
    assert not np.array_equal(seen[0], seen[1])
    assert any(np.array_equal(model(users), odds) for odds in seen.values())
    assert model(users[:0]).shape == (0,)


def test_the_mlp_learns_and_the_representations_do_not():
    rng = np.random.default_rng(0)
    told = rng.normal(size=(hubble.TABLE, 64)).astype(np.float32)
    label = (told[:50, 0] > 0).astype(np.float32)
    rows = np.arange(50, dtype=np.int32)[:, None]
    examples = Batch(rows, np.empty(0, np.int32), label, np.ones_like(label))
    head = hubble.new_head(jax.random.key(0))
    customise = hubble.compiled_customise(64)
    [model] = customise(General(head, jnp.asarray(told)), [examples], learning_rate=0.003, epochs=5)
    np.testing.assert_array_equal(model.values[:50], told[:50])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), model.network, head)
    assert all(jax.tree.leaves(moved))


def test_training_campaigns_are_made_of_all_their_seeds(trained):
    _, graph = trained
    stage = DATA.stage1
    for c in (0, 7):
        of = stage.of(c)
        rows = DATA.user_rows[stage.user[of][stage.label[of] == 1]]
        nodes = hubble.user_nodes(graph.network, graph.table, rows, user_slots=SLOTS)
        own = CampaignGraph().apply(graph.network, nodes, np.ones(len(rows)), method="campaign")
        np.testing.assert_allclose(graph.campaigns[c], own, atol=1e-5)
