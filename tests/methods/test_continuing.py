"""Training that goes on from a general model: the same as one training, on data that grow."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import check_data, dataset, tiny

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.methods import Offline, customise, fit
from metaheac_jax.methods.fitting import steps_of
from metaheac_jax.methods.offline import untrained
from metaheac_jax.model import load, save
from metaheac_jax.networks import MLP
from metaheac_jax.schema import Vocabulary
from metaheac_jax.training.sharding import device_mesh

DATA = dataset(users=120, campaigns=6, per_campaign=60, pool=40)
SETTINGS = {
    "width": 4,
    "weight_decay": 0.01,
    "outer_learning_rate": 0.01,
    "value_dropout": 0.0,
    "online_epochs": 1,
    "offline_patience": None,
    "list_lengths": True,
}


def own(name, epochs, **more):
    return tiny(name, **SETTINGS | {"offline_epochs": epochs} | more)


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
        user_rows=move(data.user_rows[:]),
        campaign_rows=move(data.campaign_rows),
    )
    check_data(more)
    return data, more


def close(one, two, atol):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), one, two)


def networks_of(optimizer):
    """The part of the networks; each member of an ensemble that takes steps has its own."""
    if "network" in optimizer:
        return optimizer["network"]
    return {name: own["network"] for name, own in optimizer.items() if name != "count"}


def scores(general, data):
    return customise(general, data, [data.campaign(5)], seed=3)[0].score(data.user_rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp-pretraining", "ensemble"])
def test_an_epoch_and_another_are_two(name, tmp_path):
    """By way of the disk; the second training draws the batches of the steps that come next."""
    once = fit(DATA, own(name, 1), seed=4)
    before = jax.tree.map(np.array, (once.state, once.optimizer))
    save(once, tmp_path / "model")
    start = load(tmp_path / "model", optimizer=True)
    twice = fit(DATA, own(name, 1), seed=4, start=start)
    both = fit(DATA, own(name, 2), seed=4)
    assert steps_of(twice) == steps_of(both) == 2 * steps_of(once) > 0
    # Rows that no step has touched of late are brought up to date in between, which rounds.
    close(twice.state, both.state, 2e-5)
    close(*(networks_of(general.optimizer) for general in (twice, both)), 2e-5)
    pairs = zip(*(jax.tree.leaves(of.state) for of in (twice, once)), strict=True)
    assert max(np.ptp(np.subtract(*pair, dtype=float)) for pair in pairs) > 1e-2
    # What was given is as it was.
    again = fit(DATA, own(name, 1), seed=4, start=once)
    close(again.state, twice.state, 0)
    close((once.state, once.optimizer), before, 0)


@pytest.mark.slow
def test_values_keep_their_embeddings_and_moments_and_new_ones_begin():
    data, more = grown()
    general = fit(data, own("mlp-pretraining", 1, list_lengths=False), seed=4)
    larger = fit(more, own("mlp-pretraining", 0, list_lengths=False), seed=9, start=general)
    config = own("mlp-pretraining", 0, list_lengths=False).config
    fresh = untrained(Offline(more, np.arange(6), 9), config, MLP()).table
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
    after = fit(more, own("mlp-pretraining", 1, list_lengths=False), seed=9, start=general)
    assert steps_of(after) == 2 * steps_of(general)


@pytest.mark.slow
def test_data_that_lack_values_of_the_model_get_them():
    """As data that were prepared anew: the new model has the values of both."""
    data, more = grown()
    general = fit(more, own("mlp-pretraining", 1), seed=4)
    still = fit(data, own("mlp-pretraining", 0), seed=4, start=general)
    for values, union in zip(still.vocabulary.values, more.vocabulary.values, strict=True):
        np.testing.assert_array_equal(values, union)
    close(still.state, general.state, 1e-7)
    [one], [other] = (
        customise(model, data, [data.campaign(5)], seed=3) for model in (general, still)
    )
    users = data.encoded_for(data.schema, more.vocabulary).user_rows[:]
    np.testing.assert_allclose(one.score(users), other.score(users), atol=1e-6)


def test_training_does_not_go_on_with_fields_of_another_kind():
    first, *fields = DATA.schema.user
    other = replace(DATA, schema=replace(DATA.schema, user=(replace(first, name="age"), *fields)))
    general = fit(DATA, own("without-meta", 0))
    with pytest.raises(InputError, match=r"toy.* the model.*'age'"):
        fit(other, own("without-meta", 0), start=general)


def test_a_model_names_all_campaigns_of_its_trainings():
    method = own("mlp-pretraining", 0)
    start = fit(DATA, method, campaigns=[3, 1])
    assert fit(DATA, method, campaigns=[1, 2], start=start).campaigns == (130, 110, 120)


def test_the_model_that_a_mesh_goes_on_from_stays_whole():
    method, mesh = own("mlp-pretraining", 1), device_mesh()
    general = fit(DATA, method, mesh=mesh)
    before = jax.tree.map(np.array, dict(general.state))
    fit(DATA, method, start=general, mesh=mesh)
    close(dict(general.state), before, 0)
