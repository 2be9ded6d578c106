"""The seeds check, counted by hand."""

from toy import dataset

from metaheac_jax.audience.seed_check import SeedCheck

DATA = dataset(users=60, campaigns=3, per_campaign=40, pool=30)  # user i has the id 7 i + 3


def test_seeds_are_counted():
    given = [3, 10, 10, 17, 24, 4, 5, 4]  # four users, one twice, and two unknown ids
    campaign = DATA.new_campaign(given, {"advertiser": 1, "category": 0}, exclude=[24, 31, 5])
    check = SeedCheck.of(campaign, given)
    assert check == SeedCheck(given=8, distinct=6, found=4, excluded=1)
    assert check.used == len(campaign.seeds) == 3
    assert check.match_percent == "66%"


def test_no_unknown_seed_is_rounded_away():
    assert SeedCheck(given=603, distinct=603, found=600, excluded=0).match_percent == "99%"
    assert SeedCheck(given=603, distinct=603, found=603, excluded=0).match_percent == "100%"
