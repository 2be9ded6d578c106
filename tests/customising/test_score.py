"""Scores of a pool: the network's log-odds, a chunk at a time; wrong ids are refused."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from linear_network import LogisticRegression
from toy import dataset, pool

from metaheac_jax.backend import at_a_time
from metaheac_jax.customising.customiser import Customiser
from metaheac_jax.customising.score import (
    AdaptedScorer,
    OwnRows,
    PoolScorer,
    on_chunks,
    score_many,
)
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.list_lengths import with_lengths
from metaheac_jax.errors import InputError
from metaheac_jax.model import AdaptedWeights, Weights, initialise
from metaheac_jax.networks import MLP
from metaheac_jax.ranking import auc
from metaheac_jax.table.layout import Ids, Layout

DATA = dataset()
LAYOUT, ROWS = DATA.layout, DATA.num_rows
REGRESSION = LogisticRegression()
#: Logistic regression with weights 0, 1, 2, ... and a bias of 0.
WEIGHTS = Weights({"params": {"bias": jnp.zeros(())}}, jnp.arange(float(ROWS))[:, None])


def test_scores_are_the_networks_log_odds():
    network = MLP(widths=(6, 6))
    weights = initialise(network, jax.random.key(0), LAYOUT, num_rows=ROWS, width=4)
    users, campaign = DATA.user_rows[:50], DATA.campaign_rows[2]
    inputs = jax.jit(LAYOUT.inputs)(weights.table, Ids(users, campaign))
    output = jax.jit(network.apply)(weights.network, *inputs)
    scores = PoolScorer(network, LAYOUT, chunk=16)(weights, campaign, users)
    np.testing.assert_allclose(scores, output.log_p - output.log_not_p, atol=1e-5)
    assert scores.dtype == np.float32


def test_a_table_holds_the_rows_of_one_campaign_at_a_time():
    rows = OwnRows(WEIGHTS.table)
    for own in ([0, 5], [], [5, 1, ROWS], [0, 5]):
        values = jnp.full((len(own), 1), 9.5 + len(own))
        expected = np.append(np.arange(float(ROWS)), 0)[:, None]
        expected[own] = values
        table = rows.holding(AdaptedWeights(WEIGHTS.network, np.array(own, np.int32), values))
        np.testing.assert_array_equal(table, expected[:ROWS])
    np.testing.assert_array_equal(WEIGHTS.table[:, 0], np.arange(ROWS))


def test_scores_do_not_depend_on_the_chunk_and_learn_the_campaign():
    users, labels = pool(DATA, 3)
    zero = WEIGHTS._replace(table=jnp.zeros((ROWS, 1)))
    examples, campaign = campaign_examples(DATA, DATA.campaign(3)), DATA.campaign_rows[3]
    (model,) = Customiser(REGRESSION, LAYOUT)(zero, [examples], learning_rate=0.02, epochs=60)
    one, two = (
        AdaptedScorer(PoolScorer(REGRESSION, LAYOUT, chunk=chunk), zero, model, campaign)(users)
        for chunk in (7, 512)
    )
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert one.shape == (200,)
    assert auc(one, labels) > 0.65
    assert PoolScorer(REGRESSION, LAYOUT)(zero, campaign, users[:0]).size == 0


@pytest.mark.parametrize("lengthened", [False, True])
def test_an_adapted_scorer_scores_with_the_campaigns_own_weights(lengthened):
    longer, lengths = with_lengths(DATA)
    data = longer if lengthened else DATA
    weights = WEIGHTS._replace(table=jnp.arange(float(data.num_rows))[:, None])
    rows = np.array([0, data.num_rows], np.int32)
    adapted = AdaptedWeights({"params": {"bias": jnp.array(0.5)}}, rows, jnp.full((2, 1), -99.0))
    score, campaign = PoolScorer(REGRESSION, data.layout), data.campaign_rows[2]
    scorer = AdaptedScorer(score, weights, adapted, campaign, lengths if lengthened else None)
    own = Weights(adapted.network, weights.table.at[0].set(-99.0))
    users = data.user_rows[:30]
    np.testing.assert_array_equal(scorer(DATA.user_rows[:30]), score(own, campaign, users))
    assert (scorer(DATA.user_rows[:30]) != score(weights, campaign, users)).all()


def test_campaigns_that_share_a_table_score_as_each_alone():
    def scorer(*own):
        rows = np.array([*own, ROWS], np.int32)
        adapted = AdaptedWeights({"params": {}}, rows, jnp.full((len(rows), 1), -99.0 - len(own)))
        return AdaptedScorer(PoolScorer(REGRESSION, LAYOUT), WEIGHTS, adapted, campaign)

    campaign, users = DATA.campaign_rows[2], DATA.user_rows[:30]
    scorers = [scorer(0, 5), scorer(*DATA.user_rows[0]), scorer(*DATA.user_rows[1])]
    expected = np.stack([own(users) for own in scorers])
    for score in (score_many(scorers), on_chunks(scorers)):
        for _ in range(2):
            np.testing.assert_array_equal(score(users), expected)


# What is refused --------------------------------------------------------------------------------


SCORE = PoolScorer(REGRESSION, LAYOUT, chunk=4)


def refusal(users):
    with pytest.raises(InputError) as refused:
        SCORE(WEIGHTS, DATA.campaign_rows[0], users)
    message = str(refused.value)
    assert "\n" not in message
    return message


@settings(max_examples=50)
@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 5), st.integers(0, 5))
@example(-1, 0, 0)
@example(0, 5, 5)
@example(ROWS - 1, 5, 5)
@example(ROWS, 5, 5)  # the pad id
@example(ROWS + 1, 5, 5)  # in the second chunk
def test_users_ids_outside_the_table_are_refused_and_no_others(wrong, user, slot):
    users = DATA.user_rows[:6].copy()
    users[user, slot] = wrong
    if 0 <= wrong <= ROWS:
        assert np.isfinite(SCORE(WEIGHTS, DATA.campaign_rows[0], users)).all()
    else:
        assert refusal(users) == (
            f"the users' ids include {wrong}, expected 0 to {ROWS - 1}, or {ROWS} to pad"
        )


@pytest.mark.parametrize("dtype", [float, bool, str])
def test_ids_that_are_no_whole_numbers_are_refused(dtype):
    assert "expected whole numbers" in refusal(DATA.user_rows[:6].astype(dtype))


@pytest.mark.parametrize("shape", [(6, 5), (6, 7), (6,), (2, 3, 6), (6, 0)])
def test_users_with_another_number_of_slots_are_refused(shape):
    message = refusal(np.zeros(shape, np.int32))
    assert f"ids of shape {shape}, expected 6 slots per user" in message


# Chunks -----------------------------------------------------------------------------------------


FIELD = Layout((1,), (), 0)  # a single field, and campaigns without any


@given(st.integers(0, 20), st.integers(1, 7))
def test_a_function_sees_chunks_of_one_size_and_its_rows_come_back_in_order(count, chunk):
    sizes = []

    def function(users):
        sizes.append(len(users))
        return users.sum(axis=1)

    scorer, users = PoolScorer(REGRESSION, FIELD, chunk=chunk), np.arange(count)[:, None]
    np.testing.assert_array_equal(scorer.over_users(function, users, 77), np.arange(count))
    assert set(sizes) == {chunk}


def test_two_chunks_are_under_way_at_a_time():
    both = threading.Barrier(2, timeout=30)

    def function(users):
        both.wait()
        return users

    scorer, users = PoolScorer(REGRESSION, FIELD, chunk=2), np.arange(8)[:, None]
    np.testing.assert_array_equal(scorer.over_users(function, users, 8), users)


def test_a_chunk_that_fails_keeps_others_from_beginning():
    begun = []

    def function(users):
        begun.append(users[0, 0])
        if users[0, 0] == 0:
            raise ValueError("broken")
        time.sleep(0.01)
        return users

    scorer = PoolScorer(REGRESSION, FIELD, chunk=1)
    with pytest.raises(ValueError, match="broken"):
        scorer.over_users(function, np.arange(1000)[:, None], 1000)
    assert len(begun) <= 1 + 2 * at_a_time()
