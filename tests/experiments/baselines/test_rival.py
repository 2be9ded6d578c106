"""A rival from outside: what a classifier of scikit-learn's kind sees of a campaign."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from toy import aucs, dataset

import metaheac_jax as mh
from experiments.baselines import pooled_trees
from experiments.baselines.rival import Rival, RivalConfig
from experiments.people import Options
from metaheac_jax.errors import InputError
from metaheac_jax.methods import Online

DATA = dataset(users=900, campaigns=6, per_campaign=400)
TRAIN, NEW = np.arange(4), np.arange(4, 6)


def customised(config):
    method = Rival(config)
    general = mh.fit(DATA, method, campaigns=TRAIN)
    own = [DATA.campaign(c) for c in NEW]
    return [m.score for m in mh.customise(general, DATA, own, method=method)]


@pytest.mark.parametrize("scores", [True, False])
def test_a_classifier_of_scikit_learn_ranks_users(scores):
    kind = "sklearn.ensemble:RandomForestClassifier"
    config = RivalConfig(kind, "n_estimators=50 random_state=0 criterion=entropy", scores=scores)
    assert Rival(config).label == "RandomForestClassifier per campaign"
    assert aucs(DATA, NEW, customised(config)).mean() > 0.6


class Recorder:
    """Remembers what it was fitted to; the probability of a seed is a feature."""

    seen = ()

    def fit(self, features, labels):
        Recorder.seen = [*Recorder.seen, (features, labels)]
        return self

    def predict_proba(self, features):
        return np.stack([1 - features[:, -1], features[:, -1]], axis=1)


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setitem(sys.modules, "outside", SimpleNamespace(Recorder=Recorder))
    monkeypatch.setattr(Recorder, "seen", ())
    return "outside:Recorder"


def test_it_sees_scores_of_unseen_examples_and_the_best_columns(recorder, monkeypatch):
    def by_number_of_others(counts, labels, penalty):
        del labels, penalty
        return np.zeros(counts.shape[1]), float(counts.shape[0])

    monkeypatch.setattr(pooled_trees, "fit_regression", by_number_of_others)
    customised(RivalConfig(recorder, columns=3, most=300))
    for features, labels in Recorder.seen:
        assert features.shape == (300, 4)  # the score and three columns
        base = np.log((labels.sum() + 1) / (300 - labels.sum() + 1))
        np.testing.assert_allclose(features[:, 0] + base, 200, atol=1.5)  # two of three folds
        assert set(np.unique(features[:, 1:])) <= {0, 1, 2, 3, 4}


def test_columns_are_those_that_tell_seeds_apart(recorder):
    campaign = DATA.campaign(5)
    labels = DATA.user_rows[campaign.users][:, 0] == DATA.vocabulary.offsets[0]  # of one gender
    campaign = replace(campaign, labels=labels.astype(np.int8))
    method = Rival(RivalConfig(recorder, columns=1, scores=False))
    [score] = method.adapt(Online(DATA, 0), {}, [campaign])
    [(features, _)] = Recorder.seen
    assert features.shape[1] == 1
    assert abs(np.corrcoef(features[:, 0], labels)[0, 1]) == pytest.approx(1)
    assert len(np.unique(score(DATA.user_rows))) == 2


@pytest.mark.parametrize(
    ("rival", "word"),
    [
        (("nowhere:Model",), "nowhere"),
        (("sklearn.ensemble:Forest",), "Forest"),
        (("sklearn.ensemble:RandomForestClassifier", "trees=3"), "trees"),
    ],
)
def test_an_unknown_class_or_argument_is_refused(rival, word):
    [method] = Options(methods=(), rival=rival).build(None)
    with pytest.raises(InputError, match=f"--rival: .*{word}.*MODULE:CLASS"):
        mh.fit(DATA, method, campaigns=TRAIN)
