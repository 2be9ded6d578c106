"""Examples grouped by campaign, campaigns with their examples, and users found by their ids."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from toy import dataset

from metaheac_jax.data import dataset as module
from metaheac_jax.data.campaign_record import CampaignRecord
from metaheac_jax.data.dataset import SensitiveField
from metaheac_jax.data.examples import Examples, group_by_campaign, is_repeat
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Vocabulary

DATA = dataset(users=60, campaigns=4, per_campaign=30, pool=30)


@given(st.data(), st.integers(1, 6), st.integers(0, 40))
def test_group_by_campaign_keeps_every_example_in_order(data, campaigns, count):
    def column(most):
        return data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, most)))

    campaign, user, label = column(campaigns - 1), column(1000), column(1)
    probability = user / 1024  # exact in float32
    groups = group_by_campaign(
        campaign, user, label, num_campaigns=campaigns, probability=probability
    )
    assert groups.offsets.shape == (campaigns + 1,)
    for c in range(campaigns):
        mine = groups.of(c)
        np.testing.assert_array_equal(groups.user[mine], user[campaign == c])
        np.testing.assert_array_equal(groups.label[mine], label[campaign == c])
        np.testing.assert_array_equal(groups.probability[mine], probability[campaign == c])
        assert groups.counts[c] == (campaign == c).sum()
        assert groups.positives[c] == label[campaign == c].sum()
    columns = (groups.offsets, groups.user, groups.label, groups.probability)
    assert [a.dtype for a in columns] == [np.int64, np.int32, np.int8, np.float32]


def test_shuffled_examples_do_not_tell_the_label_by_their_order():
    """Campaigns list their seeds first, as the competition's test1_truth.csv does."""
    size, campaigns = 4000, 5
    campaign = np.repeat(np.arange(campaigns), size)
    user = np.arange(campaigns * size)
    label = (user % size < size // 4).astype(int)
    listed = group_by_campaign(
        campaign, user, label, num_campaigns=campaigns, probability=user / campaigns / size
    )
    examples = listed.shuffled()
    np.testing.assert_array_equal(examples.offsets, listed.offsets)
    for c in range(campaigns):
        of = examples.of(c)
        np.testing.assert_array_equal(np.sort(examples.user[of]), user[of])
        first, second = examples.label[of].reshape(2, -1).mean(axis=1)
        assert abs(first - second) < 5 * np.sqrt(2 * 0.25 * 0.75 / (size / 2))
    # Columns stay together, campaigns have orders of their own, and calls agree.
    np.testing.assert_array_equal(examples.label, label[examples.user])
    np.testing.assert_array_equal(examples.probability, listed.probability[examples.user])
    assert not np.array_equal(*(examples.user[examples.of(c)] % size for c in (0, 1)))
    np.testing.assert_array_equal(listed.shuffled().user, examples.user)


def test_a_known_campaign_has_its_stage_one_examples():
    campaign, of = DATA.campaign(2), DATA.stage1.of(2)
    assert (campaign.id, campaign.name) == (120, "campaign 120")
    np.testing.assert_array_equal(campaign.rows, DATA.campaign_rows[2])
    np.testing.assert_array_equal(campaign.users, DATA.stage1.user[of])
    np.testing.assert_array_equal(campaign.labels, DATA.stage1.label[of])
    np.testing.assert_array_equal(campaign.seeds, DATA.stage1.user[of][DATA.stage1.label[of] == 1])
    assert not len(campaign.unmatched)


def test_a_layout_says_where_the_fields_lie():
    layout = DATA.layout
    assert layout.user_slots == (1, 1, 4)
    assert layout.small_fields == (2, 5, 30)
    assert layout.num_campaign_fields == 2
    assert (DATA.num_users, DATA.num_campaigns, DATA.num_rows) == (60, 4, 46)


# Users by their ids -----------------------------------------------------------------------------


@given(st.integers(0, 99), st.lists(st.integers(-5, 500), max_size=20), st.integers(1, 70))
def test_users_are_found_whatever_the_order_of_the_keys(seed, ids, block):
    keys = np.random.default_rng(seed).permutation(DATA.user_ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        found = replace(DATA, user_ids=keys).find_users(ids)
    known = keys.tolist()
    assert found.tolist() == [known.index(i) if i in known else -1 for i in ids]


def test_ids_may_be_any_whole_numbers():
    key = np.array([-(2**63), -1, 2**60 + 1, 2**63 - 1])
    data = replace(DATA, user_ids=key, user_rows=DATA.user_rows[:4])
    assert data.find_users(key[::-1].tolist()).tolist() == [3, 2, 1, 0]
    assert data.find_users(np.array([2**63 - 1], np.uint64)).tolist() == [3]
    assert data.find_users(np.array([-1], np.int8)).tolist() == [1]
    assert data.find_users([-1.0, 7.0]).tolist() == [1, -1]  # as a table with gaps has them
    assert data.find_users([]).tolist() == []


def test_data_without_campaigns_are_whole():
    none = np.empty(0, np.int64)
    stage = Examples(np.zeros(1, np.int64), none.astype(np.int32), none.astype(np.int8))
    data = replace(DATA, campaign_ids=none, campaign_rows=DATA.campaign_rows[:0])
    replace(data, stage1=stage, stage2=stage).check()


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([10, 3.5], "expected whole numbers, got 3.5"),
        ([10.0, np.nan], "expected whole numbers, got nan"),
        ([np.inf], "expected whole numbers, got inf"),
        ([2.0**53], "expected whole numbers, got 9007199254740992.0"),  # or 2**53 + 1, rounded
        ([[3], [10]], r"expected a list, got an array of shape \(2, 1\)"),
        ([[3], [10, 17]], "expected a list, got lists of different lengths"),
        (3, r"expected a list, got an array of shape \(\)"),
        (["3"], "expected whole numbers, got '3'"),
        (["3\n4"], "expected whole numbers"),
        ([None], "expected whole numbers, got None"),
        ([2**63], "expected whole numbers, got 9223372036854775808"),
        ([3, 2**63], "expected whole numbers, got 9.22"),  # numpy makes floats of these
        ([-1, 2**63], "expected whole numbers, got 9.22"),
        ([2**64], "expected whole numbers, got 18446744073709551616"),
    ],
)
def test_what_is_no_list_of_whole_numbers_is_refused(ids, said):
    with pytest.raises(InputError, match=f"^user ids: {said}") as error:
        DATA.find_users(ids)
    assert "\n" not in str(error.value)


