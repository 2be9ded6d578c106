"""Pooled trees: members' scores are of examples that they have not seen."""

import numpy as np
from toy import aucs, dataset, with_own_rows

import metaheac_jax as mh
from experiments.baselines.pooled_trees import RegressionTrees
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.methods import Config, Method, Trained
from metaheac_jax.model import FunctionScorer

DATA = dataset(users=900, campaigns=24, per_campaign=200, tastes=2)
TRAIN, NEW = np.arange(18), np.arange(18, 24)


class Remembering(Method):
    """Scores 1 for the users of the examples that it was customised to, and 0 for others."""

    name, label, default = "remembering", "Remembering", Config()

    def fit(self, run):
        return Trained({})

    def customise(self, run, state, campaigns):
        def scorer(campaign):
            known = {row.tobytes() for row in campaign_examples(run.dataset, campaign).ids.user}
            return FunctionScorer(
                lambda users: np.array([u.tobytes() in known for u in users]) * 1.0
            )

        return list(map(scorer, campaigns))


def test_a_member_has_not_seen_the_examples_whose_scores_the_trees_learn_from(monkeypatch):
    data, seen = with_own_rows(DATA), []
    rows_of = RegressionTrees._rows_of

    def noted(self, *args):
        found = rows_of(self, *args)
        seen.append(found)
        return found

    monkeypatch.setattr(RegressionTrees, "members", (Remembering(),))
    monkeypatch.setattr(RegressionTrees, "_rows_of", noted)
    mh.fit(data, RegressionTrees(), campaigns=TRAIN)
    assert len(seen) == 2
    for features, labels, base in seen:
        assert features.shape[0] == len(labels) == len(base) > 0
        scores = features[:, 0].toarray().ravel() + base
        np.testing.assert_allclose(scores, 0, atol=1e-9)


def test_pooled_trees_rank_by_the_scores_that_they_read():
    general = mh.fit(DATA, "pooled-trees", campaigns=TRAIN)
    own = [DATA.campaign(c) for c in NEW]
    models = [model.score for model in mh.customise(general, DATA, own)]
    alone = mh.customise(mh.fit(DATA, "lr-lengths", campaigns=TRAIN), DATA, own)
    assert aucs(DATA, NEW, models).mean() > 0.6
    for model, other in zip(models, alone, strict=True):
        pair = model(DATA.user_rows), other.score(DATA.user_rows)
        assert np.corrcoef(pair)[0, 1] > 0.5
