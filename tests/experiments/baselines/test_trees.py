"""Gradient-boosted trees: per campaign, and the prior of a user whatever the campaign."""

from dataclasses import replace

import numpy as np
import pytest
from toy import aucs, dataset

from experiments.baselines import trees
from experiments.baselines.trees import CampaignTrees, UserPrior
from metaheac_jax.methods import customise, fit

DATA = dataset(campaigns=12, per_campaign=400)
TRAIN, NEW = np.arange(8), np.arange(8, 12)


def models(method, data):
    general = fit(data, method(), campaigns=TRAIN)
    return [model.score for model in customise(general, data, [data.campaign(c) for c in NEW])]


def test_trees_learn_each_campaigns_taste():
    found = aucs(DATA, NEW, models(CampaignTrees, DATA))
    assert found.mean() > 0.7
    assert found.min() > 0.55


def test_the_prior_grows_until_held_out_campaigns_improve_no_more(monkeypatch):
    seen, fit_trees = [], trees.fit_trees

    def noted(users, label, num_rows, settings, held_out, patience):
        seen.append((len(users), len(held_out[0]), patience))
        return fit_trees(users, label, num_rows, settings, held_out, patience)

    monkeypatch.setattr(trees, "fit_trees", noted)
    monkeypatch.setattr(trees, "MAX_PRIOR_EXAMPLES", 1500)
    general = fit(DATA, UserPrior(), campaigns=TRAIN)
    text = general.state["trees"].tobytes().decode()
    assert 0 < text.count("Tree=") < 20  # campaigns of opposite tastes have little in common
    # Three of the eight campaigns, with 400 examples each, are held out.
    assert seen == [(1500, 1200, 20)]
    assert len(general.held_out) == 3


def test_the_prior_has_a_fixed_number_of_trees_without_held_out_campaigns(monkeypatch):
    monkeypatch.setattr(trees, "NUM_PRIOR_TREES", 5)
    general = fit(DATA, UserPrior().changed(patience=None), campaigns=TRAIN)
    assert general.held_out == ()
    assert general.state["trees"].tobytes().decode().count("Tree=") == 5


def test_the_prior_knows_no_campaign():
    # Campaigns of opposite tastes: what one wants does not help with another.
    assert 0.35 < aucs(DATA, NEW, models(UserPrior, DATA)).mean() < 0.65
    users = DATA.user_rows[:50]
    first, *others = (model(users) for model in models(UserPrior, DATA))
    assert np.ptp(first) > 0
    for other in others:
        np.testing.assert_array_equal(other, first)
    # Nor the new campaigns' seeds.
    stage = DATA.stage1
    flipped = stage.label.copy()
    flipped[stage.offsets[NEW[0]] :] ^= 1
    again = models(UserPrior, replace(DATA, stage1=replace(stage, label=flipped)))[0](users)
    np.testing.assert_array_equal(again, first)


def test_trees_give_log_odds():
    (model, *_), of = models(CampaignTrees, DATA), DATA.stage1.of(NEW[0])
    odds = model(DATA.user_rows[DATA.stage1.user[of]])
    # Boosting keeps the mean probability at the rate, up to shrinkage.
    rate = DATA.stage1.label[of].mean()
    assert np.mean(1 / (1 + np.exp(-odds))) == pytest.approx(rate, abs=0.02)
