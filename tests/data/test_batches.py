"""Batches are a function of (seed, step), of the right campaigns, disjoint where they should be."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import dataset, with_own_rows

from experiments.throughput.steps import shared
from metaheac_jax.backend import in_threads
from metaheac_jax.data import batches, samplers
from metaheac_jax.data.batches import (
    CampaignExamples,
    campaign_examples,
    check_campaigns,
    generator,
)
from metaheac_jax.data.campaign import Examples
from metaheac_jax.data.samplers import CampaignSampler, ExampleSampler
from metaheac_jax.errors import InputError

DATA = dataset()
TRAIN = np.arange(8)


def decode(rows, ids, pad):
    return np.append(rows, pad)[ids]


def sampler(data=DATA, **options):
    return CampaignSampler(
        data, TRAIN, **{"seed": 3, "campaigns_per_step": 4, "batch_size": 40} | options
    )


def plain(seed=3):
    return ExampleSampler(DATA, TRAIN, seed=seed, batch_size=40)


@pytest.mark.parametrize("made", [sampler, plain])
def test_a_step_can_be_drawn_without_those_before_it(made):
    one, two = made(), made()
    for step in range(5):
        one(step)
    jax.tree.map(np.testing.assert_array_equal, one(7), two(7))
    labels = [batch[1].label for batch in (one(7), one(8), made(seed=4)(7))]
    assert not np.array_equal(labels[0], labels[1])
    assert not np.array_equal(labels[0], labels[2])


def examples_of(batch, side, data=DATA):
    """For each campaign of a batch: its fields, and the users' rows as tuples."""
    ids, pad = getattr(batch, side).ids, data.num_rows
    own = [decode(batch.rows, own, pad) for own in batch.own_rows]
    users = [decode(*pair, pad) for pair in zip(own, ids.user, strict=True)]
    fields = [decode(*pair, pad) for pair in zip(own, ids.campaign, strict=True)]
    return fields, [[tuple(u) for u in campaign] for campaign in users]


def test_rows_are_stage_one_examples_of_the_campaign():
    known = {}
    for c in TRAIN:
        of = DATA.stage1.of(c)
        pairs = zip(DATA.user_rows[DATA.stage1.user[of]], DATA.stage1.label[of], strict=True)
        known.setdefault(tuple(DATA.campaign_rows[c]), set()).update((*u, l) for u, l in pairs)
    batch = sampler()(0)
    for side in ("support", "query"):
        fields, users = examples_of(batch, side)
        for c in range(4):
            labels = getattr(batch, side).label[c]
            drawn = {(*u, int(l)) for u, l in zip(users[c], labels, strict=True)}
            assert drawn <= known[tuple(fields[c])]


@pytest.mark.parametrize("disjoint", [True, False])
def test_support_and_query_share_an_example_only_if_drawn_independently(disjoint):
    # A campaign of the toy has 300 examples, each of another user.
    data = with_own_rows(DATA)
    batch = sampler(data, disjoint=disjoint, batch_size=100)(11)
    sides = [examples_of(batch, side, data)[1] for side in ("support", "query")]
    for support, query in zip(*sides, strict=True):
        assert len(set(support)) == len(set(query)) == 100  # none is drawn twice
        # Drawn independently, 100 and 100 of 300 share 33 on average.
        assert bool(set(support) & set(query)) == (not disjoint)


def test_the_campaigns_of_a_batch_are_distinct():
    data = with_own_rows(DATA)
    draw = sampler(data)
    for step in range(20):
        fields, _ = examples_of(draw(step), "support", data)
        assert len({*np.concatenate(fields).tolist()}) == 4


def test_a_short_campaign_gives_what_it_has():
    data = with_own_rows(dataset(per_campaign=31))
    batch = sampler(data, campaigns_per_step=2)(0)
    np.testing.assert_array_equal(batch.support.weight.sum(1), 15)
    np.testing.assert_array_equal(batch.query.weight.sum(1), 16)
    padding = batch.support.weight == 0
    assert (batch.support.ids.user[padding] == batch.own_rows.shape[1]).all()
    # Half each: together they are all 31, and the padding.
    sides = [examples_of(batch, side, data)[1] for side in ("support", "query")]
    for support, query in zip(*sides, strict=True):
        assert len({*support, *query}) == 31 + 1


