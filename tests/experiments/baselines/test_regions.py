"""Pinterest: the ranking loss, regions, their score, and the method as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import aucs, dataset

from experiments.baselines.regions import (
    MAX_BITS,
    Pinterest,
    mean_score,
    ranking_gradient,
    region_score,
    score_regions,
    seeds_only,
)
from metaheac_jax.data.batches import Batch, ExampleBatch
from metaheac_jax.data.samplers import ExampleSampler
from metaheac_jax.methods import customise, fit
from metaheac_jax.table.layout import Ids, Layout

DATA = dataset(tastes=2, campaigns=16, per_campaign=400)
TRAIN, NEW = np.arange(12), np.arange(12, 16)
METHOD = Pinterest().changed(
    batch_size=64,
    campaigns_per_step=4,
    offline_epochs=3,
    offline_patience=None,
    outer_learning_rate=0.005,
)


@pytest.fixture(scope="module")
def general():
    return fit(DATA, METHOD, campaigns=TRAIN)


def customised(general, campaigns):
    known = [DATA.campaign(c) for c in campaigns]
    return [model.score for model in customise(general, DATA, known)]


@pytest.mark.slow
def test_learns_across_campaigns_and_on_new_ones(general):
    found = aucs(DATA, NEW, customised(general, NEW))
    assert found.mean() > 0.65
    assert found.min() > 0.55


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
