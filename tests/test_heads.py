"""Shared-Bottom and MMoE: a head a campaign, a new one online, and what may move with it."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import dataset

from experiments.methods import METHODS
from experiments.methods.fine_tuned import untrained
from experiments.methods.heads import fine_tune_new, new_heads
from experiments.methods.method import Job
from metaheac_jax.baselines import MMoE, SharedBottom
from metaheac_jax.metrics import auc
from metaheac_jax.network import MetaHeac
from metaheac_jax.online import build_score
from metaheac_jax.presets import PAPER
from metaheac_jax.progress import silent

NAMES = ("shared-bottom", "mmoe")
DATA = dataset(tastes=2, campaigns=16)
TRAIN, NEW = np.array([7, 2, 11, 0, 9, 4, 1, 10, 3, 8, 6, 5]), np.arange(12, 16)
PRESET = replace(
    PAPER,
    width=8,
    experts=3,
    rows=64,
    campaigns_per_step=4,
    epochs=5,
    outer_learning_rate=0.01,
    online_learning_rate=0.01,
    online_epochs=20,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """``trained(name) -> (job, general)``, each trained once."""

    @cache
    def train(name):
        directory = tmp_path_factory.mktemp(name)
        preset = METHODS[name].preset(PRESET)
        job = Job(DATA, TRAIN, preset, 0, directory, None, silent)
        return job, METHODS[name].offline(job)

    return train


def pool(campaign):
    of = DATA.stage2.of(campaign)
    return DATA.user_rows[DATA.stage2.user[of]], DATA.stage2.label[of]


def aucs(models):
    pools = [pool(c) for c in NEW]
    return np.array([auc(m(users), label) for m, (users, label) in zip(models, pools, strict=True)])


@pytest.mark.parametrize("name", NAMES)
def test_learns_across_campaigns_and_on_new_ones(name, trained):
    job, general = trained(name)
    found = aucs(METHODS[name].online(job, general, NEW))
    assert found.mean() > 0.72
    assert found.min() > 0.58
    # A new head alone does not do that: without training the bottom, or the experts, it is worse.
    nothing = untrained(job, network(name, len(TRAIN)), jax.random.key(5))
    assert found.mean() > aucs(METHODS[name].online(job, nothing, NEW)).mean() + 0.03


def network(name, campaigns):
    return SharedBottom(campaigns) if name == "shared-bottom" else MMoE(3, campaigns)


@pytest.mark.parametrize("name", NAMES)
def test_each_campaign_has_learned_its_own_head(name, trained):
    _, general = trained(name)
    score = build_score(network(name, 1), DATA.schema.user_slots)
    found = np.empty((12, 12))
    for head in range(12):
        own = {
            key: jax.tree.map(lambda leaf, i=head: leaf[i : i + 1], leaves)
            if key in ("gates", "heads")
            else leaves
            for key, leaves in general.network["params"].items()
        }
        one = general._replace(network={"params": own})
        for c in range(12):
            users, label = pool(c)
            found[head, c] = auc(score(one, None, DATA.campaign_rows[c], users), label)
    # Heads are in ascending order, whatever the order of the training campaigns.
    others = (found.sum(0) - np.diag(found)) / 11
    assert np.diag(found).mean() > others.mean() + 0.15
    assert (np.diag(found) > others).all()


def online_models(name, trained):
    """The general model, the models before the first step, and those after the last one."""
    job, general = trained(name)
    first = []

    def watch(step, models):
        if step == 0:
            first.extend(scorer.args[1] for scorer in models())

    job = replace(job, preset=replace(job.preset, online_epochs=2, online_patience=None))
    models = METHODS[name].online(job, general, NEW[:1], watch)
    return general, first[0], models[0].args[1]


def same(one, other):
    return [np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (one, other)), strict=True)]


def split(params):
    """Parameters that all campaigns share, and those of a campaign."""
    shared = {k: v for k, v in params["params"].items() if k not in ("gates", "heads")}
    return shared, {k: v for k, v in params["params"].items() if k in ("gates", "heads")}


def touched(general, model):
    real = model.rows < DATA.rows
    return np.asarray(model.values)[real], np.asarray(general.table)[model.rows[real]]


def test_online_shared_bottom_moves_its_head_and_not_a_bit_else(trained):
    general, _, model = online_models("shared-bottom", trained)
    shared, head = split(model.network)
    assert all(same(shared, split(general.network)[0]))
    now, before = touched(general, model)
    assert len(now) > 30
    np.testing.assert_array_equal(now, before)
    assert not any(same(head, split(new_heads(general.network))[1]))


def test_online_mmoe_moves_all_that_it_reads(trained):
    general, _, model = online_models("mmoe", trained)
    assert not any(same(model.network, new_heads(general.network)))
    now, before = touched(general, model)
    # The campaign's own two fields, the last rows, are not read.
    moved = (now != before).any(axis=1)
    assert moved[:-2].all()
    assert not moved[-2:].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_new_campaign_starts_at_the_mean_of_the_trained_heads(name, trained):
    general, first, _ = online_models(name, trained)
    shared, own = split(first.network)
    assert all(same(shared, split(general.network)[0]))
    trained_own = split(general.network)[1]
    assert set(own) == ({"heads"} if name == "shared-bottom" else {"gates", "heads"})
    for key, layer in own.items():
        for leaf, values in layer.items():
            mean = np.mean(np.asarray(trained_own[key][leaf], np.float64), axis=0, keepdims=True)
            np.testing.assert_allclose(values, mean, rtol=1e-4, atol=1e-6)


def test_a_new_head_may_start_at_random(trained):
    job, general = trained("mmoe")
    job = replace(job, preset=replace(job.preset, online_epochs=0, online_patience=None))
    online = lambda j: fine_tune_new(lambda p: MMoE(p.experts), "random", j, general, NEW[:1])  # noqa: E731
    (one,), (again,), (other,) = (online(replace(job, seed=seed)) for seed in (0, 0, 1))
    shared, own = split(one.args[1].network)
    assert all(same(shared, split(general.network)[0]))
    assert all(same(own, split(again.args[1].network)[1]))
    assert not any(same(own, split(other.args[1].network)[1]))
    assert not any(same(own, split(new_heads(general.network))[1]))
    # U(-1/sqrt(64), 1/sqrt(64)), as every layer here, and not the start of a trained head.
    assert 0.1 < np.abs(own["heads"]["kernel"]).max() <= 1 / 8
    start = split(untrained(job, MMoE(3, 12), jax.random.key(0)).network)[1]
    assert not (np.asarray(start["heads"]["kernel"]) == own["heads"]["kernel"]).any()


# The networks -----------------------------------------------------------------------------------

M, N, K, B, C = 3, 2, 4, 7, 5
OWNER = jnp.array([3, 0, 3, 4, 1, 1, 3])
NETWORKS = {
    "shared-bottom": lambda campaigns: SharedBottom(campaigns, widths=(6, 5)),
    "mmoe": lambda campaigns: MMoE(2, campaigns, widths=(6, 5)),
}


def fields():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(B, M, K))), jnp.asarray(rng.normal(size=(N, K)))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_goes_through_its_own_campaigns_head(name, x64):
    user, campaign = fields()
    many, one = NETWORKS[name](C), NETWORKS[name](1)
    params = many.init(jax.random.key(0), user, campaign)
    together = many.apply(params, user, campaign, OWNER)
    for b, owner in enumerate(OWNER):
        shared, own = split(params)
        own = jax.tree.map(lambda leaf, i=owner: leaf[i : i + 1], own)
        alone = one.apply({"params": shared | own}, user[b : b + 1], campaign)
        np.testing.assert_allclose(alone.log_p[0], together.log_p[b], rtol=1e-10)
    # Campaigns are told apart by nothing but their heads.
    other = many.apply(params, user, campaign + 1, OWNER)
    np.testing.assert_array_equal(other.log_p, together.log_p)
    with pytest.raises(ValueError, match="5 campaigns have a head"):
        many.apply(params, user, campaign)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_reaches_the_campaigns_own_head_only(name):
    user, campaign = fields()
    network = NETWORKS[name](C)
    params = network.init(jax.random.key(0), user, campaign)

    def loss(params, example):
        return network.apply(params, user, campaign, OWNER).log_p[example]

    for example in (0, 1, 4):
        shared, own = split(jax.grad(loss)(params, example))
        assert all(np.any(leaf) for leaf in jax.tree.leaves(shared))
        for leaf in jax.tree.leaves(own):
            reached = np.asarray(leaf).reshape(C, -1).any(axis=1)
            np.testing.assert_array_equal(reached, np.arange(C) == OWNER[example])


def test_mmoe_of_a_single_expert_is_a_shared_bottom(x64):
    user, campaign = fields()
    params = MMoE(1, C, widths=(6, 5)).init(jax.random.key(0), user, campaign)
    output = MMoE(1, C, widths=(6, 5)).apply(params, user, campaign, OWNER)
    expert, bottom = params["params"]["expert"], {"heads": params["params"]["heads"]}
    bottom |= {"layer_0_kernel": expert["kernel_0"][:, 0], "layer_0_bias": expert["bias_0"][0]}
    bottom |= {"layer_1_kernel": expert["kernel_1"][0], "layer_1_bias": expert["bias_1"][0]}
    same = SharedBottom(C, widths=(6, 5)).apply({"params": bottom}, user, campaign, OWNER)
    np.testing.assert_allclose(output.log_p, same.log_p, rtol=1e-10)
    np.testing.assert_array_equal(output.expert_log_weights, np.zeros((B, 1)))


def test_experts_are_those_of_metaheac():
    user, campaign = fields()
    heac = MetaHeac(2, 1, widths=(6, 5)).init(jax.random.key(0), user, campaign)["params"]
    mmoe = MMoE(2, C, widths=(6, 5)).init(jax.random.key(0), user, campaign)["params"]
    shapes = [jax.tree.map(jnp.shape, params["expert"]) for params in (heac, mmoe)]
    assert shapes[0] == shapes[1]
