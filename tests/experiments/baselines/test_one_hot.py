"""LR on every single campaign of a user's history."""

from dataclasses import replace

import numpy as np
import pytest
from toy import dataset

from experiments.baselines.one_hot import one_hot_scores
from metaheac_jax.data.dataset import Split
from metaheac_jax.ranking import auc

DATA = dataset(users=300, campaigns=40, per_campaign=150, tastes=2)
TRAIN, TEST = np.arange(30), np.arange(30, 40)


def mean_auc(data):
    data = replace(data, schema=replace(data.schema, history=True), by_user=None)
    scores, judged = one_hot_scores(data, Split(TRAIN, TEST, np.zeros(40, bool), 0)), data.stage2
    assert not scores[judged.offsets[0] : judged.offsets[30]].any()
    return np.mean([auc(scores[judged.of(c)], judged.label[judged.of(c)]) for c in TEST])


def test_new_campaigns_are_ranked_by_where_users_converted():
    assert mean_auc(DATA) > 0.6


def test_the_labels_of_new_campaigns_are_in_no_history():
    rng, judged = np.random.default_rng(0), DATA.stage2
    label = np.where(judged.campaign < 30, judged.label, rng.integers(0, 2, len(judged.label)))
    random = replace(DATA, stage2=replace(judged, label=label.astype(np.int8)))
    assert mean_auc(random) == pytest.approx(0.5, abs=0.05)
