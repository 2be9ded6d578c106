"""Probabilities: the closed form against libraries, and rates that are known of a made world."""

from dataclasses import replace

import numpy as np
import pytest
from fixed_scores import fixed_method
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from toy import dataset

from metaheac_jax.audience.calibration import (
    Calibration,
    CalibrationBin,
    calibrate,
    calibration_table,
    expected_calibration_error,
    fit_platt,
)
from metaheac_jax.errors import InputError

DATA = dataset(users=20_000, campaigns=4, per_campaign=8000, pool=8000)


@pytest.mark.parametrize(
    ("seed", "shift", "scale"), [(0, 0, 1), (1, -5, 300), (2, 5, 0.01), (3, 2, -1), (4, 0, -9)]
)
def test_platt_scaling_is_scikit_learns(seed, shift, scale):
    rng = np.random.default_rng(seed)
    labels = np.arange(90) < rng.integers(5, 60)
    scores = scale * (rng.normal(size=90) + labels + shift)
    found = fit_platt(scores, labels)
    # Platt's targets as weights: every example with label 1, and with label 0.
    seeds, others = labels.sum(), 90 - labels.sum()
    target = np.where(labels, (seeds + 1) / (seeds + 2), 1 / (others + 2))
    plain = LogisticRegression(C=np.inf, tol=1e-8)
    unit = ((scores - scores.mean()) / scores.std())[:, None]
    twice, weight = np.concatenate([unit, unit]), np.concatenate([target, 1 - target])
    plain.fit(twice, np.repeat([1, 0], 90), sample_weight=weight)
    expected = plain.decision_function(unit)
    if scale > 0:
        np.testing.assert_allclose(found.slope * scores + found.intercept, expected, atol=1e-4)
    else:  # a lower rank never has a higher probability
        assert found.slope == 0
        assert found.intercept == pytest.approx(logit(target.mean()), abs=1e-5)
    assert found.seed_rate == seeds / 90


@pytest.mark.parametrize("scores", [np.zeros(40), np.repeat([1.0, -1.0], [10, 30])])
def test_scores_that_are_equal_or_separate_the_labels(scores):
    labels = np.arange(40) < 10
    found = fit_platt(scores, labels)
    odds = found.slope * scores + found.intercept
    # Two kinds of score: each has the mean of its targets, 11 / 12 and 1 / 32.
    target = np.where(labels, 11 / 12, 1 / 32)
    expected = target if scores.any() else np.full(40, target.mean())
    np.testing.assert_allclose(expit(odds), expected, rtol=1e-4)


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999), st.floats(-3, 3))
def test_a_base_rate_moves_the_log_odds(seed_rate, base_rate, score):
    scale = Calibration(slope=2.0, intercept=-1.0, seed_rate=seed_rate)
    [p] = scale.probability(np.array([score]), base_rate)
    before = expit(2 * score - 1)
    # Bayes: the odds of the classes in the sample are replaced by those in the pool.
    odds = before / (1 - before) * base_rate / (1 - base_rate) * (1 - seed_rate) / seed_rate
    assert p == pytest.approx(odds / (1 + odds), rel=1e-6)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
def test_a_base_rate_out_of_range_is_refused(rate):
    with pytest.raises(InputError, match="base rate: expected more than 0 and less than 1, got"):
        Calibration(1.0, 0.0, 0.5).probability(np.zeros(2), rate)


def test_probabilities_are_the_true_ones():
    """Scores that are a distorted log-odds of the truth, and seeds that are more than their share.

    Of the campaign's examples only a fifth of the non-seeds is kept, so that its mix is far from
    the pool's.
    """
    chance = np.zeros(DATA.num_users)
    for stage in (DATA.stage1, DATA.stage2):
        of = stage.of(1)
        chance[stage.user[of]] = stage.probability[of]
    known = {bytes(row): p for row, p in zip(DATA.user_rows, chance, strict=True) if p}

    def score(users):
        return 0.4 * logit(np.array([known[bytes(row)] for row in users])) + 3

    campaign, seen, random_seeds = DATA.campaign(1), [], []
    kept = (campaign.labels == 1) | (np.arange(len(campaign.users)) % 5 == 0)
    campaign = campaign.pick(kept)
    fixed = fixed_method(score, seen, random_seeds)
    [scale] = calibrate(fixed, fixed.fit(DATA), DATA, [campaign], seed=2)
    assert random_seeds == [2]
    of = DATA.stage2.of(1)
    truth, users = DATA.stage2.probability[of], DATA.stage2.user[of]
    base_rate = DATA.stage1.label[DATA.stage1.of(1)].mean()
    predicted = scale.probability(score(DATA.user_rows[users]), base_rate)
    table = calibration_table(predicted, truth)
    assert expected_calibration_error(table) < 0.02
    assert max(abs(row.predicted - row.observed) for row in table) < 0.05
    uncorrected = scale.probability(score(DATA.user_rows[users]), campaign.labels.mean())
    assert expected_calibration_error(calibration_table(uncorrected, truth)) > 0.1
    # A fifth of the seeds and of the non-seeds was not learned from.
    for label in (0, 1):
        count = (campaign.labels == label).sum()
        assert (seen[0].labels == label).sum() == count - int(0.2 * count)
    assert set(seen[0].users) < set(campaign.users)


