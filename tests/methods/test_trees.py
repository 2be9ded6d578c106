"""Gradient-boosted trees: per campaign, and the prior of a user whatever the campaign."""

import sys
from dataclasses import replace

import lightgbm
import numpy as np
import pytest
from toy import aucs, dataset

from metaheac_jax.data.examples import group_by_campaign
from metaheac_jax.errors import InputError
from metaheac_jax.methods import trees
from metaheac_jax.methods.similarity import indicators
from metaheac_jax.methods.trees import lightgbm_per_campaign, user_prior
from metaheac_jax.settings import PAPER

DATA = dataset(campaigns=12, per_campaign=400)
TRAIN, NEW = np.arange(8), np.arange(8, 12)


def with_one_taste(data):
    """The same world, but all campaigns have one taste."""
    liked = data.user_rows[:, 2:] < data.vocabulary.offsets[2] + 10  # one of ten tokens
    probability = np.where(liked.any(axis=1), 0.6, 0.1)

    def relabel(stage, seed):
        label = np.random.default_rng(seed).random(len(stage.user)) < probability[stage.user]
        campaign = np.repeat(np.arange(data.num_campaigns), stage.counts)
        return group_by_campaign(campaign, stage.user, label, num_campaigns=data.num_campaigns)

    return replace(data, stage1=relabel(data.stage1, 1), stage2=relabel(data.stage2, 2))


def models(build, data):
    method = build()
    general = method.fit(data, campaigns=TRAIN)
    return [
        model.score for model in method.customise(general, data, [data.campaign(c) for c in NEW])
    ]


def test_trees_learn_each_campaigns_taste():
    found = aucs(DATA, NEW, models(lightgbm_per_campaign, DATA))
    assert found.mean() > 0.7
    assert found.min() > 0.55


def test_a_leaf_has_its_fraction_of_many_examples(monkeypatch):
    users, label = DATA.user_rows[DATA.stage1.user], DATA.stage1.label
    smallest = []
    for fraction in (trees.MIN_LEAF_FRACTION, 0.05):
        monkeypatch.setattr(trees, "MIN_LEAF_FRACTION", fraction)
        text = trees.fit_trees(users, label, DATA.num_rows, trees.CAMPAIGN_TREES)
        counts = [x.split("=")[1].split() for x in text.splitlines() if x.startswith("leaf_count=")]
        smallest.append(min(int(count) for leaves in counts for count in leaves))
    # LightGBM derives the counts that it prints from sums of the hessian.
    least = 0.05 * len(label)
    assert smallest[0] < 0.1 * least
    assert smallest[1] > 0.9 * least


def test_the_prior_learns_what_all_campaigns_have_in_common():
    data = with_one_taste(DATA)
    found = aucs(data, NEW, models(user_prior, data))
    assert found.mean() > 0.7
    assert found.min() > 0.55


def test_the_prior_grows_until_held_out_campaigns_improve_no_more(monkeypatch):
    seen, fit = [], trees.fit_trees

    def noted(users, label, num_rows, settings, held_out):
        seen.append((len(users), len(label), len(held_out[0]), len(held_out[1])))
        return fit(users, label, num_rows, settings, held_out)

    patiences, stop = [], lightgbm.early_stopping
    waiting = lambda patience, **options: patiences.append(patience) or stop(patience, **options)  # noqa: E731
    monkeypatch.setattr(lightgbm, "early_stopping", waiting)
    monkeypatch.setattr(trees, "fit_trees", noted)
    monkeypatch.setattr(trees, "MAX_PRIOR_EXAMPLES", 1500)
    general = user_prior().fit(DATA, campaigns=TRAIN)
    text = general.state["trees"].tobytes().decode()
    assert 0 < text.count("Tree=") < 20  # campaigns of opposite tastes have little in common
    # Three of the eight campaigns, with 400 examples each, are held out.
    assert seen == [(1500, 1500, 1200, 1200)]
    assert len(general.held_out) == 3
    assert patiences == [trees.PRIOR_PATIENCE]
    known = DATA.campaign_ids[TRAIN].tolist()
    assert sorted([*general.campaigns, *general.held_out]) == known


