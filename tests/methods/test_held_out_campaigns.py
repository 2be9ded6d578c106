"""Held-out campaigns: who is held out, their halves, and what a judgement is."""

from dataclasses import replace

import numpy as np
import pytest
from toy import dataset

from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods import Offline, Trained, fit, held_out_campaigns, register
from metaheac_jax.methods.config import GradientConfig
from metaheac_jax.methods.held_out_campaigns import (
    halve,
    hold_out_campaigns,
    judge_of,
    judge_seeds,
)
from metaheac_jax.methods.method import GradientMethod
from metaheac_jax.model import SeedPoint
from metaheac_jax.ranking import auc

DATA = dataset(users=200, campaigns=30, per_campaign=40, pool=40)
STAGE = Offline(DATA, np.arange(30), 0)


def test_a_tenth_is_held_out_and_no_campaign_is_on_both_sides():
    chosen = np.arange(5, 30)
    kept, held = hold_out_campaigns(DATA, chosen, 0)
    assert len(held) == 3
    assert sorted([*kept, *held]) == chosen.tolist()
    more = dataset(users=200, campaigns=45, per_campaign=40, pool=40)
    assert len(hold_out_campaigns(more, np.arange(45), 0)[1]) == 5  # a tenth, rounded up
    assert {tuple(hold_out_campaigns(DATA, chosen, seed)[1]) for seed in range(5)} > {tuple(held)}


def with_few(kind, count, campaigns):
    """The data with so many seeds (kind 1) or non-seeds (kind 0) in these campaigns."""
    stage = DATA.stage1
    label = np.array(stage.label)
    for c in campaigns:
        of = stage.of(c)
        label[of] = 1 - kind
        label[of.start : of.start + count] = kind
    owner = np.repeat(np.arange(30), stage.counts)
    return replace(DATA, stage1=group_by_campaign(owner, stage.user, label, num_campaigns=30))


@pytest.mark.parametrize("kind", [0, 1])
def test_a_campaign_with_a_single_seed_or_non_seed_is_not_held_out(kind):
    data = with_few(kind, 1, range(20))
    for seed in range(5):
        assert hold_out_campaigns(data, np.arange(30), seed)[1].min() >= 20
    with pytest.raises(InputError, match="2 of 30 campaigns have these; add campaigns, or train"):
        hold_out_campaigns(with_few(kind, 1, range(28)), np.arange(30), 0)


def test_so_few_campaigns_that_none_would_be_trained_on_are_refused():
    with pytest.raises(InputError, match="3 campaigns have to be held out"):
        hold_out_campaigns(DATA, np.arange(3), 0)


def test_halves_share_no_example_and_have_half_of_each_class():
    for c in range(30):
        own, half = DATA.campaign(c), halve(DATA, c, 0)
        users = [*half.campaign.users, *half.users]
        assert sorted(users) == sorted(own.users)
        seeds = own.labels.sum()
        assert half.campaign.labels.sum() == seeds // 2
        assert half.labels.sum() == seeds - seeds // 2
        label_of = dict(zip(own.users, own.labels, strict=True))
        for user, label in zip(half.users, half.labels, strict=True):
            assert label_of[user] == label