def test_finding_users_needs_no_memory_for_the_others():
    def peak(num_users):
        data = replace(DATA, user_ids=np.arange(num_users))
        tracemalloc.start()
        data.find_users([5, num_users - 1])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    blocks = 4 * module._BLOCK
    assert peak(4 * blocks) < 1.1 * peak(blocks)


@given(st.lists(st.integers(0, 9)), st.sampled_from(["i8", "S1"]))
def test_a_repeat_equals_an_earlier_value(values, kind):
    expected = [value in values[:place] for place, value in enumerate(values)]
    assert is_repeat(np.array(values, kind)).tolist() == expected


@pytest.mark.parametrize("keys", [np.array([5, 9, 5, 7]), np.array([b"e", b"i", b"e", b"g"], "S4")])
def test_a_user_with_several_rows(keys):
    user_ids = np.concatenate([keys, np.arange(100, 156).astype(keys.dtype)])
    data = replace(DATA, user_ids=user_ids)
    name = {"i": "5", "S": "e"}[keys.dtype.kind]
    with pytest.raises(InputError, match=f"toy: user_ids: user {name} has several rows"):
        data.check()
    data.check_one_row_per_user()  # only what the data says of itself
    several = replace(data, one_row_per_user=False)
    several.check()
    with pytest.raises(InputError, match="toy: user_ids: a user may have several rows, so no aud"):
        several.check_one_row_per_user()


# What does not fit together ---------------------------------------------------------------------

SEX = SensitiveField(np.array(["f", "m"]), np.tile(np.array([[0], [1], [2]], np.int32), (20, 1)))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("city", {}, "is a field of the model as well"),
        ("sex", {"values": np.array(["f", "f"])}, "values are not distinct texts"),
        ("sex", {"values": np.array([1, 2])}, "values are not distinct texts"),
        (
            "sex",
            {"codes": SEX.codes[:-1]},
            r"codes of shape \(59, 1\), expected one row for each of 60 users",
        ),
        (
            "sex",
            {"codes": SEX.codes[:, 0]},
            r"codes of shape \(60,\), expected one row for each of 60 users",
        ),
        ("sex", {"codes": SEX.codes * 1.0}, "codes are float64, expected whole numbers"),
        ("sex", {"codes": SEX.codes + 1}, "a code is not in 0 to 2"),
        ("sex", {"codes": SEX.codes - 1}, "a code is not in 0 to 2"),
    ],
)
def test_a_sensitive_field_that_does_not_fit_is_named(name, change, said):
    replace(DATA, sensitive={"sex": SEX}).check()
    with pytest.raises(InputError, match=f"^toy: sensitive field '{name}': {said}"):
        replace(DATA, sensitive={name: replace(SEX, **change)}).check()


def spoilt(array, at, value):
    array = np.array(array)
    array[at] = value
    return array


def stage(**change):
    return {"stage1": replace(DATA.stage1, **change)}


