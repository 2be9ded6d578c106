"""Batches are a function of (seed, step), of the right campaigns, disjoint where they should be."""

import jax
import numpy as np
import pytest
from toy import dataset

from metaheac_jax.data.dataset import Examples
from metaheac_jax.data.sampling import CampaignSampler, ExampleSampler, check_campaigns, prefetch
from metaheac_jax.errors import InputError

DATA = dataset()
TRAIN = np.arange(8)


def decode(rows, ids, pad):
    return np.append(rows, pad)[ids]


def sampler(**options):
    return CampaignSampler(
        DATA, TRAIN, **{"seed": 3, "campaigns_per_step": 4, "rows": 40} | options
    )


def test_a_step_can_be_drawn_without_those_before_it():
    one, two = sampler(), sampler()
    for step in range(5):
        one(step)
    jax.tree.map(np.testing.assert_array_equal, one(7), two(7))
    assert not np.array_equal(one(7).support.label, one(8).support.label)
    assert not np.array_equal(one(7).support.label, sampler(seed=4)(7).support.label)


def examples_of(batch, side):
    """For each campaign of a batch: its fields, and the users' rows as tuples."""
    side = getattr(batch, side)
    own = [decode(batch.rows, own, DATA.rows) for own in batch.own]
    users = [decode(*pair, DATA.rows) for pair in zip(own, side.user, strict=True)]
    fields = [decode(*pair, DATA.rows) for pair in zip(own, side.campaign, strict=True)]
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
def test_support_and_query_share_an_example_only_if_drawn_independently(disjoint, monkeypatch):
    import metaheac_jax.data.sampling as module

    drawn = []
    original = module.gather
    monkeypatch.setattr(
        module, "gather", lambda d, e, c, p: drawn.append(set(e.tolist())) or original(d, e, c, p)
    )
    draw = sampler(disjoint=disjoint, rows=100)
    drawn.clear()
    draw(11)
    shared = [len(drawn[2 * c] & drawn[2 * c + 1]) for c in range(4)]
    assert all(len(side) == 100 for side in drawn)
    assert (max(shared) == 0) if disjoint else (min(shared) > 0)


def test_a_short_campaign_gives_what_it_has():
    data = dataset(per_campaign=31)
    batch = CampaignSampler(data, TRAIN, seed=0, campaigns_per_step=2, rows=40)(0)
    np.testing.assert_array_equal(batch.support.weight.sum(1), 15)
    np.testing.assert_array_equal(batch.query.weight.sum(1), 16)
    padding = batch.support.weight == 0
    assert (batch.support.user[padding] == batch.own.shape[1]).all()


@pytest.mark.parametrize(("weights", "power"), [("normal", 1), ("sqrt", 0.5), ("unit", 0)])
def test_campaigns_are_drawn_by_the_rule(weights, power):
    data = dataset(per_campaign=400)
    counts = np.array([20, 80, 320] + [100] * 9)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    label = np.tile([0, 1], 2000)[: offsets[-1]].astype(np.int8)
    user = np.zeros(offsets[-1], np.int32)
    object.__setattr__(data, "stage1", Examples(offsets, user, label))
    draw = CampaignSampler(
        data, np.arange(3), seed=0, campaigns_per_step=1, rows=10, weights=weights
    )
    fields = [tuple(DATA.campaign_rows[c]) for c in range(3)]
    assert len(set(fields)) == 3
    seen = np.zeros(3)
    for step in range(600):
        rows, support, _ = draw(step).shared()
        seen[fields.index(tuple(rows[support.campaign[0]]))] += 1
    expected = counts[:3] ** power / (counts[:3] ** power).sum()
    np.testing.assert_allclose(seen / 600, expected, atol=0.06)


def test_plain_batches_hold_their_own_campaigns_fields():
    batch = ExampleSampler(DATA, TRAIN, seed=0, rows=500)(3)
    assert batch.examples.user.shape == (500, 6)
    fields = decode(batch.rows, batch.examples.campaign, DATA.rows)
    assert {tuple(f) for f in fields} == {tuple(f) for f in DATA.campaign_rows[TRAIN]}


def test_an_owned_batch_tells_each_examples_campaign():
    chosen = np.array([9, 2, 5])
    draw = ExampleSampler(DATA, chosen, seed=0, rows=500)
    batch = draw.owned(3)
    jax.tree.map(np.testing.assert_array_equal, tuple(draw(3)), batch[:2])
    fields = decode(batch.rows, batch.examples.campaign, DATA.rows)
    np.testing.assert_array_equal(fields, DATA.campaign_rows[np.array([2, 5, 9])[batch.owner]])
    assert len({tuple(f) for f in fields}) == len(set(batch.owner)) == 3


def test_steps_of_one_shape():
    draw = sampler()
    assert len({(draw(step).rows.shape, draw(step).own.shape) for step in range(50)}) == 1


def test_each_campaign_has_its_own_rows_and_the_step_has_all_of_them():
    batch = sampler()(0)
    pads = len(batch.rows), batch.own.shape[1]
    touched = [set(own[own < pads[0]]) for own in batch.own]
    rows, *sides = batch.shared()
    for c in range(4):
        ids = [ids[c].ravel() for side in sides for ids in (side.user, side.campaign)]
        used = set(np.concatenate(ids)) - {pads[0]}
        small = np.arange(sum(DATA.small_fields))
        assert touched[c] == used | set(small)
        np.testing.assert_array_equal(rows[small], small)  # they keep their numbers
        np.testing.assert_array_equal(batch.own[c][small], small)
    assert set.union(*touched) == set(range((rows < DATA.rows).sum()))
    for side, shared in zip((batch.support, batch.query), sides, strict=True):
        padding = side.user == pads[1]
        np.testing.assert_array_equal(shared.user == pads[0], padding)


def test_prefetch_keeps_the_order_and_hands_on_errors():
    assert list(prefetch(lambda s: s * s, range(2, 9))) == [(s, s * s) for s in range(2, 9)]
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda s: 1 // (3 - s), range(6)))


@pytest.mark.parametrize(
    ("count", "positive", "said"), [(3, 1, "1 seeds among 3"), (50, 0, "0 seeds among 50"),
                                    (50, 50, "50 seeds among 50")],
)  # fmt: skip
def test_a_campaign_that_nothing_can_be_trained_on_is_named(count, positive, said):
    data = dataset()
    offsets = np.arange(13) * count
    label = np.tile(np.arange(count) < positive, 12).astype(np.int8)
    object.__setattr__(data, "stage1", Examples(offsets, np.zeros(12 * count, np.int32), label))
    with pytest.raises(InputError, match=f"campaign 120: .*{said}"):
        check_campaigns(data, [2, 3])