def test_large_halves_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(held_out_campaigns, "MAX_HALF", 10)
    for c in range(30):
        own, half = DATA.campaign(c), halve(DATA, c, 0)
        assert abs(len(half.campaign.users) - 10) <= 1
        assert abs(len(half.users) - 10) <= 1
        # Half of 40 examples is kept.
        for kind in (0, 1):
            count = (own.labels == kind).sum()
            for labels, part in ((half.campaign.labels, count // 2), (half.labels, -(-count // 2))):
                assert (labels == kind).sum() == max(1, round(part / 2))


@pytest.mark.parametrize("kind", [0, 1])
def test_thinning_leaves_a_seed_and_a_non_seed_in_each_half(monkeypatch, kind):
    monkeypatch.setattr(held_out_campaigns, "MAX_HALF", 5)
    half = halve(with_few(kind, 2, [3]), 3, 0)
    for labels in (half.campaign.labels, half.labels):
        assert (labels == kind).sum() == 1
        assert len(labels) == 1 + round(19 / 4)


def test_a_score_that_is_no_number_is_no_judgement():
    half = halve(DATA, 3, 0)
    log_odds = np.where(np.arange(len(half.users)) == 1, np.nan, 0.0)
    with pytest.raises(Diverged, match="held out: a score is not a number"):
        judge_of(lambda *_: [lambda _: log_odds], STAGE, [half])({}, 1)


def test_a_judgement_is_the_mean_auc_and_loss_of_the_other_halves():
    rng = np.random.default_rng(0)
    halves = [halve(DATA, c, 0) for c in (3, 8)]
    log_odds = [rng.normal(size=len(half.users)) for half in halves]
    given = []

    def customise(online, state, campaigns):
        assert state == {}
        given.extend(campaigns)
        return [lambda users, own=own: own for own in log_odds]

    found = judge_of(customise, STAGE, halves)({}, 5)
    assert given == [half.campaign for half in halves]
    p = [1 / (1 + np.exp(-o)) for o in log_odds]
    losses = [
        -np.mean(np.log(np.where(half.labels == 1, q, 1 - q)))
        for q, half in zip(p, halves, strict=True)
    ]
    aucs = [auc(o, half.labels) for o, half in zip(log_odds, halves, strict=True)]
    weights = [min(sum(half.labels), sum(half.labels == 0)) for half in halves]
    assert weights[0] != weights[1]
    expected = [np.dot(weights, values) / sum(weights) for values in (aucs, losses)]
    np.testing.assert_allclose(found, [5, *expected])


def test_beyond_a_thousand_seeds_a_campaign_weighs_no_more():
    half = halve(DATA, 3, 0)
    for seeds, others, weight in ((7, 50, 7), (50, 7, 7), (1001, 2000, 1000)):
        labels = np.repeat([1, 0], [seeds, others])
        assert replace(half, labels=labels).weight == weight


class Noting(GradientMethod):
    """A method with gradient steps that notes what it is given and asks for one judgement."""

    name, label, default = "noting-held-out", "Noting", GradientConfig()

    def train(self, offline):
        self.seen = [*getattr(self, "seen", ()), offline]
        judgements = () if offline.judge is None else (offline.judge({}, 7),)
        return Trained({}, judgements, {"count": np.array(1)})

    def adapt(self, online, state, campaigns):
        self.seen.append([campaign.id for campaign in campaigns])
        return [lambda users: np.arange(len(users)) for _ in campaigns]


METHOD = register(Noting)()


def test_fit_trains_on_the_rest_and_keeps_the_judgements():
    method = Noting()
    general = fit(DATA, method, seed=3)
    stage, judged, *others = method.seen
    assert all({*own} <= {*judged} for own in others)  # what few seeds are worth
    kept, held = hold_out_campaigns(DATA, np.arange(30), 3)
    assert stage.campaigns.tolist() == kept.tolist()
    assert judged == DATA.campaign_ids[held].tolist()
    assert general.campaigns == tuple(DATA.campaign_ids[kept].tolist())
    [(step, area, loss)] = general.judgements
    assert step == 7
    assert 0 <= area < 1 < loss  # the order of the users is the score
    given = [4, 9, 11]
    method.seen.clear()
    fit(DATA, method, campaigns=np.arange(12, 30), held_out=given)
    assert method.seen[0].campaigns.tolist() == [*range(12, 30)]
    assert method.seen[1] == DATA.campaign_ids[given].tolist()


def test_without_patience_every_campaign_is_trained_on():
    method = METHOD.changed(offline_patience=None)
    general = fit(DATA, method)
    assert (method.seen[0].campaigns.tolist(), method.seen[0].judge) == ([*range(30)], None)
    assert general.judgements == ()


@pytest.mark.parametrize("kind", [0, 1])
def test_a_campaign_that_cannot_be_halved_is_named(kind):
    data = with_few(kind, 1, [2])
    with pytest.raises(InputError, match=r"campaign 120: has \d+ seeds and \d+ non-seeds; a held"):
        halve(data, 2, 0)
    halve(data, 3, 0)


def test_earlier_held_out_campaigns_stay_held_out_in_the_record():
    start = fit(DATA, METHOD, campaigns=np.arange(12), held_out=[12, 13, 14])
    now = [13, *range(17, 30)]
    second = fit(DATA, METHOD, start=start, campaigns=now, held_out=[15, 16])
    keys = DATA.campaign_ids
    assert second.held_out == (keys[15], keys[16], keys[12], keys[14])
    assert set(second.campaigns) == set(keys[[*range(12), *now]].tolist())


def trained(campaigns, held_out=()):
    """A model of these campaigns, by index."""
    general = fit(DATA, METHOD.changed(offline_patience=None), campaigns=[*campaigns])
    return replace(general, held_out=tuple(DATA.campaign_ids[[*held_out]].tolist()))


def as_text(data):
    """The data with text as ids of campaigns, in the same order."""
    return replace(data, campaign_ids=data.campaign_ids.astype("S"))


@pytest.mark.parametrize("data", [DATA, as_text(DATA)])
def test_what_was_held_out_is_held_out_again_and_a_new_campaign_is_trained_on(data):
    start, every = trained(range(26), held_out=[26, 27, 28]), np.arange(30)
    for seed in range(5):
        _, held = hold_out_campaigns(data, every, seed, start=start)
        assert held.tolist() == [26, 27, 28]


def test_a_part_of_many_new_campaigns_is_held_out_besides(monkeypatch):
    start = trained(range(5), held_out=[5, 6, 7])
    monkeypatch.setattr(held_out_campaigns, "_FRACTION", 0.2)
    every = np.arange(30)
    drawn = {tuple(hold_out_campaigns(DATA, every, s, start=start)[1]) for s in range(5)}
    assert {held[:3] for held in drawn} == {(5, 6, 7)}
    assert {len(held) for held in drawn} == {3 + 3}
    assert len(drawn) > 1


def test_without_any_up_to_half_of_the_new_ones_are_held_out(monkeypatch):
    """A sixth of all, as of a model that was trained for a fixed number of epochs."""
    monkeypatch.setattr(held_out_campaigns, "_FRACTION", 1 / 6)
    for new, expected, known in ((1, 1, 4), (2, 1, 4), (4, 2, 3), (5, 3, 0), (12, 5, 0)):
        start = trained(range(30 - new))
        _, held = hold_out_campaigns(DATA, np.arange(30), 0, start=start)
        assert (held >= 30 - new).sum() == expected
        assert (held < 30 - new).sum() == known


def test_what_was_trained_on_before_it_was_held_out_is_not_preferred():
    start = trained(range(20), held_out=[*range(8), 20])
    _, held = hold_out_campaigns(DATA, np.arange(25), 0, start=start)
    assert set(held) & {*range(8)} == set()
    assert 20 in held
    assert len(held) == 3


def test_what_few_seeds_are_worth(monkeypatch):
    """A scorer ranks well if it was given more than five seeds, and by chance otherwise."""
    monkeypatch.setattr(held_out_campaigns, "SEEDS", (2, 5, 400))
    data = dataset(users=400, campaigns=12, per_campaign=200, pool=10)
    halves = [halve(data, c, 0) for c in range(6)]
    sizes = [int(own.campaign.labels.sum()) for own in halves]
    given = []

    def customise(online, state, campaigns):
        """Scores of the judged users: their labels, or the same number for all."""
        models = []
        for campaign in campaigns:
            [own] = [own for own in halves if own.campaign.id == campaign.id]
            seeds, others = campaign.labels.sum(), (campaign.labels == 0).sum()
            given.append((int(seeds), others / seeds, own))
            told = own.labels * float(seeds > 5)
            models.append(lambda rows, told=told: told)
        return models

    points = judge_seeds(customise, Offline(data, np.arange(6, 12), 0), halves, {})
    assert points == (SeedPoint(2, 0.5, 1.0, 6), SeedPoint(5, 0.5, 1.0, 4))
    for seeds, ratio, own in given:
        labels = own.campaign.labels
        assert seeds in (2, 5, labels.sum())
        assert ratio == pytest.approx((labels == 0).sum() / labels.sum(), abs=0.26)
    assert sum(size >= 10 for size in sizes) == 4
    model = replace(fit(data, "lr"), seed_curve=points)
    assert "2 seeds of each gave an AUC of 0.500" in model.told_of_seeds(1)
    told = model.told_of_seeds(3)
    assert "5 seeds of each gave an AUC of 0.500, and half of each one's seeds 1.000" in told
    assert model.told_of_seeds(6) == ""
    even = replace(model, seed_curve=(SeedPoint(5, 0.995, 1.0, 6),))
    assert even.told_of_seeds(3) == ""
