"""Histories: right for every user, and never what tells the label of an example."""

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_world import SCHEMA, world, write
from toy import aucs, check_data, dataset, tiny

import metaheac_jax as mh
from metaheac_jax.audience.evaluating import evaluate
from metaheac_jax.data.batches import campaign_examples, gather
from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.data.history import Hidden, with_histories
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema

PLAIN = dataset(users=60, campaigns=24, per_campaign=20, pool=10, seed=3)
USERS = np.arange(60)


def with_lists(data, slots):
    """The data with histories of so many campaigns."""
    return with_histories(replace(data, schema=replace(data.schema, history=slots)))


DATA = with_lists(PLAIN, 20)


def told(data, rows, number):
    """The lists of one user's row: campaigns and their attributes, by the name of the field."""
    vocabulary, found = data.vocabulary, {}
    fields = zip(data.schema.user, data.schema.user_starts, vocabulary.offsets, strict=False)
    for place, (field, start, offset) in enumerate(fields):
        if field.history:
            own = rows[number, start : start + field.slots]
            own = own[own < data.num_rows] - offset
            found[field.name] = sorted(vocabulary.values[place][own].tolist())
    return found


def expected(data, user, without=()):
    """The same from the examples."""
    found = {}
    for name, label in (("converted", 1), ("not_converted", 0)):
        campaigns = {
            int(c)
            for stage in data.stages.values()
            for c, u, y in zip(stage.campaign, stage.user, stage.label, strict=True)
            if u == user and y == label and c not in without
        }
        found[name] = sorted(int(data.campaign_ids[c]) for c in campaigns)
        for number, field in enumerate(PLAIN.schema.campaign):
            values, first = (
                PLAIN.vocabulary.values[3 + number],
                PLAIN.vocabulary.offsets[3 + number],
            )
            own = [int(values[PLAIN.campaign_rows[c, number] - first]) for c in campaigns]
            found[f"{name}_{field.name}"] = sorted(own)
    return found


def separate(data=PLAIN):
    """The data in which no user is in both stages of a campaign."""
    first = {*zip(data.stage1.campaign.tolist(), data.stage1.user.tolist(), strict=True)}
    pairs = zip(data.stage2.campaign.tolist(), data.stage2.user.tolist(), strict=True)
    return replace(data, stage2=data.stage2.pick(np.array([pair not in first for pair in pairs])))


ALONE = separate()


def test_lists_are_those_of_the_examples_in_all_stages():
    data = with_lists(ALONE, 24)
    check_data(data)
    rows = data.user_rows[:]
    assert rows.shape == data.user_rows.shape == (60, data.schema.num_slots)
    for user in USERS:
        assert told(data, rows, user) == expected(ALONE, user)
    np.testing.assert_array_equal(data.user_rows[USERS[::-1]], rows[::-1])
    np.testing.assert_array_equal(data.user_rows[5:9], rows[5:9])


def test_an_example_lacks_its_own_campaign_and_what_does_not_count():
    data = with_lists(ALONE, 24)
    own = np.arange(60) % 24
    rows = data.user_rows.of_examples(USERS, own)
    for user in USERS:
        assert told(data, rows, user) == expected(ALONE, user, {own[user]})
    of = data.user_rows.of_examples
    np.testing.assert_array_equal(of(USERS[:3], 2), of(USERS[:3], np.array([2, 2, 2])))
    fewer = data.limited(np.arange(24) < 5)
    rows = fewer.user_rows.of_examples(USERS, own)
    for user in USERS:
        assert told(data, rows, user) == expected(ALONE, user, {own[user], *range(5, 24)})


def test_at_most_so_many_campaigns_whatever_their_labels():
    few = with_lists(ALONE, 3)
    flipped = replace(ALONE.stage1, label=1 - ALONE.stage1.label)
    other = with_lists(replace(ALONE, stage1=flipped), 3)
    lists = [told(few, few.user_rows[:], user) for user in USERS]
    counts = [len(own["converted"]) + len(own["not_converted"]) for own in lists]
    assert max(counts) == 3
    for user, own in enumerate(lists):
        every = expected(ALONE, user)
        assert {*own["converted"]} <= {*every["converted"]}
        again = told(other, other.user_rows[:], user)
        both = [sorted(of["converted"] + of["not_converted"]) for of in (own, again)]
        assert both[0] == both[1]


