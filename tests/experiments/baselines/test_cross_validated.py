"""LR with a penalty by cross-validation."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from toy import dataset

from experiments.baselines.cross_validated import FOLDS, PENALTIES, best_penalty
from metaheac_jax.methods import configured, customise, fit


@pytest.mark.parametrize(("weight", "lowest", "highest"), [(0.0, 30.0, 300.0), (3.0, 3.0, 3.0)])
def test_noise_has_a_high_penalty_and_a_clear_taste_the_lowest(weight, lowest, highest):
    rng = np.random.default_rng(0)
    features = csr_matrix(rng.integers(0, 2, (400, 20)).astype(float))
    log_odds = weight * (features.toarray() - 0.5) @ rng.choice([-1.0, 1.0], 20)
    labels = (rng.logistic(size=400) < log_odds).astype(float)
    assert lowest <= best_penalty(features, labels, np.arange(400) % FOLDS) <= highest


def test_a_campaign_has_the_regression_of_its_penalty(monkeypatch):
    data = dataset(campaigns=9, per_campaign=200)
    chosen, campaign = PENALTIES[1], data.campaign(8)
    scores = []
    for method in (
        configured("lr-cross-validated"),
        configured("lr").changed(penalty=chosen),
    ):
        monkeypatch.setattr("experiments.baselines.cross_validated.best_penalty", lambda *_: chosen)
        general = fit(data, method, campaigns=np.arange(8))
        [model] = customise(general, data, [campaign])
        scores.append(model.score(data.user_rows[:50]))
    np.testing.assert_allclose(*scores, atol=1e-3)


def test_a_campaign_has_the_same_folds_alone_and_among_others(monkeypatch):
    data, seen = dataset(campaigns=9, per_campaign=200), []
    general = fit(data, configured("lr-cross-validated"), campaigns=np.arange(7))
    monkeypatch.setattr(
        "experiments.baselines.cross_validated.best_penalty",
        lambda features, *others: seen.append((features.toarray(), *others)) or 30.0,
    )
    customise(general, data, [data.campaign(8)])
    customise(general, data, [data.campaign(7), data.campaign(8)])
    alone, _, among = seen
    for own, other in zip(alone, among, strict=True):
        np.testing.assert_array_equal(own, other)
