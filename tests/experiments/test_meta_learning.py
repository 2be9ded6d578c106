"""Four ways to start one regression: the online steps reach the mode, and all can be judged."""

import numpy as np
from scipy.optimize import minimize

from experiments import meta_learning
from experiments.meta_learning import Problem, adapted, by_run, drawn, judge, padded, starting
from metaheac_jax.data.simulation.shapes import TENCENT_WORLD
from metaheac_jax.solvers.posterior import Examples

WIDTH = 3
SETTINGS = {
    "learned prior": {"strength": 1.0, "first": 0.05},
    "MAML": {"steps": 10, "rate": 1.0, "spread": 0.3, "outer": 0.003},
    "plain": {"steps": 10, "rate": 1.0, "spread": 0.3},
    "around zero": {"spread": 0.3},
}


def campaign(seed, count=200):
    """Examples whose log-odds are near twice the first feature."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, WIDTH)).astype(np.float32)
    odds = features @ (np.array([2.0, 0.0, 0.0]) + 0.3 * rng.normal(size=WIDTH)) - 1
    return Examples(features, (rng.random(count) < 1 / (1 + np.exp(-odds))).astype(np.int8))


def test_support_sets_have_random_seeds_and_as_many_others_for_each():
    own = campaign(0)
    ratio = (own.label == 0).sum() / own.label.sum()
    first, second = (drawn(own, 20, np.random.default_rng(seed)) for seed in (1, 2))
    assert np.unique(first).tolist() == first.tolist() != second.tolist()
    assert own.label[first].sum() == 20
    assert len(first) == 20 + round(20 * ratio)


def test_enough_online_steps_reach_the_mode_of_the_posterior():
    """Under the normal prior whose mean is the start, and whose covariance the factor's."""
    own = campaign(3)
    params = starting(np.array([1.0, 0.5, 0.0, -0.5]), {"spread": 0.3, "rate": 1.0})
    x = np.c_[own.features, np.ones(len(own.label))].astype(float)
    scale = np.array([0.3, 0.3, 0.3, 1.0])

    def loss(weights):
        odds, moved = x @ weights, (weights - np.asarray(params.start)) / scale
        return np.sum(np.logaddexp(0, odds) - own.label * odds) + moved @ moved / 2

    expected = minimize(loss, np.zeros(4), tol=1e-10).x
    found = adapted(params, padded(own, 256), 3000)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert not np.allclose(adapted(params, padded(own, 256), 3), expected, atol=1e-2)


def test_every_way_is_judged_by_number_of_seeds(monkeypatch):
    small = {"_MOST": 256, "_BATCH": 2, "_QUERY": 32, "_STEPS": 20, "_EVERY": 10}
    for name, value in {**small, "SEEDS": (5, 20, 1000)}.items():
        monkeypatch.setattr(meta_learning, name, value)
    train = [campaign(seed) for seed in range(8)]
    test = [(campaign(seed), campaign(seed, 2000)) for seed in range(8, 10)]
    found = judge(Problem(train, test, np.zeros(WIDTH, int), seed=0), SETTINGS)
    assert found["campaigns"] == 8
    assert found["maml"]["steps"] == 20
    for name in SETTINGS:
        [values] = by_run([found], name)
        assert np.isnan(values[2])  # no campaign has so many
        assert (values[:2] > 0.6).all()
    few = {name: by_run([found], name)[0, 0] for name in SETTINGS}
    assert min(few["learned prior"], few["MAML"], few["plain"]) > few["around zero"]


def test_more_campaigns_have_as_many_more_advertisers():
    shape_of = meta_learning.shape_of
    assert shape_of(TENCENT_WORLD.campaigns) == TENCENT_WORLD
    grown = shape_of(2 * TENCENT_WORLD.campaigns)
    assert (grown.campaigns, grown.advertisers) == (346, 2 * TENCENT_WORLD.advertisers)
    assert grown.rate_mean == TENCENT_WORLD.rate_mean
