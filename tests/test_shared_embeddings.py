"""MLP+emb: a table learned across campaigns, which stays, and a new MLP for each campaign."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import dataset

from experiments.methods import METHODS
from experiments.methods.fine_tuned import untrained
from experiments.methods.method import Job
from experiments.methods.shared_embeddings import fit_new
from metaheac_jax.baselines import MLP, OnFrozenFields
from metaheac_jax.metrics import auc
from metaheac_jax.presets import PAPER
from metaheac_jax.progress import silent

METHOD = METHODS["mlp-embeddings"]
DATA = dataset(tastes=2, campaigns=16)
NEW = np.arange(12, 16)
PRESET = METHOD.preset(
    replace(PAPER, width=8, rows=64, campaigns_per_step=4, epochs=5, outer_learning_rate=0.01)
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mlp-embeddings")
    job = Job(DATA, np.arange(12), PRESET, 0, directory, None, silent)
    return job, METHOD.offline(job)


def aucs(models):
    stage = DATA.stage2
    pools = [(DATA.user_rows[stage.user[stage.of(c)]], stage.label[stage.of(c)]) for c in NEW]
    return np.array([auc(m(users), label) for m, (users, label) in zip(models, pools, strict=True)])


def short(job, epochs):
    return replace(job, preset=replace(job.preset, online_epochs=epochs, online_patience=None))


def touched(general, scorer):
    model = scorer.args[1]
    real = model.rows < DATA.rows
    return np.asarray(model.values)[real], np.asarray(general.table)[model.rows[real]]


def test_learns(trained):
    job, general = trained
    found = aucs(METHOD.online(job, general, NEW))
    assert found.mean() > 0.7
    assert found.min() > 0.55


def test_the_table_stays_to_the_bit_and_the_mlp_moves(trained):
    job, general = trained
    started, fitted = (METHOD.online(short(job, n), general, NEW[:1])[0] for n in (0, 3))
    now, before = touched(general, fitted)
    assert len(now) > 30
    np.testing.assert_array_equal(now, before)
    pairs = zip(*(jax.tree.leaves(m.args[1].network) for m in (started, fitted)), strict=True)
    assert not any(np.array_equal(*pair) for pair in pairs)


def test_the_mlp_is_new(trained):
    job, general = trained
    (model,) = METHOD.online(short(job, 0), general, NEW[:1])
    # Nothing of the trained MLP goes on, nor does the new one start where that one started.
    broken = general._replace(network=jax.tree.map(lambda leaf: leaf * jnp.nan, general.network))
    (other,) = METHOD.online(short(job, 0), broken, NEW[:1])
    old = untrained(job, MLP(), jax.random.key(job.seed)).network
    for new, same, trained_, start in zip(
        *map(jax.tree.leaves, (model.args[1].network, other.args[1].network, general.network, old)),
        strict=True,
    ):
        np.testing.assert_array_equal(new, same)
        assert not np.array_equal(new, trained_)
        assert not np.array_equal(new, start)


def test_the_table_is_fine_tuned_on_request(trained):
    job, general = trained
    (model,) = fit_new(short(job, 1), general, NEW[:1], frozen=False)
    now, before = touched(general, model)
    assert (now != before).any(axis=1).all()


def test_frozen_fields_change_the_gradient_and_nothing_else():
    rng = np.random.default_rng(0)
    user, campaign = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((5, 3, 4), (2, 4)))
    plain, frozen = MLP(), OnFrozenFields(MLP())
    params = frozen.init(jax.random.key(0), user, campaign)
    jax.tree.map(
        np.testing.assert_array_equal, params, plain.init(jax.random.key(0), user, campaign)
    )

    def gradients(network):
        loss = lambda *arguments: network.apply(*arguments).log_p.sum()  # noqa: E731
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(params, user, campaign)

    (value, (network, *fields)), (same, (frozen_network, *none)) = map(gradients, (plain, frozen))
    assert value == same
    jax.tree.map(np.testing.assert_array_equal, network, frozen_network)
    assert all(np.any(gradient) for gradient in fields)
    assert not any(np.any(gradient) for gradient in none)
