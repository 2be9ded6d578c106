"""Outcomes of audiences: counts by hand, and intervals from their formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaheac_jax.audience.outcome import ShownUsers, audience_outcome
from metaheac_jax.data.campaign_record import Feedback
from metaheac_jax.errors import InputError


def feedback(**converted):
    return Feedback.of(list(converted), list(converted.values()))


def test_an_outcome_by_hand():
    known = feedback(ann=1, bob=0, cid=1, dan=0, eve=0, fay=1, gus=0, hal=0)
    users, probabilities = ["cid", "ann", "zoe", "bob", "eve"], np.array([0.9, 0.8, 0.5, 0.3, 0.2])
    outcome = audience_outcome(users, known, probabilities=probabilities)  # zoe was not shown it
    assert outcome.size == 5
    assert outcome.shown == ShownUsers(4, 2)
    assert outcome.others == ShownUsers(4, 1)
    assert [row.decile for row in outcome.gains] == [1, 3, 6, 8]
    assert [row.converts for row in outcome.gains] == [1, 1, 0, 0]
    assert [(row.predicted, row.observed) for row in outcome.calibration] == [
        (0.2, 0),
        (0.3, 0),
        (0.8, 1),
        (0.9, 1),
    ]
    ratio = outcome.rate_ratio
    assert ratio.value == pytest.approx(2)
    width = 1.959964 * math.sqrt(1 / 2 - 1 / 4 + 1 / 1 - 1 / 4)
    assert math.log(ratio.high / ratio.value) == pytest.approx(width, rel=1e-5)
    assert math.log(ratio.value / ratio.low) == pytest.approx(width, rel=1e-5)
    assert outcome.shown.rate.value == 0.5
    # Wilson's interval of two of four.
    z2 = 1.959964**2
    half = math.sqrt(z2 * (1 / 16 + z2 / 64)) / (1 + z2 / 4)
    assert outcome.shown.rate[1:] == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)


records = st.dictionaries(st.integers(0, 60), st.booleans(), min_size=1)


@given(st.lists(st.integers(0, 60), min_size=1, unique=True), records)
def test_equal_to_a_plain_count(audience, shown):
    known = Feedback.of(list(shown), list(shown.values()))
    inside = [shown[user] for user in audience if user in shown]
    outside = [hit for user, hit in shown.items() if user not in audience]
    if not inside:
        with pytest.raises(InputError, match="no user of the audience is in the feedback"):
            audience_outcome(audience, known)
        return
    outcome = audience_outcome(audience, known)
    assert outcome.shown == ShownUsers(len(inside), sum(inside))
    assert outcome.others == ShownUsers(len(outside), sum(outside))
    assert outcome.calibration == []
    tenths = [0] * 10
    for place, hit in enumerate(inside):
        tenths[10 * place // len(inside)] += hit
    found = {row.decile: row.converts for row in outcome.gains}
    assert found == (
        {d + 1: tenths[d] for d in {10 * i // len(inside) for i in range(len(inside))}}
        if sum(inside)
        else {}
    )
    if 0 < sum(inside) < len(inside) and 0 < sum(outside) < len(outside):
        ratio = sum(inside) / len(inside) / (sum(outside) / len(outside))
        assert outcome.rate_ratio.value == pytest.approx(ratio)
        assert outcome.rate_ratio.low < ratio < outcome.rate_ratio.high
    else:
        assert outcome.rate_ratio is None


def test_probabilities_of_an_audience_in_which_nobody_converted():
    outcome = audience_outcome([1, 2, 3], Feedback.of([1, 3], [0, 0]), probabilities=[0.5, 1, 0])
    assert outcome.gains == []
    assert [(row.predicted, row.observed) for row in outcome.calibration] == [(0, 0), (0.5, 0)]
    assert outcome.shown.rate[:2] == (0, 0)
    assert outcome.others.rate is None


def test_what_is_wrong_is_named():
    known = feedback(ann=1)
    with pytest.raises(InputError, match="a user of the audience occurs twice; give each"):
        audience_outcome(["ann", "ann"], known)
    for wrong in ([0.5, 0.5], [1.5], [math.nan], 0.5):
        with pytest.raises(InputError, match="probabilities: expected a number from 0 to 1 for"):
            audience_outcome(["ann"], known, probabilities=wrong)
    with pytest.raises(InputError, match="that user ids are written in the same way"):
        audience_outcome(["Ann"], known)
