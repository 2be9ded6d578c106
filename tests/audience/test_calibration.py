"""Probabilities: the closed form against libraries, and rates that are known of a made world."""

from dataclasses import replace

import numpy as np
import pytest
from fixed_scores import campaign_of, fixed
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit
from toy import dataset, population

from metaheac_jax.audience.calibration import calibrate, line
from metaheac_jax.errors import InputError

DATA = dataset(users=20_000, campaigns=4, per_campaign=8000, pool=8000)


@given(st.integers(0, 999), st.sampled_from([0.001, 0.05, 0.3, 0.9]))
@settings(max_examples=30, deadline=None)
def test_no_other_line_is_likelier(seed, base_rate):
    rng = np.random.default_rng(seed)
    labels = np.arange(60) < rng.integers(5, 30)
    scores = 3 * (rng.normal(size=60) + labels) - 2
    slope, intercept = line(scores, labels, base_rate)
    seeds, others = labels.sum(), (~labels).sum()
    target = np.where(labels, (seeds + 1) / (seeds + 2), 1 / (others + 2))

    def loss(own):
        p = expit(max(own[0], 0) * scores + own[1]).clip(1e-300, 1 - 1e-15)
        odds = seeds / others * p / base_rate
        is_seed = odds / (1 + odds)
        value = -(target * np.log(is_seed) + (1 - target) * np.log1p(-is_seed)).sum()
        return value - (np.log1p(-p) * labels).sum() / (seeds + 2)

    best = minimize(loss, [0.3, logit(base_rate)], method="Nelder-Mead", options={"maxiter": 2000})
    assert loss([slope, intercept]) <= best.fun + 1e-5


def test_a_better_rank_never_has_a_lower_probability():
    scores, labels = np.arange(40.0), np.arange(40) < 10  # seeds have the lowest scores
    assert line(scores, labels, 0.1)[0] == 0
    assert line(-scores, labels, 0.1)[0] > 0


def errors(predicted, truth):
    """Differences of the means in ten bins of the predicted probabilities."""
    bins = np.array_split(np.argsort(predicted), 10)
    return np.array([abs(predicted[own].mean() - truth[own].mean()) for own in bins])


def test_probabilities_are_the_true_ones():
    """Scores that are a distorted log-odds of the truth, and seeds that are more than their share.

    The seeds are half of the converts of both stages; the non-seeds are drawn from all others.
    """
    rng = np.random.default_rng(0)
    _, _, of_pairs = population(DATA.num_users, DATA.num_campaigns, rng)
    chance, converts = np.zeros(DATA.num_users), np.zeros(DATA.num_users, bool)
    for stage in (DATA.stage1, DATA.stage2):
        users = stage.user[stage.of(1)]
        chance[users], converts[users] = of_pairs[1, users], stage.label[stage.of(1)] == 1
    pool = np.flatnonzero(chance)
    known = {bytes(row): p for row, p in zip(DATA.user_rows[:], chance, strict=True) if p}

    def score(users):
        return 0.4 * logit(np.array([known[bytes(row)] for row in users])) + 3

    seen, random_seeds, rng = [], [], np.random.default_rng(3)
    seeds = np.flatnonzero(converts)[::2]
    others = np.setdiff1d(pool, seeds)
    drawn = rng.choice(others, 2000, replace=False)
    labels = np.repeat(np.array([1, 0], np.int8), [len(seeds), len(drawn)])
    campaign = replace(DATA.campaign(1), users=np.concatenate([seeds, drawn]), labels=labels)
    general = fixed(score, data=DATA, seen=seen, random_seeds=random_seeds)
    rates = converts[others].mean(), campaign.labels.mean()
    lines = [calibrate(general, DATA, [campaign], [rate], seed=2)[0] for rate in rates]
    assert random_seeds == [2, 2]
    truth = chance[others] / (2 - chance[others])  # half of the converts are seeds
    scores = score(DATA.user_rows[others])
    predicted, uncorrected = (expit(slope * scores + intercept) for slope, intercept in lines)
    assert errors(predicted, truth).mean() < 0.02
    assert errors(predicted, truth).max() < 0.05
    assert errors(uncorrected, truth).mean() > 0.1
    # A fifth of the seeds and of the non-seeds was not learned from.
    for label in (0, 1):
        count = (campaign.labels == label).sum()
        assert (seen[0].labels == label).sum() == count - int(0.2 * count)
    assert set(seen[0].users) < set(campaign.users)


def test_each_campaign_has_a_calibration_of_its_own():
    general = fixed(lambda users: (users < DATA.num_rows).sum(axis=1).astype(float), data=DATA)
    campaigns = [DATA.campaign(c) for c in (0, 2)]
    both = calibrate(general, DATA, campaigns, [0.1, 0.1])
    assert both == [calibrate(general, DATA, [campaign], [0.1])[0] for campaign in campaigns]
    assert both[0] != both[1]


def test_who_is_held_out_depends_on_the_seed_and_is_in_no_audience():
    seen, whole = [], DATA.campaign(1)
    general = fixed(lambda users: np.zeros(len(users)), data=DATA, seen=seen)
    campaign = replace(whole, found=whole.users[: len(whole.users) // 2])
    for seed in (0, 0, 1):
        calibrate(general, DATA, [campaign], [0.1], seed=seed)
    first, again, other = (set(kept.users) for kept in seen)
    assert first == again != other
    assert set(campaign.found) < first & other
    others = whole.labels[len(campaign.found) :]
    assert len(whole.users) - len(first) == sum(
        int(0.2 * (others == label).sum()) for label in (0, 1)
    )


def test_campaigns_that_cannot_be_calibrated_are_refused():
    general = fixed(lambda users: np.zeros(len(users)), data=DATA)
    for seeds, others, found, words in (
        (60, 0, 0, "campaign 7: .* takes 50 and two non-seeds; omit probability"),
        (49, 60, 0, "campaign 7: 49 seeds that are not from audiences"),
        (60, 60, 11, "campaign 7: 49 seeds that are not from audiences"),
    ):
        users = np.arange(seeds), np.arange(100, 100 + others)
        campaign = campaign_of(*users, found=np.arange(found), id=7, data=DATA)
        with pytest.raises(InputError, match=words):
            calibrate(general, DATA, [campaign], [0.1])
