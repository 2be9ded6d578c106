"""Held-out seeds: a fifth, unseen by the model."""

from dataclasses import replace

import numpy as np
import pytest
from fixed_scores import ATTRIBUTES, DATA, fixed_method, held_out, tokens

from metaheac_jax.audience.held_out_seeds import hold_out_seeds, seen_in_training
from metaheac_jax.errors import InputError
from metaheac_jax.model import AddedCampaign


def test_the_model_does_not_see_them():
    seen = []
    held = held_out(tokens, seen=seen)
    campaign = DATA.new_campaign(DATA.user_ids[:100], ATTRIBUTES, non_seeds_per_seed=1)
    [kept] = seen
    assert (len(held.users), len(kept.seeds), held.num_seeds) == (20, 80, 100)
    assert set(held.users) | set(kept.seeds) == set(campaign.seeds)
    assert set(kept.users) < set(campaign.users) - set(held.users)
    assert (kept.labels == 0).sum() == 80
    assert held.model.campaign is kept
    assert set(held.left_out) == set(campaign.seeds)
    assert set(held.known) == {*held.users, *kept.users}


def test_users_with_feedback_are_not_held_out():
    """Their model's own audience found them, so they say nothing of what else it finds."""
    seen = []
    campaign = DATA.new_campaign(DATA.user_ids[:100], ATTRIBUTES, non_seeds_per_seed=1)
    campaign = replace(campaign, found=np.arange(10, 50))
    method = fixed_method(tokens, seen)
    held = hold_out_seeds(method, method.fit(DATA), DATA, campaign)
    assert len(held.users) == 12
    assert not set(held.users) & set(range(10, 50))
    assert set(range(10, 50)) < set(seen[0].seeds)
    words = "new campaign: 49 seeds besides those from feedback, too few to hold a fifth out"
    with pytest.raises(InputError, match=words):
        hold_out_seeds(method, method.fit(DATA), DATA, replace(campaign, found=np.arange(10, 61)))


def test_non_seeds_with_feedback_or_excluded_are_not_held_out():
    seen = []
    campaign = DATA.new_campaign(DATA.user_ids[:100], ATTRIBUTES, non_seeds_per_seed=1)
    found, excluded, _ = np.split(campaign.users[campaign.labels == 0], [40, 60])
    campaign, method = replace(campaign, found=found), fixed_method(tokens, seen)
    hold_out_seeds(method, method.fit(DATA), DATA, campaign, exclude=DATA.user_ids[excluded])
    [kept] = seen
    assert {*found, *excluded} < set(kept.users)
    assert (kept.labels == 0).sum() == 100 - 8


def test_users_whom_the_campaign_or_a_call_excludes_are_not_in_the_pool():
    campaign = DATA.new_campaign(DATA.user_ids[:100], ATTRIBUTES, exclude=DATA.user_ids[[5, 300]])
    method = fixed_method(tokens)
    held = hold_out_seeds(method, method.fit(DATA), DATA, campaign, exclude=DATA.user_ids[300:302])
    assert held.left_out.tolist() == [*range(100), 300, 301]


def test_the_seed_reaches_customising():
    random_seeds = []
    method = fixed_method(tokens, random_seeds=random_seeds)
    campaign = DATA.new_campaign(DATA.user_ids[:100], ATTRIBUTES, non_seeds_per_seed=1)
    hold_out_seeds(method, method.fit(DATA), DATA, campaign, seed=7)
    assert random_seeds == [7]


def test_they_depend_on_the_seed():
    first, again, other = (set(held_out(tokens, seed=seed).users) for seed in (0, 0, 1))
    assert first == again != other


def test_a_campaign_that_the_model_was_trained_on_is_told():
    """By its attributes with a tenth of its seeds; a name alone tells that it may be so."""
    general = fixed_method(tokens).fit(DATA, campaigns=[0, 1])
    first, third = DATA.campaign(0), DATA.campaign(2)
    others = np.setdiff1d(np.arange(DATA.num_users), first.users)

    def said(campaign, general=general):
        return seen_in_training(general, DATA, replace(campaign, id="tea"))

    why = "has seen campaign 100, which has the same attributes and 1 of these seeds; its results "
    assert why in said(with_seeds(first, [first.seeds[0], *others[:9]]))
    assert said(with_seeds(first, [first.seeds[0], *others[:10]])) is None
    assert said(with_seeds(third, first.seeds)) is None
    assert said(third) is None
    held_out = replace(general, campaigns=(110,), held_out=(100,))
    assert "has seen campaign 100, " in said(first, held_out)
    named = replace(general, campaigns=(110, "tea"))
    assert "a campaign with the same name, tea; if it has these seeds, " in said(third, named)
    assert "has seen campaign 100, " in said(first, replace(named, campaigns=(100, "tea")))
    values = dict(zip(("advertiser", "category"), [2, 1], strict=True))
    added = replace(general, added=(AddedCampaign("golf", "", values),))
    new = DATA.new_campaign(DATA.user_ids[:5], values)
    assert "has seen campaign golf, which has the same attributes; " in said(new, added)
    assert said(DATA.new_campaign(DATA.user_ids[:5], {**values, "category": 0}), added) is None


def test_campaigns_are_the_same_by_their_ids_as_text():
    """Ids become text as soon as one of them is no number."""
    general = fixed_method(tokens).fit(DATA, campaigns=[0, 1])
    later = replace(DATA, campaign_ids=DATA.campaign_ids.astype("S"))
    said = seen_in_training(general, later, replace(later.campaign(0), id="tea"))
    assert "has seen campaign 100, which has the same attributes" in said
    assert seen_in_training(general, later, replace(later.campaign(2), id="tea")) is None


def test_attributes_that_share_a_row_are_not_the_same():
    """Training has seen neither value, so they have one row."""
    general = fixed_method(tokens).fit(DATA, campaigns=[0, 1])
    values = {"advertiser": 77, "category": 1}
    general = replace(general, added=(AddedCampaign("golf", "", values),))

    def said(advertiser):
        changed = {**values, "advertiser": advertiser}
        campaign = DATA.new_campaign(DATA.user_ids[:5], changed)
        return seen_in_training(general, DATA, campaign)

    assert said(88) is None
    for same in (77, "77", 77.0):
        assert "has seen campaign golf, which has the same attributes; " in said(same)
    unknown = replace(DATA.new_campaign(DATA.user_ids[:5], values), attributes=None)
    assert "has seen campaign golf, " in seen_in_training(general, DATA, unknown)


def with_seeds(campaign, users):
    """The campaign with these seeds and no non-seeds."""
    return replace(campaign, users=np.array(users, np.int32), labels=np.ones(len(users), np.int8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_seeds": 49}, "new campaign: 49 seeds, too few to hold a fifth out; 50 are needed"),
        ({"seed": -1}, "seed: expected a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        held_out(tokens, **options)
    assert len(held_out(tokens, num_seeds=50).users) == 10
