"""The ensemble: the mean of two methods that are trained and customised as they are alone."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import UNTRAINED, dataset

from metaheac_jax.errors import InputError
from metaheac_jax.methods.ensemble import ensemble, member_methods
from metaheac_jax.training.sharding import device_mesh

DATA = dataset(users=200, campaigns=12, per_campaign=60, pool=40)
TRAIN, NEW = np.arange(9), np.arange(9, 12)
METHOD = ensemble(
    replace(UNTRAINED, offline_epochs=2, offline_patience=1, outer_learning_rate=0.01)
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


def test_a_score_is_the_mean_of_those_of_its_members_alone(general, alone):
    models = METHOD.customise(general, DATA, CAMPAIGNS, seed=5)
    each = [scores(own.customise(of, DATA, CAMPAIGNS, seed=5)) for own, of in alone]
    np.testing.assert_allclose(scores(models), np.mean(each, axis=0), atol=1e-5)
    assert np.abs(each[0] - each[1]).max() > 0.1


def test_its_judgement_is_of_both_together(general, alone):
    """After the steps of both; the campaigns that tell when to stop are those of the members."""
    [judged] = general.judgements
    ends = [of.judgements[-1].step for _, of in alone]
    assert judged.step == sum(ends)
    assert general.held_out == alone[0][1].held_out == alone[1][1].held_out
    held = np.flatnonzero(np.isin(DATA.campaign_ids, general.held_out))
    assert METHOD.judge(general, DATA, held, seed=3).auc == pytest.approx(judged.auc, abs=1e-6)


def test_a_training_that_was_interrupted_goes_on_with_the_member_that_it_was_at(tmp_path, general):
    class Stopped(Exception):
        pass

    def stop(what, done, total):
        if "w/o Meta" in what and done:
            raise Stopped

    fit = {"campaigns": TRAIN, "seed": 3, "directory": tmp_path / "e"}
    with pytest.raises(Stopped):
        METHOD.fit(DATA, **fit, progress=stop)
    again = METHOD.fit(DATA, **fit)
    jax.tree.map(np.testing.assert_array_equal, dict(again.state), dict(general.state))


def test_what_was_customised_is_kept_for_each_member(tmp_path, general):
    folder = tmp_path / "kept"
    first = METHOD.customise(general, DATA, CAMPAIGNS, seed=5, directory=folder)
    files = {path.name for path in folder.glob("*/*.npz")}
    assert len(files) == 2 * len(CAMPAIGNS)
    second = METHOD.customise(general, DATA, CAMPAIGNS, seed=5, directory=folder)
    assert {path.name for path in folder.glob("*/*.npz")} == files
    np.testing.assert_array_equal(scores(first), scores(second))


def test_a_mesh_of_one_device_makes_the_same_model(general):
    mesh = device_mesh(campaign=1, row=1)
    made = METHOD.fit(DATA, campaigns=TRAIN, seed=3, mesh=mesh)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        dict(made.state),
        dict(general.state),
    )
    models, alone = (METHOD.customise(made, DATA, CAMPAIGNS, mesh=m) for m in (mesh, None))
    np.testing.assert_allclose(scores(models), scores(alone), atol=1e-5)


def test_it_does_not_adapt_heads_nor_go_on_from_a_model(general):
    with pytest.raises(InputError, match="ensemble: cannot adapt heads only"):
        METHOD.with_settings(online_adapts="heads")
    with pytest.raises(InputError, match="has no state of its optimiser; fit it anew"):
        METHOD.fit(DATA, start=general)