def test_each_campaign_has_a_calibration_of_its_own():
    fixed = fixed_method(lambda users: (users < DATA.num_rows).sum(axis=1).astype(float))
    general, campaigns = fixed.fit(DATA), [DATA.campaign(c) for c in (0, 2)]
    both = calibrate(fixed, general, DATA, campaigns)
    alone = [calibrate(fixed, general, DATA, [campaign])[0] for campaign in campaigns]
    assert both == alone
    assert both[0] != both[1]


def test_who_is_held_out_depends_on_the_seed():
    seen = []
    fixed = fixed_method(lambda users: np.zeros(len(users)), seen)
    for seed in (0, 0, 1):
        calibrate(fixed, fixed.fit(DATA), DATA, [DATA.campaign(1)], seed=seed)
    first, again, other = (set(kept.users) for kept in seen)
    assert first == again != other


def test_a_campaign_of_seeds_alone_has_nothing_to_calibrate_on():
    fixed = fixed_method(lambda users: np.zeros(len(users)))
    campaign = DATA.new_campaign(DATA.user_ids[:60], {"advertiser": 1, "category": 0})
    seeds = campaign.pick(campaign.labels == 1)
    with pytest.raises(InputError, match="fewer than two non-seeds; use a larger pool"):
        calibrate(fixed, fixed.fit(DATA), DATA, [seeds])


def test_too_few_seeds_to_calibrate_are_refused():
    fixed = fixed_method(lambda users: np.zeros(len(users)))
    few = DATA.new_campaign(DATA.user_ids[:49], {"advertiser": 1, "category": 0})
    words = "new campaign: 49 seeds, too few to calibrate probabilities on a fifth of them; give 50"
    with pytest.raises(InputError, match=words):
        calibrate(fixed, fixed.fit(DATA), DATA, [few])
    more = DATA.new_campaign(DATA.user_ids[:60], {"advertiser": 1, "category": 0})
    more = replace(more, found=np.arange(11))
    with pytest.raises(InputError, match="new campaign: 49 seeds besides those from feedback, too"):
        calibrate(fixed, fixed.fit(DATA), DATA, [more])


def test_who_feedback_tells_of_is_not_calibrated_on():
    seen, whole = [], DATA.campaign(1)
    fixed = fixed_method(lambda users: np.zeros(len(users)), seen)
    found = whole.users[: len(whole.users) // 2]
    calibrate(fixed, fixed.fit(DATA), DATA, [replace(whole, found=found)])
    assert set(found) < set(seen[0].users)
    others = whole.labels[len(found) :]
    assert len(whole.users) - len(seen[0].users) == sum(
        int(0.2 * (others == label).sum()) for label in (0, 1)
    )


def test_a_calibration_table_by_hand():
    probabilities = np.array([0.9, 0.1, 0.6, 0.2, 0.4])
    labels = np.array([1, 0, 1, 1, 0])
    table = calibration_table(probabilities, labels, num_bins=2)
    # Ascending: .1, .2 and .4 with one convert among three; then .6 and .9 with two.
    assert table == [
        CalibrationBin(3, pytest.approx(0.7 / 3), pytest.approx(1 / 3)),
        CalibrationBin(2, pytest.approx(0.75), 1.0),
    ]
    assert expected_calibration_error(table) == pytest.approx((3 * 0.1 + 2 * 0.25) / 5)
    assert len(calibration_table(probabilities, labels)) == 5
