"""The curve of fine-tuning: it ends where the weights are no longer finite."""

import dataclasses

import numpy as np
import pytest
from toy import dataset

from experiments.comparison.curves import fine_tuning_curve
from metaheac_jax.methods import metaheac
from metaheac_jax.progress import silent
from metaheac_jax.settings import PAPER

DATA = dataset(users=120, campaigns=3, per_campaign=60, pool=40)
TINY = dataclasses.replace(PAPER, width=2, num_experts=2, num_critics=2, batch_size=32)
TINY = dataclasses.replace(TINY, offline_epochs=0, campaigns_per_step=2)


@pytest.mark.slow
def test_a_curve_ends_where_fine_tuning_diverges():
    method = metaheac(TINY).with_settings(online_learning_rate=1e38)
    general = method.fit(DATA)
    curve = fine_tuning_curve(method, general, DATA, 0, seed=0, progress=silent)
    assert curve["steps"] == [0]
    assert np.isfinite(curve["loss"] + curve["auc"]).all()
