"""MLPs from scratch: MLP_one-stage, and MLP+emb, whose table stays as it was learned."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import aucs, dataset

from experiments.baselines import from_scratch
from experiments.baselines.from_scratch import MLPEmbeddings, MLPOneStage
from metaheac_jax.methods import Online, customise, fit
from metaheac_jax.model import Weights

DATA = dataset(tastes=2, campaigns=16)
NEW = np.arange(12, 16)
METHOD = MLPEmbeddings().changed(
    width=8,
    batch_size=64,
    campaigns_per_step=4,
    offline_epochs=5,
    offline_patience=None,
    outer_learning_rate=0.01,
)


@pytest.fixture(scope="module")
def general():
    return fit(DATA, METHOD, campaigns=np.arange(12))


def customised(method, general, campaigns):
    known = [DATA.campaign(c) for c in campaigns]
    return customise(general, DATA, known, method=method)


@pytest.mark.slow
def test_learns_across_campaigns_and_on_new_ones(general):
    found = aucs(DATA, NEW, [model.score for model in customised(METHOD, general, NEW)])
    assert found.mean() > 0.7
    assert found.min() > 0.55


@pytest.mark.slow
def test_the_table_stays_to_the_bit_and_the_mlp_is_new(general):
    short = METHOD.changed(online_epochs=3, online_patience=None)
    # Nothing of the trained MLP goes on: there is none.
    alone = replace(general, state={**general.state, "network": None})
    (model,) = customised(short, alone, NEW[:1])
    (started,) = customised(short.changed(online_epochs=0), alone, NEW[:1])
    adapted = model.scorer.own[0]
    real = adapted.rows < DATA.num_rows
    assert real.sum() > 20
    table = np.asarray(general.state["table"])
    np.testing.assert_array_equal(np.asarray(adapted.values)[real], table[adapted.rows[real]])
    networks = started.scorer.own[0].network, adapted.network, general.state["network"]
    for start, end, trained_mlp in zip(*map(jax.tree.leaves, networks), strict=True):
        assert start.shape == trained_mlp.shape
        assert not np.array_equal(start, end)
        assert not np.array_equal(start, trained_mlp)


def test_the_new_mlp_is_not_drawn_with_a_key_of_the_offline_stage(monkeypatch):
    """`initialise` splits the key of the seed."""
    keys = [jax.random.split(jax.random.key(0))]
    noted = lambda run, config, network, key: keys.append(key[None]) or Weights({}, None)  # noqa: E731
    monkeypatch.setattr(from_scratch, "untrained", noted)
    monkeypatch.setattr(from_scratch, "fine_tune", lambda *_: [])
    METHOD.customise(Online(DATA, 0), {"table": None}, [])
    drawn = np.concatenate([jax.random.key_data(key) for key in keys])
    assert len(np.unique(drawn, axis=0)) == 3


def test_one_stage_mlps_start_untrained():
    table = np.asarray(fit(DATA, MLPOneStage().changed(width=8)).state["table"])
    # N(0, 1) to four standard errors; nothing has moved it.
    assert abs(table.std() - 1) < 4 / np.sqrt(2 * table.size)