OFFSETS, VALUES = DATA.stage1.offsets, DATA.vocabulary.values


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocabulary": Vocabulary(VALUES[:-1])}, "vocabulary: 4 fields, expected 5"),
        ({"vocabulary": Vocabulary((VALUES[0][::-1], *VALUES[1:]))}, "values of 'gender': not asc"),
        ({"user_rows": DATA.user_rows[:, 1:]}, r"user_rows: shape \(60, 5\), expected \(60, 6\)"),
        ({"user_rows": DATA.user_rows * 1.0}, "user_rows: float64, expected whole numbers"),
        (
            {"user_rows": spoilt(DATA.user_rows, (57, 0), 2)},
            "user_rows: row 57 has 2, which",
        ),
        (
            {"user_rows": spoilt(DATA.user_rows, (57, 1), 1)},
            "user_rows: row 57 has 1, which",
        ),
        ({"campaign_rows": spoilt(DATA.campaign_rows, (3, 1), 42)}, "campaign_rows: row 3 has 42"),
        ({"user_ids": DATA.user_ids[1:]}, "user_ids: 59 ids, 60 users"),
        ({"user_ids": DATA.user_ids.astype(str)}, "user_ids: <U"),
        ({"campaign_ids": DATA.campaign_ids[::-1]}, "campaign_ids: not ascending and distinct"),
        (stage(label=DATA.stage1.label[1:]), "stage1: 120 users and 119 labels"),
        (stage(offsets=OFFSETS[:-1]), "stage1 offsets: do not divide"),
        (stage(offsets=spoilt(OFFSETS, 0, 1)), "stage1 offsets: do not divide"),
        (stage(offsets=spoilt(OFFSETS, -1, 119)), "stage1 offsets: do not divide"),
        (stage(offsets=spoilt(OFFSETS, 1, 61)), "stage1 offsets: do not divide"),
        (stage(user=spoilt(DATA.stage1.user, 5, 60)), "stage1 users: an index is not in 0 to 59"),
        (stage(user=spoilt(DATA.stage1.user, 5, -1)), "stage1 users: an index is not in 0 to 59"),
        (stage(label=spoilt(DATA.stage1.label, 5, 2)), "stage1 labels: 2, expected 1"),
        (stage(probability=np.full(120, 1.5)), "stage1 probability: not one number"),
        (stage(probability=np.full(119, 0.5)), "stage1 probability: not one number"),
        (
            {"stage2": replace(DATA.stage2, user=spoilt(DATA.stage2.user, 5, 60))},
            "stage2 users: an index is not in 0 to 59",
        ),
    ],
)
def test_columns_that_do_not_fit_together_are_named(change, said, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 7)  # row 57 is in the ninth block
    DATA.check()
    with pytest.raises(InputError, match=f"^toy: {said}"):
        replace(DATA, **change).check()


# Campaigns by their records ---------------------------------------------------------------------

ATTRIBUTES = {"advertiser": 4, "category": 9}  # there are categories 0 to 2


def text_world():
    """The same data with text as ids of users (u3, u10, ...) and campaigns (c100, ...)."""
    users, campaigns = (
        np.array([f"{letter}{key}".encode() for key in keys])
        for letter, keys in (("u", DATA.user_ids), ("c", DATA.campaign_ids))
    )
    return replace(DATA, user_ids=users, campaign_ids=campaigns)


def record(name="tea", users=(5, 1, 7), labels=(1, 0, 1), text=True):
    """By user index; 99 is nobody."""
    ids = 7 * np.array(users) + 3
    if text:
        ids = np.array([f"u{user_id}".encode() for user_id in ids])
    return CampaignRecord(name, ATTRIBUTES, ids, np.array(labels, np.int8))


@pytest.mark.parametrize("text", [False, True])
def test_a_recorded_campaign_has_the_users_that_the_data_has(text):
    data = text_world() if text else DATA
    own = data.recorded_campaign(record(users=(5, 99, 1, 98, 7), labels=(1, 1, 0, 0, 1), text=text))
    assert own.users.tolist() == [5, 1, 7]
    assert own.labels.tolist() == [1, 0, 1]
    assert own.users.dtype == own.rows.dtype == np.int32
    assert (own.id, own.unknown_attributes) == ("tea", ("category",))
    assert own.unmatched.tolist() == [b"u696" if text else 696]
    new = DATA.new_campaign([10], ATTRIBUTES)
    np.testing.assert_array_equal(own.rows, new.rows)
    assert own.attributes == new.attributes == ATTRIBUTES
    own.check(data.num_users, 2)


