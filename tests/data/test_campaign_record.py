"""Feedback: neither order nor repetition matters; campaigns with it have each user once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import by_user

from metaheac_jax.data.campaign_record import CampaignRecord, Feedback
from metaheac_jax.data.sources.column_campaigns import stages_of
from metaheac_jax.errors import InputError

RECORDS = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12)


def ids(numbers, text):
    return (
        np.array([f"user-{n}".encode() for n in numbers], "S") if text else np.array(numbers, int)
    )


def feedback(records, text=False):
    users = ids([user for user, _ in records], text)
    return Feedback.of(users, np.array([converted for _, converted in records], bool))


def same(one, other):
    np.testing.assert_array_equal(one.user_ids, other.user_ids)
    np.testing.assert_array_equal(one.converted, other.converted)


def test_ids_may_be_of_any_kind_that_an_audience_has():
    text = Feedback.of(np.array(["bob", "ann", "bob"]), [False, True, True])
    assert text.user_ids.tolist() == [b"ann", b"bob"]
    assert text.converted.tolist() == [True, True]
    same(Feedback.of(["bob", "ann", "bob"], [False, True, True]), text)
    assert Feedback.of([7, 3], [True, False]).user_ids.tolist() == [3, 7]
    for ids, words in (([1.5], "whole numbers, got 1.5"), ([1, 2], "2 user ids and 1 outcomes")):
        with pytest.raises(InputError, match=words):
            Feedback.of(ids, [True])


@given(RECORDS)
def test_a_user_has_converted_if_any_record_says_so(records):
    expected = {}
    for user, converted in records:
        expected[user] = expected.get(user, False) or converted
    found = feedback(records)
    assert by_user(found) == expected
    assert found.user_ids.tolist() == sorted(expected)
    assert len(found) == len(expected)


@given(RECORDS, RECORDS, RECORDS, st.booleans())
def test_merging_is_a_union_whatever_the_order_and_repetition(one, two, three, text):
    a, b, c = (feedback(records, text) for records in (one, two, three))
    same(a.merge(b).merge(c), feedback([*one, *two, *three], text))
    same(a.merge(b), b.merge(a))
    same(a.merge(b).merge(c), a.merge(b.merge(c)))
    same(a.merge(b).merge(b).merge(a), a.merge(b))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=9, unique_by=lambda e: e[0]),
    RECORDS,
    st.booleans(),
)
def test_a_campaign_with_feedback_has_each_user_once(examples, records, text):
    record = CampaignRecord(
        "tea", {"topic": 3}, ids([u for u, _ in examples], text), np.array([s for _, s in examples])
    )
    found = record.with_feedback(feedback(records, text))
    expected = {}
    for user, seed in [*examples, *records]:
        expected[user] = expected.get(user, False) or seed
    labels = dict(zip(found.user_ids.tolist(), found.labels.tolist(), strict=True))
    assert labels == dict(
        zip(ids(list(expected), text).tolist(), map(int, expected.values()), strict=True)
    )
    assert len(found.user_ids) == len(expected)
    # What the campaign began with comes first, as it was.
    np.testing.assert_array_equal(found.user_ids[: len(examples)], record.user_ids)
    assert (found.name, found.attributes) == ("tea", {"topic": 3})


@given(st.lists(st.booleans(), min_size=1), st.booleans(), st.floats(0, 1), st.floats(0, 1))
def test_a_sample_has_all_converts_and_grows_with_its_share(converted, text, one, other):
    told = feedback([(7 * user, own) for user, own in enumerate(converted)], text)
    small, large = (told.sample(share, b"tea") for share in sorted((one, other)))
    assert set(told.user_ids[told.converted]) <= set(small.user_ids) <= set(large.user_ids)
    assert set(large.user_ids) <= set(told.user_ids)
    for own in (small, large):
        kept = np.isin(told.user_ids, own.user_ids)
        np.testing.assert_array_equal(own.converted, told.converted[kept])
    part = Feedback(told.user_ids[::2], told.converted[::2]).sample(one, b"tea")
    assert set(part.user_ids) == set(told.sample(one, b"tea").user_ids) & set(told.user_ids[::2])
    assert len(told.sample(1.0, b"tea")) == len(told)
    assert len(told.sample(0.0, b"tea")) == told.converted.sum()


def test_a_sample_has_its_share_and_is_not_that_of_another_purpose():
    """40,000 draws: a standard deviation is .0023; 5 of them."""
    users = np.arange(40_000)
    told = Feedback.of(users, np.zeros(len(users), bool))
    kept = told.sample(0.3, b"tea").user_ids
    assert abs(len(kept) / len(users) - 0.3) < 0.0115
    for others in (stages_of(users) == 2, np.isin(users, told.sample(0.3, b"golf").user_ids)):
        assert abs(others[kept].mean() - 0.3) < 0.0212  # 12,000 of them


def test_campaigns_of_other_seeds_have_another_digest():
    """The form of the ids, their order and the non-seeds do not matter."""

    def digest(seeds, others, text=False):
        users, labels = np.array([*seeds, *others]), np.repeat([1, 0], [len(seeds), len(others)])
        return CampaignRecord("tea", {}, users.astype("S") if text else users, labels).seeds_digest

    own = digest([10, 9, 2], [4])
    assert own == digest([2, 9, 10], [5, 6]) == digest([9, 2, 10], [4], text=True)
    others = [digest([10, 9], [4]), digest([10, 9, 3], [4]), digest([109, 2], [4])]
    assert len({own, *others}) == 4
    assert len(own) == 8


@pytest.mark.parametrize("width", [1, 7])
def test_ids_of_other_widths_are_not_cut(width):
    record = CampaignRecord("tea", {}, np.array([b"ann"]), np.array([1], np.int8))
    long = np.array([b"ann" + b"x" * width])
    found = record.with_feedback(Feedback.of(long, np.array([False])))
    assert found.user_ids.tolist() == [b"ann", *long.tolist()]
    assert found.labels.tolist() == [1, 0]


def test_user_ids_of_another_kind_are_refused():
    record = CampaignRecord("tea", {}, np.arange(5), np.ones(5, np.int8))
    text = np.array([b"1", b"2", b"3"])
    told, own = (Feedback.of(ids, np.array([1, 0, 1])) for ids in (text, np.arange(3)))
    words = "user ids: expected whole numbers, as the campaign has, got text in UTF-8 bytes; give"
    for combine in (
        lambda: record.without(text),
        lambda: record.with_feedback(told),
        lambda: own.merge(told),
    ):
        with pytest.raises(InputError, match=words):
            combine()
    # Whole numbers of any type are, and so is nobody.
    few = Feedback.of(np.array([3], np.uint32), np.array([1]))
    assert own.merge(few).user_ids.tolist() == [0, 1, 2, 3]
    assert record.without(np.array([1, 2], np.uint64)).user_ids.tolist() == [0, 3, 4]
    assert record.without(np.array([])).user_ids.tolist() == [0, 1, 2, 3, 4]