def test_campaigns_are_drawn_in_proportion_to_their_examples():
    data = dataset(per_campaign=400)
    counts = np.array([20, 80, 320] + [100] * 9)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    label = np.tile([0, 1], 2000)[: offsets[-1]].astype(np.int8)
    data = replace(data, stage1=Examples(offsets, np.zeros(offsets[-1], np.int32), label))
    draw = CampaignSampler(data, np.arange(3), seed=0, campaigns_per_step=1, batch_size=10)
    fields = [tuple(data.campaign_rows[c]) for c in range(3)]
    assert len(set(fields)) == 3
    seen = np.zeros(3)
    for step in range(600):
        rows, support, _ = shared(draw(step))
        seen[fields.index(tuple(rows[support.ids.campaign[0]]))] += 1
    # 600 draws: a standard deviation is at most 0.0204; 3 of them.
    np.testing.assert_allclose(seen / 600, counts[:3] / 420, atol=0.06)


@pytest.mark.parametrize("campaigns", [[0, 1, 2, 3, 4, 5], [4, 1], [3]])
def test_plain_batches_are_of_all_training_campaigns_alike(campaigns):
    sampler = ExampleSampler(DATA, np.array(campaigns), seed=3, batch_size=16)
    stage = DATA.stage1
    own = np.concatenate(
        [np.arange(stage.offsets[c], stage.offsets[c + 1]) for c in sorted(campaigns)]
    )
    for step in range(5):
        examples, campaign = sampler.positions(step)
        drawn = generator(3, step).choice(len(own), 16, replace=False)
        np.testing.assert_array_equal(examples, own[drawn])
        np.testing.assert_array_equal(
            campaign, np.searchsorted(stage.offsets, examples, side="right") - 1
        )


def users_of(batch, side):
    own = [decode(rows, ids, DATA.num_rows) for rows, ids in zip(batch.own_rows, side, strict=True)]
    return np.stack([decode(batch.rows, ids, DATA.num_rows) for ids in own])


def test_value_dropout_leaves_out_that_fraction_of_users_values_and_nothing_else():
    """The same examples are drawn."""
    whole, some = sampler(), sampler(value_dropout=0.3)
    kept = present = 0
    for step in range(5):
        one, other = whole(step), some(step)
        masks = []
        for side in ("support", "query"):
            a, b = (getattr(batch, side) for batch in (one, other))
            np.testing.assert_array_equal(a.label, b.label)
            users, fewer = (users_of(batch, x.ids.user) for batch, x in ((one, a), (other, b)))
            masks.append(fewer < DATA.num_rows)
            np.testing.assert_array_equal(fewer[masks[-1]], users[masks[-1]])
            kept, present = kept + masks[-1].sum(), present + (users < DATA.num_rows).sum()
            fields = [users_of(batch, x.ids.campaign) for batch, x in ((one, a), (other, b))]
            np.testing.assert_array_equal(*fields)
        gender = [mask[..., 0] for mask in masks]  # which every user has
        assert (gender[0] != gender[1]).any()
        assert (gender[0][0] != gender[0][1]).any()
        jax.tree.map(np.testing.assert_array_equal, other, some(step))
    assert abs(kept / present - 0.7) < 4 * np.sqrt(0.3 * 0.7 / present)


def test_plain_batches_leave_out_values_too():
    plain = [
        ExampleSampler(DATA, TRAIN, seed=0, batch_size=200, value_dropout=p)(3) for p in (0, 0.5)
    ]
    users, fewer = (decode(rows, own.ids.user, DATA.num_rows) for rows, own in plain)
    kept = fewer < DATA.num_rows
    np.testing.assert_array_equal(fewer[kept], users[kept])
    assert 0.4 < kept.sum() / (users < DATA.num_rows).sum() < 0.6


@pytest.mark.parametrize("draw", [sampler(), plain()], ids=["campaigns", "examples"])
def test_several_threads_draw_what_one_does(draw):
    for step, batch in enumerate(in_threads(draw, range(40), num_threads=4)):
        jax.tree.map(np.testing.assert_array_equal, batch, draw(step))