@pytest.mark.parametrize("text", [False, True])
def test_users_are_remembered_and_others_still_found(monkeypatch, text):
    monkeypatch.setattr(module, "_BLOCK", 7)
    plain = text_world() if text else DATA
    others = np.array([b"nobody"] if text else [10**9])
    ids = np.concatenate([plain.user_ids[[9, 3, 20, 3]], others])
    reads = []
    known = plain.remember(ids)
    note = lambda *_: reads.append(_)  # noqa: E731
    for part in ((0, 1), (0, 2), (1, 2), (2, 3)):
        expected = plain.find_users(ids, part=part)
        np.testing.assert_array_equal(known.find_users(ids, part=part, progress=note), expected)
    np.testing.assert_array_equal(known.find_users(ids[1:3], progress=note), [3, 20])
    assert not reads
    more = np.concatenate([ids, plain.user_ids[5:6]])
    assert known.find_users(more, progress=note)[-1] == 5
    assert reads
    assert plain.remembered is None
    assert known.remember([]).find_users(ids[:1]).tolist() == [9]


def test_a_record_without_a_seed_in_the_data_is_refused():
    with pytest.raises(InputError, match="campaign tea: none of its 1 seeds is a user of toy"):
        text_world().recorded_campaign(record(users=(99, 5), labels=(1, 0)))


def test_campaigns_join_the_data_and_change_nothing_else():
    data = text_world()
    records = [record("z"), record("c105", users=(2, 99, 3, 4), labels=(0, 1, 1, 0))]
    joined = data.with_campaigns(records)
    joined.check()
    names = [b"c100", b"c105", b"c110", b"c120", b"c130", b"z"]
    assert joined.campaign_ids.tolist() == names
    for index, name in enumerate(names):
        if name in data.campaign_ids:
            old = data.campaign(data.campaign_ids.tolist().index(name))
        else:
            old = data.recorded_campaign(records[name == b"c105"])
        new = joined.campaign(index)
        for one, other in ((old.rows, new.rows), (old.users, new.users), (old.labels, new.labels)):
            np.testing.assert_array_equal(one, other)
    # The pools stay with their campaigns; the new ones have none.
    for name in names:
        index = names.index(name)
        of = joined.stage2.of(index)
        if name not in data.campaign_ids:
            assert of.start == of.stop
            continue
        before = data.stage2.of(data.campaign_ids.tolist().index(name))
        for column in ("user", "label", "probability"):
            one, other = (getattr(d.stage2, column) for d in (data, joined))
            np.testing.assert_array_equal(one[before], other[of])
    assert joined.user_rows is data.user_rows
    assert data.num_campaigns == 4


def test_a_campaign_of_data_with_whole_numbers_is_named_by_one():
    names = ("115", "-5", str(2**63 - 1), str(-(2**63)))
    joined = DATA.with_campaigns([record(name, text=False) for name in names])
    assert joined.campaign_ids.tolist() == sorted([100, 110, 120, 130, *map(int, names)])
    assert joined.campaign_ids.dtype == DATA.campaign_ids.dtype
    for name in ("tea", "007", "-0", "1e3", " 7", str(2**63), "1" * 30):
        words = f"campaign {name}: the campaign ids of toy are whole numbers"
        with pytest.raises(InputError, match=words):
            DATA.with_campaigns([record(name, text=False)])


@pytest.mark.parametrize("names", [["c110"], ["tea", "tea"]])
def test_a_campaign_that_is_there_already_is_refused(names):
    with pytest.raises(InputError, match=f"campaign {names[-1]} already exists"):
        text_world().with_campaigns([record(name) for name in names])


def test_examples_of_some_users_are_left_out_of_both_stages(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 7)
    left = DATA.user_ids[::3]
    kept = DATA.without_examples_of([*left.tolist(), 10**9])
    for stage in ("stage1", "stage2"):
        before, after = getattr(DATA, stage), getattr(kept, stage)
        for c in range(DATA.num_campaigns):
            mine = before.of(c)
            stays = ~np.isin(DATA.user_ids[before.user[mine]], left)
            assert 0 < stays.sum() < len(stays)
            np.testing.assert_array_equal(after.user[after.of(c)], before.user[mine][stays])
            np.testing.assert_array_equal(after.label[after.of(c)], before.label[mine][stays])
    assert kept.num_users == DATA.num_users


def test_a_users_other_rows_are_left_out_too():
    ids = np.repeat(DATA.user_ids[: DATA.num_users // 2], 2)
    data = replace(DATA, user_ids=ids, one_row_per_user=False)
    kept = data.without_examples_of(ids[:9].tolist())
    assert len(kept.stage1.user) < len(data.stage1.user)
    assert not np.isin(ids[kept.stage1.user], ids[:9]).any()
    assert len(kept.stage1.user) == (~np.isin(ids[data.stage1.user], ids[:9])).sum()


def test_without_new_campaigns_nothing_changes():
    joined = DATA.with_campaigns([])
    np.testing.assert_array_equal(joined.campaign_ids, DATA.campaign_ids)
    np.testing.assert_array_equal(joined.stage1.user, DATA.stage1.user)
