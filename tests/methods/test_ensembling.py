"""The ensemble: a mean of three methods that are trained and customised as they are alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import dataset, drawn, tiny, with_shares

from metaheac_jax.methods import Run, customise, fit
from metaheac_jax.methods.ensembling import Ensemble, Member
from metaheac_jax.methods.general_models import steps_of
from metaheac_jax.methods.held_out_campaigns import halve, judge_state
from metaheac_jax.networks import MLP, sigmoid_output
from metaheac_jax.table.pooling import UserFields
from metaheac_jax.training.sharding import device_mesh

DATA = dataset(users=200, campaigns=12, per_campaign=60, pool=40)
TRAIN, NEW = np.arange(9), np.arange(9, 12)
METHOD = tiny("ensemble", offline_epochs=2, offline_patience=8, outer_learning_rate=0.01)
CAMPAIGNS = [DATA.campaign(c) for c in NEW]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def general(tmp_path_factory):
    return fit(DATA, METHOD, campaigns=TRAIN, seed=3, directory=tmp_path_factory.mktemp("f") / "e")


@pytest.fixture(scope="module")
def alone():
    """General models of the members, each trained by itself."""
    return [(own, fit(DATA, own, campaigns=TRAIN, seed=3)) for own in METHOD.members]


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
    models = customise(general, DATA, CAMPAIGNS, seed=5)
    each = np.stack([scores(customise(of, DATA, CAMPAIGNS, seed=5)) for _, of in alone])
    expected = np.tensordot(shares_of(general), each, axes=1)
    np.testing.assert_allclose(scores(models), expected, atol=1e-5)
    assert min(np.abs(each[a] - each[b]).max() for a, b in ((0, 1), (1, 2), (0, 2))) > 0.1


def test_before_customising_it_is_the_general_model(general, alone):
    run = Run(DATA, TRAIN, 0)
    untouched = before(METHOD, run, general)
    each = [*(before(own, run, of) for own, of in alone[:2]), 0 * untouched]  # LR is 0 everywhere
    np.testing.assert_allclose(untouched, np.tensordot(shares_of(general), each, axes=1), atol=1e-5)
    assert np.abs(untouched - scores(customise(general, DATA, CAMPAIGNS))).max() > 0.1


def before(method, run, general):
    scorers = method.general_scorers(run, general.state, CAMPAIGNS)
    return np.array([scorer(DATA.user_rows) for scorer in scorers])


def judged_auc(general):
    """The AUC on the halves of the campaigns that were held out."""
    held = np.flatnonzero(np.isin(DATA.campaign_ids, general.held_out))
    halves = [halve(DATA, int(c), 3) for c in held]
    return judge_state(METHOD.customise, Run(DATA, TRAIN, 3), halves, general.state).auc


def test_its_judgement_is_of_all_together(general, alone):
    """At the steps of both kept states; held out are the campaigns of the members."""
    [judged] = general.judgements
    assert judged.step == sum(steps_of(of) for _, of in alone[:2])
    assert general.held_out == alone[0][1].held_out == alone[1][1].held_out
    assert judged_auc(general) == pytest.approx(judged.auc, abs=1e-6)


def test_the_share_of_lr_is_the_best_on_held_out_campaigns(general):
    """The least of the best, and half of the rest for each other member."""
    tried = {}
    for lr in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
        own = with_shares(general, ((1 - lr) / 2, (1 - lr) / 2, lr))
        tried[lr] = judged_auc(own)
    best = min(lr for lr, auc in tried.items() if auc == max(tried.values()))
    assert best > 0
    np.testing.assert_allclose(shares_of(general), [(1 - best) / 2, (1 - best) / 2, best])
    assert general.judgements[0].auc == pytest.approx(tried[best], abs=1e-6)


def test_without_held_out_campaigns_lr_has_no_share_or_the_one_that_it_had(general):
    short = METHOD.changed(offline_epochs=1, offline_patience=None)
    np.testing.assert_array_equal(shares_of(fit(DATA, short, campaigns=TRAIN)), [0.5, 0.5, 0])
    start = with_shares(general, (0.3, 0.3, 0.4))
    longer = fit(DATA, short, campaigns=TRAIN, start=start)
    np.testing.assert_allclose(shares_of(longer), [0.3, 0.3, 0.4])


def test_a_training_that_was_interrupted_goes_on_with_the_member_that_it_was_at(tmp_path, general):
    class Stopped(Exception):
        pass

    begun, seen = [], []

    def stop(what, done, total):
        begun.append((what, done))
        if "w/o Meta" in what and done:
            raise Stopped

    options = {"campaigns": TRAIN, "seed": 3, "directory": tmp_path / "e"}
    with pytest.raises(Stopped):
        fit(DATA, METHOD, **options, progress=stop)
    again = fit(DATA, METHOD, **options, progress=lambda what, done, _: seen.append((what, done)))
    fresh = lambda pairs: [w for w, done in pairs if w.startswith("Ensemble: Solved") and not done]  # noqa: E731
    assert fresh(begun)
    assert not fresh(seen)
    jax.tree.map(np.testing.assert_array_equal, dict(again.state), dict(general.state))
    share, auc = shares_of(again)[-1], again.judgements[0].auc
    assert f"Ensemble: share of LR {share:g}, held-out AUC {auc:.4f}" in [what for what, _ in seen]


def test_hooks_get_the_records_of_each_member():
    records, method = [], METHOD.changed(offline_epochs=1, offline_patience=None)
    fit(DATA, method, campaigns=TRAIN, hooks=[records.append])
    names = {record["name"] for record in records}
    assert names == {"Ensemble: Solved head", "Ensemble: MetaHeac w/o Meta"}


def test_a_mesh_of_one_device_makes_the_same_model(general):
    """But for rounding, of which Adam makes steps where gradients are as small."""
    mesh, rate = device_mesh(campaign=1, row=1), METHOD.config.head.outer_learning_rate
    made = fit(DATA, METHOD, campaigns=TRAIN, seed=3, mesh=mesh)
    pairs = zip(*map(jax.tree.leaves, (made.state, general.state)), strict=True)
    off = np.concatenate([np.abs(a - b).ravel() for a, b in pairs])
    assert off.mean() < rate / 10


# Its network ------------------------------------------------------------------------------------


class Weighted:
    """Log-odds: a weight times the sum of all user fields, less the sum of the campaign's."""

    def init(self, key, user, campaign):
        return jax.random.normal(key, user.dense().shape[-1:])

    def apply(self, weight, user, campaign):
        return sigmoid_output(user.dense().sum(-2) @ weight - campaign.sum())


