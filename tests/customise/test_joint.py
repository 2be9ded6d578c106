"""Scores of many campaigns at once: those of each scorer, with one first layer for all."""

from dataclasses import replace
from itertools import pairwise

import jax
import numpy as np
import pytest
from toy import UNTRAINED, dataset

from metaheac_jax.customise import joint
from metaheac_jax.customise.joint import score_jointly
from metaheac_jax.customise.score import AdaptedScorer, PoolScorer
from metaheac_jax.data.list_lengths import with_lengths
from metaheac_jax.errors import InputError
from metaheac_jax.methods import method_named
from metaheac_jax.model import AdaptedWeights, initialise
from metaheac_jax.networks.mlp import MLP

DATA = dataset(users=300, campaigns=6, per_campaign=60, pool=40)
TINY = replace(UNTRAINED, online_adapts="heads")
USERS = DATA.user_rows


def scorers_of(name, adapts="heads", campaigns=(1, 4, 5), seed=4):
    method = method_named(name, TINY).with_settings(offline_epochs=0)
    general = method.fit(DATA, campaigns=[0, 1, 2], seed=seed)
    chosen = [DATA.campaign(c) for c in campaigns]
    adapting = method.with_settings(online_adapts=adapts)
    return [model.scorer for model in adapting.customise(general, DATA, chosen)]


def alone(scorers):
    return np.stack([scorer(USERS) for scorer in scorers])


@pytest.fixture
def never_alone(monkeypatch):
    """No scorer may score by itself."""

    def refuse(scorer, users):
        raise AssertionError("scored alone")

    return lambda: monkeypatch.setattr(AdaptedScorer, "__call__", refuse)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metaheac", "mlp-seeds", "solved-head"])
def test_scores_are_those_of_each_model(name, never_alone):
    scorers = scorers_of(name)
    expected = alone(scorers)
    never_alone()
    scores = score_jointly(scorers)(USERS)
    np.testing.assert_allclose(np.stack(scores), expected, rtol=0, atol=1e-6)
    assert all(own.dtype == np.float32 for own in scores)
    assert min(np.abs(a - b).max() for a, b in pairwise(expected)) > 0.01


@pytest.mark.slow
def test_an_accelerator_scores_several_campaigns_at_once(monkeypatch):
    """Three at once, then the remaining two."""
    scorers = scorers_of("metaheac", campaigns=(1, 2, 3, 4, 5))
    expected, sizes = score_jointly(scorers)(USERS), []
    plain = jax.lax.map

    def watched(apply, trees, *, batch_size):
        sizes.append(batch_size)
        return plain(apply, trees, batch_size=batch_size)

    joint._compiled.cache_clear()
    monkeypatch.setattr(joint, "campaigns_at_once", lambda most: min(3, most))
    monkeypatch.setattr(jax.lax, "map", watched)
    found = score_jointly(scorers)(USERS)
    joint._compiled.cache_clear()
    assert sizes == [3]
    np.testing.assert_allclose(np.stack(found), np.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_models_of_several_kinds_keep_their_order():
    """Heads of two general models, whole networks, and what is no network."""
    models = (("heads", 4), ("heads", 9), ("all", 4))
    heads, others, whole = (scorers_of("mlp-pretraining", a, seed=seed) for a, seed in models)
    assert np.abs(heads[0](USERS) - others[0](USERS)).max() > 0.01
    mixed = [whole[0], heads[1], others[2], lambda users: users[:, 0], heads[0], others[0]]
    np.testing.assert_allclose(np.stack(score_jointly(mixed)(USERS)), alone(mixed), atol=1e-6)


class Opposite(MLP):
    """A network with the same parameters, and other scores."""

    def apply(self, *inputs):
        output = super().apply(*inputs)
        return output._replace(log_p=output.log_not_p, log_not_p=output.log_p)


def test_models_that_do_not_share_the_table_and_the_first_layer_are_scored_apart():
    network = MLP(widths=(6, 5))
    longer, lengths = with_lengths(DATA)
    layout, rows = longer.layout, longer.num_rows
    weights = initialise(network, jax.random.key(0), layout, num_rows=rows, width=4)
    later, no_rows = network.later_layers(weights.network), np.empty(0, np.int32)
    adapted = AdaptedWeights(later, no_rows, weights.table[:0])
    pool_scorer, fields = PoolScorer(network, layout), longer.campaign_rows[0]
    one = AdaptedScorer(pool_scorer, weights, adapted, fields, lengths)
    twice = jax.tree.map(lambda leaf: 2 * leaf, weights)
    some = adapted._replace(rows=np.arange(4, dtype=np.int32), values=twice.table[:4])
    for what, part in (
        ("pool_scorer", PoolScorer(Opposite(widths=(6, 5)), layout)),
        ("weights", weights._replace(network=twice.network)),
        ("weights", weights._replace(table=twice.table)),
        ("adapted", some),
        ("adapted", adapted._replace(network=twice.network)),
        ("lengths", replace(lengths, num_rows=20)),  # does not count the later values
    ):
        both = [one, replace(one, **{what: part})]
        expected = alone(both)
        assert np.abs(expected[0] - expected[1]).max() > 0.01
        np.testing.assert_allclose(np.stack(score_jointly(both)(USERS)), expected, atol=1e-6)


def test_few_users_no_models_and_wrong_ids():
    assert score_jointly([])(USERS) == []
    score = score_jointly(scorers_of("mlp-pretraining", campaigns=(0, 1)))
    assert [len(own) for own in score(USERS[:0])] == [0, 0]
    assert [len(own) for own in score(USERS[:1])] == [1, 1]
    with pytest.raises(InputError, match="the users' ids include -1"):
        score(np.full((2, 6), -1))
