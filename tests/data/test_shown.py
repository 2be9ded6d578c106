"""How many users without conversion become non-seeds: closed forms, and the rule on rows."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from toy import check_data, dataset

from metaheac_jax.data.campaign import draw_by_id, group_by_campaign
from metaheac_jax.data.shown import leave_out_shown, share_to_keep

#: Kinds of users convert at .5 and 3 times the rate of the pool, of which they are .8 and .2. Among
#: 100 seeds and 2,000 users of the pool they have these log-odds of being a seed.
LIFT = np.array([0.5, 3.0])
LOG_ODDS = np.log(LIFT / 20)
SCORES = LOG_ODDS[np.repeat([0, 1, 0, 1], [40, 60, 1600, 400])]
LABELS = np.repeat([1, 0], [100, 2000])


@pytest.mark.parametrize("rate", [0.0005, 0.005])
def test_users_who_are_kept_have_the_odds_of_the_examples(rate):
    """One user in 20 of the pool is a seed, so at a rate of 1/2000 a hundredth is kept."""
    few, many = 10_000, 90_000
    shown = np.repeat(LOG_ODDS, [few, many])
    converted = np.concatenate(
        [np.arange(few) < few * rate * LIFT[0], np.arange(many) < many * rate * LIFT[1]]
    )
    share = share_to_keep(shown, converted, SCORES, LABELS)
    assert share == pytest.approx(20 * rate, rel=0.02)
    odds = converted.sum() / (share * (~converted).sum())
    assert odds == pytest.approx(np.exp(shown).mean(), rel=0.02)


@pytest.mark.parametrize(
    ("converts", "count", "share"),
    [
        (
            9,
            1000,
            9.5 / 990.5 / 0.15,
        ),  # converts and half a convert, per user who remains, by the odds
        (0, 10, 0.5 / 9.5 / 0.15),
        (10, 10, 1.0),
        (1, 1, 1.0),
    ],
)
def test_equal_scores_have_a_closed_form(converts, count, share):
    converted = np.arange(count) < converts
    found = share_to_keep(np.full(count, np.log(0.15)), converted, SCORES, LABELS)
    assert found == pytest.approx(share)
    if not converts:  # as many as expected: half a convert
        assert count * expit(np.log(0.15 * found)) == pytest.approx(0.5)


# On rows ----------------------------------------------------------------------------------------


def shown(rate, seeds=200, count=2000, both=False, order=None, users=12_000):
    """Data whose first campaign has seeds of gender 1 alone, and an audience of that gender.

    Users of gender 1 convert with ``rate``, the others never. Half of all users have that gender,
    so users of the audience have twice the seeds per user that the pool has.
    """
    data = dataset(users=users, campaigns=2, per_campaign=30)
    mine = np.flatnonzero(data.user_rows[:, 0] == 1)
    user = mine[: seeds + count]
    audience = np.arange(len(user)) >= seeds
    label = ~audience | (np.arange(len(user)) < seeds + rate * count)
    campaign = np.zeros(len(user), int)
    if both:  # and an untouched one
        campaign = np.concatenate([campaign, np.ones(30, int)])
        user, audience = (
            np.concatenate(p) for p in ((user, mine[:30]), (audience, np.arange(30) > 1))
        )
        label = np.concatenate([label, np.arange(30) < 2])
    order = np.arange(len(user)) if order is None else order
    columns = (own[order] for own in (campaign, user, label))
    stage = group_by_campaign(*columns, num_campaigns=2, audience=audience[order])
    return replace(data, stage1=stage)


@pytest.mark.parametrize("rate", [0.01, 0.03])
def test_the_share_of_rows_is_that_of_the_rates(rate):
    """A seed has 20 random users, so in the examples gender 1 has odds of 2 / 20 to be a seed."""
    data = shown(rate)
    kept = leave_out_shown(data, [0, 1])
    check_data(kept)
    without = data.stage1.audience & (data.stage1.label == 0)
    share = (kept.stage1.audience & (kept.stage1.label == 0)).sum() / without.sum()
    assert share == pytest.approx(rate / 0.1, rel=0.2)
    draws = draw_by_id(data.user_ids[kept.left_out.user])
    stay = draw_by_id(data.user_ids[kept.stage1.user[(kept.stage1.label == 0)]])
    assert stay.max() < draws.min()
    assert len(stay) + len(draws) == without.sum()
    assert kept.left_out.in_audience.all()
    users, labels, _ = kept.audience_of(0)
    assert sorted(users) == sorted(data.stage1.user[data.stage1.audience])
    assert labels.sum() == rate * 2000


def test_users_who_were_left_out_before_stay_left_out():
    data = shown(0.01)
    columns = np.array([[1], [5], [0]])
    before = group_by_campaign(*columns, num_campaigns=2, audience=np.array([True]))
    kept = leave_out_shown(replace(data, left_out=before), [0])
    alone = leave_out_shown(data, [0]).left_out
    assert kept.left_out.counts.tolist() == [len(alone.user), 1]
    assert kept.left_out.user.tolist() == [*alone.user, 5]
    check_data(kept)


def test_the_share_does_not_depend_on_the_order_of_rows():
    first = leave_out_shown(shown(0.01), [0])
    order = np.random.default_rng(0).permutation(2200)
    again = leave_out_shown(shown(0.01, order=order), [0])
    assert set(first.left_out.user) == set(again.left_out.user)


def test_all_are_kept_if_many_convert_or_few_others_are_known():
    assert leave_out_shown(shown(0.5), [0]).left_out is None
    assert leave_out_shown(shown(0.01, seeds=9), [0]).left_out is None
    assert leave_out_shown(shown(0.01, users=5000), [1]).left_out is None  # another campaign
    both = shown(0.01, both=True)
    kept = leave_out_shown(both, [0, 1])
    np.testing.assert_array_equal(kept.stage1.user[kept.stage1.of(1)], both.stage1.user[-30:])
    assert kept.left_out.counts[1] == 0
