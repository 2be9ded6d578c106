"""Which campaigns are trained on, tested on, and small."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.sources.splits import official_split, paper_split
from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema, Vocabulary


def world(seeds, later=None):
    """A dataset of one user, whose campaigns have these positives in stage 1 and in stage 2."""

    def stage(counts):
        number = len(counts)
        campaign = np.repeat(np.arange(number), np.add(counts, 1))
        label = np.concatenate([np.arange(count + 1) > 0 for count in counts])  # one negative each
        return group_by_campaign(
            campaign, np.zeros_like(campaign), label, num_campaigns=len(counts)
        )

    return Dataset(
        name="toy",
        schema=Schema((Field("u"),), (Field("c"),)),
        vocabulary=Vocabulary((np.array([0]), np.array([0]))),
        user_ids=np.array([1]),
        user_rows=np.zeros((1, 1), np.int32),
        campaign_ids=np.arange(len(seeds)),
        campaign_rows=np.ones((len(seeds), 1), np.int32),
        stage1=stage(seeds),
        stage2=stage([0] * len(seeds) if later is None else later),
    )


@given(st.integers(2, 300), st.integers(0, 2**32))
def test_paper_split_divides_all_campaigns_60_to_40(count, seed):
    split = paper_split(world([1] * count), seed)
    assert sorted([*split.train, *split.test]) == list(range(count))
    assert len(split.train) == round(0.6 * count)
    assert (np.diff(split.train) > 0).all()
    assert (np.diff(split.test) > 0).all()


def test_paper_split_is_a_function_of_the_seed_and_draws_every_campaign():
    data = world([1] * 10)
    first = paper_split(data, 7)
    np.testing.assert_array_equal(first.train, paper_split(data, 7).train)
    drawn = np.stack([np.isin(np.arange(10), paper_split(data, s).train) for s in range(400)])
    # 400 draws at 0.6: a standard deviation is 0.0245; 5 of them.
    np.testing.assert_allclose(drawn.mean(0), 0.6, atol=0.13)


def test_official_split_is_what_the_seeded_module_gives():
    state = random.getstate()
    split = official_split(world([1] * 173))
    assert random.getstate() == state
    try:
        random.seed(2021)
        expected = random.sample(range(173), 86)
    finally:
        random.setstate(state)
    assert split.train.tolist() == sorted(expected)
    assert len(split.test) == 87
    assert sorted([*split.train, *split.test]) == list(range(173))


def test_official_small_counts_both_stages():
    split = official_split(world([1990, 1990, 0], later=[10, 11, 2000]))
    assert split.small.tolist() == [True, False, True]
    assert split.threshold == 2000


@pytest.mark.parametrize("split", [official_split, lambda data: paper_split(data, 0)])
def test_a_split_needs_two_campaigns(split):
    with pytest.raises(InputError, match="need one each"):
        split(world([1]))
