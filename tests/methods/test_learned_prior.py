"""The learned prior: what it gains, what moves it, and how it is scored."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.special import expit
from toy import aucs, dataset

import metaheac_jax as mh
from metaheac_jax.methods import Online, configured
from metaheac_jax.methods.learned_prior import Prior, choose_correlations
from metaheac_jax.solvers.posterior import Examples, Gaussian, Learned

DATA = dataset(users=800, campaigns=26, per_campaign=120, tastes=2)
TRAIN, NEW = np.arange(20), np.arange(20, 26)
METHOD = configured("learned-prior")


@pytest.fixture(scope="module")
def general():
    return mh.fit(DATA, METHOD, campaigns=TRAIN)


def few(campaign, count=24):
    """A campaign with a few of its examples."""
    return campaign.pick(np.arange(len(campaign.users)) % (120 // count) == 0)


def test_few_seeds_suffice_where_campaigns_have_tastes_in_common(general):
    own = [few(DATA.campaign(c)) for c in NEW]
    alone = mh.fit(DATA, "lr", campaigns=TRAIN)
    found, regression = (
        aucs(DATA, NEW, [model.score for model in mh.customise(of, DATA, own)]).mean()
        for of in (general, alone)
    )
    assert found > regression + 0.03


def test_factors_tell_more_than_fields(general):
    own = [few(DATA.campaign(c)) for c in NEW]
    alone = mh.fit(DATA, METHOD.changed(num_factors=0), campaigns=TRAIN)
    with_factors, without = (
        aucs(DATA, NEW, [model.score for model in mh.customise(of, DATA, own)]).mean()
        for of in (general, alone)
    )
    assert len(general.state["features"]["groups"]) == len(alone.state["features"]["groups"]) + 10
    assert with_factors > without - 0.02


def test_features_are_told_neither_by_labels_nor_by_other_campaigns(general):
    """Flipped labels, and other examples of new campaigns, change no bit of them."""
    rng, stage = np.random.default_rng(0), DATA.stage1
    flipped = replace(DATA, stage1=replace(stage, label=1 - stage.label))
    users = np.where(np.isin(stage.campaign, NEW), rng.permutation(stage.user), stage.user)
    moved = replace(DATA, stage1=replace(stage, user=users))
    for data in (flipped, moved):
        state = mh.fit(data, METHOD, campaigns=TRAIN).state
        np.testing.assert_array_equal(state["table"], general.state["table"])
        jax.tree.map(np.testing.assert_array_equal, state["features"], general.state["features"])


def test_attributes_alone_tell_campaigns_apart(general):
    online = Online(DATA, 0)
    own = [DATA.campaign(c) for c in NEW[:2]]
    same = replace(own[1], rows=own[0].rows)
    scores = [
        of(DATA.user_rows)
        for of in METHOD.customise(online, general.state, [*own, same], general=True)
    ]
    np.testing.assert_array_equal(scores[0], scores[2])
    assert np.ptp(scores[0]) > 0


NOTHING = Examples(np.zeros((2, 2), np.float32), np.arange(2))
ROWS = np.array([[0, 4], [0, 5], [1, 4], [1, 5]])


def prior(rows=ROWS, correlation=(0.5, 0.0)):
    modes = np.array([[2.0, 0], [2, 0], [-2, 0], [-2, 0]])
    learned = Learned(Gaussian(np.zeros(2), np.diag([1.0, 9])), modes)
    found = Prior.learned(learned, [NOTHING] * 4, rows, 9)
    among = (
        1.15 * np.eye(4) + 0.5 * (rows[:, :1] == rows[:, 0]) * (1 - np.eye(4)) * (rows < 9)[:, :1]
    )
    inverse = np.linalg.inv(among)
    return found._replace(correlation=np.array(correlation), inverse=inverse, pull=inverse @ modes)


def test_the_mean_moves_to_campaigns_with_the_same_attribute():
    found = [prior().of(np.array([value, 9]), num_rows=9) for value in (0, 1, 9)]
    # Two campaigns of variance 1 + .15 and covariance .5, each with covariance .5 to the new one.
    assert found[0].mean[0] == pytest.approx(2 * 2 * 0.5 / 1.65)
    assert found[1].mean[0] == -found[0].mean[0]
    left = 1 - 2 * 0.5**2 / 1.65
    np.testing.assert_allclose(found[0].covariance, left * np.diag([1.0, 9]))
    for own, expected in zip(found[2], Gaussian(np.zeros(2), np.diag([1.0, 9])), strict=True):
        np.testing.assert_allclose(own, expected)


def test_unknown_attributes_are_not_the_same():
    unknown = prior(np.full((4, 2), 9))
    np.testing.assert_array_equal(unknown.of(np.array([9, 9]), num_rows=9).mean, 0)


def test_correlations_are_those_of_the_attributes_that_matter():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 5, (60, 2))
    shared = (kinds[:, None] == kinds).transpose(2, 0, 1)
    own = rng.normal(size=(60, 8))
    alike = np.sqrt(0.6) * rng.normal(size=(5, 8))[kinds[:, 1]] + np.sqrt(0.4) * own
    mean = np.ones(8)
    for modes, least, most in ((mean + alike, 0.3, 0.5), (mean + own, 0.0, 0.1)):
        campaigns = []
        for weights in modes:
            x = rng.normal(size=(5000, 8)).astype(np.float32)
            label = (rng.random(5000) < expit(x @ weights)).astype(np.float32)
            campaigns.append(Examples(x, label))
        learned = Learned(Gaussian(mean, np.eye(8)), modes)
        chosen = choose_correlations(shared, learned, campaigns)
        assert chosen[0] <= 0.1
        assert least <= chosen[1] <= most
