"""The page of an audience: what it says, that it is harmless, and that it is complete."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from fixed_scores import campaign_of, fixed
from toy import dataset

from metaheac_jax.audience.expanding import expand
from metaheac_jax.audience.explaining import explain
from metaheac_jax.audience.held_out import PERCENTS, cross_fit, field_importance
from metaheac_jax.data.dataset import SensitiveField
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Vocabulary

WORLD = dataset(users=3000, campaigns=3, per_campaign=600, pool=30)
DATA = replace(
    WORLD,
    sensitive={"sex": SensitiveField(np.array(["f", "m"]), np.arange(3000)[:, None] % 2)},
)
WEIGHT = np.random.default_rng(0).normal(size=DATA.num_rows + 1)
CAMPAIGN = replace(DATA.campaign(1), id="tea")
ALL = np.ones(3000, bool)


def score(users):
    return WEIGHT[users].sum(axis=1).astype(np.float32)


class Page(HTMLParser):
    """Text, tags and attributes of a page; every element that is opened is closed."""

    VOID = frozenset({"meta", "line", "circle", "polygon", "polyline"})

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags, self.values, self.open = [], set(), [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.values += [value for _, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def explained():
    return explain(fixed(score, data=DATA), DATA, CAMPAIGN, size=333, seed=2)


def test_it_explains_the_audience_of_expanding(explained):
    general = fixed(score, data=DATA)
    audience = expand(general, DATA, CAMPAIGN, size=333, seed=2)
    assert (explained.size, explained.num_candidates) == (333, 3000 - len(CAMPAIGN.seeds))
    users = DATA.find_users(audience["user_id"])
    for trait in explained.traits:
        number = [field.name for field in DATA.schema.user].index(trait.field)
        row = DATA.vocabulary.offsets[number] + int(trait.value)
        assert trait.audience == (DATA.user_rows[users] == row).any(axis=1).mean()
    assert [own.audience for own in explained.sensitive] == [
        np.mean(users % 2 == b) for b in (0, 1)
    ]
    assert explained.sensitive[0].pool == pytest.approx(
        np.mean(np.setdiff1d(np.arange(3000), CAMPAIGN.seeds) % 2 == 0)
    )


def test_its_curve_is_cross_fitted_and_has_the_chosen_size(explained):
    count = explained.num_candidates
    sizes = {int(count * percent / 100) for percent in PERCENTS} | {333}
    assert [own.size for own in explained.curve] == sorted(sizes)
    assert explained.chosen in explained.curve
    assert explained.chosen.size == 333
    folds = cross_fit(fixed(score, data=DATA), DATA, CAMPAIGN, seed=2)
    known = field_importance(folds, DATA, ALL, seed=2)
    assert (explained.auc, explained.fields) == known


def test_the_page_says_what_was_found(explained):
    page = Page(explained.html())
    lift = explained.chosen.lift
    summary = (
        f"333 of {explained.num_candidates:,} people; expect {lift.value:.1f} times the average "
        f"rate, {lift.low:.1f} to {lift.high:.1f}."
    )
    assert explained.summary == summary
    for words in (
        summary,
        "tea",
        explained.date,
        "Fixed",
        "toy, 3,000 people",
        f"advertiser {CAMPAIGN.rows[0] - DATA.vocabulary.offsets[3]}",
        f"this audience: {lift.value:.1f}",
        f"learned from {len(CAMPAIGN.seeds)} seeds",
        *(field.name for field in DATA.schema.user),
        *(f"{own.size:,}" for own in explained.curve),
    ):
        assert words in page.text
    json.dumps(explained.to_json())
    assert explained.to_json()["chosen"]["lift"]["low"] == lift.low


def test_it_tells_what_control_groups_can_show_and_have_shown(explained):
    assert explained.lift is None
    assert [own.users for own in explained.powers] == [17, 33, 67, 166]
    effects = [own.effect for own in explained.powers]
    assert effects == sorted(effects, reverse=True)
    page = Page(explained.html()).text
    assert "Did it work?" in page
    stage = DATA.stage1
    changed = replace(
        stage,
        audience=stage.campaign == 1,
        control=(stage.campaign == 1) & (np.arange(len(stage.user)) % 2 == 0),
    )
    data = replace(DATA, stage1=changed)
    campaign = replace(CAMPAIGN, id=int(data.campaign_ids[1]))
    found = explain(fixed(score, data=data), data, campaign, size=9)
    labels = stage.label[stage.of(1)], changed.control[stage.of(1)]
    assert found.lift.converts == (labels[0][~labels[1]].sum(), labels[0][labels[1]].sum())
    assert found.lift.summary in Page(found.html()).text
    json.dumps(found.to_json())


def test_its_traits_are_the_ones_that_differ_most_common_ones_first(explained):
    page = Page(explained.html()).text
    more = sorted((t for t in explained.traits if t.lift > 1), key=lambda t: t.pool - t.audience)
    shown = sorted(more[:10], key=lambda t: -t.audience)
    part = page[page.index("More common") : page.index("Less common")]
    places = [
        part.index(f"{t.field} {t.value} {100 * t.audience:.0f}") for t in shown if t.audience > 0.1
    ]
    assert places == sorted(places)
    assert len(places) > 2


def test_seeds_who_were_shown_other_campaigns_call_for_caution():
    """Examples of the campaign itself count for nothing."""
    mine = np.isin(DATA.stage1.user, CAMPAIGN.seeds) | (DATA.stage1.campaign == 1)
    none = DATA.stage2.pick(np.zeros(len(DATA.stage2.user), bool))
    data = replace(DATA, stage1=DATA.stage1.pick(mine), stage2=none)
    shown = np.isin(np.arange(3000), data.stage1.user[data.stage1.campaign != 1])
    campaign = replace(CAMPAIGN, id=int(data.campaign_ids[1]))
    found = explain(fixed(score, data=data), data, campaign, size=300)
    assert found.seeds_shown == shown[CAMPAIGN.seeds].mean() > 0
    assert found.candidates_shown == 0
    assert found.caution in Page(found.html()).text
    assert found.caution.startswith(f"{found.seeds_shown:.0%} of the seeds")
    assert replace(found, seeds_shown=0.46, candidates_shown=0.3).caution
    assert not replace(found, seeds_shown=0.44, candidates_shown=0.3).caution


def test_a_pool_and_a_size_that_is_not_given():
    general, pool = fixed(score, data=DATA), DATA.user_ids[:2000]
    found = explain(general, DATA, CAMPAIGN, pool=pool)
    audience = expand(general, DATA, CAMPAIGN, percent=5, pool=pool)
    candidates = np.setdiff1d(np.arange(2000), CAMPAIGN.seeds)
    assert (found.size, found.num_candidates) == (len(audience), len(candidates))
    assert found.sensitive[0].pool == pytest.approx(np.mean(candidates % 2 == 0))
    assert found.chosen.share == found.size / len(candidates)


def test_too_few_seeds_for_a_curve():
    seeds, others = CAMPAIGN.seeds[:49], CAMPAIGN.users[CAMPAIGN.labels == 0]
    campaign = campaign_of(seeds, others, data=DATA)
    found = explain(fixed(score, data=DATA), DATA, campaign, size=100)
    assert (found.curve, found.chosen, found.fields) == ([], None, [])
    page = Page(found.html())
    assert found.summary in page.text
    assert "this takes 50 seeds that are not from earlier audiences" in page.text
    assert "New campaign" in page.text
    assert "svg" not in page.tags
    json.dumps(found.to_json())


def test_text_is_never_markup():
    evil = "<script>alert('x')</script>&\"="
    values = (
        *DATA.vocabulary.values[:3],
        np.array([f"{evil}{i}" for i in range(len(DATA.vocabulary.values[3]))]),
        DATA.vocabulary.values[4],
    )
    data = replace(
        DATA,
        name=evil,
        vocabulary=Vocabulary(values),
        sensitive={evil: replace(DATA.sensitive["sex"], values=np.array([evil, "m"]))},
    )
    found = explain(fixed(score, data=data), data, replace(CAMPAIGN, id=evil), size=300)
    page = Page(found.html())
    assert not {"script", "a", "img", "link"} & page.tags
    assert page.text.count(evil) >= 4
    assert not any("alert" in value for value in page.values)


def test_nobody_left_is_refused():
    with pytest.raises(InputError, match="campaign tea: nobody of the pool is left"):
        explain(fixed(score, data=DATA), DATA, CAMPAIGN, pool=DATA.user_ids[CAMPAIGN.seeds])
    with pytest.raises(InputError, match="size: expected a whole number"):
        explain(fixed(score, data=DATA), DATA, CAMPAIGN, size=0)
