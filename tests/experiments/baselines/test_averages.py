"""Means of models, and LR whose penalty is cross-validated."""

from dataclasses import replace

import numpy as np
import pytest
from toy import dataset

import metaheac_jax as mh
from experiments.baselines.averages import Average
from experiments.baselines.cross_validated import PENALTIES, CrossValidatedRegression
from metaheac_jax.methods import Run, configured, register
from metaheac_jax.methods.held_out_campaigns import halve, judge_state

DATA = dataset(users=500, campaigns=12, per_campaign=150, tastes=2)
TRAIN = np.arange(9)


@register
class Pair(Average):
    """LR and the learned prior."""

    name, label, members = "pair", "Pair", ("lr", "learned-prior")


@register
class Twins(Average):
    """Two of the same."""

    name, label, members = "twins", "Twins", ("lr", "lr")


def scores(general):
    return mh.customise(general, DATA, DATA.campaign(10)).score(DATA.user_rows)


def test_a_mean_is_that_of_its_members_with_the_best_shares_on_held_out_campaigns():
    general = mh.fit(DATA, "pair", campaigns=TRAIN)
    shares = np.asarray(general.state["shares"])
    assert shares.sum() == pytest.approx(1)
    members = [
        configured(name).customise(
            Run(DATA, TRAIN, 0), general.state["members"][str(number)], [DATA.campaign(10)]
        )[0](DATA.user_rows)
        for number, name in enumerate(Pair.members)
    ]
    np.testing.assert_allclose(scores(general), shares @ members, rtol=1e-5, atol=1e-6)
    run, halves = Run(DATA, TRAIN, 0), [halve(DATA, DATA.index_of(c), 0) for c in general.held_out]
    for first in (0.0, 0.5, 1.0):
        state = {**general.state, "shares": np.array([first, 1 - first])}
        other = judge_state(configured("pair").customise, run, halves, state)
        assert general.judgements[0].auc >= other.auc - 1e-6


def test_members_that_do_not_differ_have_equal_shares():
    general = mh.fit(DATA, "twins", campaigns=TRAIN)
    np.testing.assert_array_equal(general.state["shares"], [0.5, 0.5])
    np.testing.assert_allclose(scores(general), scores(mh.fit(DATA, "lr")), rtol=1e-6, atol=1e-7)


def test_the_penalty_depends_on_what_can_be_learned():
    method, run, campaign = CrossValidatedRegression(), Run(DATA, TRAIN, 0), DATA.campaign(10)
    noise = np.random.default_rng(0).integers(0, 2, len(campaign.labels)).astype(np.int8)
    free = replace(campaign, labels=noise)
    assert method._best(run, free) == max(PENALTIES)
    best = method._best(run, campaign)
    assert best < max(PENALTIES)
    expected = configured("lr-lengths", penalty=best)
    models = [
        mh.customise(mh.fit(DATA, own, campaigns=TRAIN), DATA, campaign).score(DATA.user_rows)
        for own in (method, expected)
    ]
    np.testing.assert_allclose(*models, rtol=1e-6)
