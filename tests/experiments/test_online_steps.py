"""Judging after a number of online steps is what customising does, stopped there."""

import math

import numpy as np
import pytest
from commands import tiny_settings
from toy import dataset

import metaheac_jax as mh
from experiments.online_steps import judge, means, shape_of
from metaheac_jax.audience.evaluating import pool_rows
from metaheac_jax.data.simulation.shapes import TENCENT_WORLD
from metaheac_jax.methods import configured
from metaheac_jax.ranking import auc

EPOCHS = {"offline_epochs": 0, "online_epochs": 1, "online_patience": None}


def test_steps_of_an_epoch_are_an_epoch_and_none_is_the_general_model():
    data = dataset(campaigns=12)
    with tiny_settings():
        # The network does not matter.
        method = configured("mlp-pretraining", **EPOCHS)
        general = mh.fit(data, method, campaigns=np.arange(8))
        briefs = [data.campaign(c) for c in (8, 9)]
        models = mh.customise(general, data, briefs, method=method)
    steps = sorted({math.ceil(len(own.labels) / method.config.batch_size) for own in briefs})
    [count] = steps  # both campaigns have as many minibatches
    given = {"steps": (0, count), "seed": 0}
    found = judge(method, general, data, np.array([8, 9]), **given, pull=0.0)
    of = [data.stage2.label[data.stage2.of(c)] for c in (8, 9)]
    customised = [
        auc(model.score(pool_rows(data, c)), label)
        for c, model, label in zip((8, 9), models, of, strict=True)
    ]
    assert [own[1] for own in found] == pytest.approx(customised)
    assert found[0][0] != found[0][1]
    at_once = 1 / method.config.online_learning_rate  # each step goes all the way back
    back = judge(method, general, data, np.array([8, 9]), **given, pull=at_once)
    for start, own in zip(found, back, strict=True):
        assert own == pytest.approx([start[0]] * 2, abs=1e-3)
    worlds = [{"auc": {"metaheac": found}}]
    assert means(worlds, "metaheac") == np.mean(found, axis=0).tolist()


def test_more_campaigns_have_as_many_more_advertisers():
    assert shape_of(TENCENT_WORLD.campaigns) == TENCENT_WORLD
    grown = shape_of(2 * TENCENT_WORLD.campaigns)
    assert (grown.campaigns, grown.advertisers) == (346, 2 * TENCENT_WORLD.advertisers)
    assert grown.rate_mean == TENCENT_WORLD.rate_mean
