"""The expanded audience against a sort of all scores, and against the evaluation's scores."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import UNTRAINED, dataset

from metaheac_jax.audience import retrieve
from metaheac_jax.audience.evaluation import pool_rows
from metaheac_jax.audience.retrieve import audience_ranks, expand, expand_all
from metaheac_jax.customise.score import AdaptedScorer
from metaheac_jax.data import dataset as dataset_module
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods import method_named
from metaheac_jax.model import Customised, General, Weights
from metaheac_jax.schema import Vocabulary
from metaheac_jax.settings import PAPER

USERS = 97
ATTRIBUTES = {"advertiser": 1, "category": 0}


def world():
    """Users whose ids are in no order."""
    data = dataset(users=USERS, campaigns=3, per_campaign=40, pool=30)
    return replace(data, user_ids=np.random.default_rng(8).permutation(data.user_ids))


DATA = world()


def few_values(rows):
    """Scores with many ties."""
    return (rows.sum(axis=1) % 7).astype(np.float32)


def model(score=few_values, seeds=(3, 50, 96), exclude=()):
    general = General(
        method="toy",
        settings=PAPER,
        schema=DATA.schema,
        vocabulary=DATA.vocabulary,
        state={},
        data="toy",
        campaigns=(),
        seed=0,
    )
    seed_ids = DATA.user_ids[list(seeds)]
    campaign = DATA.new_campaign(seed_ids, ATTRIBUTES, exclude=exclude)
    return Customised(general, campaign, seed_ids, score)


def test_models_of_one_table_share_it_on_another_device():
    """Also those that other processes have customised, each with a general model of its own."""
    method = method_named("mlp-pretraining", UNTRAINED)
    general = method.fit(DATA, campaigns=[0, 1])
    scorers = [
        m.scorer for m in method.customise(general, DATA, [DATA.campaign(c) for c in (1, 2)])
    ]
    apart = [replace(scorer, weights=Weights(*scorer.weights)) for scorer in scorers]
    one, two = retrieve._on_device(apart, jax.devices()[0])
    assert one.weights.table is two.weights.table
    other = replace(scorers[0], weights=Weights(scorers[0].weights.network, np.zeros((3, 2))))
    one, two = retrieve._on_device([scorers[0], other], jax.devices()[0])
    assert one.weights.table is not two.weights.table


def sorted_users(score, left_out):
    """Ids and scores of all users but some, best first, ties by id."""
    scores = score(DATA.user_rows)
    kept = ~np.isin(DATA.user_ids, left_out)
    order = np.lexsort((DATA.user_ids[kept], -scores[kept]))
    return DATA.user_ids[kept][order], scores[kept][order]


users = st.sets(st.integers(0, USERS - 1), max_size=USERS)
some_users = st.sets(st.integers(0, USERS - 1), min_size=1, max_size=20)


def other_values(rows):
    """Scores in another order, with ties."""
    return (rows[:, 0] * 3 - rows[:, -1] % 5).astype(np.float32)


@given(
    block=st.integers(1, USERS + 1),
    size=st.integers(1, USERS + 9),
    seeds=st.tuples(some_users, some_users),
    others=users,
    include_seeds=st.booleans(),
)
@settings(max_examples=80)
def test_audiences_are_the_tops_of_sorts_of_all(block, size, seeds, others, include_seeds):
    exclude = DATA.user_ids[sorted(others)]
    scores = (few_values, other_values)
    models = [model(score, sorted(own)) for score, own in zip(scores, seeds, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieve, "_BLOCK", block)
        found = expand_all(models, DATA, size=size, include_seeds=include_seeds, exclude=exclude)
    for audience, score, own in zip(found, scores, seeds, strict=True):
        left_out = exclude if include_seeds else [*exclude, *DATA.user_ids[sorted(own)]]
        ids, ordered = sorted_users(score, left_out)
        np.testing.assert_array_equal(audience.user_ids, ids[:size])
        np.testing.assert_array_equal(audience.scores, ordered[:size])
        assert len(audience) == min(size, len(ids))
        assert audience.num_candidates == len(ids)
        assert audience.first_rank == 1
        is_cut = len(ids) > size and ordered[size] == ordered[size - 1]
        assert audience.num_tied == (int((ordered[:size] == ordered[size]).sum()) if is_cut else 0)


@given(
    block=st.integers(1, USERS + 1),
    ranks=st.lists(
        st.tuples(st.integers(0, USERS - 1), st.integers(1, 20)), min_size=2, max_size=2
    ),
)
@settings(max_examples=40)
def test_each_model_has_ranks_of_its_own(block, ranks):
    ranks = [range(first, first + count) for first, count in ranks]
    models = [model(few_values), model(other_values)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieve, "_BLOCK", block)
        found = expand_all(models, DATA, ranks=ranks)
        for audience, own, wanted in zip(found, models, ranks, strict=True):
            ids, scores = sorted_users(own.scorer, own.seed_ids)
            np.testing.assert_array_equal(audience.user_ids, ids[wanted.start : wanted.stop])
            np.testing.assert_array_equal(audience.scores, scores[wanted.start : wanted.stop])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ranks": [range(3)]}, "one range per model, 2, got 1"),
        ({"ranks": [range(3), range(0)]}, r"range\(5000\), got range\(0, 0\)"),
        ({"ranks": [range(3), range(0, 9, 2)]}, "got range"),
        ({"ranks": [range(3), range(-1, 9)]}, "got range"),
        ({"ranks": [3, 4]}, "got 3"),
        ({"ranks": [range(3)] * 2, "size": 3}, "give ranks, or one of size"),
    ],
)
def test_ranks_that_make_no_sense(options, words):
    with pytest.raises(InputError, match=words):
        expand_all([model(), model()], DATA, **options)


@given(
    block=st.integers(1, USERS + 1),
    edges=st.lists(st.floats(0, 100), min_size=2, max_size=5, unique=True).map(sorted),
    others=st.sets(st.integers(0, USERS - 1), max_size=USERS // 2),
)
@settings(max_examples=40)
def test_bands_are_parts_of_a_sort_of_all(block, edges, others):
    exclude = DATA.user_ids[sorted(others)]
    ids, scores = sorted_users(few_values, [*exclude, *DATA.user_ids[[3, 50, 96]]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieve, "_BLOCK", block)
        for low, high in pairwise(edges):
            first, last = (int(USERS * edge / 100) for edge in (low, high))
            band = {"from_percent": low, "to_percent": high, "exclude": exclude}
            if first == last:
                with pytest.raises(InputError, match=f"holds none of {USERS} users"):
                    expand(model(), DATA, **band)
                continue
            found = expand(model(), DATA, **band)
            np.testing.assert_array_equal(found.user_ids, ids[first:last])
            np.testing.assert_array_equal(found.scores, scores[first:last])
            assert found.first_rank == first + 1
            is_cut = last < len(ids) and len(found) and scores[last] == scores[last - 1]
            num_tied = int((scores[first:last] == scores[last - 1]).sum()) if is_cut else 0
            assert found.num_tied == num_tied


@pytest.mark.parametrize("options", [{"size": 100}, {"from_percent": 0.1, "to_percent": 0.2}])
def test_memory_does_not_grow_with_the_pool(monkeypatch, options):
    for module in (retrieve, dataset_module):
        monkeypatch.setattr(module, "_BLOCK", 1000)

    def peak(num_users):
        keys = np.random.default_rng(0).permutation(num_users)
        rows = np.resize(DATA.user_rows, (num_users, DATA.user_rows.shape[1]))
        data, models = replace(DATA, user_ids=keys, user_rows=rows), [model(), model(other_values)]
        tracemalloc.start()
        audiences = expand_all(models, data, exclude=keys[:50], **options)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert min(map(len, audiences)) >= 100
        return most

    size = 100_000
    if "size" not in options:  # the same number of users in both
        small = peak(size)
        options = {name: value / 4 for name, value in options.items()}
        assert peak(4 * size) < 1.5 * small
    else:
        assert peak(4 * size) < 1.5 * peak(size)


def test_seeds_are_left_out_unless_wanted():
    seeds = DATA.user_ids[[3, 50, 96]]
    without, within = (expand(model(), DATA, size=USERS, include_seeds=i) for i in (False, True))
    assert (len(without), len(within)) == (USERS - 3, USERS)
    assert not np.isin(seeds, without.user_ids).any()
    assert np.isin(seeds, within.user_ids).all()


def test_who_is_excluded_from_a_campaign_is_in_none_of_its_audiences(monkeypatch):
    """Users whom all models exclude, or who are given, are looked up once."""
    find, looked_up = dataset_module.Dataset.find_users, []

    def find_users(self, user_ids, **options):
        looked_up.append(len(user_ids))
        return find(self, user_ids, **options)

    first, other = DATA.user_ids[[7, 8, 9]], DATA.user_ids[[9, 10]]
    one, two = model(exclude=first), model(exclude=other)
    same = replace(one, scorer=other_values)
    monkeypatch.setattr(dataset_module.Dataset, "find_users", find_users)
    for models, excluded in (([one, same], [first, first]), ([one, two], [first, other])):
        for exclude in ((), DATA.user_ids[[8, 20]]):
            found = expand_all(models, DATA, size=USERS, exclude=exclude)
            for own, audience, ids in zip(models, found, excluded, strict=True):
                expected, _ = sorted_users(own.scorer, [*own.seed_ids, *ids, *exclude])
                np.testing.assert_array_equal(audience.user_ids, expected)
                assert audience.num_candidates == len(expected)
    assert looked_up == [3 + 6, 4 + 6, 5 + 6, 2 + 4 + 6]  # 8 is looked up once in a call


def test_excluded_ids_that_nobody_has_are_ignored():
    wanted = expand(model(), DATA, size=5)
    found = expand(model(), DATA, size=5, exclude=[-1, 10**15, int(wanted.user_ids[0])])
    np.testing.assert_array_equal(found.user_ids[:4], wanted.user_ids[1:])
    assert found.num_candidates == wanted.num_candidates - 1
    with pytest.raises(InputError, match=r"user ids: expected whole numbers, got 1\.5"):
        expand(model(), DATA, size=5, exclude=[1.5])


@pytest.mark.parametrize(
    ("percent", "size"), [(100, USERS - 3), (50, 48), (1.04, 1), (0.001, 1), (3.1, 3)]
)
def test_a_percentage_is_of_all_users(percent, size):
    assert len(expand(model(), DATA, percent=percent)) == size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "audience: give one of size, percent, and from_percent with to_percent"),
        ({"size": 5, "percent": 5}, "audience: give one of size, percent, and from_percent"),
        ({"size": 5, "from_percent": 1, "to_percent": 2}, "audience: give one of size, percent"),
        ({"percent": 5, "to_percent": 2}, "audience: give one of size, percent"),
        ({"to_percent": 2}, "expected 0 <= from_percent < to_percent <= 100, got None and 2"),
        ({"from_percent": 2}, "from_percent < to_percent <= 100, got 2 and None"),
        ({"from_percent": 2, "to_percent": 2}, "from_percent < to_percent <= 100, got 2 and 2"),
        ({"from_percent": -1, "to_percent": 2}, "from_percent < to_percent <= 100, got -1 and 2"),
        ({"from_percent": 1, "to_percent": 101}, "from_percent < to_percent <= 100, got 1 and 101"),
        (
            {"from_percent": 1.1, "to_percent": 1.9},
            "from_percent 1.1 to_percent 1.9: holds none of 97",
        ),
        ({"size": 0}, "size: expected a whole number of 1 or more, got 0"),
        ({"size": 10.5}, "size: expected a whole number of 1 or more, got 10.5"),
        ({"percent": True}, "percent: expected a number, got True"),
        ({"percent": "5"}, "percent: expected a number, got '5'"),
        ({"from_percent": 1, "to_percent": "5"}, "to_percent: expected a number, got '5'"),
        ({"percent": 0}, "percent: expected more than 0 and at most 100, got 0"),
        ({"percent": 100.5}, "percent: expected more than 0 and at most 100, got 100.5"),
        ({"percent": float("nan")}, "percent: expected more than 0 and at most 100, got nan"),
    ],
)
def test_a_size_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        expand(model(None), DATA, **options)


def test_what_is_no_customised_model_is_refused():
    with pytest.raises(InputError, match="expected a customised model, got a list"):
        expand([model()], DATA, size=5)
    with pytest.raises(InputError, match=r"expected a list of customised models, got one; write"):
        expand_all(model(), DATA, size=5)


def test_data_of_other_values_are_refused():
    values = (*DATA.vocabulary.values[:-1], np.arange(5, 8))
    with pytest.raises(InputError, match="field 'category' has other values"):
        expand(model(None), replace(DATA, vocabulary=Vocabulary(values)), size=5)


def test_a_score_that_is_not_a_number_gives_no_audience():
    with pytest.raises(Diverged, match="new campaign: a score of toy is not a number"):
        expand(model(lambda rows: np.full(len(rows), np.nan, np.float32)), DATA, size=5)


def test_nobody_left_is_an_empty_audience():
    found = expand(model(None), DATA, size=5, exclude=DATA.user_ids)
    assert (len(found), found.num_candidates) == (0, 0)


def test_progress_counts_users(monkeypatch):
    monkeypatch.setattr(retrieve, "_BLOCK", 40)
    calls = []
    expand(model(), DATA, size=5, progress=lambda *call: calls.append(call))
    assert calls[0] == ("find users", USERS, USERS)
    assert calls[1:] == [("score the pool", done, USERS) for done in (40, 80, USERS)]


def test_scores_are_those_that_the_evaluation_judges(monkeypatch):
    monkeypatch.setattr(retrieve, "_BLOCK", 40)
    method = method_named("mlp-pretraining").with_settings(
        width=2, offline_epochs=0, online_epochs=1, batch_size=32, campaigns_per_step=2
    )
    general = method.fit(DATA, campaigns=[0, 1])
    [own] = method.customise(general, DATA, [DATA.campaign(2)])
    audience = expand(own, DATA, size=USERS, include_seeds=True)
    assert audience.scores.dtype == np.float32
    by_user = dict(zip(audience.user_ids.tolist(), audience.scores.tolist(), strict=True))
    pool = DATA.user_ids[DATA.stage2.user[DATA.stage2.of(2)]]
    judged = own.score(pool_rows(DATA, 2)).tolist()
    assert [by_user[user] for user in pool.tolist()] == judged
    # Nor do the other users of a block matter.
    alone = [float(own.score(DATA.user_rows[u : u + 1])[0]) for u in range(5)]
    assert [by_user[int(user)] for user in DATA.user_ids[:5]] == alone


@pytest.mark.slow
def test_models_that_share_the_first_layer_compute_it_once(monkeypatch):
    """Their audiences are those of each alone; a block has fewer users where models are many."""
    method = method_named("mlp-pretraining").with_settings(
        width=2,
        offline_epochs=0,
        online_learning_rate=0.05,
        online_epochs=1,
        batch_size=32,
        campaigns_per_step=2,
        online_adapts="heads",
    )
    general = method.fit(DATA, campaigns=[0, 1])
    models = method.customise(general, DATA, [DATA.campaign(c) for c in range(3)])
    alone = [expand(own, DATA, size=USERS) for own in models]

    def refuse(scorer, users):
        raise AssertionError("scored alone")

    monkeypatch.setattr(AdaptedScorer, "__call__", refuse)
    monkeypatch.setattr(retrieve, "_SCORES", 90)
    done = []
    together = expand_all(models, DATA, size=USERS, progress=lambda *call: done.append(call[1]))
    assert done[1:] == [30, 60, 90, USERS]  # the first has found the seeds
    for audience, expected in zip(together, alone, strict=True):
        by_user, scores = (
            dict(zip(a.user_ids.tolist(), a.scores.tolist(), strict=True))
            for a in (audience, expected)
        )
        assert by_user == pytest.approx(scores, abs=1e-6)
    assert np.abs(alone[0].scores[:5] - alone[1].scores[:5]).max() > 1e-3


def test_seeds_are_left_out_of_any_pool():
    """Users in another order, and fewer of them: seeds are known by their ids."""
    customised = model()
    order = np.random.default_rng(3).permutation(USERS)[:60]
    stage = replace(DATA.stage1, offsets=np.zeros(4, np.int64), user=np.empty(0, np.int32))
    stage = replace(stage, label=np.empty(0, np.int8), probability=None)
    pool = replace(
        DATA,
        user_ids=DATA.user_ids[order],
        user_rows=DATA.user_rows[order],
        stage1=stage,
        stage2=stage,
    )
    audience = expand(customised, pool, size=USERS)
    left = np.setdiff1d(pool.user_ids, customised.seed_ids)
    np.testing.assert_array_equal(np.sort(audience.user_ids), left)
    assert audience.num_candidates == len(left)


def test_a_pool_with_several_rows_per_user_is_refused():
    with pytest.raises(InputError, match="toy: user_ids: a user may have several rows, so no aud"):
        expand(model(None), replace(DATA, one_row_per_user=False), size=5)


def test_ranks_divide_all_users():
    assert audience_ranks(1000, percent=100) == range(1000)
    assert audience_ranks(10, percent=0.1) == range(1)
    assert audience_ranks(10, size=7) == range(7)
    edges = np.linspace(0, 100, 30)
    bands = [
        audience_ranks(997, from_percent=low, to_percent=high) for low, high in pairwise(edges)
    ]
    assert [rank for band in bands for rank in band] == list(range(997))


def test_a_seed_with_a_long_id_does_not_leave_out_a_user_with_a_shorter_one():
    """The pool's ids have fewer bytes: "ab" is another user than the seed "abc"."""
    keys = np.array([f"{i:02d}" for i in range(USERS)], "S2")
    pool = replace(DATA, user_ids=keys)
    customised = replace(model(), seed_ids=np.array([b"07x", b"09"]))
    audience = expand(customised, pool, size=USERS)
    assert set(audience.user_ids) == {f"{i:02d}" for i in range(USERS)} - {"09"}
    with pytest.raises(InputError, match="user ids: expected whole numbers, got '07x'"):
        expand(customised, DATA, size=5)
    own = DATA.user_ids[[4, 9]]
    found = expand(replace(customised, seed_ids=own.astype("S")), DATA, size=USERS).user_ids
    np.testing.assert_array_equal(np.sort(found), np.setdiff1d(DATA.user_ids, own))
