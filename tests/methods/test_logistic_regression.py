"""LR: the minimum of the penalised loss, against scikit-learn; what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import aucs, dataset

from metaheac_jax.methods import configured, customise, fit
from metaheac_jax.methods.logistic_regression import Linear
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.table.layout import Ids
from metaheac_jax.table.sparse import value_counts

TOY = dataset(campaigns=8, per_campaign=400)
TRAIN, NEW = np.arange(4), np.arange(4, 8)


def test_a_campaign_is_learned_from_its_own_examples_alone():
    general = fit(TOY, configured("lr", penalty=3.0), campaigns=TRAIN)
    models = customise(general, TOY, [TOY.campaign(c) for c in NEW])
    found = aucs(TOY, NEW, [model.score for model in models])
    assert found.mean() > 0.65
    assert found.min() > 0.55


def test_lr_adds_up_the_values_that_are_there():
    """A list counts as the sum of its values, not their mean, which hides how many they are."""
    [model] = customise(fit(TOY, "lr", campaigns=TRAIN), TOY, [TOY.campaign(5)])
    user, pad = TOY.user_rows[0].copy(), TOY.num_rows
    a, b = np.unique(TOY.user_rows[TOY.user_rows[:, 2:].max(1) < pad][:, 2:])[:2]
    lists = [(pad, pad), (a, pad), (b, pad), (a, b), (b, a)]
    users = np.stack([np.concatenate([user[:2], pair, [pad, pad]]) for pair in lists])
    nothing, only_a, only_b, *both = model.score(users.astype(np.int32)).astype(float)
    np.testing.assert_allclose(both, only_a + only_b - nothing, atol=1e-5)
    assert min(abs(only_a - nothing), abs(only_b - nothing)) > 1e-3


def test_with_list_lengths_they_are_values():
    """LR on the counts of values of the longer rows."""
    method, campaign = configured("lr", list_lengths=True), TOY.campaign(5)
    [model] = customise(fit(TOY, method, campaigns=TRAIN), TOY, [campaign])
    longer, _ = TOY.lengthened()
    counts = value_counts(longer.layout, longer.user_rows[:], longer.num_rows)
    weights, bias = fit_regression(counts[campaign.users], campaign.labels, method.config.penalty)
    np.testing.assert_allclose(model.score(TOY.user_rows), counts @ weights + bias, atol=1e-4)
    [without] = customise(fit(TOY, "lr", campaigns=TRAIN), TOY, [campaign])
    assert np.abs(without.score(TOY.user_rows) - model.score(TOY.user_rows)).max() > 0.01


# Its network ------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeated", [False, True])
def test_its_log_odds_are_the_sum_of_the_weights_of_all_values(repeated):
    weights = np.random.default_rng(0).normal(size=TOY.num_rows)
    users = np.array(TOY.user_rows)
    if repeated:  # the last field is a list
        users[:, -1] = users[:, -2]
    campaign = TOY.campaign_rows[0]
    table = jnp.asarray(weights[:, None], jnp.float32)
    inputs = TOY.layout.inputs(table, Ids(users, campaign))
    output = jax.jit(Linear().apply)({"head": jnp.full(1, 0.25)}, *inputs)
    expected = value_counts(TOY.layout, users, TOY.num_rows) @ weights + 0.25
    np.testing.assert_allclose(output.log_odds, expected, atol=1e-5)