@pytest.mark.parametrize("campaign", [0, 7])
@pytest.mark.parametrize("slots", [2, 20])
def test_labels_of_a_campaign_change_no_input_of_its_own_examples(campaign, slots):
    rng, of = np.random.default_rng(campaign), PLAIN.stage1.of(campaign)
    label = PLAIN.stage1.label.copy()
    label[of] = rng.permutation(label[of])
    assert (label != PLAIN.stage1.label).any()
    inputs = []
    for stage in (PLAIN.stage1, replace(PLAIN.stage1, label=label)):
        data = with_lists(replace(PLAIN, stage1=stage), slots)
        data = data.lengthened()[0]
        examples = np.arange(of.start, of.stop)
        online = campaign_examples(data, data.campaign(campaign)).ids.user
        training = gather(data, examples, data.campaign_rows[campaign], len(examples)).ids.user
        inputs += [online, training]
    for own in inputs[1:]:
        np.testing.assert_array_equal(own, inputs[0])
    assert (inputs[0][:, 6:] < data.num_rows).any()


def general(campaigns, data=DATA):
    return mh.fit(data, tiny("lr"), campaigns=campaigns)


def test_scores_of_a_model_read_what_it_was_trained_on_but_the_campaign():
    [model] = mh.customise(general([0, 1, 2]), DATA, [DATA.campaign(1)])
    hidden = Hidden.of(DATA, np.arange(24) < 3, model.campaign)
    rows = hidden(DATA.user_rows[:])
    for user in USERS:
        own = told(DATA, rows, user)
        assert {*own["converted"], *own["not_converted"]} <= {100, 120}
        for name in ("converted", "not_converted"):
            assert len(own[name]) == len(own[f"{name}_category"])
    counted = DATA.limited(np.isin(np.arange(24), (0, 2)))
    np.testing.assert_array_equal(rows, counted.user_rows[:])
    np.testing.assert_array_equal(model.score(DATA.user_rows), model.score(rows))


def test_a_field_of_the_users_can_be_a_history():
    """Its values are the ids of campaigns; others stay as they are."""
    user = (*PLAIN.schema.user[:2], replace(PLAIN.schema.user[2], history="tokens"))
    values = list(PLAIN.vocabulary.values)
    values[2] = np.arange(30) * 10 + 100  # the ids of the 24 campaigns, and 6 more
    data = replace(
        PLAIN,
        schema=Schema(user, PLAIN.schema.campaign),
        vocabulary=type(PLAIN.vocabulary)(tuple(values)),
    )
    data = with_histories(data)
    assert data.schema == Schema(user, PLAIN.schema.campaign)
    own = np.arange(60) % 24
    plain, masked = PLAIN.user_rows[:], data.user_rows.of_examples(USERS, own)
    gone = plain == PLAIN.vocabulary.offsets[2] + own[:, None]
    assert gone.any()
    np.testing.assert_array_equal(masked, np.where(gone, data.num_rows, plain))
    few = data.limited(np.arange(24) < 4).user_rows[:]
    uncounted = np.isin(plain, PLAIN.vocabulary.offsets[2] + np.arange(4, 24))
    np.testing.assert_array_equal(few, np.where(uncounted, data.num_rows, plain))


