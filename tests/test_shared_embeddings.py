"""MLP+emb: a table learned across campaigns, which stays, and a new MLP for each campaign."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import aucs, dataset

from experiments.methods import METHODS
from experiments.methods.method import Job
from experiments.methods.shared_embeddings import fit_new
from metaheac_jax.baselines import MLP, OnFrozenFields
from metaheac_jax.data.sampling import campaign_examples
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


def short(job, epochs):
    return replace(job, preset=replace(job.preset, online_epochs=epochs, online_patience=None))


def moved(general, scorer):
    """The rows of the table that are others than in the general model."""
    model = scorer.args[1]
    real = model.rows < DATA.rows
    table = np.array(general.table)
    table[model.rows[real]] = np.asarray(model.values)[real]
    return np.flatnonzero((table != np.asarray(general.table)).any(axis=1))


def test_learns(trained):
    job, general = trained
    found = aucs(DATA, NEW, METHOD.online(job, general, NEW))
    assert found.mean() > 0.7
    assert found.min() > 0.55


def test_the_table_stays_to_the_bit_and_the_mlp_is_new(trained):
    job, general = trained
    started = []

    def watch(step, models):
        if step == 0:
            started.extend(models())

    # Nothing of the trained MLP goes on: there is none.
    alone = general._replace(network=None)
    (fitted,) = METHOD.online(short(job, 3), alone, NEW[:1], watch)
    assert not len(moved(general, fitted))
    models = (started[0].args[1].network, fitted.args[1].network, general.network)
    for start, end, trained_mlp in zip(*map(jax.tree.leaves, models), strict=True):
        assert start.shape == trained_mlp.shape
        assert not np.array_equal(start, end)
        assert not np.array_equal(start, trained_mlp)


def test_the_table_is_fine_tuned_on_request(trained):
    job, general = trained
    (model,) = fit_new(short(job, 1), general, NEW[:1], frozen=False)
    examples = campaign_examples(DATA, NEW[0])
    read = np.setdiff1d(np.append(examples.user, examples.campaign), [DATA.rows])
    np.testing.assert_array_equal(moved(general, model), read)


def test_frozen_fields_change_the_gradient_and_nothing_else():
    rng = np.random.default_rng(0)
    user, campaign = (rng.normal(size=s) for s in ((5, 3, 4), (2, 4)))
    plain, frozen = MLP(), OnFrozenFields(MLP())
    shapes = jax.eval_shape(frozen.init, jax.random.key(0), user, campaign)
    assert shapes == jax.eval_shape(plain.init, jax.random.key(0), user, campaign)
    params = jax.tree.map(lambda leaf: 0.2 * rng.normal(size=leaf.shape), shapes)

    def gradients(network):
        loss = lambda *arguments: network.apply(*arguments).log_p.sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(params, user, campaign)

    (value, (network, *fields)), (same, (frozen_network, *none)) = map(gradients, (plain, frozen))
    assert value == same
    jax.tree.map(np.testing.assert_array_equal, network, frozen_network)
    assert all(np.any(gradient) for gradient in fields)
    assert not any(np.any(gradient) for gradient in none)
