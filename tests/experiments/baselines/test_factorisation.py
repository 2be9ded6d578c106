"""Matrix factorisation of what users did, and a regression per campaign."""

import numpy as np
from toy import dataset

from experiments.baselines.factorisation import factorisation_scores, user_factors
from metaheac_jax.data.dataset import Split
from metaheac_jax.ranking import auc


def test_factors_and_the_mean_deviation_explain_what_users_did():
    rng = np.random.default_rng(0)
    taste, of_campaign = rng.normal(size=(300, 2)), rng.normal(size=(2, 80))
    lenient = rng.normal(size=300)
    seen = rng.random((300, 80)) < 0.5
    label = (taste @ of_campaign + lenient[:, None] > 0) & seen
    found = user_factors(label.astype(np.float32), seen)
    assert found.shape == (300, 5)
    assert np.corrcoef(found[:, -1], lenient)[0, 1] > 0.8
    centred = np.column_stack([found, np.ones(300)])
    for own in taste.T:
        residual = own - centred @ np.linalg.lstsq(centred, own, rcond=None)[0]
        assert residual.var() < 0.4 * own.var()


def test_new_campaigns_are_ranked_by_what_users_did_in_others():
    data = dataset(users=300, campaigns=40, per_campaign=150, tastes=2)
    train, test = np.arange(30), np.arange(30, 40)
    scores = factorisation_scores(data, Split(train, test, np.zeros(40, bool), 0))
    judged = data.stage2
    assert not scores[judged.offsets[0] : judged.offsets[30]].any()
    found = [auc(scores[judged.of(c)], judged.label[judged.of(c)]) for c in test]
    assert np.mean(found) > 0.6