ONE_WIDE = Member("c", Weighted(), 1)


def test_its_log_odds_are_the_weighted_sum_of_those_of_its_members():
    user, campaign = jnp.arange(12.0).reshape(1, 2, 6) / 10, jnp.arange(6.0).reshape(1, 6)
    network = Ensemble((Member("a", Weighted(), 2), Member("b", Weighted(), 3), ONE_WIDE))
    params = {"a": jnp.ones(2), "b": 10 * jnp.ones(3), "c": 100 * jnp.ones(1)}
    output = network.apply(params | {"shares": jnp.array([1.0, 0.5, 2])}, user, campaign)
    # Columns (0, 1), (2, 3, 4) and (5,) of both fields, and the campaign's 0 + 1, 2 + 3 + 4 and 5.
    expected = (1.4 - 1) + 0.5 * (36.0 - 9) + 2 * (160.0 - 5)
    np.testing.assert_allclose(output.log_p - output.log_not_p, [expected], rtol=1e-6)


def test_members_are_drawn_apart():
    network = Ensemble((Member("a", Weighted(), 3), Member("b", Weighted(), 3), ONE_WIDE))
    params = network.init(jax.random.key(0), jnp.zeros((1, 2, 7)), jnp.zeros((1, 7)))
    assert params["a"].shape == params["b"].shape == (3,)
    assert params["c"].shape == (1,)
    assert not np.array_equal(params["a"], params["b"])
    np.testing.assert_allclose(params["shares"], [1 / 3] * 3)


def test_fields_kept_as_products_give_the_same():
    """`UserFields`, whose values have embeddings in common, and their dense form."""
    rng = np.random.default_rng(0)
    parts = [(3, 4), (4, 6), (3, 1, 6), (3, 2)]
    fields = UserFields(*(jnp.asarray(rng.normal(size=shape)) for shape in parts), (4, 0))
    campaign = jnp.asarray(rng.normal(size=(2, 6)))
    network = Ensemble((Member("a", MLP(), 3), Member("b", MLP(), 3)))
    params = drawn(network, fields.dense(), campaign)
    ours, theirs = (network.apply(params, user, campaign) for user in (fields, fields.dense()))
    np.testing.assert_allclose(ours.log_p, theirs.log_p, rtol=1e-4)
    assert np.ptp(ours.log_p) > 0.01
