"""Examples grouped by campaign, campaigns with their examples, and users found by their ids."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from toy import check_data, dataset

from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.data.dataset import small_campaigns
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Vocabulary

DATA = dataset(users=60, campaigns=4, per_campaign=30, pool=30)


@given(st.data(), st.integers(1, 6), st.integers(0, 40))
def test_group_by_campaign_keeps_every_example_in_order(data, campaigns, count):
    def column(most):
        return data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, most)))

    campaign, user, label = column(campaigns - 1), column(1000), column(1)
    groups = group_by_campaign(campaign, user, label, num_campaigns=campaigns)
    assert groups.offsets.shape == (campaigns + 1,)
    for c in range(campaigns):
        mine = groups.of(c)
        np.testing.assert_array_equal(groups.user[mine], user[campaign == c])
        np.testing.assert_array_equal(groups.label[mine], label[campaign == c])
        assert groups.counts[c] == (campaign == c).sum()
        assert groups.positives[c] == label[campaign == c].sum()
    columns = (groups.offsets, groups.user, groups.label)
    assert [a.dtype for a in columns] == [np.int64, np.int32, np.int8]


def test_shuffled_examples_do_not_tell_the_label_by_their_order():
    """Campaigns list their seeds first, as the competition's test1_truth.csv does."""
    size, campaigns = 4000, 5
    campaign = np.repeat(np.arange(campaigns), size)
    user = np.arange(campaigns * size)
    label = (user % size < size // 4).astype(int)
    listed = group_by_campaign(campaign, user, label, num_campaigns=campaigns)
    examples = listed.shuffled()
    np.testing.assert_array_equal(examples.offsets, listed.offsets)
    for c in range(campaigns):
        of = examples.of(c)
        np.testing.assert_array_equal(np.sort(examples.user[of]), user[of])
        first, second = examples.label[of].reshape(2, -1).mean(axis=1)
        assert abs(first - second) < 5 * np.sqrt(2 * 0.25 * 0.75 / (size / 2))
    # Columns stay together, campaigns have orders of their own, and calls agree.
    np.testing.assert_array_equal(examples.label, label[examples.user])
    assert not np.array_equal(*(examples.user[examples.of(c)] % size for c in (0, 1)))
    np.testing.assert_array_equal(listed.shuffled().user, examples.user)


# Users by their ids -----------------------------------------------------------------------------


@given(st.integers(0, 99), st.lists(st.integers(-5, 500), max_size=20))
def test_users_are_found_whatever_the_order_of_the_keys(seed, ids):
    keys = np.random.default_rng(seed).permutation(DATA.user_ids)
    found = replace(DATA, user_ids=keys).find_users(ids)
    known = keys.tolist()
    assert found.tolist() == [known.index(i) if i in known else -1 for i in ids]


# Random non-seeds -------------------------------------------------------------------------------

row = st.tuples(
    st.integers(0, 2), st.integers(0, 59), st.integers(0, 1), st.integers(1, 2), st.booleans()
)


def with_examples(rows, out=()):
    """The data with other examples of three campaigns: (campaign, user, label, stage, audience)."""

    def stage(own):
        table = np.array(own, int).reshape(-1, 5)
        return group_by_campaign(
            *table[:, :3].T, num_campaigns=3, audience=table[:, 4].astype(bool)
        )

    return replace(
        DATA,
        campaign_ids=DATA.campaign_ids[:3],
        campaign_rows=DATA.campaign_rows[:3],
        stage1=stage([own for own in rows if own[3] == 1]),
        stage2=stage([own for own in rows if own[3] == 2]),
        left_out=stage(out) if out else None,
    )


@given(st.lists(row, max_size=40, unique_by=lambda own: own[:2]), st.integers(0, 99))
def test_random_users_stand_in_for_missing_non_seeds(rows, seed):
    data = with_examples(rows)
    complete = data.completed(seed)
    check_data(complete)
    missing = False
    for c in range(3):
        taken = {own[1] for own in rows if own[0] == c}
        drawn = []
        for number, stage, before in (
            (1, complete.stage1, data.stage1),
            (2, complete.stage2, data.stage2),
        ):
            own = [r for r in rows if r[0] == c and r[3] == number and not r[4]]
            needs = bool(own) and all(r[2] == 1 for r in own)
            users, labels = (column[stage.of(c)] for column in (stage.user, stage.label))
            size = len(before.user[before.of(c)])
            np.testing.assert_array_equal(users[:size], before.user[before.of(c)])
            np.testing.assert_array_equal(labels[:size], before.label[before.of(c)])
            free = 60 - len(taken) - len(drawn)
            assert len(users) - size == (min(20 * len(own), free) if needs else 0)
            assert not labels[size:].any()
            assert not stage.in_audience[stage.of(c)][size:].any()
            drawn += users[size:].tolist()
            missing |= len(users) > size
        assert len({*drawn} | taken) == len(drawn) + len(taken)
        one, other = data.campaign(c, seed=seed), complete.campaign(c)
        assert (one.id, one.name) == (100 + 10 * c, f"campaign {one.id}")
        np.testing.assert_array_equal(one.rows, DATA.campaign_rows[c])
        np.testing.assert_array_equal(one.users, other.users)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert set(one.found) == {r[1] for r in rows if r[0] == c and r[3] == 1 and r[4]}
    assert (complete is data) == (not missing)


def test_feedback_does_not_change_who_else_is_drawn():
    """A user who was shown an audience is no random non-seed, also if left out of the stages."""
    seeds = [(0, user, 1, 1, False) for user in range(2)]
    before = with_examples(seeds).campaign(0)
    shown = before.users[2:6].tolist()
    out = [(0, user, 0, 1, True) for user in shown[:2]]
    data = with_examples([*seeds, (0, shown[2], 1, 1, True), (0, shown[3], 0, 2, True)], out)
    after = data.campaign(0)
    kept = [user for user in before.users.tolist() if user not in shown]
    assert [user for user in after.users.tolist() if user in kept] == kept
    assert not set(after.users[after.labels == 0]) & set(shown)
    assert (len(after.seeds), after.num_given_seeds) == (3, 2)
    users, labels, _ = data.audience_of(0)
    assert sorted(zip(users.tolist(), labels.tolist(), strict=True)) == sorted(
        [(shown[0], 0), (shown[1], 0), (shown[2], 1), (shown[3], 0)]
    )


def test_only_users_of_the_pool_are_drawn():
    data, pool = with_examples([(1, 5, 1, 1, False)]), np.arange(60) >= 50
    assert sorted(data.campaign(1, pool=pool).users) == [5, *range(50, 60)]
    with pytest.raises(InputError, match=r"^toy: .* outside the pool, so no non-seeds"):
        data.campaign(1, pool=np.arange(60) == 5)


# Names, and the vocabulary of a model -----------------------------------------------------------


def test_campaigns_and_users_by_id():
    assert [DATA.index_of(own) for own in (120, "120")] == [2, 2]
    with pytest.raises(InputError, match=r"^toy: has no campaign '121'; .* such as 120, 110"):
        DATA.index_of(121)
    assert np.flatnonzero(DATA.mask_of([10, 3])).tolist() == [0, 1]
    assert DATA.campaigns_among(["110", 130]).tolist() == [False, True, False, True]


@given(st.lists(st.sets(st.integers(0, 40), max_size=30), min_size=5, max_size=5))
def test_data_in_a_vocabulary_have_the_values_that_it_has(fields):
    own = DATA.encoded_for(DATA.schema, Vocabulary(tuple(np.array(sorted(f), int) for f in fields)))
    check_data(own)
    raw = np.concatenate([*DATA.vocabulary.values, [-1]])
    owner = np.repeat(np.arange(6), [*DATA.vocabulary.sizes, 1])
    offsets = own.vocabulary.offsets
    where = {(f, v): offsets[f] + sorted(fields[f]).index(v) for f in range(5) for v in fields[f]}
    for before, after in (
        (DATA.user_rows, own.user_rows[:]),
        (DATA.campaign_rows, own.campaign_rows),
    ):
        expected = [[where.get((owner[r], raw[r]), own.num_rows) for r in line] for line in before]
        assert after.tolist() == expected
        assert after.dtype == np.int32
    assert DATA.encoded_for(DATA.schema, DATA.vocabulary) is DATA
    back, few = own.encoded_for(DATA.schema, DATA.vocabulary), np.array([3, 50])
    known = [
        [r if (owner[r], raw[r]) in where else DATA.num_rows for r in line]
        for line in DATA.user_rows[few]
    ]
    assert back.user_rows[few].tolist() == known
    assert (back.user_rows.shape, len(back.user_rows)) == ((60, 6), 60)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_the_threshold_is_the_first_number_that_four_fifths_do_not_exceed(seeds):
    enough = [own for own in seeds if 5 * sum(other <= own for other in seeds) >= 4 * len(seeds)]
    small, threshold = small_campaigns(np.array(seeds))
    assert threshold == min(enough)
    assert small.tolist() == [own <= threshold for own in seeds]
