"""Methods that fine-tune a whole network: both stages against plain loops on the whole table."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.throughput.steps import shared
from metaheac_jax.data.batches import unstacked
from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.samplers import CampaignSampler, ExampleSampler
from metaheac_jax.methods import (
    MetaHeacMethod,
    Offline,
    PretrainedMLP,
    WithoutMeta,
    customise,
    fit,
    offline,
)
from metaheac_jax.methods.fitting import steps_of
from metaheac_jax.model import Judgement
from metaheac_jax.networks import MetaHeac
from metaheac_jax.schema import Field, Schema, Vocabulary

# A tiny world. Field vectors are made in four ways: of few values (gender), of a list of a few
# more (words), and, behind a large field (city), of rows read one by one (likes).
SCHEMA = Schema(
    user=(Field("gender"), Field("words", 3), Field("city"), Field("likes", 4)),
    campaign=(Field("advertiser"), Field("category")),
)
SIZES = (2, 8, 1100, 12, 4, 3)
# The campaigns have 24, 40 and 26 examples: sets of all three differ in size, so that sums and
# means weigh campaigns differently. With B = 30, 90 examples are an epoch of three steps.
COUNTS = (24, 40, 26)
SETTINGS = {
    "width": 4,
    "num_experts": 3,
    "num_critics": 2,
    "inner_learning_rate": 0.02,
    "outer_learning_rate": 0.01,
    "campaigns_per_step": 2,
    "batch_size": 30,
    "offline_epochs": 1,
    "offline_patience": None,
    "online_learning_rate": 0.02,
}


def sized(kind, **changes):
    """A method of this class, with those of the settings that it has."""
    method, wanted = kind(), (SETTINGS | changes).items()
    return method.changed(**{name: value for name, value in wanted if name in method.config})


STEPS = 3
SEED = 1  # one whose three meta-steps take three different pairs of campaigns
NETWORK = MetaHeac(num_experts=3, num_critics=2)


def tiny_world():
    rng = np.random.default_rng(1)
    vocabulary = Vocabulary(tuple(np.arange(size) for size in SIZES))
    columns = []
    for field, offset, size in zip(SCHEMA.user, vocabulary.offsets, SIZES, strict=False):
        values = np.argsort(rng.random((60, size)), axis=1)[:, : field.slots] + offset
        if field.slots > 1:  # lists of none up to all slots
            absent = np.arange(field.slots) >= rng.integers(0, field.slots + 1, (60, 1))
            values = np.where(absent, vocabulary.num_rows, values)
        columns.append(values)
    user = np.concatenate([rng.choice(60, count, replace=False) for count in COUNTS])
    examples = group_by_campaign(
        np.repeat(np.arange(3), COUNTS), user, rng.random(90) < 0.4, num_campaigns=3
    )
    attributes = np.array([[0, 0], [1, 0], [3, 2]]) + np.array(vocabulary.offsets[4:])
    return Dataset(
        name="tiny",
        schema=SCHEMA,
        vocabulary=vocabulary,
        user_ids=np.arange(60),
        user_rows=np.concatenate(columns, axis=1).astype(np.int32),
        campaign_ids=np.arange(3),
        campaign_rows=attributes.astype(np.int32),
        stage1=examples,
        stage2=examples,
    )


DATA = tiny_world()


def summed_loss(params, users, campaign, label, weight):
    """The cross-entropy of examples, summed: the network on means of the values' embeddings."""
    table = jnp.concatenate([params["table"], jnp.zeros_like(params["table"][:1])])
    means, first = [], 0
    for field in SCHEMA.user:
        ids = users[:, first : first + field.slots]
        present = (ids < len(table) - 1).sum(axis=1)
        means.append(table[ids].sum(axis=1) / jnp.maximum(present, 1)[:, None])
        first += field.slots
    output = NETWORK.apply(params["network"], jnp.stack(means, axis=1), table[campaign])
    return -(weight * jnp.where(label == 1, output.log_p, output.log_not_p)).sum()


def of_the_whole_table(rows, batch):
    """Users, campaigns, labels and weights of a batch whose ids point into ``rows``."""
    rows = np.append(rows, DATA.num_rows)
    return rows[batch.ids.user], rows[batch.ids.campaign], batch.label, batch.weight


