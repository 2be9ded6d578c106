"""A method with list lengths is the method without them on data that has them as fields."""

from dataclasses import replace

import numpy as np
import pytest
from toy import dataset

from metaheac_jax.data.list_lengths import with_lengths
from metaheac_jax.methods.fine_tuning import mlp_pretraining
from metaheac_jax.methods.stages import Run
from metaheac_jax.settings import PAPER

DATA = dataset()
LONGER, _ = with_lengths(DATA)
SETTINGS = replace(PAPER, width=2, batch_size=16, campaigns_per_step=2)
SETTINGS = replace(SETTINGS, offline_epochs=1, offline_patience=None)
SETTINGS = replace(SETTINGS, online_epochs=2, online_patience=None)


@pytest.fixture(scope="module")
def states():
    """The state that the method with lengths learns, and the one without on longer data."""
    own, plain = mlp_pretraining(SETTINGS, lengths=True), mlp_pretraining(SETTINGS)
    return own, plain, own.fit(DATA).state, plain.fit(LONGER).state


def run_on(data, **more):
    return Run(data, np.empty(0, int), SETTINGS, 0, **more)


def test_it_is_trained_on_the_longer_data(states):
    _, _, own, plain = states
    assert len(own["table"]) == LONGER.num_rows > DATA.num_rows
    np.testing.assert_array_equal(own["table"], plain["table"])


def test_it_is_customised_as_on_the_longer_data_and_scores_users_without_lengths(states):
    own, plain, state, _ = states
    [scorer] = own.adapt(run_on(DATA), state, [DATA.campaign(1)])
    [other] = plain.adapt(run_on(LONGER), state, [LONGER.campaign(1)])
    expected = other(np.asarray(LONGER.user_rows[:]))
    np.testing.assert_array_equal(scorer.campaign, LONGER.campaign_rows[1])
    np.testing.assert_array_equal(scorer(DATA.user_rows), expected)
    restored = own.restore(run_on(DATA), state, DATA.campaign(1), scorer.adapted)
    np.testing.assert_array_equal(restored(DATA.user_rows), expected)


def test_models_that_are_watched_score_users_without_lengths(states):
    own, _, state, _ = states
    watched = []

    def watch(step, models):
        watched.append((step, [model(DATA.user_rows) for model in models()]))

    [scorer] = own.adapt(run_on(DATA, watch=watch), state, [DATA.campaign(0)])
    assert [step for step, _ in watched] == list(range(len(watched)))
    (step, [first]), (_, [last]) = watched[0], watched[-1]
    assert step == 0
    np.testing.assert_allclose(scorer(DATA.user_rows), last, rtol=1e-6)
    assert np.abs(first - last).max() > 1e-4