def test_random_non_seeds_have_histories_as_often_as_seeds():
    """Half of the users are in no examples, and nine of ten seeds in others."""
    rng, seeds = np.random.default_rng(0), np.arange(100)
    others = np.array([rng.choice(1000, 200, replace=False) for _ in range(5)])
    others[0, :10] = np.arange(10)
    users = np.concatenate([seeds, np.setdiff1d(others.ravel(), np.arange(90, 100))])
    campaign = np.repeat([5, 0], [100, len(users) - 100])
    stage = group_by_campaign(campaign, users, np.ones(len(users)), num_campaigns=6)
    plain = dataset(users=2000, campaigns=6)
    data = with_lists(replace(plain, stage1=stage, stage2=stage.pick(stage.user < 0)), 4)
    campaign = data.campaign(5)
    known = np.isin(np.arange(2000), users[100:])
    drawn = campaign.users[campaign.labels == 0]
    assert known[drawn].mean() == pytest.approx(known[seeds].mean(), abs=0.01)
    assert len(drawn) > 500
    new = data.new_campaign(data.user_ids[seeds], {"advertiser": 1, "category": 1})
    drawn = new.users[new.labels == 0]
    assert known[drawn].mean() == pytest.approx(1, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lr", "learned-prior", "solved-head", "metaheac"])
def test_random_labels_are_not_told(name):
    """AUC is .5 on campaigns that the model has not seen and on those that it has."""
    plain, rng = (
        dataset(users=400, campaigns=16, per_campaign=200, pool=150),
        np.random.default_rng(1),
    )
    first, second = (
        replace(own, label=(rng.random(len(own.label)) < 0.3).astype(np.int8))
        for own in (plain.stage1, plain.stage2)
    )
    data = with_lists(replace(plain, stage1=first, stage2=second), 8)
    method = tiny(name, offline_epochs=3, offline_patience=None, outer_learning_rate=0.02)
    model = mh.fit(data, method, campaigns=np.arange(10))
    for campaigns in (np.arange(10), np.arange(10, 16)):
        models = mh.customise(model, data, [data.campaign(c) for c in campaigns])
        found = aucs(data, campaigns, [own.score for own in models])
        assert found.mean() == pytest.approx(0.5, abs=0.05)


def test_a_conversion_and_its_absence_have_opposite_coordinates():
    """They are what is left once the campaign's rate is subtracted, so they cancel out."""
    model = mh.fit(DATA, tiny("learned-prior"))
    offsets, count = DATA.vocabulary.offsets, DATA.num_campaigns
    first, second = (offsets[number] for number, *_ in DATA.schema.lists)
    table = np.asarray(model.state["table"])
    rows = np.asarray(DATA.user_rows[USERS])
    for c in range(count):
        numbers = [(rows == start + c).sum() for start in (first, second)]
        total = numbers[0] * table[first + c] + numbers[1] * table[second + c]
        np.testing.assert_allclose(total, 0, atol=1e-5)
    assert np.abs(table[first : first + count]).max() > 0.01


def test_examples_that_are_added_count_at_once(tmp_path):
    """And the folder has the same lists when it is opened again."""
    users, campaigns, examples = world()
    source = write(tmp_path / "tables", users, campaigns, examples[:40])
    schema = replace(SCHEMA, history=5)
    mh.prepare(source, tmp_path / "data", schema=schema)
    names = ["campaign_id", "user_id", "label", "stage"]
    more = pl.DataFrame(examples[40:], names, orient="row")
    added = mh.add(mh.open_dataset(tmp_path / "data"), examples=more)
    write(tmp_path / "tables", users, campaigns, examples)
    whole = mh.prepare(source, tmp_path / "whole", schema=schema)
    assert added.schema == whole.schema
    assert whole.schema.lists[0][2:] == (5, 1)  # two campaigns share a value of their attributes
    np.testing.assert_array_equal(added.user_rows[:], whole.user_rows[:])
    assert (added.user_rows[:][:, -10:] < added.num_rows).any()
    again = mh.prepare(tmp_path / "tables", tmp_path / "again")
    assert {own.history for own in again.schema.user} == {"", "converted", "not_converted"}
    counts, slots = np.array([*Counter(row[1] for row in examples).values()]), again.schema.history
    assert np.mean(counts <= slots) >= 0.95 > np.mean(counts < slots)


def test_a_schema_says_what_a_history_is():
    liked = Field("liked", 3, history="liked")
    schema = Schema((liked,), (Field("topic"),), history=5)
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_json(schema.to_json()).history == 5
    assert schema.lists == [(0, 0, 3, 1)]
    with pytest.raises(InputError, match="'liked': a history has ids of campaigns"):
        replace(liked, sensitive=True)
    with pytest.raises(InputError, match=r"history.*0 or more"):
        replace(schema, history=-1)


def timed(data, times):
    """The data with a time per example of stage 1, then of stage 2."""
    first = len(data.stage1.user)
    times = np.asarray(times, np.int64)
    return replace(
        data,
        stage1=replace(data.stage1, time=times[:first]),
        stage2=replace(data.stage2, time=times[first:]),
    )


COUNT = len(ALONE.stage1.user) + len(ALONE.stage2.user)
TIMES = np.random.default_rng(4).integers(0, 50, COUNT)  # many are equal


def rows_of(data):
    """All inputs of examples: for training, for customising, and for judging."""
    stage, rows = data.stage1, []
    for c in range(data.num_campaigns):
        examples = np.arange(stage.offsets[c], stage.offsets[c + 1])
        rows.append(gather(data, examples, data.campaign_rows[c], len(examples)).ids.user)
        online = campaign_examples(data, data.campaign(c)).ids.user
        np.testing.assert_array_equal(online[: len(examples)], rows[-1])
    other = data.stage2
    rows.append(data.user_rows.of_examples(other.user, other.campaign, other.time))
    return np.concatenate(rows)


def test_a_history_has_what_was_before_the_example():
    data = with_lists(timed(ALONE, TIMES), 24)
    every = [
        (c, u, y, t)
        for own in data.stages.values()
        for c, u, y, t in zip(own.campaign, own.user, own.label, own.time, strict=True)
    ]
    rows = rows_of(data)
    for number, (c, u, _, t) in enumerate(every):
        found = told(data, rows, number)
        for name, label in (("converted", 1), ("not_converted", 0)):
            before = [k for k, v, y, s in every if (v, y) == (u, label) and s < t and k != c]
            assert found[name] == sorted(int(data.campaign_ids[k]) for k in before)
            assert len(found[name]) == len(found[f"{name}_category"])


@settings(max_examples=25)
@given(st.integers(1, 24), st.integers(0, 50), st.integers(0, 2**31))
def test_what_is_later_changes_no_input(slots, now, seed):
    """Later examples may have any user, label and time from then on, or be absent."""
    rng, data = np.random.default_rng(seed), timed(ALONE, TIMES)
    before = [own.time < now for own in (data.stage1, data.stage2)]
    changed = [
        replace(
            own,
            label=np.where(early, own.label, rng.permutation(own.label)),
            time=np.where(early, own.time, rng.integers(now, 60, len(early))),
        ).pick(early | (rng.random(len(early)) < 0.8))
        for own, early in zip((data.stage1, data.stage2), before, strict=True)
    ]
    other = replace(data, stage1=changed[0], stage2=changed[1])
    found = []
    for own in (data, other):
        times = np.concatenate([own.stage1.time, own.stage2.time])
        found.append(rows_of(with_lists(own, slots))[times < now])
    np.testing.assert_array_equal(*found)


def test_the_last_campaigns_have_the_slots():
    data = with_lists(timed(ALONE, np.arange(COUNT)), 2)
    for user in range(60):
        rows = data.user_rows[:]
        found = told(data, rows, user)
        times = sorted(
            (t, int(data.campaign_ids[c]))
            for own in data.stages.values()
            for c, u, t in zip(own.campaign, own.user, own.time, strict=True)
            if u == user
        )
        assert sorted(found["converted"] + found["not_converted"]) == sorted(
            c for _, c in times[-2:]
        )


def test_drawn_non_seeds_are_read_as_of_the_times_of_seeds():
    data = timed(ALONE, TIMES)
    seeds = data.stage1.pick(data.stage1.label == 1)
    none = data.stage2.pick(np.zeros(len(data.stage2.user), bool))
    data = with_lists(replace(data, stage1=seeds, stage2=none), 24)
    campaign = data.campaign(0)
    drawn = campaign.labels == 0
    given = seeds.time[seeds.of(0)]
    np.testing.assert_array_equal(campaign.times[drawn], np.resize(given, drawn.sum()))
    completed = data.completed().stage1
    np.testing.assert_array_equal(completed.time[completed.of(0)], campaign.times)


def test_random_labels_are_not_told_by_what_was_before():
    plain, rng = (
        dataset(users=400, campaigns=16, per_campaign=200, pool=150),
        np.random.default_rng(1),
    )
    stages = [
        replace(own, label=(rng.random(len(own.label)) < 0.3).astype(np.int8))
        for own in (plain.stage1, plain.stage2)
    ]
    count = sum(len(own.user) for own in stages)
    data = timed(replace(plain, stage1=stages[0], stage2=stages[1]), rng.integers(0, 99, count))
    data = with_lists(data, 8)
    model = mh.fit(data, tiny("lr"), campaigns=np.arange(10))
    judged = evaluate(model, data, since=50)
    assert judged["auc"].mean() == pytest.approx(0.5, abs=0.05)
