"""Training that goes on from a general model: the same as one training, on data that grow."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import dataset, with_shares

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.methods import method_named
from metaheac_jax.methods.offline import untrained
from metaheac_jax.methods.record import steps_of
from metaheac_jax.methods.stages import Run
from metaheac_jax.model import load, save
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.schema import Field, Schema, Vocabulary
from metaheac_jax.settings import PAPER
from metaheac_jax.training.sharding import device_mesh

DATA = dataset(users=120, campaigns=6, per_campaign=60, pool=40)
TINY = replace(PAPER, width=4, num_experts=2, num_critics=2, batch_size=32, campaigns_per_step=2)
TINY = replace(
    TINY,
    weight_decay=0.01,
    outer_learning_rate=0.01,
    online_epochs=1,
    online_patience=None,
    offline_patience=None,
)
#: With fields for the lengths of lists, which are not in the schema.
LENGTHS = "mlp-pretraining-lengths"


def tiny(name, epochs):
    settings = {k: v for k, v in vars(TINY).items() if k != "disjoint"}
    return method_named(name, TINY).with_settings(**settings | {"offline_epochs": epochs})


def grown(data=DATA) -> Dataset:
    """The data with new values before, between and after the old ones, which are even numbers."""
    values = [2 * v for v in data.vocabulary.values]
    own = [np.union1d(v, [-3, 5, 10**6][: 1 + i % 3]) for i, v in enumerate(values)]
    old, new = Vocabulary(tuple(values)), Vocabulary(tuple(own))
    rows = np.concatenate([new.encode(f, v) for f, v in enumerate(values)] + [[new.num_rows]])
    move = lambda ids: rows[ids].astype(np.int32)  # noqa: E731
    data = replace(data, vocabulary=old)
    more = replace(
        data,
        vocabulary=new,
        user_rows=move(data.user_rows),
        campaign_rows=move(data.campaign_rows),
    )
    more.check()
    return data, more


def close(one, two, atol):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), one, two)


def networks_of(optimizer):
    """The part of the networks; each member of an ensemble that takes steps has its own."""
    if "network" in optimizer:
        return optimizer["network"]
    return {name: own["network"] for name, own in optimizer.items() if name != "count"}


def scores(name, general, data):
    method = tiny(name, 0)
    [model] = method.customise(general, data, [data.campaign(5)], seed=3)
    return model.score(data.user_rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", [LENGTHS, "ensemble"])
def test_an_epoch_and_another_are_two(name, tmp_path):
    """By way of the disk; the second training draws the batches of the steps that come next."""
    once = tiny(name, 1).fit(DATA, seed=4)
    before = jax.tree.map(np.array, (once.state, once.optimizer))
    save(once, tmp_path / "model")
    start = load(tmp_path / "model", optimizer=True)
    twice = tiny(name, 1).fit(DATA, seed=4, start=start)
    both = tiny(name, 2).fit(DATA, seed=4)
    assert steps_of(twice) == steps_of(both) == 2 * steps_of(once) > 0
    # Rows that no step has touched of late are brought up to date in between, which rounds.
    close(twice.state, both.state, 2e-5)
    close(*(networks_of(general.optimizer) for general in (twice, both)), 2e-5)
    moved = np.abs(np.asarray(twice.state["table"]) - np.asarray(once.state["table"]))
    assert moved.max() > 1e-2
    # What was given is as it was.
    again = tiny(name, 1).fit(DATA, seed=4, start=once)
    close(again.state, twice.state, 0)
    close((once.state, once.optimizer), before, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [LENGTHS, "ensemble"])
def test_growth_alone_changes_no_score(name):
    data, more = grown()
    general = with_shares(tiny(name, 1).fit(data, seed=4))
    still = tiny(name, 0).fit(data, seed=4, start=general)
    close(still.state, general.state, 1e-7)
    larger = tiny(name, 0).fit(more, seed=4, start=general)
    assert larger.vocabulary is more.vocabulary
    np.testing.assert_allclose(
        scores(name, larger, more), scores(name, general, data), rtol=0, atol=1e-6
    )


@pytest.mark.slow
def test_values_keep_their_embeddings_and_moments_and_new_ones_begin():
    data, more = grown()
    general = tiny("mlp-pretraining", 1).fit(data, seed=4)
    larger = tiny("mlp-pretraining", 0).fit(more, seed=9, start=general)
    fresh = untrained(Run(more, np.arange(6), TINY, 9), MLP(), jax.random.key(9)).table
    seen = 0
    for f, values in enumerate(more.vocabulary.values):
        for i, value in enumerate(values):
            row = more.vocabulary.offsets[f] + i
            [old] = data.vocabulary.encode(f, [value])
            known = old < data.num_rows
            seen += known
            expected = general.state["table"][old] if known else fresh[row]
            np.testing.assert_allclose(larger.state["table"][row], expected, rtol=0, atol=1e-7)
            for moment in ("mu", "nu"):
                expected = general.optimizer["table"][moment][old] if known else np.zeros(4)
                found = larger.optimizer["table"][moment][row]
                np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    assert seen == data.num_rows < more.num_rows
    # And all of them learn.
    after = tiny("mlp-pretraining", 1).fit(more, seed=9, start=general)
    assert steps_of(after) == 2 * steps_of(general)


def test_a_model_names_its_parent_and_all_campaigns(tmp_path):
    method = tiny("mlp-pretraining", 0)
    first = replace(method.fit(DATA, campaigns=[3, 1]), data_digest="of the data")
    save(first, tmp_path / "first")
    start = load(tmp_path / "first", optimizer=True)
    assert (start.parent, start.data_digest) == (None, "of the data")
    general = method.fit(replace(DATA, digest="new"), campaigns=[1, 2], start=start)
    assert general.campaigns == (130, 110, 120)
    assert (general.parent, general.data_digest) == (start.origin.digest, "new")
    save(general, tmp_path / "second")
    loaded = load(tmp_path / "second")
    assert (loaded.parent, loaded.data_digest) == (start.origin.digest, "new")


# What is refused --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def general():
    return tiny("mlp-pretraining", 0).fit(DATA)


def refused(name, start, data, words):
    method = method_named(name, TINY)
    with pytest.raises(InputError, match=words) as error:
        method.fit(data, start=start)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cosine", "lr", "prior", "mlp-one-stage"])
def test_methods_without_steps_do_not_go_on(general, name):
    refused(
        name, general, DATA, f"{name} takes no steps, so it cannot continue from a model; fit it"
    )


@pytest.mark.parametrize("name", ["shared-bottom", "mmoe"])
def test_methods_with_a_head_per_campaign_do_not_go_on(general, name):
    refused(
        name, general, DATA, f"{name} has one head per training campaign, so it cannot continue"
    )


def test_the_model_that_a_mesh_goes_on_from_stays_whole():
    method, mesh = tiny("mlp-pretraining", 1), device_mesh()
    general = method.fit(DATA, mesh=mesh)
    before = jax.tree.map(np.array, dict(general.state))
    method.fit(DATA, start=general, mesh=mesh)
    close(dict(general.state), before, 0)


def test_models_that_do_not_fit_are_refused(general):
    refused("metaheac", general, DATA, "trained by 'mlp-pretraining', not by 'metaheac'; use its")
    bare = replace(general, optimizer=None)
    refused(
        "mlp-pretraining",
        bare,
        DATA,
        "model of 'toy' has no optimiser state; in Python load it with",
    )
    wide = replace(general, settings=replace(TINY, width=5))
    refused("mlp-pretraining", wide, DATA, "was trained with width 5, the method has 4")


def test_data_that_lack_fields_or_values_are_refused(general):
    values = DATA.vocabulary.values
    less = replace(general, vocabulary=Vocabulary((*values[:2], np.arange(31), *values[3:])))
    refused(
        "mlp-pretraining",
        less,
        DATA,
        "toy: lacks values that the model was trained on; prepare the data",
    )
    other = Schema((Field("sex"), *DATA.schema.user[1:]), DATA.schema.campaign)
    schema = replace(general, schema=other)
    refused("mlp-pretraining", schema, DATA, "from that of the earlier data, first in 'gender'")


def test_scoring_on_grown_data_tells_to_train_first():
    data, more = grown()
    general = tiny("mlp-pretraining", 0).fit(data)
    words = "field 'gender' has other values .*; train a model on this data with metaheac fit --fr"
    with pytest.raises(InputError, match=words):
        tiny("mlp-pretraining", 0).customise(general, more, [more.campaign(0)])
