"""MLP+emb: a table learned across campaigns, which stays, and a new MLP for each campaign."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import aucs, dataset

from metaheac_jax.methods import shared_embeddings
from metaheac_jax.methods.shared_embeddings import fit_new_mlp, mlp_embeddings
from metaheac_jax.methods.stages import Run
from metaheac_jax.model import Weights
from metaheac_jax.settings import PAPER

DATA = dataset(tastes=2, campaigns=16)
NEW = np.arange(12, 16)
METHOD = mlp_embeddings(
    replace(
        PAPER,
        width=8,
        batch_size=64,
        campaigns_per_step=4,
        offline_epochs=5,
        offline_patience=None,
        outer_learning_rate=0.01,
    )
)


@pytest.fixture(scope="module")
def general():
    return METHOD.fit(DATA, campaigns=np.arange(12))


def customise(method, general, campaigns, watch=None):
    known = [DATA.campaign(c) for c in campaigns]
    return method.customise(general, DATA, known, watch=watch)


@pytest.mark.slow
def test_learns_across_campaigns_and_on_new_ones(general):
    found = aucs(DATA, NEW, [model.score for model in customise(METHOD, general, NEW)])
    assert found.mean() > 0.7
    assert found.min() > 0.55


@pytest.mark.slow
def test_the_table_stays_to_the_bit_and_the_mlp_is_new(general):
    started = []

    def watch(step, models):
        if step == 0:
            started.extend(scorer.adapted for scorer in models())

    short = METHOD.with_settings(online_epochs=3, online_patience=None)
    # Nothing of the trained MLP goes on: there is none.
    alone = replace(general, state={**general.state, "network": None})
    (model,) = customise(short, alone, NEW[:1], watch)
    adapted = model.adapted
    real = adapted.rows < DATA.num_rows
    assert real.sum() > 20
    table = np.asarray(general.state["table"])
    np.testing.assert_array_equal(np.asarray(adapted.values)[real], table[adapted.rows[real]])
    networks = started[0].network, adapted.network, general.state["network"]
    for start, end, trained_mlp in zip(*map(jax.tree.leaves, networks), strict=True):
        assert start.shape == trained_mlp.shape
        assert not np.array_equal(start, end)
        assert not np.array_equal(start, trained_mlp)


def test_the_new_mlp_is_not_drawn_with_a_key_of_the_offline_stage(monkeypatch):
    """`initialise` splits the key of the seed."""
    keys = [jax.random.split(jax.random.key(0))]
    noted = lambda run, network, key: keys.append(key[None]) or Weights({}, None)  # noqa: E731
    monkeypatch.setattr(shared_embeddings, "untrained", noted)
    monkeypatch.setattr(shared_embeddings, "fine_tune", lambda *_: [])
    fit_new_mlp(Run(DATA, np.arange(12), PAPER, 0), {"table": None}, [])
    drawn = np.concatenate([jax.random.key_data(key) for key in keys])
    assert len(np.unique(drawn, axis=0)) == 3