def plain_loss(params, examples):
    """Of plain training: the mean over a step's examples."""
    return summed_loss(params, *examples) / examples[3].sum()


def plain_batches(**options):
    # As many examples as a meta-step draws, or all there are: 2 sets of 30 of 2 campaigns.
    sampler = ExampleSampler(DATA, np.arange(3), seed=SEED, batch_size=2 * 30 * 2, **options)
    return [(of_the_whole_table(*sampler(step)),) for step in range(STEPS)]


def meta_loss(params, support, query, inner_rate):
    """Of a meta-step: sums over examples, summed over campaigns."""
    total = 0.0
    for own_support, own_query in zip(unstacked(support), unstacked(query), strict=True):
        gradient = jax.grad(summed_loss)(params, *own_support)
        adapted = jax.tree.map(lambda p, g: p - inner_rate * g, params, gradient)
        total += summed_loss(adapted, *own_query)
    return total


def meta_batches(inner_rate):
    sampler = CampaignSampler(DATA, np.arange(3), seed=SEED, campaigns_per_step=2, batch_size=30)
    for step in range(STEPS):
        rows, *sides = shared(sampler(step))
        yield *(of_the_whole_table(rows, side) for side in sides), inner_rate


plain_step = jax.jit(jax.value_and_grad(plain_loss))
meta_step = jax.jit(jax.value_and_grad(meta_loss))


def by_hand(params, step, batches):
    """Parameters after a step of Adam on each batch, and the mean loss."""
    optimizer = optax.adam(0.01)
    state, values = optimizer.init(params), []
    for batch in batches:
        value, gradient = step(params, *batch)
        updates, state = jax.jit(optimizer.update)(gradient, state)
        params = jax.jit(optax.apply_updates)(params, updates)
        values.append(float(value))
    return params, np.mean(values)


