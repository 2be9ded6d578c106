"""Histories: right for every user, and never what tells the label of an example."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_world import SCHEMA, world, write
from toy import check_data, dataset, tiny

import metaheac_jax as mh
from metaheac_jax.audience.evaluating import evaluate, pool_rows
from metaheac_jax.audience.expanding import find_campaigns
from metaheac_jax.data.batches import campaign_examples, gather
from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.errors import InputError
from metaheac_jax.ranking import auc
from metaheac_jax.schema import Field, Schema
from metaheac_jax.summary import Summary

PLAIN = dataset(users=60, campaigns=24, per_campaign=20, pool=10, seed=3)
USERS = np.arange(60)


def historic(data):
    """The data with histories of its examples."""
    return replace(data, schema=replace(data.schema, history=True), by_user=None)


def separate(data=PLAIN):
    """The data in which no user is in both stages of a campaign."""
    first = {*zip(data.stage1.campaign.tolist(), data.stage1.user.tolist(), strict=True)}
    pairs = zip(data.stage2.campaign.tolist(), data.stage2.user.tolist(), strict=True)
    return replace(data, stage2=data.stage2.pick(np.array([pair not in first for pair in pairs])))


ALONE = historic(separate())
#: A power of two per campaign and label, so that a sum tells which campaigns it has.
POWERS = 2.0 ** np.arange(24)
BOTH = np.zeros((2, 24, 2), np.float32)
BOTH[0, :, 0] = BOTH[1, :, 1] = POWERS


def read(data, campaigns=range(24)):
    """The data, read by a summary whose numbers are sums of powers of two."""
    kept = [*campaigns]
    ids = data.campaign_ids[kept].astype(str)
    summary = Summary(ids, BOTH[:, kept], np.zeros(4), np.ones(4))
    return data.encoded_for(data.schema, data.vocabulary, summary)


def told(data, rows):
    """(n, S) rows -> per user the campaigns without and with a conversion."""
    found = []
    for counts_and_sums in data.layout.numbers(rows):
        lists = [[c for c in range(24) if int(one) >> c & 1] for one in counts_and_sums[2:]]
        np.testing.assert_allclose(np.expm1(counts_and_sums[:2]), [*map(len, lists)], atol=1e-4)
        found.append(lists)
    return found


def expected(data, user, without=()):
    """The same of one user, from the examples."""
    every = [
        (c, y)
        for stage in data.stages.values()
        for c, u, y in zip(stage.campaign, stage.user, stage.label, strict=True)
        if u == user and c not in without
    ]
    return [sorted(int(c) for c, y in every if y == label) for label in (0, 1)]


def test_histories_are_those_of_the_examples_in_all_stages():
    data = read(ALONE)
    check_data(data)
    rows = data.user_rows[:]
    assert rows.shape == data.user_rows.shape == (60, data.schema.num_slots)
    assert told(data, rows) == [expected(ALONE, user) for user in USERS]
    np.testing.assert_array_equal(data.user_rows[USERS[::-1]], rows[::-1])
    np.testing.assert_array_equal(data.user_rows[5:9], rows[5:9])
    np.testing.assert_array_equal(rows[:, 4:], ALONE.user_rows[:] + 4)
    np.testing.assert_array_equal(data.campaign_rows, ALONE.campaign_rows + 4)


def test_an_example_lacks_its_own_campaign_and_what_does_not_count():
    data, own = read(ALONE), np.arange(60) % 24
    rows = data.user_rows.of_examples(USERS, own)
    assert told(data, rows) == [expected(ALONE, user, {own[user]}) for user in USERS]
    of = data.user_rows.of_examples
    np.testing.assert_array_equal(of(USERS[:3], 2), of(USERS[:3], np.array([2, 2, 2])))
    fewer = read(ALONE, range(5))
    rows = fewer.user_rows.of_examples(USERS, own)
    gone = [{own[user], *range(5, 24)} for user in USERS]
    assert told(fewer, rows) == [
        expected(ALONE, u, some) for u, some in zip(USERS, gone, strict=True)
    ]
    rows = data.without_history_of([*data.campaign_ids[:2].tolist()]).user_rows[:]
    assert told(data, rows) == [expected(ALONE, user, {0, 1}) for user in USERS]


@pytest.mark.parametrize("campaign", [0, 7])
def test_labels_of_a_campaign_change_no_input_of_its_own_examples(campaign):
    rng, of = np.random.default_rng(campaign), PLAIN.stage1.of(campaign)
    label = PLAIN.stage1.label.copy()
    label[of] = rng.permutation(label[of])
    assert (label != PLAIN.stage1.label).any()
    inputs = []
    for stage in (PLAIN.stage1, replace(PLAIN.stage1, label=label)):
        data = read(historic(replace(PLAIN, stage1=stage)))
        examples = np.arange(of.start, of.stop)
        online = campaign_examples(data, data.campaign(campaign)).ids.user
        training = gather(data, examples, data.campaign_rows[campaign], len(examples)).ids.user
        inputs += [online, training]
    for own in inputs[1:]:
        np.testing.assert_array_equal(own, inputs[0])
    assert data.layout.numbers(inputs[0]).any()


def test_a_model_reads_the_campaigns_that_it_was_trained_on_but_those_asked_for():
    model = mh.fit(ALONE, tiny("lr"), campaigns=[0, 1, 2])
    assert model.summary.campaigns.tolist() == ALONE.campaign_ids[:3].astype(str).tolist()
    assert model.schema == ALONE.schema
    data, [campaign] = find_campaigns(model, ALONE, [ALONE.campaign(1)])
    again, [same] = find_campaigns(model, ALONE, [int(ALONE.campaign_ids[1])])
    np.testing.assert_array_equal(data.user_rows[:], again.user_rows[:])
    np.testing.assert_array_equal(campaign.rows, same.rows)
    without = model.read(ALONE).user_rows.of_examples(USERS, 1)
    np.testing.assert_array_equal(data.user_rows[:], without)
    scores = [own.score(without) for own in mh.customise(model, data, [campaign])]
    [other] = mh.customise(model, ALONE, [ALONE.campaign(1)])
    np.testing.assert_array_equal(scores[0], other.score(without))


def test_a_saved_model_reads_histories_alike(tmp_path):
    model = mh.fit(ALONE, tiny("learned-prior"))
    mh.save(model, tmp_path / "model")
    loaded = mh.load(tmp_path / "model")
    np.testing.assert_array_equal(model.read(ALONE).user_rows[:], loaded.read(ALONE).user_rows[:])
    path = tmp_path / "model" / "summary" / "scale.npy"
    np.save(path, -np.load(path))
    with pytest.raises(InputError, match="summary"):
        mh.load(tmp_path / "model")


def test_random_non_seeds_have_histories_as_often_as_seeds():
    """Half of the users are in no examples, and nine of ten seeds in others."""
    rng, seeds = np.random.default_rng(0), np.arange(100)
    others = np.array([rng.choice(1000, 200, replace=False) for _ in range(5)])
    others[0, :10] = np.arange(10)
    users = np.concatenate([seeds, np.setdiff1d(others.ravel(), np.arange(90, 100))])
    campaign = np.repeat([5, 0], [100, len(users) - 100])
    stage = group_by_campaign(campaign, users, np.ones(len(users)), num_campaigns=6)
    plain = dataset(users=2000, campaigns=6)
    data = historic(replace(plain, stage1=stage, stage2=stage.pick(stage.user < 0)))
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
    data = historic(replace(plain, stage1=first, stage2=second))
    method = tiny(name, offline_epochs=3, offline_patience=None, outer_learning_rate=0.02)
    model = mh.fit(data, method, campaigns=np.arange(10))
    for campaigns in (np.arange(10), np.arange(10, 16)):
        read = model.read(data)
        models = mh.customise(model, read, [read.campaign(c) for c in campaigns])
        scores = [own.score(pool_rows(read, c)) for own, c in zip(models, campaigns, strict=True)]
        labels = [read.stage2.label[read.stage2.of(c)] for c in campaigns]
        found = np.array(list(map(auc, scores, labels)))
        assert found.mean() == pytest.approx(0.5, abs=0.05)


def test_a_conversion_and_its_absence_have_opposite_coordinates():
    """They are what is left once the campaign's rate is subtracted, so they cancel out."""
    summary = ALONE.learned_summary(np.ones(24, bool))
    rows = read(ALONE).user_rows[:]
    lists = told(read(ALONE), rows)
    for c in range(24):
        numbers = [sum(c in own[label] for own in lists) for label in (0, 1)]
        total = numbers @ summary.coordinates[:, c]
        np.testing.assert_allclose(total, 0, atol=1e-5)
    assert np.abs(summary.coordinates).max() > 0.01
    numbers = ALONE.encoded_for(ALONE.schema, ALONE.vocabulary, summary)
    numbers = numbers.layout.numbers(numbers.user_rows[:])
    np.testing.assert_allclose(numbers.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(numbers[:, :2].std(axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(numbers[:, 2:].std(axis=0).max(), 1, rtol=1e-4)


def test_examples_that_are_added_count_at_once(tmp_path):
    """And the folder has the same histories when it is opened again."""
    users, campaigns, examples = world()
    source = write(tmp_path / "tables", users, campaigns, examples[:40])
    schema = replace(SCHEMA, history=True)
    mh.prepare(source, tmp_path / "data", schema=schema)
    names = ["campaign_id", "user_id", "label", "stage"]
    more = pl.DataFrame(examples[40:], names, orient="row")
    added = mh.add(mh.open_dataset(tmp_path / "data"), examples=more)
    write(tmp_path / "tables", users, campaigns, examples)
    whole = mh.prepare(source, tmp_path / "whole", schema=schema)
    assert added.schema == whole.schema
    counted = np.ones(whole.num_campaigns, bool)
    summary = whole.learned_summary(counted)
    found = [own.encoded_for(whole.schema, whole.vocabulary, summary) for own in (added, whole)]
    np.testing.assert_array_equal(*(own.user_rows[:] for own in found))
    again = mh.prepare(tmp_path / "tables", tmp_path / "again")
    assert again.schema.history is True


def test_random_non_seeds_have_histories_without_those_who_are_forgotten(tmp_path):
    users, campaigns, examples = world()
    examples = [own for own in examples if own[0] != "k0" or own[2]]  # only seeds
    source = write(tmp_path / "tables", users, campaigns, examples)
    mh.prepare(source, tmp_path / "data", schema=replace(SCHEMA, history=True))
    gone, seeds = examples[0][1], {own[1] for own in examples if own[0] == "k0"}
    shown = [user for user in users["user_id"] if user not in seeds][:9]
    frame = pl.DataFrame({"campaign_id": "k0", "user_id": shown, "label": 0, "audience": 1})
    added = mh.add(mh.open_dataset(tmp_path / "data"), examples=frame, exclude=[gone])
    assert added.num_users == len(added.by_user.counts) == 79
    given = added.campaign(0)
    assert {*given.labels.tolist()} == {0, 1}


def test_training_continues_with_the_histories_of_the_model():
    first = mh.fit(ALONE, tiny("solved-head"), campaigns=range(20), held_out=range(20, 24))
    more = mh.fit(ALONE, tiny("solved-head"), start=first, campaigns=range(20), held_out=())
    assert more.summary is first.summary


def test_a_schema_says_whether_there_are_histories():
    schema = Schema((Field("age"),), (Field("topic"),), history=True)
    assert Schema.from_json(schema.to_json()).history is True
    for number, expected in ((20, True), (0, False)):  # of earlier releases
        assert Schema.from_json(schema.to_json() | {"history": number}).history is expected
    with pytest.raises(InputError, match=r"history is .*, expected true or false"):
        Schema.from_json(schema.to_json() | {"history": "20"})


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
    data = read(historic(timed(ALONE, TIMES)))
    every = [
        (c, u, y, t)
        for own in data.stages.values()
        for c, u, y, t in zip(own.campaign, own.user, own.label, own.time, strict=True)
    ]
    for found, (c, u, _, t) in zip(told(data, rows_of(data)), every, strict=True):
        before = [(k, y) for k, v, y, s in every if v == u and s < t and k != c]
        assert found == [sorted(k for k, y in before if y == label) for label in (0, 1)]


@settings(max_examples=25)
@given(st.integers(0, 50), st.integers(0, 2**31))
def test_what_is_later_changes_no_input(now, seed):
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
        found.append(rows_of(read(historic(own)))[times < now])
    np.testing.assert_array_equal(*found)


def test_until_a_time_nothing_later_is_known():
    data = historic(timed(ALONE, TIMES)).until(25)
    kept = {
        (c, u) for own in data.stages.values() for c, u in zip(own.campaign, own.user, strict=True)
    }
    found = told(read(data), read(data).user_rows[:])
    assert {(c, u) for u, lists in enumerate(found) for own in lists for c in own} == kept


def test_drawn_non_seeds_are_read_as_of_the_times_of_seeds():
    data = timed(ALONE, TIMES)
    seeds = data.stage1.pick(data.stage1.label == 1)
    none = data.stage2.pick(np.zeros(len(data.stage2.user), bool))
    data = historic(replace(data, stage1=seeds, stage2=none))
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
    data = historic(data)
    model = mh.fit(data, tiny("lr"), campaigns=np.arange(10))
    judged = evaluate(model, data, since=50)
    assert judged["auc"].mean() == pytest.approx(0.5, abs=0.05)
