"""Shared-Bottom and MMoE: a head per campaign, a new one online, and what may move with it."""

from functools import cache

import jax
import numpy as np
import pytest
from toy import aucs, dataset, drawn

from experiments.baselines.multitask import (
    PER_CAMPAIGN,
    MMoEMethod,
    SharedBottomMethod,
    mean_head,
)
from experiments.baselines.multitask_networks import MMoE, SharedBottom
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.methods import customise, fit
from metaheac_jax.model import Weights

METHODS = {"shared-bottom": SharedBottomMethod, "mmoe": MMoEMethod}
DATA = dataset(tastes=2, campaigns=16)
TRAIN, NEW = np.array([7, 2, 11, 0, 9, 4, 1, 10, 3, 8, 6, 5]), np.arange(12, 16)
SETTINGS = {
    "width": 8,
    "batch_size": 64,
    "campaigns_per_step": 4,
    "offline_epochs": 5,
    "offline_patience": None,
    "outer_learning_rate": 0.01,
    "online_learning_rate": 0.01,
    "online_epochs": 20,
}


@pytest.fixture(scope="module")
def trained():
    """``trained(name) -> (method, general)``, each trained once."""

    @cache
    def train(name):
        method = METHODS[name]().changed(**SETTINGS)
        return method, fit(DATA, method, campaigns=TRAIN)

    return train


def customised(method, general, campaigns):
    known = [DATA.campaign(c) for c in campaigns]
    return customise(general, DATA, known, method=method)


def found_aucs(method, general):
    return aucs(DATA, NEW, [model.score for model in customised(method, general, NEW)])


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_learns_across_campaigns_and_on_new_ones(name, trained):
    method, general = trained(name)
    found = found_aucs(method, general)
    assert found.mean() > 0.72
    assert found.min() > 0.53


def online_models(name, trained):
    """The general weights, those before the first online step, and those after the last one."""
    method, general = trained(name)
    first, model = (
        customised(method.changed(online_epochs=epochs, online_patience=None), general, NEW[:1])[0]
        for epochs in (0, 2)
    )
    return Weights(**general.state), first.scorer.own[0], model.scorer.own[0]


def same(one, other):
    return [np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (one, other)), strict=True)]


def split(params):
    """Parameters that all campaigns share, and those of a campaign."""
    shared = {k: v for k, v in params["params"].items() if k not in PER_CAMPAIGN}
    return shared, {k: v for k, v in params["params"].items() if k in PER_CAMPAIGN}


def moved(general, adapted):
    """(R,) whether a row of the table is another than in the general model."""
    real = adapted.rows < DATA.num_rows
    table = np.array(general.table)
    table[adapted.rows[real]] = np.asarray(adapted.values)[real]
    return (table != np.asarray(general.table)).any(axis=1)


@pytest.mark.slow
def test_online_shared_bottom_moves_its_head_and_not_a_bit_else(trained):
    general, _, adapted = online_models("shared-bottom", trained)
    shared, head = split(adapted.network)
    assert all(same(shared, split(general.network)[0]))
    assert not moved(general, adapted).any()
    assert not any(same(head, split(mean_head(general.network))[1]))


@pytest.mark.slow
def test_online_mmoe_moves_all_that_it_reads(trained):
    general, _, adapted = online_models("mmoe", trained)
    assert not any(same(adapted.network, mean_head(general.network)))
    # The campaign's own fields are not read.
    rows = np.flatnonzero(moved(general, adapted))
    users = campaign_examples(DATA, DATA.campaign(NEW[0])).ids.user
    np.testing.assert_array_equal(rows, np.setdiff1d(users, [DATA.num_rows]))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_new_campaign_starts_at_the_mean_of_the_trained_heads(name, trained):
    general, first, _ = online_models(name, trained)
    shared, own = split(first.network)
    assert all(same(shared, split(general.network)[0]))
    trained_own = split(general.network)[1]
    assert set(own) == ({"heads"} if name == "shared-bottom" else set(PER_CAMPAIGN))
    for key, layer in own.items():
        for leaf, values in layer.items():
            mean = np.mean(np.asarray(trained_own[key][leaf], np.float64), axis=0, keepdims=True)
            np.testing.assert_allclose(values, mean, rtol=1e-4, atol=1e-6)


# The networks -----------------------------------------------------------------------------------

M, N, K, B, C = 3, 2, 4, 7, 5
OWNER = np.array([3, 0, 3, 4, 1, 1, 3])
NETWORKS = {
    "shared-bottom": SharedBottom(C, widths=(6, 5)),
    "mmoe": MMoE(2, C, widths=(6, 5), gate_width=4),
}


def fields():
    rng = np.random.default_rng(0)
    return rng.normal(size=(B, M, K)), rng.normal(size=(N, K))


def naive(name, params, user, owner):
    """The logit of one user, in numpy."""
    x = user.reshape(-1)
    if name == "shared-bottom":
        for layer in range(2):
            x = np.maximum(x @ params[f"layer_{layer}_kernel"] + params[f"layer_{layer}_bias"], 0)
    else:
        expert, hidden_gates, gates = (params[k] for k in ("expert", "gate_hidden", "gates"))
        hidden = [
            np.maximum(x @ expert["kernel_0"][:, i] + expert["bias_0"][i], 0) for i in range(2)
        ]
        hidden = [
            np.maximum(h @ expert["kernel_1"][i] + expert["bias_1"][i], 0)
            for i, h in enumerate(hidden)
        ]
        x = np.maximum(x @ hidden_gates["kernel"][owner] + hidden_gates["bias"][owner], 0)
        weights = np.exp(x @ gates["kernel"][owner] + gates["bias"][owner])
        weights /= weights.sum()
        x = weights @ hidden
    head = params["heads"]
    return (x @ head["kernel"][owner] + head["bias"][owner])[0]


@pytest.mark.parametrize("name", METHODS)
def test_an_example_goes_through_its_own_campaigns_head(name, x64):
    user, campaign = fields()
    network = NETWORKS[name]
    params, apply = drawn(network, *fields()), jax.jit(network.apply)
    output = apply(params, user, campaign, OWNER)
    for b in range(B):
        logit = naive(name, params["params"], user[b], OWNER[b])
        np.testing.assert_allclose(output.log_p[b] - output.log_not_p[b], logit, rtol=1e-9)
    # Campaigns are told apart by nothing but their heads.
    np.testing.assert_array_equal(apply(params, user, campaign + 1, OWNER).log_p, output.log_p)
    with pytest.raises(ValueError, match="there are 5 campaign heads; pass the owner"):
        apply(params, user, campaign)