def test_the_prior_has_a_fixed_number_of_trees_without_held_out_campaigns(monkeypatch):
    monkeypatch.setattr(trees, "NUM_PRIOR_TREES", 5)
    general = user_prior(replace(PAPER, offline_patience=None)).fit(DATA, campaigns=TRAIN)
    assert general.held_out == ()
    assert general.state["trees"].tobytes().decode().count("Tree=") == 5


def test_values_too_rare_for_a_leaf_are_left_out(monkeypatch):
    users, label = DATA.user_rows[DATA.stage1.user], DATA.stage1.label
    most = np.bincount(users.ravel(), minlength=DATA.num_rows + 1)[:-1].max()
    for least, splits in ((most, True), (most + 1, False)):
        settings = trees.CAMPAIGN_TREES | {"min_data_in_leaf": int(least)}
        kept = []
        found = lambda users, num_rows: kept.append(users) or indicators(users, num_rows)  # noqa: E731, B023
        monkeypatch.setattr(trees, "indicators", found)
        trees.fit_trees(users, label, DATA.num_rows, settings)
        assert (kept[0] < DATA.num_rows).any() == splits


def test_the_prior_knows_no_campaign():
    # Campaigns of opposite tastes: what one wants does not help with another.
    assert 0.35 < aucs(DATA, NEW, models(user_prior, DATA)).mean() < 0.65
    users = DATA.user_rows[:50]
    first, *others = (model(users) for model in models(user_prior, DATA))
    assert np.ptp(first) > 0
    for other in others:
        np.testing.assert_array_equal(other, first)
    # Nor the new campaigns' seeds.
    stage = DATA.stage1
    flipped = stage.label.copy()
    flipped[stage.offsets[NEW[0]] :] ^= 1
    again = models(user_prior, replace(DATA, stage1=replace(stage, label=flipped)))[0](users)
    np.testing.assert_array_equal(again, first)


def test_a_campaign_is_judged_by_its_own_examples_alone():
    users, stage = DATA.user_rows[:50], DATA.stage1
    before = [model(users) for model in models(lightgbm_per_campaign, DATA)]
    label = stage.label.copy()
    label[stage.of(NEW[0])] ^= 1
    changed = replace(DATA, stage1=replace(stage, label=label))
    after = [model(users) for model in models(lightgbm_per_campaign, changed)]
    assert (before[0] != after[0]).any()
    np.testing.assert_array_equal(before[1:], after[1:])


@pytest.mark.parametrize("build", [lightgbm_per_campaign, user_prior])
def test_trees_are_deterministic_and_silent(build, capfd):
    users = DATA.user_rows[:50]
    first, again = (np.stack([m(users) for m in models(build, DATA)]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert capfd.readouterr() == ("", "")


def test_trees_give_log_odds():
    (model, *_), of = models(lightgbm_per_campaign, DATA), DATA.stage1.of(NEW[0])
    odds = model(DATA.user_rows[DATA.stage1.user[of]])
    # Boosting keeps the mean probability at the rate, up to shrinkage.
    rate = DATA.stage1.label[of].mean()
    assert np.mean(1 / (1 + np.exp(-odds))) == pytest.approx(rate, abs=0.02)


def test_the_prior_is_kept_as_an_array():
    state = user_prior().fit(DATA, campaigns=TRAIN).state
    assert state["trees"].dtype == np.uint8
    assert lightgbm_per_campaign().fit(DATA, campaigns=TRAIN).state == {}


def test_without_lightgbm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(InputError, match=r"need LightGBM; install it with pip install 'metaheac-"):
        user_prior().fit(DATA, campaigns=TRAIN)
