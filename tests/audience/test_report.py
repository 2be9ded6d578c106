"""What a report tells is what the library's functions find."""

from dataclasses import replace

import numpy as np
import pytest
from fixed_scores import ATTRIBUTES, fixed_method
from fixed_scores import DATA as PLAIN

from metaheac_jax.audience.curve import size_curve
from metaheac_jax.audience.held_out_seeds import hold_out_seeds
from metaheac_jax.audience.importance import field_importance
from metaheac_jax.audience.overlap import audience_overlap
from metaheac_jax.audience.report import describe_audience
from metaheac_jax.audience.report_page import html_report
from metaheac_jax.audience.retrieve import Audience, expand
from metaheac_jax.audience.seed_check import SeedCheck
from metaheac_jax.audience.traits import audience_traits, sensitive_shares
from metaheac_jax.data.dataset import SensitiveField
from metaheac_jax.errors import InputError

SEX = SensitiveField(np.array(["men", "women"]), np.arange(400, dtype=np.int32)[:, None] % 2)
DATA = replace(PLAIN, sensitive={"sex": SEX})
METHOD = fixed_method(lambda users: users.sum(axis=1).astype(np.float32))


def described(num_seeds=100, size=150, found=(), **options):
    general = METHOD.fit(DATA)
    seeds = DATA.user_ids[:num_seeds]
    campaign = DATA.new_campaign(seeds, ATTRIBUTES, non_seeds_per_seed=1)
    campaign = replace(campaign, found=found)
    [model] = METHOD.customise(general, DATA, [campaign])
    audience = expand(model, DATA, size=size)
    check = SeedCheck(given=110, distinct=105, found=num_seeds, excluded=0)
    report = describe_audience(
        METHOD, general, DATA, campaign, audience, title="June", seeds=check, **options
    )
    return report, model, audience


def test_it_is_what_the_library_finds():
    earlier = {"may": DATA.user_ids[200:300].tolist(), "april": [1, 2]}
    report, model, audience = described(others=earlier, base_rate=0.3, seed=4)
    held = hold_out_seeds(METHOD, model.general, DATA, model.campaign, seed=4)
    assert report.curve == size_curve(held, DATA, base_rate=0.3)
    assert report.used == field_importance(held, DATA, seed=4)
    ids, seeds = audience.user_ids, DATA.user_ids[:100]
    assert report.traits == audience_traits(DATA, ids, seeds, exclude=seeds)
    assert report.sensitive == sensitive_shares(DATA, ids, exclude=seeds)
    assert len(report.sensitive) == 2
    names = ["this audience", "may", "april"]
    ids = [audience.user_ids.tolist(), *earlier.values()]
    np.testing.assert_array_equal(report.overlap.count, audience_overlap(names, ids).count)
    assert report.overlap.names == tuple(names)
    assert (report.size, report.num_candidates, report.num_users) == (150, 300, 400)
    assert report.edge == audience.scores[-1]
    assert (report.title, report.data) == ("June", "toy")
    assert (report.base_rate, report.seen) == (0.3, None)


def test_that_the_model_was_trained_on_the_campaign_is_told(monkeypatch):
    told = lambda *args, **options: replace(hold_out_seeds(*args, **options), seen="it was")  # noqa: E731
    monkeypatch.setattr("metaheac_jax.audience.report.hold_out_seeds", told)
    assert described()[0].seen == "it was"


def test_seeds_that_are_excluded_or_from_feedback_cannot_be_held_out():
    """Of 53 seeds, three are excluded and one is from feedback; 50 are needed."""
    options = {"num_seeds": 53, "exclude": DATA.user_ids[[5, 6, 7]].tolist(), "include_seeds": True}
    assert described(**options)[0].curve
    report, *_ = described(**options, found=np.array([0]))
    assert (report.curve, report.used) == ([], None)


def test_the_pool_is_without_excluded_users():
    exclude = DATA.user_ids[250:].tolist()
    report, model, audience = described(exclude=exclude)
    held = hold_out_seeds(METHOD, model.general, DATA, model.campaign, exclude=exclude)
    assert report.curve == size_curve(held, DATA)
    assert report.curve[-1].size == 75  # 50% of 150 users besides the seeds
    assert report.used == field_importance(held, DATA)
    ids, seeds = audience.user_ids, DATA.user_ids[:100]
    left_out = [*exclude, *seeds]
    assert report.traits == audience_traits(DATA, ids, seeds, exclude=left_out)
    assert report.sensitive == sensitive_shares(DATA, ids, exclude=left_out)


def test_users_who_were_shown_the_campaign_could_not_be_selected():
    """They have high scores, so held-out seeds are ranked among them nevertheless."""
    shown = DATA.user_ids[250:].tolist()
    (report, _, audience), (whole, *_) = described(shown=shown), described()
    assert (report.curve, report.used) == (whole.curve, whole.used)
    ids, seeds = audience.user_ids, DATA.user_ids[:100]
    assert report.traits == audience_traits(DATA, ids, seeds, exclude=[*shown, *seeds])
    assert report.sensitive == sensitive_shares(DATA, ids, exclude=[*shown, *seeds])
    assert report.traits != whole.traits


@pytest.mark.parametrize("include_seeds", [False, True])
def test_seeds_are_of_the_pool_only_if_they_could_be_selected(include_seeds, monkeypatch):
    """All seeds are men; of the candidates, 100 are men and 200 women."""
    codes = (np.arange(400) >= 200).astype(np.int32)[:, None]
    data = replace(DATA, sensitive={"sex": SensitiveField(SEX.values, codes)})
    monkeypatch.setitem(globals(), "DATA", data)
    report, *_ = described(include_seeds=include_seeds)
    assert [share.pool for share in report.sensitive] == (
        [1 / 2, 1 / 2] if include_seeds else [1 / 3, 2 / 3]
    )


def test_too_few_seeds_to_hold_any_out():
    report, *_ = described(num_seeds=49)
    assert (report.curve, report.used, report.overlap) == ([], None, None)
    assert "This needs 50 seeds" in html_report(report)
    assert described(num_seeds=50)[0].curve
    assert described(found=np.arange(50))[0].curve
    assert described(found=np.arange(51))[0].curve == []


def test_an_audience_of_nobody_is_refused():
    campaign = DATA.new_campaign(DATA.user_ids[:100], ATTRIBUTES)
    nobody = Audience(np.empty(0, np.int64), np.empty(0, np.float32), 300)
    told = {"title": "June", "seeds": SeedCheck(100, 100, 100, 0)}
    with pytest.raises(InputError, match="June: the audience has no users"):
        describe_audience(METHOD, METHOD.fit(DATA), DATA, campaign, nobody, **told)
