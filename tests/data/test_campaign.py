"""A new campaign: its seeds, and the non-seeds drawn for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import dataset

from metaheac_jax.data.campaign import draw_by_id, draw_non_seeds
from metaheac_jax.errors import InputError

DATA = dataset(campaigns=2, per_campaign=30, pool=30)  # 600 users; user i has the id 7 i + 3
# The table: 2 + 5 + 30 values of users, then 6 advertisers from row 37 and 3 categories from 43.
ATTRIBUTES = {"advertiser": 4, "category": 2}
users = st.sets(st.integers(0, 59), max_size=59)


def ids(*indices):
    return [7 * user + 3 for user in indices]


@given(users, users, users, st.integers(0, 2**31 - 1))
def test_all_who_may_be_drawn_are_drawn_alike(seeds, taken, outside, seed):
    pool = ~np.isin(np.arange(60), [*outside])
    drawn = draw_non_seeds(60, np.array([*seeds], int), seed, taken=[*taken], pool=pool)
    free = set(range(60)) - seeds - taken - outside
    assert set(drawn.tolist()) <= free
    assert len(set(drawn.tolist())) == len(drawn) == min(20 * len(seeds), len(free))
    again = draw_non_seeds(60, np.array([*seeds][::-1], int), seed, taken=[*taken], pool=pool)
    np.testing.assert_array_equal(drawn, again)


def test_non_seeds_are_uniform_and_depend_on_seed_and_seeds():
    options = {"taken": [4], "pool": np.arange(50) < 45}
    drawn = [draw_non_seeds(50, np.array([0]), seed, **options) for seed in range(800)]
    share = np.bincount(np.concatenate(drawn), minlength=50) / 800
    # Twenty of 43 users. 800 draws: a standard deviation is 0.018; 4.5 of them.
    expected = np.where(np.isin(np.arange(50), [0, 4, *range(45, 50)]), 0, 20 / 43)
    np.testing.assert_allclose(share, expected, atol=0.08)
    one, other = (draw_non_seeds(600, np.arange(k, k + 2), 0) for k in (0, 20))
    assert len(np.intersect1d(one, other)) < 12  # of 40 users drawn twice, 3 are shared on average


def test_a_draw_by_id_is_that_of_every_version():
    draws = draw_by_id(np.array([b"u1", b"7"]))
    np.testing.assert_allclose(draws, [0.706114792, 0.226717118], rtol=1e-6)
    assert draw_by_id(np.array([7]))[0] == draws[1]
    many = draw_by_id(np.arange(20_000), b"purpose")
    assert abs(many.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 20_000)
    assert not np.array_equal(many, draw_by_id(np.arange(20_000)))


def test_a_new_campaign_has_twenty_non_seeds_for_a_seed():
    with pytest.warns(UserWarning, match="^seeds: 3 of 5 ids are users; 2 are not, such as 4 "):
        campaign = DATA.new_campaign([*ids(17, 5, 17, 99), 4, 4, -1], ATTRIBUTES)
    assert campaign.labels.tolist() == [1] * 3 + [0] * 60
    assert campaign.seeds.tolist() == [5, 17, 99]
    assert (campaign.id, campaign.name) == (None, "new campaign")
    assert campaign.rows.tolist() == [37 + 4, 43 + 2]
    assert campaign.users.dtype == campaign.rows.dtype == np.int32
    assert campaign.labels.dtype == np.int8
    assert (campaign.num_given_seeds, campaign.unknown_attributes) == (3, ())
    unknown = DATA.new_campaign(ids(5), {"advertiser": 6, "category": 1}).unknown_attributes
    assert unknown == ("advertiser",)
    pool = np.arange(600) >= 590
    campaign = DATA.new_campaign(ids(5), ATTRIBUTES, pool=pool)  # there are too few
    assert sorted(campaign.users) == [5, *range(590, 600)]


@pytest.mark.parametrize(
    ("seeds", "options", "said"),
    [
        ([], {}, "seeds: there are none"),
        ([1, 2, 2], {}, "seeds: 0 of 2 ids are users; 2 are not, such as 1 "),
        (ids(*range(600)), {}, "all 600 users are examples"),
        (ids(1), {"pool": np.zeros(600, bool)}, "outside the pool, so no non-seeds"),
        (ids(1), {"seed": -1}, "seed: expected a whole number"),
    ],
)
def test_seeds_that_make_no_campaign_are_refused(seeds, options, said):
    with pytest.raises(InputError, match=said) as error:
        DATA.new_campaign(seeds, ATTRIBUTES, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"advertiser": 4}, "has no 'category'; expected advertiser, category"),
        (ATTRIBUTES | {"gender": 1}, "has an unknown 'gender'"),  # a field of users
    ],
)
def test_attributes_that_the_schema_does_not_have_are_refused(attributes, said):
    with pytest.raises(InputError, match=f"^campaign attributes: {said}"):
        DATA.new_campaign(ids(1), attributes)
