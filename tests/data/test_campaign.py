"""A new campaign: its seeds, the non-seeds drawn for it, and its attributes."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import dataset

from metaheac_jax.data.campaign import CampaignBrief, check_user_ids
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema, Vocabulary

DATA = dataset(campaigns=2, per_campaign=30, pool=30)  # 600 users; user i has the id 7 i + 3
# The table: 2 + 5 + 30 values of users, then 6 advertisers from row 37 and 3 categories from 43.
ATTRIBUTES = {"advertiser": 4, "category": 2}


def ids(*users):
    return [7 * user + 3 for user in users]


def non_seeds(campaign):
    return campaign.users[campaign.labels == 0]


@given(
    st.sets(st.integers(0, 599), min_size=1, max_size=40),
    st.integers(1, 30),
    st.integers(0, 2**31 - 1),
)
def test_no_seed_is_among_the_non_seeds(users, per_seed, seed):
    campaign = DATA.new_campaign(ids(*users), ATTRIBUTES, non_seeds_per_seed=per_seed, seed=seed)
    assert sorted(campaign.seeds) == sorted(users)
    others = set(non_seeds(campaign).tolist())
    assert not others & users
    assert others <= set(range(600))
    # None is drawn twice, and where the pool is too small it gives all it has.
    assert len(others) == len(non_seeds(campaign)) == min(per_seed * len(users), 600 - len(users))


def test_twenty_non_seeds_are_drawn_for_a_seed():
    campaign = DATA.new_campaign(ids(5, 17, 99), ATTRIBUTES)
    assert campaign.labels.tolist() == [1] * 3 + [0] * 60
    assert (campaign.id, campaign.name, len(campaign.unmatched)) == (None, "new campaign", 0)
    assert campaign.users.dtype == campaign.rows.dtype == np.int32
    assert campaign.labels.dtype == np.int8


def test_non_seeds_are_drawn_from_all_other_users_alike():
    data = replace(DATA, user_ids=np.arange(10), user_rows=DATA.user_rows[:10])
    drawn = [
        non_seeds(data.new_campaign([0, 6], ATTRIBUTES, non_seeds_per_seed=1, seed=seed))
        for seed in range(800)
    ]
    share = np.bincount(np.concatenate(drawn), minlength=10) / 800
    # Two of eight users: 1/4 each. 800 draws: a standard deviation is 0.0153; 4 of them.
    expected = np.where(np.isin(np.arange(10), [0, 6]), 0, 1 / 4)
    np.testing.assert_allclose(share, expected, atol=0.061)


def test_the_draw_is_a_function_of_the_seed():
    first, again, other = (
        non_seeds(DATA.new_campaign(ids(1, 2), ATTRIBUTES, seed=seed)).tolist()
        for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_other_seeds_have_other_non_seeds():
    first, second, again = (
        non_seeds(DATA.new_campaign(ids(*seeds), ATTRIBUTES, non_seeds_per_seed=2))
        for seeds in (range(20), range(20, 40), reversed(range(20)))
    )
    # Of 40 users drawn twice from some 580, 3 are shared on average.
    assert len(np.intersect1d(first, second)) < 12
    np.testing.assert_array_equal(again, first)


def test_repeated_ids_count_once_and_unknown_ones_are_counted():
    campaign = DATA.new_campaign([*ids(5, 17, 5), 4, 4, -1], ATTRIBUTES)
    assert sorted(campaign.seeds) == [5, 17]
    assert len(campaign.unmatched) == 2
    assert campaign.unmatched.tolist() == [-1, 4]
    assert len(non_seeds(campaign)) == 40
    campaign = DATA.new_campaign([*ids(5, 17), 4, -1], ATTRIBUTES, exclude=[4, *ids(17)])
    assert campaign.unmatched.tolist() == [-1]


def test_seeds_are_found_whatever_the_order_of_the_users():
    key = np.random.default_rng(0).permutation(DATA.user_ids)
    campaign = replace(DATA, user_ids=key).new_campaign(ids(5, 17), ATTRIBUTES)
    assert sorted(key[campaign.seeds]) == ids(5, 17)


def test_a_pool_smaller_than_asked_gives_all_its_users():
    campaign = DATA.new_campaign(ids(*range(100)), ATTRIBUTES)  # 2000 non-seeds, of 500 users
    assert sorted(non_seeds(campaign)) == list(range(100, 600))


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([], "no seeds; give the ids of at least one user"),
        ([1, 2, 2], "none of the 2 seeds is a user of toy"),
        (ids(*range(600)), "all 600 users are seeds, so no non-seeds can be drawn"),
        ([3.5], "expected whole numbers, got 3.5"),
        ([3.0, np.nan], "expected whole numbers, got nan"),
        ([[3, 10]], "expected a list"),
        ([[3], [10, 17]], "expected a list"),
        (["3", "10"], "expected whole numbers, got '3'"),
        ([3, 2**63], "expected whole numbers"),
    ],
)
def test_seeds_that_make_no_campaign_are_refused(seeds, said):
    with pytest.raises(InputError, match=said) as error:
        DATA.new_campaign(seeds, ATTRIBUTES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "seeds",
    [
        "ann",
        b"ann",
        5,
        [["ann", "bob"]],
        {"ann"},
        np.array([["ann"], ["bob"]]),
        np.array([[b"ann"]]),
    ],
)
def test_seeds_that_are_not_a_list_of_text_ids_are_refused(seeds):
    """A text has letters, which would be ids."""
    data = replace(DATA, user_ids=np.array([f"u{n:03d}".encode() for n in range(600)]))
    assert not len(data.new_campaign(["u003", "u017"], ATTRIBUTES).unmatched)
    with pytest.raises(InputError, match="user ids: expected") as error:
        data.new_campaign(seeds, ATTRIBUTES)
    assert "\n" not in str(error.value)


@given(
    st.sets(st.integers(0, 599), min_size=1, max_size=40),
    st.sets(st.integers(0, 599), max_size=590),
    st.integers(1, 30),
)
def test_the_excluded_are_neither_seeds_nor_non_seeds(users, excluded, per_seed):
    left, free = users - excluded, 600 - len(users | excluded)
    options = {"exclude": [*ids(*excluded), -5], "non_seeds_per_seed": per_seed}
    if not left or not free:
        with pytest.raises(InputError, match="excluded"):
            DATA.new_campaign(ids(*users), ATTRIBUTES, **options)
        return
    campaign = DATA.new_campaign(ids(*users), ATTRIBUTES, **options)
    assert set(campaign.seeds.tolist()) == left
    assert campaign.excluded_ids.tolist() == [-5, *sorted(ids(*excluded))]
    assert campaign.num_excluded == len(users) - len(left)
    others = set(non_seeds(campaign).tolist())
    assert not others & (users | excluded)
    assert len(others) == len(non_seeds(campaign)) == min(per_seed * len(left), free)


def test_non_seeds_are_drawn_alike_from_whom_is_not_excluded():
    data = replace(DATA, user_ids=np.arange(10), user_rows=DATA.user_rows[:10])
    options = {"non_seeds_per_seed": 1, "exclude": [1, 2, 3, 4]}
    drawn = [
        non_seeds(data.new_campaign([0, 6], ATTRIBUTES, seed=seed, **options))
        for seed in range(800)
    ]
    share = np.bincount(np.concatenate(drawn), minlength=10) / 800
    # Two of the users 5, 7, 8 and 9: 1/2 each. A standard deviation is 0.0177; 4 of them.
    expected = np.where(np.isin(np.arange(10), [5, 7, 8, 9]), 1 / 2, 0)
    np.testing.assert_allclose(share, expected, atol=0.071)


def test_several_campaigns_are_those_made_one_by_one():
    briefs = [
        CampaignBrief(ids(5, 17), ATTRIBUTES, "tea"),
        CampaignBrief([*ids(3, 17, 17, 99), 4], {"advertiser": 1, "category": 0}, "golf"),
    ]
    exclude = ids(99, 400)
    found = DATA.new_campaigns(briefs, exclude=exclude, seed=3, non_seeds_per_seed=7)
    assert found[0].excluded_ids is found[1].excluded_ids  # not a copy for each
    for brief, campaign in zip(briefs, found, strict=True):
        alone = DATA.new_campaign(
            brief.seeds, brief.attributes, exclude=exclude, seed=3, non_seeds_per_seed=7
        )
        assert (campaign.id, campaign.name) == (brief.name, f"campaign {brief.name}")
        for name, value in vars(alone).items():
            if name != "id":
                np.testing.assert_array_equal(getattr(campaign, name), value)
    assert DATA.new_campaigns([]) == []


@pytest.mark.parametrize(
    ("seeds", "attributes", "said"),
    [
        ([1, 2], ATTRIBUTES, "campaign golf: none of the 2 seeds is a user of toy"),
        ([], ATTRIBUTES, "campaign golf: no seeds"),
        (ids(7), ATTRIBUTES, "campaign golf: all 1 seeds in the data are excluded"),
        ([0.5], ATTRIBUTES, "campaign golf: user ids: expected whole numbers, got 0.5"),
        (ids(3), {"advertiser": 1}, "campaign golf: campaign attributes: has no 'category'"),
    ],
)
def test_a_campaign_that_cannot_be_made_is_named(seeds, attributes, said):
    briefs = [CampaignBrief(ids(5), ATTRIBUTES, "tea"), CampaignBrief(seeds, attributes, "golf")]
    with pytest.raises(InputError, match=f"^{said}"):
        DATA.new_campaigns(briefs, exclude=ids(7))


def spoilt(array, value):
    """The array with another value at its end."""
    return np.append(array[:-1], np.array(value, array.dtype))


OWN = DATA.new_campaign(ids(5, 17), ATTRIBUTES)  # 2 seeds and 40 non-seeds


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"users": OWN.users[:0], "labels": OWN.labels[:0]}, "no examples; give it seeds and"),
        ({"labels": OWN.labels[1:]}, "42 users and 41 labels; expected equal numbers"),
        ({"users": spoilt(OWN.users, -1)}, "a user's index is not in 0 to 599"),
        ({"users": spoilt(OWN.users, 600)}, "a user's index is not in 0 to 599"),
        ({"rows": OWN.rows[:1]}, r"attributes of shape \(1,\), expected \(2,\)"),
        ({"labels": spoilt(OWN.labels, 2)}, "a label is neither 1"),
    ],
)
def test_a_campaign_that_does_not_belong_to_the_data_is_refused(change, said):
    OWN.check(600, 2)
    with pytest.raises(InputError, match=f"^new campaign: {said}"):
        replace(OWN, **change).check(600, 2)


def test_a_rate_of_no_non_seeds_is_refused():
    with pytest.raises(InputError, match="non_seeds_per_seed: expected a whole number"):
        DATA.new_campaign(ids(1), ATTRIBUTES, non_seeds_per_seed=0)


# Attributes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "rows"),
    [
        ({"advertiser": 4, "category": 2}, [37 + 4, 43 + 2]),
        ({"category": 0, "advertiser": 5}, [37 + 5, 43 + 0]),
        ({"advertiser": "4", "category": 2.0}, [37 + 4, 43 + 2]),  # as a table or a command has it
        ({"advertiser": 6, "category": -1}, [46, 46]),  # unseen: the pad id
        ({"advertiser": 2**70, "category": 1}, [46, 43 + 1]),
    ],
)
def test_attributes_become_rows_of_the_table(attributes, rows):
    assert DATA.new_campaign(ids(1), attributes).rows.tolist() == rows


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"advertiser": 4}, "has no 'category'; expected advertiser, category"),
        ({}, "has no 'advertiser'"),
        (ATTRIBUTES | {"colour": 1}, "has an unknown 'colour'; expected advertiser, category"),
        (ATTRIBUTES | {"gender": 1}, "has an unknown 'gender'"),  # a field of users
        (ATTRIBUTES | {"category": "games"}, "category is 'games', expected a whole number"),
        (ATTRIBUTES | {"category": None}, "category is None, expected a whole number"),
        (ATTRIBUTES | {"category": [1]}, r"category is \[1\], expected a whole number"),
        (ATTRIBUTES | {"category": 1.5}, "category is 1.5, expected a whole number"),
        (ATTRIBUTES | {"category": np.nan}, "category is nan, expected a whole number"),
        (ATTRIBUTES | {"category": np.inf}, "category is inf, expected a whole number"),
    ],
)
def test_attributes_that_the_schema_does_not_have_are_refused(attributes, said):
    with pytest.raises(InputError, match=f"^campaign attributes: {said}") as error:
        DATA.new_campaign(ids(1), attributes)
    assert "\n" not in str(error.value)


def test_attributes_of_a_field_of_strings():
    data = replace(
        DATA,
        schema=Schema((Field("gender"),), (Field("genre"),)),
        vocabulary=Vocabulary((np.array([0, 1]), np.array(["1", "drama", "war"]))),
    )
    # Rows 2, 3 and 4 are the genres', and 5 is the pad id.
    for value, row in (("drama", 3), (1, 2), ("horror", 5)):
        assert data.new_campaign(ids(1), {"genre": value}).rows.tolist() == [row]


@pytest.mark.parametrize(
    "wrong", [b"007", b"-0", b"+7", b" 7", b"7.0", b"9223372036854775808", b""]
)
def test_text_ids_that_are_whole_numbers_are_those_numbers(wrong):
    right = [b"7", b"-7", b"0", b"-9223372036854775808", b"9223372036854775807"]
    ids = check_user_ids(np.array(right))
    assert ids.dtype == np.int64
    assert ids.tolist() == [int(own) for own in right]
    with pytest.raises(InputError, match=re.escape(f"whole numbers, got {wrong.decode()!r}")):
        check_user_ids(np.array([*right, wrong]))
