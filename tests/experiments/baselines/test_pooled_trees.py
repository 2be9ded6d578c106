"""Pooled trees: LR's scores are of examples that it has not seen."""

import numpy as np
from toy import aucs, dataset, with_own_rows

import metaheac_jax as mh
from experiments.baselines import pooled_trees
from metaheac_jax.methods import Run

DATA = dataset(users=900, campaigns=24, per_campaign=200, tastes=2)
TRAIN, NEW = np.arange(18), np.arange(18, 24)


def remembering(counts, labels, penalty):
    """Weights that give the users of these examples 1 per value that no one else has."""
    del labels, penalty
    return np.where(counts.getnnz(axis=0) == 1, 1.0, 0.0), 0.0


def test_lr_has_not_seen_the_examples_whose_scores_the_trees_learn_from(monkeypatch):
    monkeypatch.setattr(pooled_trees, "fit_regression", remembering)
    features, labels, base = pooled_trees.rows_of(Run(with_own_rows(DATA), TRAIN, 0), TRAIN)
    assert features.shape[0] == len(labels) == len(base) > 0
    np.testing.assert_allclose(features[:, 0].toarray().ravel() + base, 0, atol=1e-9)


def test_pooled_trees_rank_by_the_scores_that_they_read():
    general = mh.fit(DATA, "pooled-trees", campaigns=TRAIN)
    own = [DATA.campaign(c) for c in NEW]
    models = [model.score for model in mh.customise(general, DATA, own)]
    alone = mh.customise(mh.fit(DATA, "lr-lengths", campaigns=TRAIN), DATA, own)
    assert aucs(DATA, NEW, models).mean() > 0.6
    for model, other in zip(models, alone, strict=True):
        pair = model(DATA.user_rows), other.score(DATA.user_rows)
        assert np.corrcoef(pair)[0, 1] > 0.5