def test_steps_of_one_shape(monkeypatch):
    """Though they touch different numbers of rows, and no size is rounded up."""
    monkeypatch.setattr(samplers, "_QUANTUM", 1)
    draw = sampler(with_own_rows(dataset(users=2000)), value_dropout=0.5, seed=6)
    assert len({(draw(step).rows.shape, draw(step).own_rows.shape) for step in range(50)}) == 1


def test_each_campaign_has_its_own_rows_and_the_step_has_all_of_them():
    batch = sampler()(0)
    pads = len(batch.rows), batch.own_rows.shape[1]
    touched = [set(own[own < pads[0]]) for own in batch.own_rows]
    rows, *sides = shared(batch)
    for c in range(4):
        ids = [ids[c].ravel() for side in sides for ids in (side.ids.user, side.ids.campaign)]
        used = set(np.concatenate(ids)) - {pads[0]}
        small = np.arange(sum(DATA.layout.small_fields))
        assert touched[c] == used | set(small)
        np.testing.assert_array_equal(rows[small], small)  # they keep their numbers
        np.testing.assert_array_equal(batch.own_rows[c][small], small)
    assert set.union(*touched) == set(range((rows < DATA.num_rows).sum()))
    for side, local in zip((batch.support, batch.query), sides, strict=True):
        padding = side.ids.user == pads[1]
        np.testing.assert_array_equal(local.ids.user == pads[0], padding)


# One campaign's examples ------------------------------------------------------------------------


def test_what_a_campaign_is_customised_on_is_all_its_examples_in_order():
    batch, of = campaign_examples(DATA, DATA.campaign(5)), DATA.stage1.of(5)
    np.testing.assert_array_equal(batch.ids.user, DATA.user_rows[DATA.stage1.user[of]])
    np.testing.assert_array_equal(batch.ids.campaign, DATA.campaign_rows[5])
    np.testing.assert_array_equal(batch.label, DATA.stage1.label[of])
    np.testing.assert_array_equal(batch.weight, 1)
    picked = batch.pick([7, 3])
    np.testing.assert_array_equal(picked.ids.user, batch.ids.user[[7, 3]])
    np.testing.assert_array_equal(picked.ids.campaign, batch.ids.campaign)
    np.testing.assert_array_equal(picked.label, batch.label[[7, 3]])


def test_examples_of_many_campaigns_are_read_when_they_are_needed(monkeypatch):
    read = []
    monkeypatch.setattr(batches, "_HELD", 2)
    monkeypatch.setattr(
        batches,
        "campaign_examples",
        lambda *args: read.append(args[1].id) or campaign_examples(*args),
    )
    campaigns = [DATA.campaign(c) for c in range(4)]
    examples = CampaignExamples(DATA, campaigns)
    assert (len(examples), read) == (4, [])
    for c in (3, 2, 3, 0, 3, 2):
        jax.tree.map(
            np.testing.assert_array_equal, examples[c], campaign_examples(DATA, campaigns[c])
        )
    assert read == [campaigns[c].id for c in (3, 2, 0, 2)]
    assert [len(batch.label) for batch in examples[1:3]] == DATA.stage1.counts[1:3].tolist()


@pytest.mark.parametrize(("count", "positive"), [(3, 1), (50, 0), (50, 50)])
def test_campaigns_that_nothing_can_be_trained_on_are_named(count, positive):
    counts = np.where(np.isin(np.arange(12), [4, 5, 6]), count, DATA.stage1.counts)
    labels = np.concatenate([np.arange(own) < (positive if own == count else 30) for own in counts])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    bad = Examples(offsets, np.zeros(offsets[-1], np.int32), labels.astype(np.int8))
    data = replace(DATA, stage1=bad)
    check_campaigns(data, [0, 1, 2, 3])
    said = f"campaign 140: .* {positive} seeds among {count} .*leave out 140, 150, 160$"
    with pytest.raises(InputError, match=said):
        check_campaigns(data, np.arange(8))


@pytest.mark.parametrize("campaigns", [[], [1, 1], [-1], [12], [1.0], [[1]]])
def test_what_are_no_campaigns_is_refused(campaigns):
    with pytest.raises(InputError, match="expected one or more distinct indices from 0 to 11"):
        check_campaigns(DATA, campaigns)
