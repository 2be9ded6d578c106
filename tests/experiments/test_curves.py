"""The curve of fine-tuning: what it measures, and that it ends where weights are not finite."""

import dataclasses

import numpy as np
import pytest
from toy import dataset

from experiments.comparison.curves import fine_tuning_curve
from metaheac_jax.audience.evaluation import pool_rows
from metaheac_jax.methods import Method, metaheac
from metaheac_jax.methods.stages import Trained
from metaheac_jax.progress import silent
from metaheac_jax.ranking import auc
from metaheac_jax.settings import PAPER

DATA = dataset(users=120, campaigns=3, per_campaign=60, pool=40)
TINY = dataclasses.replace(PAPER, width=2, num_experts=2, num_critics=2, batch_size=32)
TINY = dataclasses.replace(TINY, offline_epochs=0, campaigns_per_step=2)


def test_a_curve_has_the_loss_of_the_examples_and_the_auc_of_the_pool():
    odds = np.random.default_rng(0).normal(size=DATA.num_rows + 1)
    score = lambda users: odds[users].mean(axis=1)  # noqa: E731

    def adapt(run, state, campaigns):
        run.watch(0, lambda: [score])
        return [score]

    train = lambda run: Trained({})  # noqa: E731
    method = Method(name="fake", label="Fake", settings=TINY, train=train, adapt=adapt)
    curve = fine_tuning_curve(method, method.fit(DATA), DATA, 1, seed=0, progress=silent)
    pool, own = DATA.stage2.label[DATA.stage2.of(1)], DATA.campaign(1)
    p = 1 / (1 + np.exp(-score(DATA.user_rows[own.users])))
    loss = -np.mean(np.log(np.where(own.labels == 1, p, 1 - p)))
    assert (curve["campaign"], curve["steps"]) == (own.id, [0])
    assert curve["auc"] == [auc(score(pool_rows(DATA, 1)), pool)]
    assert curve["loss"] == pytest.approx([loss])


@pytest.mark.slow
def test_a_curve_ends_where_fine_tuning_diverges():
    method = metaheac(TINY).with_settings(online_learning_rate=1e38)
    general = method.fit(DATA)
    curve = fine_tuning_curve(method, general, DATA, 0, seed=0, progress=silent)
    assert curve["steps"] == [0]
    assert np.isfinite(curve["loss"] + curve["auc"]).all()
