"""Every method of the library, and one that a user adds, keeps the contract."""

import numpy as np
import pytest
from method_contract import MethodContract

from metaheac_jax.methods import METHODS, Config, Method, Trained, register
from metaheac_jax.model import FunctionScorer


class Popularity(Method):
    """A user's own method: how often the seeds of all campaigns have a user's values."""

    name, label, default = "popularity", "Popularity", Config()

    def fit(self, run):
        stage, data = run.dataset.stage1, run.dataset
        seeds = np.concatenate([stage.user[stage.of(c)] for c in run.campaigns])
        rows = data.user_rows[seeds].ravel()
        return Trained({"counts": np.bincount(rows, minlength=data.num_rows + 1) * 1.0})

    def customise(self, run, state, campaigns):
        counts = np.asarray(state["counts"])
        score = FunctionScorer(lambda users: counts[users].sum(axis=1), log_odds=False)
        return [score for _ in campaigns]


QUICK = ("lr", "mlp-pretraining")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name not in QUICK]


@pytest.fixture(scope="class", params=[*QUICK, "popularity", *SLOW])
def name(request):
    if request.param == "popularity":
        register(Popularity)
    return request.param


class TestContract(MethodContract):
    """The methods of the library."""
