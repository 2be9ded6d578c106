"""What every method must do; a test module inherits `MethodContract` and names its methods."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import dataset, tiny, with_shares

import metaheac_jax as mh
from metaheac_jax.customising.score import joint_program
from metaheac_jax.errors import InputError
from metaheac_jax.methods import method_of
from metaheac_jax.methods.fitting import steps_of
from metaheac_jax.schema import Schema

DATA = dataset(users=120, campaigns=6, per_campaign=60, pool=40)
FIT = {"campaigns": [0, 1, 2, 3], "seed": 4}


class Stopped(Exception):
    """An interruption."""


def same(one, other):
    """Whether two trees of arrays are equal bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, dict(one), dict(other))


class MethodContract:
    """The tests; they need a fixture ``name``, a method's, with the scope of the class."""

    @pytest.fixture(scope="class")
    @classmethod
    def method(cls, name):
        return tiny(name, offline_epochs=1, offline_patience=None)

    @pytest.fixture(scope="class")
    @classmethod
    def general(cls, method):
        return with_shares(mh.fit(DATA, method, **FIT))

    @pytest.fixture(scope="class")
    @classmethod
    def scores(cls, general):
        return cls.scores_of(general)

    @staticmethod
    def scores_of(general, data=DATA, campaigns=(5,)):
        chosen = [data.campaign(c) for c in campaigns]
        return mh.customise(general, data, chosen, seed=3)[0].score(data.user_rows)

    def test_scores_are_finite_one_per_user_and_differ(self, scores):
        assert scores.shape == (DATA.num_users,)
        assert np.isfinite(scores).all()
        assert np.ptp(scores) > 0

    def test_a_model_knows_what_it_was_trained_on_and_how(self, method, general):
        assert (general.method, general.seed, general.data) == (method.name, 4, "toy")
        assert general.campaigns == (100, 110, 120, 130)  # campaign i has the id 100 + 10 i
        assert method_of(general).config == method.config

    def test_a_saved_model_scores_the_same(self, general, scores, tmp_path):
        mh.save(general, tmp_path / "model")
        np.testing.assert_array_equal(self.scores_of(mh.load(tmp_path / "model")), scores)

    def test_an_interrupted_training_resumes_to_the_same_bits(self, method, general, tmp_path):
        def stop(what, done, total):
            if done:
                raise Stopped

        fit = {**FIT, "directory": tmp_path / "checkpoints"}
        if "offline_epochs" in method.config:
            with pytest.raises(Stopped):
                mh.fit(DATA, method, **fit, progress=stop)
        same(with_shares(mh.fit(DATA, method, **fit)).state, general.state)
        with pytest.raises(InputError, match="started with another seed"):
            mh.fit(DATA, method, **fit | {"seed": 5})

    def test_it_continues_from_a_model_or_says_that_it_cannot(self, method, general):
        if not method.continues:
            with pytest.raises(InputError, match=f"{method.name}.*cannot continue from a model"):
                mh.fit(DATA, method, **FIT, start=general)
            return
        further = mh.fit(DATA, method, **FIT, start=general)
        assert steps_of(further) == 2 * steps_of(general) > 0
        assert np.isfinite(self.scores_of(further)).all()

    def test_labels_of_other_campaigns_change_nothing_online(self, general, scores):
        label = 1 - DATA.stage1.label
        label[DATA.stage1.of(5)] = DATA.stage1.label[DATA.stage1.of(5)]
        other = replace(DATA, stage1=replace(DATA.stage1, label=label))
        np.testing.assert_array_equal(self.scores_of(general, other), scores)

    def test_a_model_does_not_depend_on_the_campaigns_beside_it(self, general, scores):
        found = self.scores_of(general, campaigns=(5, 2))
        np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-5)

    def test_campaigns_are_scored_together_as_alone(self, general):
        models = mh.customise(general, DATA, [DATA.campaign(c) for c in (5, 2)], seed=3)
        if (program := joint_program([model.scorer for model in models])) is not None:
            alone = np.stack([model.score(DATA.user_rows) for model in models], axis=1)
            np.testing.assert_allclose(program(DATA.user_rows), alone, rtol=1e-4, atol=1e-5)

    def test_data_of_another_schema_are_refused(self, general):
        schema = Schema(DATA.schema.user, DATA.schema.campaign[::-1])
        data = replace(DATA, schema=schema)
        with pytest.raises(InputError, match=r"toy: .*differs"):
            mh.customise(general, data, [data.campaign(5)])

    def test_a_campaign_without_examples_is_refused(self, general):
        campaign = DATA.campaign(5)
        with pytest.raises(InputError, match="campaign 150: expected users"):
            mh.customise(general, DATA, [campaign.pick(campaign.labels > 1)])
