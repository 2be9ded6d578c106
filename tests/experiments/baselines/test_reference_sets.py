"""Reference sets: half of each side, never an example of the loss, and never padding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from toy import dataset, distinct_users

from experiments.baselines.reference_sets import ReferenceSampler, reference_set, with_reference
from metaheac_jax.data.batches import Batch
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.table.layout import Ids

DATA = dataset()
PAD = DATA.num_rows


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 8), st.integers(0, 99))
def test_a_reference_set_is_half_of_each_side_and_never_an_example(seeds, others, size, seed):
    count, rng = seeds + others, np.random.default_rng(seed)
    label = rng.permutation(np.arange(count) < seeds).astype(np.float32)
    users = 100 + np.arange(count)[:, None]  # user i is row 100 + i
    examples = Batch(Ids(users, np.array([7, 8])), label, np.ones(count, np.float32))
    split = with_reference(examples, size, 999)
    np.testing.assert_array_equal(split.ids.user, users)
    np.testing.assert_array_equal(split.ids.campaign, [7, 8])
    np.testing.assert_array_equal(split.label, label)
    assert split.ids.reference.shape == (2, size, 1)
    for side, kind in zip(split.ids.reference[..., 0], (1, 0), strict=True):
        members = side[side < 999] - 100
        assert (label[members] == kind).all()
        assert len(set(members)) == len(members) == min(size, (label == kind).sum() // 2)
        assert not split.weight[members].any()
    assert (split.weight == 0).sum() == (split.ids.reference < 999).sum()


def test_a_lone_seed_is_an_example_and_nobody_is_compared_with_it():
    examples = distinct_users(DATA, 60)._replace(label=np.eye(60)[3].astype(np.float32))
    alone = with_reference(examples, 50, PAD)
    assert alone.weight[3] == 1
    assert (alone.ids.reference[0] == PAD).all()
    # In a pool everybody is.
    everyone = reference_set(examples, 50, PAD)
    np.testing.assert_array_equal(everyone[0, 0], examples.ids.user[3])
    assert (everyone[0, 1:] == PAD).all()
    assert (everyone[1] < PAD).any(axis=-1).all()


def test_half_of_the_support_set_is_the_reference_of_the_rest_and_all_of_it_of_the_query_set():
    sampler = CampaignSampler(DATA, np.arange(8), seed=0, campaigns_per_step=3, batch_size=40)
    plain, batch = sampler(5), ReferenceSampler(sampler, size=24)(5)
    pad = batch.own_rows.shape[1]
    np.testing.assert_array_equal(batch.query.ids.user, plain.query.ids.user)
    np.testing.assert_array_equal(batch.query.weight, plain.query.weight)
    np.testing.assert_array_equal(batch.support.ids.user, plain.support.ids.user)
    for c in range(3):
        label, users = plain.support.label[c], plain.support.ids.user[c]
        for side, weight in (
            (batch.support, batch.support.weight[c] == 0),
            (batch.query, np.ones(40, bool)),
        ):
            np.testing.assert_array_equal(side.ids.campaign[c], plain.query.ids.campaign[c])
            for members, kind in zip(side.ids.reference[c], (1, 0), strict=True):
                taken = sorted(tuple(u) for u in members if (u < pad).any())
                expected = sorted(tuple(u) for u in users[(label == kind) & weight])
                assert set(taken) <= set(expected)
                assert len(taken) == min(24, len(expected))
        seeds = int(label.sum())
        assert batch.support.weight[c].sum() == 40 - seeds // 2 - min(24, (40 - seeds) // 2)
