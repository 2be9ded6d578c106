"""Gradient-boosted trees per campaign."""

import numpy as np
import pytest
from toy import aucs, dataset

from experiments.baselines.trees import CampaignTrees
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


def test_trees_give_log_odds():
    (model, *_), of = models(CampaignTrees, DATA), DATA.stage1.of(NEW[0])
    odds = model(DATA.user_rows[DATA.stage1.user[of]])
    # Boosting keeps the mean probability at the rate, up to shrinkage.
    rate = DATA.stage1.label[of].mean()
    assert np.mean(1 / (1 + np.exp(-odds))) == pytest.approx(rate, abs=0.02)
