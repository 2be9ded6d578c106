"""Pinterest: the ranking loss, regions, their score, and the method as a whole."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import aucs, dataset, pool

from metaheac_jax.data.batches import Batch, ExampleBatch, generator
from metaheac_jax.data.samplers import ExampleSampler
from metaheac_jax.methods.offline import untrained
from metaheac_jax.methods.stages import Run
from metaheac_jax.methods.towers import (
    DRAWS,
    MAX_BITS,
    mean_score,
    pinterest,
    ranking_gradient,
    region_score,
    score_regions,
    seeds_only,
)
from metaheac_jax.model import Weights
from metaheac_jax.networks.towers import Towers
from metaheac_jax.settings import PAPER
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.table.pooling import user_fields

DATA = dataset(tastes=2, campaigns=16, per_campaign=400)
TRAIN, NEW = np.arange(12), np.arange(12, 16)
SLOTS = DATA.layout.user_slots
METHOD = pinterest(
    replace(
        PAPER,
        batch_size=64,
        campaigns_per_step=4,
        offline_epochs=3,
        offline_patience=None,
        outer_learning_rate=0.005,
    )
)


@pytest.fixture(scope="module")
def general():
    return METHOD.fit(DATA, campaigns=TRAIN)


def customise(general, campaigns):
    known = [DATA.campaign(c) for c in campaigns]
    return [model.score for model in METHOD.customise(general, DATA, known)]


@pytest.mark.slow
def test_learns_across_campaigns_and_on_new_ones(general):
    found = aucs(DATA, NEW, customise(general, NEW))
    assert found.mean() > 0.65
    assert found.min() > 0.55


@pytest.mark.slow
def test_training_brings_seeds_nearer_to_their_campaign_than_non_seeds(general):
    network, stage = Towers(), DATA.stage1
    users = DATA.user_rows[stage.user].reshape(16, 400, -1)[TRAIN]
    seed = stage.label.reshape(16, 400)[TRAIN] == 1

    @jax.jit
    def embed(params, table):
        fields = table[DATA.campaign_rows[TRAIN]][:, None]
        return network.apply(params, user_fields(table, users, SLOTS).dense(), fields)

    def gap(params, table):
        user, campaign = map(np.asarray, embed(params, table))
        np.testing.assert_allclose(np.linalg.norm(user, axis=-1), 1, rtol=1e-5)
        cosine = (user * campaign).sum(axis=-1)
        pairs = zip(cosine, seed, strict=True)
        return np.mean([own[of].mean() - own[~of].mean() for own, of in pairs])

    start = untrained(Run(DATA, TRAIN, METHOD.settings, 0), network, jax.random.key(0))
    assert gap(*Weights(**general.state)) > 0.05
    assert abs(gap(*start)) < 0.02


def test_the_ranking_loss_of_four_examples_by_hand():
    # One field a side of width 2, and embeddings that are the fields and zeros.
    table = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    eye = {"affine_kernel": jnp.eye(2, 64), "affine_bias": jnp.zeros(64)}
    params = {"network": {"params": {"users": eye, "campaigns": eye}}, "table": table}
    batch = Batch(
        Ids(jnp.array([[0], [2], [1], [0]]), jnp.array([[0], [1], [1], [1]])),
        label=jnp.array([1.0, 1.0, 0.0, 1.0]),
        weight=jnp.array([1.0, 1.0, 1.0, 0.0]),
    )
    gradient = jax.jit(ranking_gradient(Layout((1,), (), 1), margin=0.5, num_others=2))
    # Example i is compared with campaigns i - 1 and i - 2, around the end.
    # First: cosine 1 with its own; both others have 0: no loss. Second: .8 with its own; .6 with
    # campaign 0 (.5 - .8 + .6 = .3), and again its own campaign: the margin. The third is no seed,
    # the fourth is padding.
    _, info = gradient(params, batch)
    assert info.loss == pytest.approx((0 + 0 + 0.3 + 0.5) / 4, abs=1e-5)


def test_a_step_sees_the_seeds_of_a_batch():
    sampler = ExampleSampler(DATA, TRAIN, seed=0, batch_size=200)
    rows, examples = sampler(3)
    seed = examples.label == 1
    found, kept = seeds_only(sampler(3))
    np.testing.assert_array_equal(found, rows)
    n = int(seed.sum())
    assert len(kept.label) == 512
    np.testing.assert_array_equal(kept.weight, np.arange(512) < n)
    assert (kept.label == 1).all()
    for leaf, all_of_it in zip(kept.ids[:2], examples.ids[:2], strict=True):
        np.testing.assert_array_equal(leaf[:n], all_of_it[seed])
        np.testing.assert_array_equal(leaf[n : 2 * n], all_of_it[seed])
    nobody = examples._replace(label=np.zeros_like(examples.label))
    _, kept = seeds_only(ExampleBatch(rows, nobody))
    assert not kept.weight.any()


def test_the_published_score_of_a_region():
    # (s + 1) / (n + 4). A region that nobody is in scores a quarter.
    seeds, users = np.array([0, 1, 3, 0, 96]), np.array([0, 1, 6, 46, 96])
    expected = [1 / 4, 2 / 5, 4 / 10, 1 / 50, 97 / 100]
    np.testing.assert_allclose(region_score(seeds, users), expected)


@pytest.mark.parametrize(("users", "bits"), [(9, 1), (300, 2), (1100, 4)])
def test_scores_equal_a_naive_loop(users, bits):
    rng = np.random.default_rng(users)
    normals = rng.normal(size=(3, MAX_BITS, 5))
    vectors, others = rng.normal(size=(users, 5)), rng.normal(size=(20, 5))
    label = rng.integers(0, 2, users)

    def codes(points):
        sides = np.einsum("uh,dbh->udb", points, normals) > 0
        return (sides << np.arange(MAX_BITS)).sum(axis=-1)

    found = mean_score(score_regions(codes(vectors), label), codes(others))
    for other, score in zip(others, found, strict=True):
        naive = []
        for draw in normals:
            planes = draw[:bits]
            here = [((planes @ v > 0) == (planes @ other > 0)).all() for v in vectors]
            naive.append((label[here].sum() + 1) / (sum(here) + 4))
        assert score == pytest.approx(np.mean(naive))


@pytest.mark.slow
def test_a_score_is_that_of_the_regions_of_the_embedding(general):
    campaign, weights = NEW[1], Weights(**general.state)
    [model] = customise(general, [campaign])
    stage = DATA.stage1
    rows, label = DATA.user_rows[stage.user[stage.of(campaign)]], stage.label[stage.of(campaign)]
    size = (DRAWS, MAX_BITS, 64)
    normals = generator(0, 0).normal(size=size).astype(np.float32)

    @jax.jit
    def embed(rows):
        fields = user_fields(weights.table, rows, SLOTS).dense()
        return Towers().apply(weights.network, fields, method="user")

    known = np.asarray(embed(rows)) @ normals[:, :2].reshape(-1, 64).T > 0  # 400 users: 2 bits
    users, _ = pool(DATA, campaign)
    for user, score in zip(users[:5], model(users)[:5], strict=True):
        side = np.asarray(embed(user[None])) @ normals[:, :2].reshape(-1, 64).T > 0
        here = (known == side).reshape(len(label), -1, 2).all(axis=-1)
        naive = (here[label == 1].sum(axis=0) + 1) / (here.sum(axis=0) + 4)
        assert score == pytest.approx(naive.mean(), abs=1e-6)


@pytest.mark.slow
def test_a_pool_of_any_size_is_scored_user_by_user(general):
    [model] = customise(general, NEW[:1])
    users, _ = pool(DATA, NEW[0])
    many = np.concatenate([users] * 11)  # over a chunk
    np.testing.assert_array_equal(model(many), np.tile(model(users), 11))
    assert model(users[:0]).shape == (0,)
