"""Weights of examples: a weight of two is a row twice, and one is none."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_world import SCHEMA, world, write
from toy import dataset, tiny

import metaheac_jax as mh
from metaheac_jax.audience.evaluating import evaluate
from metaheac_jax.audience.held_out import cross_fit, size_curve
from metaheac_jax.errors import InputError
from metaheac_jax.networks import Output
from metaheac_jax.ranking import MIN_CANDIDATES, auc, campaign_metrics
from metaheac_jax.solvers.posterior import Examples, learn_prior
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.training.losses import output_loss

DATA = dataset(users=800, campaigns=6, per_campaign=80, pool=60)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["lr", "learned-prior", "solved-head"])
def test_a_weight_of_two_is_an_example_twice_online(name):
    general = mh.fit(DATA, tiny(name), campaigns=np.arange(4))
    campaign, scores = DATA.campaign(5), []
    twice = np.arange(len(campaign.users)) % 3 == 0
    both = np.concatenate([np.arange(len(twice)), np.flatnonzero(twice)])
    for own in (replace(campaign, weights=1.0 + twice), campaign.pick(both), campaign):
        [model] = mh.customise(general, DATA, [own])
        scores.append(model.score(DATA.user_rows))
    np.testing.assert_allclose(scores[0], scores[1], atol=2e-3)
    assert np.abs(scores[0] - scores[2]).max() > 0.05
    [model] = mh.customise(general, DATA, [replace(campaign, weights=np.ones(len(twice)))])
    np.testing.assert_array_equal(model.score(DATA.user_rows), scores[2])


def test_a_weight_of_two_is_an_example_twice_in_a_prior():
    campaigns, doubled = [], []
    for _ in range(4):
        x, y = RNG.normal(size=(60, 3)).astype(np.float32), RNG.integers(0, 2, 60)
        twice = RNG.integers(0, 2, 60) == 1
        campaigns.append(Examples(x, y, 1.0 + twice))
        doubled.append(Examples(np.concatenate([x, x[twice]]), np.concatenate([y, y[twice]])))
    groups, first = np.zeros(3, int), np.full(3, 0.1)
    found = [
        learn_prior(own, groups, first, strength=3, passes=9).prior for own in (campaigns, doubled)
    ]
    np.testing.assert_allclose(found[0].mean, found[1].mean, atol=1e-5)
    np.testing.assert_allclose(found[0].covariance, found[1].covariance, atol=1e-5)


def test_a_network_has_the_weighted_mean_of_losses():
    log_odds, label = jnp.array([1.0, -2.0, 0.5]), jnp.array([1.0, 0.0, 1.0])
    output = Output(-jnp.logaddexp(0, -log_odds), -jnp.logaddexp(0, log_odds))
    one = output_loss(output, label, jnp.array([1.0, 2.0, 1.0]), "mean")
    each = np.logaddexp(0, log_odds) - label * log_odds
    assert float(one) == pytest.approx(float(np.average(each, weights=[1, 2, 1])), rel=1e-6)


@settings(max_examples=40)
@given(st.integers(2, 40), st.integers(0, 2**31))
def test_metrics_are_those_of_repeated_candidates(count, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 5, count).astype(float), rng.integers(0, 2, count)
    labels[:2] = 0, 1
    weights = rng.integers(1, 4, count)
    often = np.repeat(np.arange(count), weights)
    assert auc(scores, labels, weights.astype(float)) == pytest.approx(
        auc(scores[often], labels[often])
    )
    if count >= MIN_CANDIDATES:
        ids = np.arange(count)
        whole = campaign_metrics(scores, labels, ids, 100, weights.astype(float))
        assert whole.precision == pytest.approx(labels[often].mean())
        assert whole.recall == pytest.approx(1)
        equal = campaign_metrics(scores, labels, ids, 30, np.ones(count))
        assert equal == campaign_metrics(scores, labels, ids, 30)


def test_evaluate_and_the_curve_count_weights():
    general = mh.fit(DATA, tiny("lr"), campaigns=np.arange(4))
    weight = RNG.integers(1, 4, len(DATA.stage2.user)).astype(float)
    weighted = replace(DATA, stage2=replace(DATA.stage2, weight=weight))
    [plain, found] = [evaluate(general, own) for own in (DATA, weighted)]
    assert not plain["auc"].equals(found["auc"])
    equal = replace(DATA, stage2=replace(DATA.stage2, weight=np.ones_like(weight)))
    assert evaluate(general, equal).equals(plain)
    big = dataset(users=1500, campaigns=2, per_campaign=400, pool=30)
    campaign = big.campaign(0)
    everyone, curves = np.ones(1500, bool), []
    for weights in (None, np.ones(len(campaign.users)), 1.0 + (campaign.users % 2)):
        folds = cross_fit(mh.fit(big, "lr"), big, replace(campaign, weights=weights))
        curves.append(size_curve(folds, big, everyone, [50, 400]))
    assert curves[0] == curves[1] != curves[2]
    width = [own[1].recall.high - own[1].recall.low for own in curves]
    assert width[2] > 0.9 * width[0]


def test_a_regression_by_hand():
    """A constant alone has the log-odds of the weighted rate."""
    from scipy.sparse import csr_matrix

    labels, weights = np.array([1.0, 0, 0]), np.array([3.0, 1, 1])
    _, bias = fit_regression(csr_matrix((3, 1)), labels, 1.0, weights=weights)
    assert bias == pytest.approx(np.log(3 / 2), abs=1e-4)


def test_weights_are_read_and_kept(tmp_path):
    users, campaigns, examples = world()
    path = write(tmp_path / "tables", users, campaigns, examples) / "examples.csv"
    frame = pl.read_csv(path)
    weights = RNG.choice([0.5, 2.0, 1.0], len(frame))
    frame.with_columns(weight=weights).write_csv(path)
    data = mh.prepare(tmp_path / "tables", tmp_path / "data", schema=SCHEMA)
    every = np.concatenate([data.stage1.weight, data.stage2.weight])
    assert sorted(every) == sorted(weights)
    new = pl.DataFrame({"campaign_id": ["k0"], "user_id": users["user_id"][:1], "label": [1]})
    added = mh.add(data, examples=new.with_columns(weight=7.5))
    assert (added.stage1.weight == 7.5).sum() == 1
    frame.with_columns(weight=1).write_csv(path)
    assert mh.prepare(tmp_path / "tables", tmp_path / "one", schema=SCHEMA).stage1.weight is None


@pytest.mark.parametrize("wrong", ["0", "-1", "nan", "inf", "x", ""])
def test_a_wrong_weight_is_named_with_its_row(tmp_path, wrong):
    path = write(tmp_path / "tables", *world()) / "examples.csv"
    lines = path.read_text().splitlines()
    ends = ["weight", "1", wrong, *["1"] * len(lines)]
    path.write_text("\n".join(f"{a},{b}" for a, b in zip(lines, ends, strict=False)))
    with pytest.raises(InputError, match=r"examples\.csv: line 3: weight is .* a number above 0"):
        mh.prepare(tmp_path / "tables", tmp_path / "data", schema=SCHEMA)
