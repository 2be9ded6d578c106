"""The ensemble: a weighted sum of three methods that are trained and customised as alone."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import dataset, tiny, with_shares

from metaheac_jax.customising.score import joint_program
from metaheac_jax.methods import Offline, Online, customise, ensemble, fit
from metaheac_jax.methods.ensemble import best_shares
from metaheac_jax.methods.fitting import steps_of
from metaheac_jax.methods.held_out_campaigns import halve_each, judge_of
from metaheac_jax.model import on_device

DATA = dataset(users=200, campaigns=12, per_campaign=60, pool=40)
TRAIN, NEW = np.arange(9), np.arange(9, 12)
METHOD = tiny("ensemble", offline_epochs=2, offline_patience=8, outer_learning_rate=0.01)
CAMPAIGNS = [DATA.campaign(c) for c in NEW]
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def general(tmp_path_factory):
    return fit(DATA, METHOD, campaigns=TRAIN, seed=3, directory=tmp_path_factory.mktemp("f") / "e")


@pytest.fixture(scope="module")
def alone(general):
    """General models of the members, each trained by itself with the same held-out campaigns."""
    held = [DATA.index_of(c) for c in general.held_out]
    rest = np.setdiff1d(TRAIN, held)
    found = [fit(DATA, own, campaigns=rest, held_out=held, seed=3) for own in METHOD.members]
    taught = METHOD.members[1].fit(Offline(DATA, TRAIN, 3))  # by held-out campaigns, too
    found[1] = replace(found[1], state=on_device(taught.state))
    return list(zip(METHOD.members, found, strict=True))


def scores(models):
    return np.array([model.score(DATA.user_rows) for model in models])


@slow
@pytest.mark.parametrize("shares", [None, (0.2, 0.3, 0.5)])
def test_a_score_is_the_weighted_sum_of_those_of_its_members_alone(general, alone, shares):
    if shares is not None:
        general = with_shares(general, shares)
    models = customise(general, DATA, CAMPAIGNS, seed=5)
    each = np.stack([scores(customise(of, DATA, CAMPAIGNS, seed=5)) for _, of in alone])
    expected = np.tensordot(general.state["shares"], each, axes=1)
    np.testing.assert_allclose(scores(models), expected, atol=1e-5)
    together = joint_program([model.scorer for model in models])(DATA.user_rows)
    np.testing.assert_allclose(together.T, expected, atol=1e-4)
    assert min(np.abs(each[a] - each[b]).max() for a, b in ((0, 1), (1, 2), (0, 2))) > 0.1


@slow
def test_before_customising_it_is_the_general_model(general, alone):
    online = Online(DATA, 0)
    untouched = before(METHOD, online, general)
    each = [before(own, online, of) for own, of in alone[:2]]
    expected = np.tensordot(general.state["shares"][:2], each, axes=1)
    np.testing.assert_allclose(untouched, expected, atol=1e-5)
    assert np.abs(untouched - scores(customise(general, DATA, CAMPAIGNS))).max() > 0.1


def before(method, online, general):
    scorers = method.customise(online, general.state, CAMPAIGNS, general=True)
    return np.array([scorer(DATA.user_rows) for scorer in scorers])


@slow
def test_its_judgement_is_that_of_all_together(general, alone):
    """Before the held-out campaigns teach the prior."""
    [judged], held = general.judgements, [DATA.index_of(c) for c in general.held_out]
    stage, prior = Offline(DATA, TRAIN, 3, held_out=np.array(held)), METHOD.members[1]
    untaught = fit(DATA, prior, campaigns=np.setdiff1d(TRAIN, held), seed=3).state
    members = {**general.state["members"], prior.name: untaught}
    state = {"members": members, "shares": general.state["shares"]}
    found = judge_of(METHOD.customise, stage, halve_each(stage))(state, judged.step)
    assert found.auc == pytest.approx(judged.auc, abs=1e-6)
    assert judged.step == steps_of(general) == steps_of(alone[0][1])


@slow
def test_without_held_out_campaigns_shares_are_equal_or_those_that_it_had(general):
    short = METHOD.changed(offline_epochs=1, offline_patience=None)
    first = fit(DATA, short, campaigns=TRAIN)
    np.testing.assert_allclose(first.state["shares"], [1 / 3] * 3)
    start = with_shares(general, (0.2, 0.5, 0.3))
    longer = fit(DATA, short, campaigns=TRAIN, start=start)
    np.testing.assert_allclose(longer.state["shares"], [0.2, 0.5, 0.3])
    assert steps_of(longer) == steps_of(general) + steps_of(first)


@slow
def test_a_training_that_was_interrupted_goes_on_with_the_member_that_it_was_at(tmp_path, general):
    class Stopped(Exception):
        pass

    begun, seen = [], []

    def stop(what, done, total):
        begun.append((what, done))
        if "Learned prior" in what:
            raise Stopped

    options = {"campaigns": TRAIN, "seed": 3, "directory": tmp_path / "e"}
    with pytest.raises(Stopped):
        fit(DATA, METHOD, **options, progress=stop)
    again = fit(DATA, METHOD, **options, progress=lambda what, done, _: seen.append((what, done)))
    fresh = lambda pairs: [w for w, done in pairs if w.startswith("Ensemble: Solved") and not done]  # noqa: E731
    assert fresh(begun)
    assert not fresh(seen)
    jax.tree.map(np.testing.assert_array_equal, dict(again.state), dict(general.state))
    told = ", ".join(f"{own:.2f}" for own in np.asarray(general.state["shares"]))
    [judged] = general.judgements
    assert seen[-1][0] == f"Ensemble: shares {told}, held-out AUC {judged.auc:.4f}"


# Shares -----------------------------------------------------------------------------------------


def halves_of(*noise):
    """Log-odds and labels of ten campaigns with fractions of seeds from a tenth to a half.

    A member's log-odds are the label and noise of its standard deviation, with those of a seed
    among all examples.
    """
    rng, scores, labels = np.random.default_rng(0), [], []
    for fraction in np.linspace(0.1, 0.5, 10):
        label = (rng.random(4000) < fraction).astype(int)
        draws = np.array(noise)[:, None] * rng.normal(size=(len(noise), len(label)))
        scores.append(label + draws + np.log(fraction / (1 - fraction)))
        labels.append(label)
    return scores, labels


def test_shares_are_those_of_the_true_log_odds(monkeypatch):
    """Of independent normal members, they are the inverse variances."""
    monkeypatch.setattr(ensemble, "_VARIANCE", 1e3)
    np.testing.assert_allclose(best_shares(*halves_of(1, 1, 2)), [1, 1, 1 / 4], atol=0.06)


def test_the_prior_draws_shares_to_equal_ones(monkeypatch):
    monkeypatch.setattr(ensemble, "_VARIANCE", 1e-9)
    np.testing.assert_allclose(best_shares(*halves_of(1, 3)), [0.5, 0.5], atol=1e-3)
