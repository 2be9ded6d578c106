"""Which campaigns are trained on, tested on, and small."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.examples import group_by_campaign
from metaheac_jax.data.splits import official_split, paper_split, questions_of
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


def survey(answers):
    """Campaigns made from columns, with these numbers of values."""
    data = world([1] * sum(answers))
    rows = np.stack([np.repeat(np.arange(len(answers)), answers), np.arange(sum(answers))], axis=1)
    return replace(
        data,
        schema=Schema((Field("u"),), (Field("column"), Field("value"))),
        campaign_rows=rows.astype(np.int32),
    )


@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.integers(0, 2**32))
def test_paper_split_keeps_the_answers_to_a_question_together(answers, seed):
    data = survey(answers)
    split, question = paper_split(data, seed), questions_of(data)
    assert question.tolist() == np.repeat(np.arange(len(answers)), answers).tolist()
    assert sorted([*split.train, *split.test]) == list(range(sum(answers)))
    assert not set(question[split.train]) & set(question[split.test])
    assert len(split.train)
    assert len(split.test)
    # No division of the questions in their order is closer to 60%.
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(answers))
    ends = np.cumsum(np.array(answers)[order])[:-1]
    wanted = round(0.6 * sum(answers))
    closest = min(abs(n - wanted) for n in [*ends, *(sum(answers) - ends)])
    assert abs(len(split.train) - wanted) == closest


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=20),
    st.sets(st.integers(0, 19)),
    st.integers(0, 99),
)
def test_campaigns_that_a_model_has_seen_are_training_campaigns(answers, seen, seed):
    data = survey(answers)
    question = questions_of(data)
    known = [c for c in seen if c < len(question)]
    together = np.flatnonzero(np.isin(question, question[known]))
    if len(together) == len(question):
        with pytest.raises(InputError, match="has seen all campaigns"):
            paper_split(data, seed, known=known)
        return
    split = paper_split(data, seed, known=known)
    assert set(together) <= set(split.train)
    assert sorted([*split.train, *split.test]) == list(range(len(question)))
    assert not set(question[split.train]) & set(question[split.test])
    more = len(split.train) - round(0.6 * len(question))
    assert abs(more) < 4 or len(split.train) == len(together)


def test_day_after_day_four_tenths_of_the_window_are_left_to_test():
    """A window of 100 campaigns moves on by 3 a day, and a model learns from what it may."""
    seen = set()
    for day in range(80):
        window = range(3 * day, 3 * day + 100)
        known = [c - 3 * day for c in seen if c in window]
        split = paper_split(world([1] * 100), day, known=known)
        assert len(split.test) == 40
        assert set(known) <= set(split.train)
        seen |= {window[c] for c in split.train}


def test_the_answers_to_a_single_question_are_divided():
    data = survey([10])
    assert len(paper_split(data, 0).train) == 6
    assert set(questions_of(data)) == {0}
    assert questions_of(world([1] * 3)).tolist() == [0, 1, 2]


def test_paper_split_is_a_function_of_the_seed_and_draws_every_campaign():
    data = world([1] * 10)
    first = paper_split(data, 7)
    np.testing.assert_array_equal(first.train, paper_split(data, 7).train)
    drawn = np.stack([np.isin(np.arange(10), paper_split(data, s).train) for s in range(400)])
    # 400 draws at 0.6: a standard deviation is 0.0245; 5 of them.
    np.testing.assert_allclose(drawn.mean(0), 0.6, atol=0.13)


@pytest.mark.parametrize(
    ("seeds", "threshold"),
    [
        ([1, 2, 3, 4, 5], 4),  # exactly 4 of 5
        ([5, 1, 4, 2, 3, 6], 5),  # 4 of 6 are too few, 5 it is
        ([7, 7, 7, 7, 9, 9, 9, 9, 9, 9], 9),  # 4 of 10 at 7: all at 9
        ([3] * 173, 3),
    ],
)
def test_threshold_is_the_smallest_count_with_80_percent_at_or_below(seeds, threshold):
    split = paper_split(world(seeds, later=[100] * len(seeds)), 0)
    assert split.threshold == threshold
    np.testing.assert_array_equal(split.small, np.array(seeds) <= threshold)


@given(st.lists(st.integers(0, 30), min_size=2, max_size=40))
def test_threshold_against_its_definition(seeds):
    split = paper_split(world(seeds), 0)
    enough = [t for t in sorted(set(seeds)) if 5 * sum(s <= t for s in seeds) >= 4 * len(seeds)]
    assert split.threshold == enough[0]


def test_threshold_given():
    split = paper_split(world([1, 2, 3, 4]), 0, threshold=2)
    assert split.threshold == 2
    assert split.small.tolist() == [True, True, False, False]


@pytest.mark.parametrize(("count", "fraction"), [(1, 0.6), (5, 0.01), (5, 1.0)])
def test_paper_split_needs_both_sides(count, fraction):
    with pytest.raises(InputError, match="at least one of each"):
        paper_split(world([1] * count), 0, train_fraction=fraction)


def test_official_split_is_what_the_seeded_module_gives():
    split = official_split(world([1] * 173))
    state = random.getstate()
    try:
        random.seed(2021)
        expected = random.sample(range(173), 86)
    finally:
        random.setstate(state)
    assert split.train.tolist() == sorted(expected)
    assert len(split.test) == 87
    assert sorted([*split.train, *split.test]) == list(range(173))


def test_official_split_leaves_the_module_generator_alone():
    state = random.getstate()
    official_split(world([1, 2, 3]))
    assert random.getstate() == state


def test_official_small_counts_both_stages():
    split = official_split(world([1990, 1990, 0], later=[10, 11, 2000]))
    assert split.small.tolist() == [True, False, True]
    assert split.threshold == 2000


def test_official_split_needs_two_campaigns():
    with pytest.raises(InputError, match="need one each"):
        official_split(world([1]))