def apart(one, other):
    """The largest difference between two trees of arrays."""
    return max(
        float(np.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.slow
def test_the_offline_stages_equal_plain_loops_on_the_whole_table(x64):
    start = fit(DATA, sized(MetaHeacMethod, offline_epochs=0), seed=SEED).state
    by_name = {
        "metaheac": (sized(MetaHeacMethod), meta_step, meta_batches(0.02)),
        "alpha-0": (sized(MetaHeacMethod, inner_learning_rate=0.0), meta_step, meta_batches(0.0)),
        "without-meta": (sized(WithoutMeta), plain_step, plain_batches()),
    }
    trained = {}
    for name, (method, step, batches) in by_name.items():
        records = []
        trained[name] = dict(fit(DATA, method, seed=SEED, hooks=[records.append]).state)
        expected, loss = by_hand(dict(start), step, batches)
        assert apart(trained[name], expected) < 1e-6
        _, line = records
        assert line["step"] == STEPS
        assert line["loss"] == pytest.approx(loss, rel=1e-6)
    # They are three methods: each is elsewhere than the others and than the start.
    states = [start, *trained.values()]
    for i, one in enumerate(states):
        for other in states[:i]:
            assert apart(one["table"], other["table"]) > 1e-3
            assert apart(one["network"], other["network"]) > 1e-3


@pytest.mark.slow
def test_the_other_settings_reach_the_offline_stage(x64):
    """Means, sets that share examples, dropout, decay of the network alone, scale."""
    changes = {
        "reduction": "mean",
        "disjoint": False,
        "value_dropout": 0.3,
        "weight_decay": 0.5,
        "table_scale": 0.5,
    }
    plain, start = (
        dict(fit(DATA, sized(MetaHeacMethod, **some, offline_epochs=0), seed=SEED).state)
        for some in ({}, changes)
    )
    np.testing.assert_allclose(start["table"], 0.5 * plain["table"], rtol=1e-12)

    def mean(params, examples):
        return summed_loss(params, *examples) / examples[3].sum()

    @jax.jit
    @jax.grad
    def slope(params, support, query):
        total = 0.0
        for own, other in zip(unstacked(support), unstacked(query), strict=True):
            gradient = jax.grad(mean)(params, own)
            total += mean(jax.tree.map(lambda p, g: p - 0.02 * g, params, gradient), other) / 2
        return total

    options = {"disjoint": False, "value_dropout": 0.3}
    draw = CampaignSampler(
        DATA, np.arange(3), seed=SEED, campaigns_per_step=2, batch_size=30, **options
    )
    adam = optax.adamw(0.01, weight_decay=0.5, mask={"network": True, "table": False})
    params, state = start, adam.init(start)
    for step in range(STEPS):
        rows, *sides = shared(draw(step))
        gradient = slope(params, *(of_the_whole_table(rows, side) for side in sides))
        updates, state = adam.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    trained = fit(DATA, sized(MetaHeacMethod, **changes), seed=SEED).state
    assert apart(dict(trained), params) < 1e-6


@pytest.mark.slow
def test_judgements_are_of_states_as_training_would_end_there(monkeypatch):
    seen = []

    def judge(state, step):
        seen.append(jax.tree.map(np.array, dict(state)))
        return Judgement(step, 0.5, 1.0)

    method = sized(PretrainedMLP, batch_size=11, offline_epochs=2, offline_patience=2)
    stage = Offline(DATA, np.arange(3), SEED, judge=judge)
    # All 18 steps are fewer than training takes without a better judgement.
    assert len(method.fit(stage).judgements) == 9
    monkeypatch.setattr(offline, "_PATIENCE_STEPS", 4)
    seen.clear()
    trained = method.fit(stage)
    steps = [own.step for own in trained.judgements]
    assert steps == [2, 4, 6]  # a quarter of 9 steps; equal is no gain
    assert apart(seen[0], dict(trained.state)) < 1e-6  # rows that were behind are not
    short = method.changed(offline_epochs=1, offline_patience=None)
    start = fit(DATA, short, seed=SEED)
    again = method.fit(replace(stage, start=start)).judgements
    assert again[0].step == steps_of(start) == 9


@pytest.mark.slow
def test_patience_and_seed_reach_the_online_stage():
    changed = {"offline_epochs": 0, "online_epochs": 2, "online_patience": 1}
    method = sized(PretrainedMLP, **changed)
    general, campaign = fit(DATA, method, seed=SEED), DATA.campaign(1)
    one_seed = (np.arange(len(campaign.labels)) == 3).astype(np.int8)
    [model] = customise(general, DATA, [replace(campaign, labels=one_seed)])
    # One seed cannot be held out, so the general model is kept.
    assert apart(model.scorer.own[0].network, general.state["network"]) == 0
    small = method.changed(online_patience=None, batch_size=8)
    one, other = (
        customise(general, DATA, [campaign], method=small, seed=seed)[0].score(DATA.user_rows)
        for seed in (0, 1)
    )
    assert (one != other).any()


@pytest.mark.slow
def test_the_online_stage_equals_a_plain_loop_on_the_whole_table(x64):
    # One minibatch holds all examples, so three epochs are three steps on their mean loss.
    changes = {"batch_size": 90, "online_epochs": 3, "online_patience": None}
    method = sized(MetaHeacMethod, **changes, offline_epochs=0)
    general = fit(DATA, method, seed=SEED)
    campaigns = [DATA.campaign(c) for c in (2, 0)]
    models = customise(general, DATA, campaigns)
    everybody = DATA.user_rows[:]

    @jax.jit
    def log_odds(params, rows):
        # The loss of a user of label y is -log P(y).
        loss = lambda user, y: summed_loss(params, user[None], rows, y, 1.0)  # noqa: E731
        return jax.vmap(lambda user: loss(user, 0) - loss(user, 1))(everybody)

    for campaign, model in zip(campaigns, models, strict=True):
        ones = np.ones(len(campaign.users))
        own = DATA.user_rows[campaign.users], campaign.rows, campaign.labels, ones
        optimizer, params = optax.adam(0.02), dict(general.state)
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(plain_step(params, own)[1], state)
            params = optax.apply_updates(params, updates)
        expected = log_odds(params, campaign.rows)
        np.testing.assert_allclose(model.score(everybody), expected, atol=1e-5)
        assert apart(expected, log_odds(dict(general.state), campaign.rows)) > 0.05
