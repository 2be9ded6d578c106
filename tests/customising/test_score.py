"""Scores of a pool: the network's log-odds, a chunk at a time; wrong ids are refused."""

import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from linear_network import LogisticRegression
from toy import dataset

from metaheac_jax.backend import profile
from metaheac_jax.customising import score as module
from metaheac_jax.customising.score import (
    groups,
    head_scorers,
    joint_program,
    network_scorers,
    over_users,
    scorers_after,
    sum_scorers,
)
from metaheac_jax.errors import InputError
from metaheac_jax.methods.logistic_regression import LINEAR
from metaheac_jax.model import AdaptedWeights, Customised, General, Weights
from metaheac_jax.table.layout import Ids

DATA = dataset()
LAYOUT, ROWS = DATA.layout, DATA.num_rows
REGRESSION = LogisticRegression()
#: Logistic regression with weights 0, 1, 2, ... and a bias of 0.
WEIGHTS = Weights({"params": {"bias": jnp.zeros(())}}, jnp.arange(float(ROWS))[:, None])


NONE = AdaptedWeights({}, np.empty(0, np.int32), WEIGHTS.table[:0])


def scorer_of(weights=WEIGHTS, adapted=NONE, campaign=DATA.campaign_rows[2], lengths=None):
    layout = LAYOUT if lengths is None else DATA.lengthened()[0].layout
    scorers = network_scorers(REGRESSION, layout, weights, [(adapted, campaign)])
    return scorers_after(lengths, scorers)[0]


def own_rows(*rows, value=-99.0):
    values = jnp.full((len(rows), 1), value)
    return AdaptedWeights({"params": {}}, np.array(rows, np.int32), values)


@pytest.mark.parametrize("lengthened", [False, True])
def test_an_adapted_scorer_scores_with_the_campaigns_own_weights(lengthened):
    longer, lengths = DATA.lengthened()
    data = longer if lengthened else DATA
    values = np.arange(float(data.num_rows))
    weights = WEIGHTS._replace(table=jnp.asarray(values[:, None]))
    rows = np.array([1, data.num_rows], np.int32)
    adapted = AdaptedWeights({"params": {"bias": jnp.array(0.5)}}, rows, jnp.full((2, 1), -99.0))
    own_lengths = lengths if lengthened else None
    scores = scorer_of(weights, adapted, data.campaign_rows[2], own_lengths)(DATA.user_rows)
    values[1] = -99
    own = weights._replace(table=values[:, None])
    ids = Ids(data.user_rows[:], data.campaign_rows[2])
    inputs = jax.jit(data.layout.inputs)(own.table, ids)
    expected = jax.jit(REGRESSION.apply)({"params": {"bias": 0.5}}, *inputs).log_odds
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    np.testing.assert_array_equal(weights.table[:, 0], np.arange(data.num_rows))


def test_many_heads_are_scored_in_parts_of_which_the_last_may_be_one(monkeypatch):
    """Each by its own head, whichever part it is in."""
    monkeypatch.setattr(module, "_TOGETHER_BYTES", 2 * 4 * ROWS)  # two heads in a part
    zero, none = Weights({"head": jnp.zeros(1)}, jnp.zeros((ROWS, 1))), np.empty(0, np.int32)
    heads = [{"head": jnp.full(1, float(n))} for n in range(5)]
    each = [(AdaptedWeights(own, none, zero.table[:0]), none) for own in heads]
    scorers = head_scorers(LINEAR, LAYOUT, zero, each)
    parts = [numbers for numbers, _ in groups(scorers)]
    assert parts == [[0, 1], [2, 3], [4]]
    found = joint_program(scorers)(DATA.user_rows[:3])
    np.testing.assert_allclose(found, np.tile(np.arange(5.0), (3, 1)), atol=1e-6)


def test_a_joint_program_scores_as_each_alone_in_the_order_of_its_scorers():
    users = DATA.user_rows[:30]
    own = [scorer_of(adapted=own_rows(*rows, ROWS)) for rows in ((0, 5), users[0], users[1])]
    zero, rows = Weights({"head": jnp.zeros(1)}, jnp.zeros((ROWS, 1))), np.arange(ROWS)
    each = [
        (AdaptedWeights({"head": jnp.full(1, bias)}, rows, jnp.full((len(rows), 1), weight)), rows)
        for bias, weight in ((2.0, 3.0), (-5.0, 0.5))
    ]
    linear = head_scorers(LINEAR, LAYOUT, zero, each)  # these two have one program
    scorers = [own[0], *sum_scorers([own[:1], own[1:2]], (0.25, 0.75)), own[1], own[2]]
    scorers = [linear[0], *scorers, linear[1]]
    expected = np.stack([scorer(users) for scorer in scorers], axis=1)
    program = joint_program(scorers)
    assert program is not None
    np.testing.assert_allclose(program(users), expected, rtol=1e-6)
    np.testing.assert_allclose(
        expected[:, 2], 0.25 * expected[:, 1] + 0.75 * expected[:, 3], rtol=1e-6
    )
    other = np.ravel
    assert joint_program([*own, other]) is None
    assert {numbers[0]: part is None for numbers, part in groups([own[0], other])} == {
        0: False,
        1: True,
    }


# What is refused --------------------------------------------------------------------------------


def scored(users):
    general = General("linear", {}, DATA.schema, DATA.vocabulary, {}, "toy", (), 0)
    return Customised(general, DATA.campaign(2), scorer_of()).score(users)


def refusal(users):
    with pytest.raises(InputError) as refused:
        scored(users)
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
        assert np.isfinite(scored(users)).all()
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


@given(st.integers(0, 20), st.integers(1, 7))
def test_a_function_sees_chunks_of_one_size_and_its_rows_come_back_in_order(count, chunk):
    sizes = []

    def function(users):
        sizes.append(len(users))
        assert ((users[:, 0] == 77) == (users[:, 1] == 77)).all()  # what fills up the last chunk
        return users.sum(axis=1)

    users = np.arange(2 * count).reshape(count, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "profile", lambda: replace(profile(), chunk=chunk))
        result = over_users(function, users, 2, 77)
    np.testing.assert_array_equal(result, users.sum(axis=1))
    assert set(sizes) == {chunk}


def test_two_chunks_are_under_way_at_a_time(monkeypatch):
    monkeypatch.setattr(module, "profile", lambda: replace(profile(), chunk=2))
    both = threading.Barrier(2, timeout=30)

    def function(users):
        both.wait()
        return users

    users = np.arange(8)[:, None]
    np.testing.assert_array_equal(over_users(function, users, 1, 9), users)
