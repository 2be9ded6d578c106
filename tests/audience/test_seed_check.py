"""The seeds check, counted by hand."""

from dataclasses import replace

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


def test_seeds_of_a_folder_are_told_from_those_that_feedback_added():
    """Four of five first seeds are in the data, and two users who converted later."""
    campaign = DATA.new_campaign(
        [3, 10, 17, 24, 31, 38], {"advertiser": 1, "category": 0}, exclude=[45]
    )
    campaign = replace(campaign, found=campaign.seeds[[1, 4]])
    check = SeedCheck.of_folder(campaign, 5)
    assert check == SeedCheck(given=5, distinct=5, found=4, excluded=0, from_feedback=2)
    assert check.used == 6
    assert check.line() == (
        "seeds: 5 given, 5 distinct, 4 of them users of the data (80%); 2 more from feedback"
    )
    assert SeedCheck.of_folder(campaign, 0).match_percent == "-"


def test_no_unknown_seed_is_rounded_away():
    assert SeedCheck(given=603, distinct=603, found=600, excluded=0).match_percent == "99%"
    assert SeedCheck(given=603, distinct=603, found=603, excluded=0).match_percent == "100%"
