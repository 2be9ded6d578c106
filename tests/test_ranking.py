"""AUC against scikit-learn, top K against a plain sort, campaigns that cannot be judged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from metaheac_jax.ranking import Metrics, auc, campaign_metrics, percent_of, top


@settings(max_examples=100)
@given(st.data())
def test_auc_equals_scikit_learn_under_ties(data):
    size = data.draw(st.integers(2, 200))
    values = data.draw(st.integers(1, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scores = rng.integers(0, values, size).astype(np.float32)
    labels = rng.permutation(np.arange(size) < data.draw(st.integers(1, size - 1))).astype(np.int8)
    assert abs(auc(scores, labels) - roc_auc_score(labels, scores)) < 1e-12


def test_auc_refuses_one_class_and_nan():
    with pytest.raises(ValueError, match="both classes"):
        auc(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="numbers"):
        auc(np.array([1.0, np.nan]), np.array([0, 1]))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1000)), unique_by=lambda x: x[1]),
    st.integers(0, 12),
)
def test_top_breaks_ties_by_user_id(candidates, size):
    scores = np.array([score for score, _ in candidates], float)
    keys = np.array([key for _, key in candidates], int)
    expected = sorted(candidates, key=lambda x: (-x[0], x[1]))[:size]
    assert [candidates[i] for i in top(scores, keys, size)] == expected


@pytest.mark.parametrize(
    ("count", "percent", "size"),
    [(100_000, 0.29, 290), (10_000, 0.57, 57), (10_000, np.float64(0.57), 57), (999, 0.1, 0),
     (10**9, 1e-7, 1), (20, 5, 1), (7, 100, 7)],
)  # fmt: skip
def test_a_percentage_is_the_decimal_number_that_is_written(count, percent, size):
    assert percent_of(count, percent) == size


def test_precision_and_recall_at_five_percent():
    labels = np.zeros(119, int)
    labels[[0, 1, 2, 50]] = 1
    scores = -np.arange(119.0)
    scores[1] = -200  # one positive is last
    judgement = campaign_metrics(scores, labels, np.arange(119))
    # floor(119 * .05) = 5 candidates: 0, 2, 3, 4, 5.
    assert judgement == Metrics(auc(scores, labels), 2 / 5, 2 / 4)


def test_twenty_candidates_are_enough_and_the_top_has_at_least_one():
    for count, percent in ((20, 5.0), (30, 1.0)):
        labels = np.arange(count) < 2
        scores = -np.arange(float(count))
        assert campaign_metrics(scores, labels, np.arange(count), percent) == Metrics(1.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([0] * 30, "0 positives among 30"),
        ([1] * 30, "30 positives among 30"),
        ([0, 1] * 9 + [0], "19 candidates, fewer than 20"),
    ],
)
def test_a_campaign_that_cannot_be_judged_says_why(labels, why):
    labels = np.array(labels)
    assert why in campaign_metrics(np.arange(len(labels)), labels, np.arange(len(labels)))
