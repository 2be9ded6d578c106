"""The ensemble: a mean of three methods that are trained and customised as they are alone."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import UNTRAINED, dataset, with_shares

from metaheac_jax.customise.kept import KeptCampaigns
from metaheac_jax.errors import InputError
from metaheac_jax.methods.ensemble import ensemble, member_methods
from metaheac_jax.methods.record import steps_of
from metaheac_jax.methods.solved_heads import solved_head
from metaheac_jax.methods.stages import Run
from metaheac_jax.settings import PAPER
from metaheac_jax.training.sharding import device_mesh

DATA = dataset(users=200, campaigns=12, per_campaign=60, pool=40)
TRAIN, NEW = np.arange(9), np.arange(9, 12)
METHOD = ensemble(
    replace(UNTRAINED, offline_epochs=2, offline_patience=8, outer_learning_rate=0.01)
)
CAMPAIGNS = [DATA.campaign(c) for c in NEW]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def general(tmp_path_factory):
    return METHOD.fit(DATA, campaigns=TRAIN, seed=3, directory=tmp_path_factory.mktemp("f") / "e")


@pytest.fixture(scope="module")
def alone():
    """General models of the members, each trained by itself."""
    return [
        (own, own.fit(DATA, campaigns=TRAIN, seed=3)) for own in member_methods(METHOD.settings)
    ]


def scores(models):
    return np.array([model.score(DATA.user_rows) for model in models])


def shares_of(general):
    return np.asarray(general.state["network"]["shares"])


def test_its_arrays_are_on_the_device(general):
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(dict(general.state)))


@pytest.mark.parametrize("shares", [None, (0.2, 0.3, 0.5)])
def test_a_score_is_the_weighted_mean_of_those_of_its_members_alone(general, alone, shares):
    if shares is not None:
        general = with_shares(general, shares)
    models = METHOD.customise(general, DATA, CAMPAIGNS, seed=5)
    each = np.stack([scores(own.customise(of, DATA, CAMPAIGNS, seed=5)) for own, of in alone])
    expected = np.tensordot(shares_of(general), each, axes=1)
    np.testing.assert_allclose(scores(models), expected, atol=1e-5)
    assert min(np.abs(each[a] - each[b]).max() for a, b in ((0, 1), (1, 2), (0, 2))) > 0.1


def test_before_customising_it_is_the_general_model(general, alone):
    untouched = METHOD.with_settings(online_epochs=0).customise(general, DATA, CAMPAIGNS)
    assert all(model.is_general for model in untouched)
    each = [
        scores(own.with_settings(online_epochs=0).customise(of, DATA, CAMPAIGNS))
        for own, of in alone
    ]
    expected = np.tensordot(shares_of(general), each, axes=1)
    np.testing.assert_allclose(scores(untouched), expected, atol=1e-5)
    assert not any(model.is_general for model in METHOD.customise(general, DATA, CAMPAIGNS))


def test_a_campaign_of_seeds_alone_is_customised(general):
    campaign = DATA.campaign(10)
    seeds = campaign.labels == 1
    campaign = campaign.pick(seeds)
    [model] = METHOD.customise(general, DATA, [campaign])
    assert np.abs(model.score(DATA.user_rows)).max() < 30


def test_the_penalty_is_that_of_the_solved_head(general):
    """A saved model keeps it."""
    assert METHOD.settings.penalty == solved_head().settings.penalty != PAPER.penalty
    head, _, lr = member_methods(METHOD.with_settings(penalty=7.0).settings)
    assert (head.settings.penalty, lr.settings.penalty) == (7, 30)  # LR's is its own
    stiff = METHOD.with_settings(penalty=1e9).customise(general, DATA, CAMPAIGNS)
    assert np.abs(scores(stiff) - scores(METHOD.customise(general, DATA, CAMPAIGNS))).max() > 0.01


def test_its_judgement_is_of_all_together(general, alone):
    """At the steps of both kept states; held out are the campaigns of the members."""
    [judged] = general.judgements
    assert judged.step == sum(steps_of(of) for _, of in alone[:2])
    assert general.held_out == alone[0][1].held_out == alone[1][1].held_out
    held = np.flatnonzero(np.isin(DATA.campaign_ids, general.held_out))
    assert METHOD.judge(general, DATA, held, seed=3).auc == pytest.approx(judged.auc, abs=1e-6)


def test_the_share_of_lr_is_the_best_on_held_out_campaigns(general):
    """The least of the best, and half of the rest for each other member."""
    held = np.flatnonzero(np.isin(DATA.campaign_ids, general.held_out))
    tried = {}
    for lr in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
        own = with_shares(general, ((1 - lr) / 2, (1 - lr) / 2, lr))
        tried[lr] = METHOD.judge(own, DATA, held, seed=3).auc
    best = min(lr for lr, auc in tried.items() if auc == max(tried.values()))
    assert best > 0
    np.testing.assert_allclose(shares_of(general), [(1 - best) / 2, (1 - best) / 2, best])
    assert general.judgements[0].auc == pytest.approx(tried[best], abs=1e-6)


def test_without_held_out_campaigns_lr_has_no_share_or_the_one_that_it_had(general):
    short = METHOD.with_settings(offline_epochs=1, offline_patience=None)
    np.testing.assert_array_equal(shares_of(short.fit(DATA, campaigns=TRAIN)), [0.5, 0.5, 0])
    start = with_shares(general, (0.3, 0.3, 0.4))
    longer = short.fit(DATA, campaigns=TRAIN, start=start)
    np.testing.assert_allclose(shares_of(longer), [0.3, 0.3, 0.4])


def test_a_training_that_was_interrupted_goes_on_with_the_member_that_it_was_at(tmp_path, general):
    class Stopped(Exception):
        pass

    begun, seen = [], []

    def stop(what, done, total):
        begun.append((what, done))
        if "w/o Meta" in what and done:
            raise Stopped

    fit = {"campaigns": TRAIN, "seed": 3, "directory": tmp_path / "e"}
    with pytest.raises(Stopped):
        METHOD.fit(DATA, **fit, progress=stop)
    again = METHOD.fit(DATA, **fit, progress=lambda what, done, _: seen.append((what, done)))
    fresh = lambda pairs: [w for w, done in pairs if w.startswith("Ensemble: Solved") and not done]  # noqa: E731
    assert fresh(begun)
    assert not fresh(seen)
    jax.tree.map(np.testing.assert_array_equal, dict(again.state), dict(general.state))
    share, auc = shares_of(again)[-1], again.judgements[0].auc
    assert f"Ensemble: share of LR {share:g}, held-out AUC {auc:.4f}" in [what for what, _ in seen]


def test_its_log_leaves_that_of_a_member_alone(tmp_path):
    """Of a log that several trainings share."""
    log, method = tmp_path / "log.jsonl", METHOD.with_settings(offline_epochs=1)
    method = method.with_settings(offline_patience=None)
    head, *_ = member_methods(method.settings)
    head.fit(DATA, campaigns=TRAIN, log=log)
    before = log.read_text()
    method.fit(DATA, campaigns=TRAIN, log=log)
    after = log.read_text()
    assert after.startswith(before)
    names = {json.loads(line)["name"] for line in after[len(before) :].splitlines()}
    assert names == {"Ensemble: Solved head", "Ensemble: MetaHeac w/o Meta, with list lengths"}


def test_what_was_customised_is_kept_for_each_member(tmp_path, general, monkeypatch):
    folder = tmp_path / "kept"
    first = METHOD.customise(general, DATA, CAMPAIGNS, seed=5, directory=folder)
    assert len(list(folder.glob("*/*.npz"))) == 3 * len(CAMPAIGNS)
    monkeypatch.setattr(KeptCampaigns, "add", None)  # what is not found is customised, and added
    second = METHOD.customise(general, DATA, CAMPAIGNS, seed=5, directory=folder)
    np.testing.assert_array_equal(scores(first), scores(second))


def test_a_mesh_of_one_device_makes_the_same_model(general):
    """But for rounding, of which Adam makes steps where gradients are as small."""
    mesh, rate = device_mesh(campaign=1, row=1), METHOD.settings.outer_learning_rate
    made = METHOD.fit(DATA, campaigns=TRAIN, seed=3, mesh=mesh)
    pairs = zip(*map(jax.tree.leaves, (made.state, general.state)), strict=True)
    off = np.concatenate([np.abs(a - b).ravel() for a, b in pairs])
    assert off.mean() < rate / 10
    models, alone = (METHOD.customise(made, DATA, CAMPAIGNS, mesh=m) for m in (mesh, None))
    np.testing.assert_allclose(scores(models), scores(alone), atol=1e-5)


def test_it_does_not_adapt_heads():
    with pytest.raises(InputError, match="ensemble: cannot adapt heads only"):
        METHOD.with_settings(online_adapts="heads")


def test_an_ensemble_without_lr_of_an_earlier_version_is_refused(general):
    network = {name: own for name, own in general.state["network"].items() if name != "shares"}
    old = replace(general, state={**general.state, "network": network})
    words = "the general model is an ensemble without LR, of an earlier version; fit it again"
    [own] = METHOD.customise(general, DATA, CAMPAIGNS[:1])
    run = Run(DATA, np.empty(0, int), METHOD.settings, 0)
    for use in (
        lambda: METHOD.customise(old, DATA, CAMPAIGNS),
        lambda: METHOD.fit(DATA, campaigns=TRAIN, start=old),
        lambda: METHOD.restore(run, old.state, CAMPAIGNS[0], own.adapted),
    ):
        with pytest.raises(InputError, match=words):
            use()
