"""Seed features: equal to a naive loop, differentiable twice; the method that uses them learns."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import aucs, dataset

from experiments.methods import METHODS
from experiments.methods.fine_tuned import heac
from experiments.methods.method import Job
from metaheac_jax.data.lengths import with_lengths
from metaheac_jax.data.sampling import CampaignSampler, campaign_examples
from metaheac_jax.losses import Batch
from metaheac_jax.meta import build_meta_gradient
from metaheac_jax.network import MetaHeac
from metaheac_jax.offline import initialise
from metaheac_jax.online import build_customise, build_score
from metaheac_jax.presets import OFFICIAL, PAPER
from metaheac_jax.progress import silent
from metaheac_jax.rows import select_rows
from metaheac_jax.seed_features import (
    ReferenceSampler,
    SeedNetwork,
    build_direct,
    build_seed_loss,
    direction,
    reference_rows,
    seed_features,
    with_reference,
)

DATA = dataset()
SLOTS, FIELDS = DATA.schema.user_slots, len(DATA.schema.campaign)
NETWORK = SeedNetwork(MetaHeac(experts=2, critics=2, widths=(5, 5), gate_width=5))


def general(width=3):
    return initialise(
        NETWORK, jax.random.key(0), rows=DATA.rows, user_fields=3, campaign_fields=2, width=width
    )


def naive(table, users, reference, labels):
    """A loop over users and fields."""

    def vectors(ids):  # of one user, a field each
        fields, start = [], 0
        for width in SLOTS:
            values = [table[i] for i in ids[start : start + width] if i < len(table)]
            fields.append(np.mean(values, axis=0) if values else np.zeros(table.shape[1]))
            start += width
        return fields

    sides = [[vectors(r) for r, y in zip(reference, labels, strict=True) if y == k] for k in (1, 0)]
    if not all(sides):
        return np.zeros((len(users), len(SLOTS)))
    difference = np.subtract(*(np.mean(side, axis=0) for side in sides))
    lengths = np.linalg.norm(difference, axis=1) + 1e-3
    result = [[x @ d for x, d in zip(vectors(ids), difference, strict=True)] for ids in users]
    return np.array(result) / lengths


def in_the_loss(params, batch):
    """What `build_seed_loss` gives a network as features, and the log-odds it gets."""
    seen = []

    def apply(_, user, campaign, features):
        vectors = user.dense()
        assert vectors.shape[:2] == features.shape
        assert campaign.shape == (FIELDS, vectors.shape[-1])
        output = NETWORK.apply(params["network"], user, campaign, features)
        seen.append((features, output.log_p - output.log_not_p))
        return output

    build_seed_loss(apply, SLOTS, campaign_fields=FIELDS)(params, batch)
    return seen[0]


seen_by_the_network = jax.jit(lambda *arguments: in_the_loss(*arguments)[0])
odds_in_the_loss = jax.jit(lambda *arguments: in_the_loss(*arguments)[1])


def distinct_users(count):
    """Examples of campaign 0 whose users all differ, as ids tell."""
    examples = campaign_examples(DATA, 0)
    _, first = np.unique(examples.user, axis=0, return_index=True)
    keep = np.sort(first)[:count]
    return examples._replace(
        user=examples.user[keep], label=examples.label[keep], weight=examples.weight[keep]
    )


def test_equal_to_a_loop():
    start = general()
    params, table = {"network": start.network, "table": start.table}, np.asarray(start.table)
    examples = distinct_users(60)
    split = with_reference(examples, 50, DATA.rows)
    assert len(split.campaign) == FIELDS + 2 * 50 * 6
    taken = split.weight == 0
    assert 2 < examples.label[taken].sum() < taken.sum() < 40
    expected = naive(table, examples.user, examples.user[taken], examples.label[taken])
    np.testing.assert_allclose(seen_by_the_network(params, split), expected, atol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 8), st.integers(0, 99))
def test_a_reference_set_is_half_of_each_side_and_never_an_example(seeds, others, size, seed):
    count, rng = seeds + others, np.random.default_rng(seed)
    label = rng.permutation(np.arange(count) < seeds).astype(np.float32)
    users = 100 + np.arange(count)[:, None]  # user i is row 100 + i
    examples = Batch(users, np.array([7, 8]), label, np.ones(count, np.float32))
    split = with_reference(examples, size, 999)
    np.testing.assert_array_equal(split.campaign[:2], [7, 8])
    blocks = split.campaign[2:].reshape(2, size)
    for block, kind in zip(blocks, (1, 0), strict=True):
        members = block[block < 999] - 100
        assert (label[members] == kind).all()
        assert len(set(members)) == len(members) == min(size, (label == kind).sum() // 2)
        assert not split.weight[members].any()
    assert (split.weight == 0).sum() == (blocks < 999).sum()


def test_nothing_to_compare_with_is_zero():
    """A lone seed is an example, and nobody is compared with it; in a pool everybody is."""
    params = {"network": general().network, "table": general().table}
    examples = distinct_users(60)._replace(label=np.eye(60)[3].astype(np.float32))
    alone = with_reference(examples, 50, DATA.rows)
    assert alone.weight[3] == 1
    np.testing.assert_array_equal(seen_by_the_network(params, alone), 0)
    everyone = np.concatenate([examples.campaign, reference_rows(examples, 50, DATA.rows)])
    features = seen_by_the_network(params, examples._replace(campaign=everyone))
    assert (np.abs(features).max(axis=1) > 0).all()


def test_padding_is_no_user():
    examples = distinct_users(20)
    weightless = examples._replace(weight=(np.arange(20) < 15).astype(np.float32))
    cut = Batch(examples.user[:15], examples.campaign, examples.label[:15], examples.weight[:15])
    wide, tight = (with_reference(e, 9, DATA.rows).campaign for e in (weightless, cut))
    np.testing.assert_array_equal(wide, tight)
    assert (wide[FIELDS:].reshape(2, 9, -1) == DATA.rows).all(axis=-1).any()


def test_a_large_set_gives_evenly_spaced_users():
    examples = campaign_examples(DATA, 1)
    ids = reference_rows(examples, 4, DATA.rows).reshape(2, 4, -1)
    for block, kind in zip(ids, (1, 0), strict=True):
        users = examples.user[examples.label == kind]
        np.testing.assert_array_equal(block[[0, -1]], users[[0, -1]])
        assert len(np.unique(block, axis=0)) == 4


def test_half_of_the_support_set_is_the_reference_of_the_rest_and_all_of_it_of_the_query_set():
    sampler = CampaignSampler(DATA, np.arange(8), seed=0, campaigns_per_step=3, rows=40)
    plain, batch = sampler(5), ReferenceSampler(sampler, size=24)(5)
    pad = batch.own.shape[1]
    np.testing.assert_array_equal(batch.query.user, plain.query.user)
    np.testing.assert_array_equal(batch.query.weight, plain.query.weight)
    for c in range(3):
        label, users = plain.support.label[c], plain.support.user[c]
        for side, weight in (
            (batch.support, batch.support.weight[c] == 0),
            (batch.query, np.ones(40, bool)),
        ):
            np.testing.assert_array_equal(side.campaign[c, :FIELDS], plain.query.campaign[c])
            ids = side.campaign[c, FIELDS:].reshape(2, 24, -1)
            for block, kind in zip(ids, (1, 0), strict=True):
                taken = sorted(tuple(u) for u in block if (u < pad).any())
                expected = sorted(tuple(u) for u in users[(label == kind) & weight])
                assert set(taken) <= set(expected)
                assert len(taken) == min(24, len(expected))
        seeds = int(label.sum())
        assert batch.support.weight[c].sum() == 40 - seeds // 2 - min(24, (40 - seeds) // 2)


def test_second_order_gradient_by_finite_differences(monkeypatch):
    """Through features, means and the inner step; in float64, along random directions.

    Differences see the lengths move, too: here they are no constants.
    """
    monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: x)
    sampler = CampaignSampler(DATA, np.arange(8), seed=1, campaigns_per_step=2, rows=16)
    rows, support, query, own = ReferenceSampler(sampler, size=6)(0)
    rng = np.random.default_rng(0)
    start = general()
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64),
            {"network": start.network, "table": start.table[np.minimum(rows, DATA.rows - 1)]},
        )
        loss = build_seed_loss(NETWORK.apply, SLOTS, campaign_fields=FIELDS)
        gradient = jax.jit(build_meta_gradient(loss, inner_learning_rate=0.5, select=select_rows))
        found, _ = gradient(params, support, query, own)

        def meta_loss(step, way):
            moved = jax.tree.map(lambda p, w: p + step * w, params, way)
            return gradient(moved, support, query, own)[1].loss

        for _ in range(3):
            way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
            expected = (meta_loss(1e-6, way) - meta_loss(-1e-6, way)) / 2e-6
            slope = sum(jax.tree.leaves(jax.tree.map(lambda g, w: (g * w).sum(), found, way)))
            np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_lengths_are_constants_to_the_derivative():
    """Twice the vectors are twice the features: a derivative with the lengths would be 1, not 2."""
    rng = np.random.default_rng(0)
    user, reference = rng.normal(size=(5, 3, 4)), rng.normal(size=(2, 6, 3, 4))
    grow = lambda t: seed_features(t * user, direction(t * reference, np.ones((2, 6))))  # noqa: E731
    features, slope = jax.jvp(grow, (1.0,), (1.0,))
    np.testing.assert_allclose(slope, 2 * features, rtol=1e-5)
    np.testing.assert_allclose(grow(2.0), 2 * features, rtol=1e-2)


def test_scores_of_a_pool_use_the_direction_of_the_adapted_rows():
    """The odds that the loss would give its users with the same reference set."""
    start = general()
    everyone = distinct_users(40)
    reference = reference_rows(everyone, 16, DATA.rows)
    examples = everyone._replace(campaign=np.concatenate([everyone.campaign, reference]))
    customise = build_customise(
        NETWORK,
        SLOTS,
        build_loss=lambda *a, **kw: build_seed_loss(*a, campaign_fields=FIELDS, **kw),
    )
    (model,) = customise(start, [examples], learning_rate=0.05, epochs=3)
    assert not model.network["direction"].any()
    model = build_direct(SLOTS)(start, model, reference)
    pool = DATA.user_rows
    odds = build_score(NETWORK, SLOTS)(start, model, DATA.campaign_rows[0], pool)
    table = start.table.at[model.rows].set(model.values, mode="drop")
    batch = Batch(pool, examples.campaign, np.zeros(len(pool)), np.ones(len(pool)))
    given = odds_in_the_loss({"network": model.network, "table": table}, batch)
    np.testing.assert_allclose(odds, given, atol=1e-4)
    general_odds = build_score(NETWORK, SLOTS)(start, None, DATA.campaign_rows[0], pool)
    assert np.abs(odds - general_odds).max() > 0.1


# The method that uses them ---------------------------------------------------------------------


def test_no_query_example_is_in_its_own_reference_set():
    """Whatever the preset: the official one lets support and query share examples."""
    assert not OFFICIAL.disjoint
    assert METHODS["ours"].preset(OFFICIAL).disjoint


def test_ours_learns(tmp_path):
    """On campaigns never trained on, before fine-tuning and after."""
    data = dataset(tastes=2, campaigns=16)
    preset = replace(
        METHODS["ours"].preset(PAPER),
        width=8,
        experts=3,
        rows=64,
        campaigns_per_step=4,
        epochs=5,
        outer_learning_rate=0.01,
        online_learning_rate=0.01,
    )
    job = Job(data, np.arange(12), preset, 0, tmp_path, None, silent)
    method, new = METHODS["ours"], np.arange(12, 16)
    start = method.offline(job)

    # Campaigns' own fields say nothing about their tastes here: what is known, the seeds have told.
    longer, lengths = with_lengths(data)
    score = build_score(SeedNetwork(heac(preset)), longer.schema.user_slots)
    strangers = [
        lambda users, c=c: score(start, None, longer.campaign_rows[c], lengths.users(users))
        for c in new
    ]
    untuned = method.online(replace(job, preset=replace(preset, online_epochs=0)), start, new)
    tuned = method.online(job, start, new)
    assert aucs(data, new, untuned).mean() > max(0.65, aucs(data, new, strangers).mean() + 0.05)
    assert aucs(data, new, tuned).mean() > 0.65
    seen = []
    method.online(job, start, new[:1], lambda step, now: seen.append((step, now())))
    assert [step for step, _ in seen] == [*range(len(seen))]
    scores = [model(data.user_rows[:50]) for _, (model,) in seen]
    np.testing.assert_allclose(scores[0], untuned[0](data.user_rows[:50]), rtol=1e-5)
    assert np.abs(scores[-1] - scores[0]).max() > 0.1
