"""Probabilities: the closed form against libraries, and rates that are known of a made world."""

from dataclasses import replace

import numpy as np
import pytest
from fixed_scores import fixed_method
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from toy import dataset

from metaheac_jax.audience.calibration import (
    Calibration,
    CalibrationBin,
    calibrate,
    calibration_table,
    expected_calibration_error,
)
from metaheac_jax.errors import InputError

DATA = dataset(users=20_000, campaigns=4, per_campaign=8000, pool=8000)


@pytest.mark.parametrize(
    ("seed", "shift", "scale"), [(0, 0, 1), (1, -5, 300), (2, 5, 0.01), (3, 2, -1), (4, 0, -9)]
)
def test_with_true_non_seeds_it_is_the_platt_scaling_of_scikit_learn(seed, shift, scale):
    rng = np.random.default_rng(seed)
    labels = np.arange(90) < rng.integers(5, 60)
    scores = scale * (rng.normal(size=90) + labels + shift)
    # At a base rate that is the fraction of seeds, the log-odds are those of being a seed.
    slope, intercept = Calibration(scores, labels, drawn=False).line(labels.mean())
    # Platt's targets as weights: every example with label 1, and with label 0.
    seeds, others = labels.sum(), 90 - labels.sum()
    target = np.where(labels, (seeds + 1) / (seeds + 2), 1 / (others + 2))
    plain = LogisticRegression(C=np.inf, tol=1e-8)
    unit = ((scores - scores.mean()) / scores.std())[:, None]
    twice, weight = np.concatenate([unit, unit]), np.concatenate([target, 1 - target])
    plain.fit(twice, np.repeat([1, 0], 90), sample_weight=weight)
    expected = plain.decision_function(unit)
    if scale > 0:
        np.testing.assert_allclose(slope * scores + intercept, expected, atol=1e-4)
    else:  # a lower rank never has a higher probability
        assert slope == 0
        assert intercept == pytest.approx(logit(target.mean()), abs=1e-5)


@pytest.mark.parametrize("base_rate", [0.0001, 0.02, 0.2, 0.9])
@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("scores", [np.zeros(40), np.repeat([1.0, -1.0], [10, 30])])
def test_scores_that_are_equal_or_separate_the_labels(scores, drawn, base_rate):
    labels = np.arange(40) < 10
    found = Calibration(scores, labels, drawn).probability(scores, base_rate)
    # Two kinds of score: each has the mean of its targets, 11 / 12 and 1 / 32.
    target = np.where(labels, 11 / 12, 1 / 32)
    added = np.where(labels, 1 / 12, 0) if drawn else np.zeros(40)
    if not scores.any():
        target, added = (np.full(40, of.mean()) for of in (target, added))

    def slope(p, place):
        """The derivative of the loss with respect to the log-odds; there are 3 non-seeds a seed."""
        odds = p / base_rate / 3 if drawn else p / (1 - p) * (1 - base_rate) / base_rate / 3
        own = (odds / (1 + odds) - target[place]) * (1 - p if drawn else 1)
        return own + added[place] * p

    expected = [brentq(slope, 1e-12, 1 - 1e-12, args=(place,)) for place in range(40)]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@given(st.integers(0, 999), st.sampled_from([0.001, 0.05, 0.3, 0.9]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_no_other_line_is_likelier(seed, base_rate, drawn):
    rng = np.random.default_rng(seed)
    labels = np.arange(60) < rng.integers(5, 30)
    scores = 3 * (rng.normal(size=60) + labels) - 2
    slope, intercept = Calibration(scores, labels, drawn).line(base_rate)
    seeds, others = labels.sum(), (~labels).sum()
    target = np.where(labels, (seeds + 1) / (seeds + 2), 1 / (others + 2))

    def loss(line):
        p = expit(max(line[0], 0) * scores + line[1]).clip(1e-300, 1 - 1e-15)
        ratio = p / base_rate if drawn else p / (1 - p) * (1 - base_rate) / base_rate
        seed = seeds / others * ratio / (1 + seeds / others * ratio)
        value = -(target * np.log(seed) + (1 - target) * np.log1p(-seed)).sum()
        return value - drawn * (np.log1p(-p) * labels).sum() / (seeds + 2)

    best = minimize(loss, [0.3, logit(base_rate)], method="Nelder-Mead", options={"maxiter": 2000})
    assert loss([slope, intercept]) <= best.fun + 1e-5


@given(st.floats(0.01, 0.99), st.floats(0.001, 0.999))
def test_the_base_rate_moves_the_log_odds_alone_if_non_seeds_do_not_convert(first, second):
    rng = np.random.default_rng(0)
    labels = np.arange(60) < 20
    scale = Calibration(rng.normal(size=60) + labels, labels, drawn=False)
    (slope, intercept), (other, moved) = scale.line(first), scale.line(second)
    assert slope == pytest.approx(other, rel=1e-3)
    # Bayes: the odds of the classes in one pool are replaced by those in the other.
    assert moved - intercept == pytest.approx(logit(second) - logit(first), abs=1e-3)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
def test_a_base_rate_out_of_range_is_refused(rate):
    with pytest.raises(InputError, match="base rate: expected more than 0 and less than 1, got"):
        Calibration(np.zeros(2), np.arange(2)).probability(np.zeros(2), rate)


@pytest.mark.parametrize("drawn", [True, False])
def test_probabilities_are_the_true_ones_at_every_score(drawn):
    """A made pool of which a tenth converts, and users in it whose probability is .9."""
    rng = np.random.default_rng(5)
    log_odds = rng.normal(-3, 1.8, size=200_000)
    chance, scores = expit(log_odds), 0.4 * log_odds + 3
    converts = rng.random(len(chance)) < chance
    seeds = rng.choice(np.flatnonzero(converts), 4000, replace=False)
    able = np.arange(len(chance)) if drawn else np.flatnonzero(~converts)
    examples = np.concatenate([seeds, rng.choice(able, 20_000, replace=False)])
    scale = Calibration(scores[examples], np.arange(24_000) < 4000, drawn)
    found = scale.probability(scores, chance.mean())
    top = np.argsort(-chance)[:1000]
    assert chance[top].mean() > 0.85
    assert found[top].mean() == pytest.approx(chance[top].mean(), abs=0.03)
    assert max(abs(found - chance)) < 0.05
    # The other kind of non-seeds has other probabilities.
    wrong = Calibration(scale.scores, scale.labels, not drawn).probability(scores, chance.mean())
    assert max(abs(wrong - chance)) > 0.1


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
    [scale] = calibrate(fixed, fixed.fit(DATA), DATA, [campaign], drawn=False, seed=2)
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
    assert [one.line(0.1) for one in both] == [one.line(0.1) for one in alone]
    assert both[0].line(0.1) != both[1].line(0.1)
    assert all(one.drawn for one in both)  # as for new campaigns


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
