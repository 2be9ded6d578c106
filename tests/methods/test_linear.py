"""LR: the minimum of the penalised loss, against scikit-learn; what it learns."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from toy import aucs, dataset

from metaheac_jax.data.list_lengths import with_lengths
from metaheac_jax.errors import InputError
from metaheac_jax.methods.linear import fit_regression, logistic_regression
from metaheac_jax.methods.registry import method_named
from metaheac_jax.settings import PAPER
from metaheac_jax.table.sparse import value_counts

TOY = dataset(campaigns=8, per_campaign=400)
TRAIN, NEW = np.arange(4), np.arange(4, 8)


@pytest.mark.parametrize("penalty", [0.3, 10.0, 300.0])
def test_the_fit_is_the_minimum_that_scikit_learn_finds(penalty):
    rng = np.random.default_rng(0)
    features = (rng.random((300, 40)) < 0.2).astype(float)
    labels = (rng.random(300) < 0.2 + 0.4 * features[:, 0]).astype(int)
    weights, bias = fit_regression(csr_matrix(features), labels, penalty)
    model = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=10_000).fit(features, labels)
    np.testing.assert_allclose(weights, model.coef_[0], atol=1e-3)
    np.testing.assert_allclose(bias, model.intercept_[0], atol=1e-3)


@pytest.mark.parametrize("name", ["lr", "solved-head", "ensemble"])
def test_a_regression_without_a_penalty_may_have_no_minimum(name):
    with pytest.raises(InputError, match=f"{name}: settings: penalty: expected a number above 0"):
        method_named(name).with_settings(penalty=0.0)
    assert method_named("metaheac").with_settings(penalty=0.0).settings.penalty == 0


def test_a_campaign_of_one_class_has_finite_scores():
    features = csr_matrix(np.eye(4))
    weights, bias = fit_regression(features, np.ones(4), 1.0)
    assert np.isfinite(weights).all()
    assert np.isfinite(bias)


def test_a_campaign_is_learned_from_its_own_examples_alone():
    method = logistic_regression(replace(PAPER, penalty=3.0))
    general = method.fit(TOY, campaigns=TRAIN)
    models = method.customise(general, TOY, [TOY.campaign(c) for c in NEW])
    found = aucs(TOY, NEW, [model.score for model in models])
    assert found.mean() > 0.65
    assert found.min() > 0.55


def test_lr_adds_up_the_values_that_are_there():
    """A list counts as the sum of its values, not their mean, which hides how many they are."""
    method = logistic_regression()
    general = method.fit(TOY, campaigns=TRAIN)
    [model] = method.customise(general, TOY, [TOY.campaign(5)])
    user, pad = TOY.user_rows[0].copy(), TOY.num_rows
    a, b = np.unique(TOY.user_rows[TOY.user_rows[:, 2:].max(1) < pad][:, 2:])[:2]
    lists = [(pad, pad), (a, pad), (b, pad), (a, b), (b, a)]
    users = np.stack([np.concatenate([user[:2], pair, [pad, pad]]) for pair in lists])
    nothing, only_a, only_b, *both = model.score(users.astype(np.int32)).astype(float)
    np.testing.assert_allclose(both, only_a + only_b - nothing, atol=1e-5)
    assert min(abs(only_a - nothing), abs(only_b - nothing)) > 1e-3


def test_an_lr_of_an_earlier_version_is_refused():
    method = logistic_regression()
    old = replace(method.fit(TOY, campaigns=TRAIN), state={})
    words = "the general model was trained by an earlier version of 'lr'; fit it again"
    with pytest.raises(InputError, match=words):
        method.customise(old, TOY, [TOY.campaign(5)])


def test_without_an_epoch_it_is_the_general_model_which_prefers_nobody():
    method = logistic_regression().with_settings(online_epochs=0)
    [model] = method.customise(method.fit(TOY, campaigns=TRAIN), TOY, [TOY.campaign(5)])
    assert model.is_general
    np.testing.assert_array_equal(model.score(TOY.user_rows), 0)


def test_with_list_lengths_they_are_values():
    """LR on the counts of values of the longer rows."""
    method = logistic_regression(lengths=True)
    campaign = TOY.campaign(5)
    [model] = method.customise(method.fit(TOY, campaigns=TRAIN), TOY, [campaign])
    longer, _ = with_lengths(TOY)
    counts = value_counts(longer.user_rows[:], longer.num_rows)
    weights, bias = fit_regression(counts[campaign.users], campaign.labels, method.settings.penalty)
    np.testing.assert_allclose(model.score(TOY.user_rows), counts @ weights + bias, atol=1e-4)
    plain = logistic_regression()
    [without] = plain.customise(plain.fit(TOY, campaigns=TRAIN), TOY, [campaign])
    assert np.abs(without.score(TOY.user_rows) - model.score(TOY.user_rows)).max() > 0.01
