"""MovieLens as campaigns: above all, that no answer leaks into a feature."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_movielens import (
    MOVIES,
    USERS,
    build_toy,
    examples,
    features,
    toy_genres,
    toy_ratings,
    write_toy,
)

from metaheac_jax.data.sources.movielens import build_movielens, user_references
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.errors import InputError


@pytest.fixture(scope="module", params=["pool", "exposed"])
def toy(request, tmp_path_factory):
    ratings = toy_ratings(USERS, MOVIES, seed=1)
    directory = tmp_path_factory.mktemp("toy")
    options = {"non_seeds": request.param, "non_seeds_per_seed": 1}
    return ratings, request.param, *build_toy(directory, ratings, **options)


def test_who_is_a_seed_and_who_is_not(toy):
    ratings, mode, dataset, split = toy
    assert len(split.train) == round(0.6 * dataset.num_campaigns)
    assert sorted([*split.train, *split.test]) == list(range(dataset.num_campaigns))
    stage1, stage2 = examples(dataset, "stage1"), examples(dataset, "stage2")
    assert not stage1.keys() & stage2.keys()
    test = set(dataset.campaign_key[split.test].tolist())
    assert {movie for movie, _ in stage2} == test

    likes = Counter(movie for (_, movie), rating in ratings.items() if rating >= 4)
    assert dataset.campaign_key.tolist() == sorted(m for m, n in likes.items() if n >= 4)
    for movie in dataset.campaign_key.tolist():
        labels = {u: lab for (m, u), (lab, _) in (stage1 | stage2).items() if m == movie}
        seeds = {u for u, lab in labels.items() if lab == 1}
        others = {u for u, lab in labels.items() if lab == 0}
        assert seeds == {u for (u, m), rating in ratings.items() if m == movie and rating >= 4}
        if mode == "exposed":
            assert others == {u for (u, m), rating in ratings.items() if m == movie and rating < 4}
        else:
            pool = {u for u in range(8, 8 + USERS) if (u, movie) not in ratings}
            assert others <= pool
            assert len(others) == min(len(pool), len(seeds))
        in_stage1 = Counter(lab for (m, _), (lab, _) in stage1.items() if m == movie)
        for label, whole in ((1, len(seeds)), (0, len(others))):
            assert in_stage1[label] == ((whole + 1) // 2 if movie in test else whole)


def test_the_order_of_examples_does_not_tell_the_label(toy):
    _, _, dataset, _ = toy
    for stage in (dataset.stage1, dataset.stage2):
        for campaign in range(dataset.num_campaigns):
            keys = dataset.user_key[stage.user[stage.of(campaign)]]
            assert (np.diff(keys) > 0).all()


def test_histories_are_those_of_the_training_campaigns_less_the_own_one(toy):
    """Every example's features, from the ratings by the slow and plain way."""
    ratings, _, dataset, split = toy
    train = dataset.campaign_key[split.train].tolist()
    for stage in ("stage1", "stage2"):
        for (movie, user), (_, view) in examples(dataset, stage).items():
            found = features(dataset, view)
            liked = [m for m in train if m != movie and ratings.get((user, m), 0) >= 4]
            assert sorted(found["liked_movies"]) == sorted(map(str, liked))
            count = Counter(genre for m in liked for genre in toy_genres(m))
            assert found["liked_genres"] == sorted(count, key=lambda g: (-count[g], g))
            assert found["zip"] == [str(90000 + 377 * (user - 8))[:2]]
            assert found["gender"] == ["MF"[user % 2]]
            assert found["occupation"] == [f"job{(user - 8) % 3}"]


def test_campaigns_are_their_year_and_genres_rarest_first(toy):
    _, _, dataset, _ = toy
    count = Counter(genre for m in range(95, 95 + MOVIES) for genre in toy_genres(m))
    first = len(dataset.schema.user)
    for movie, rows in zip(dataset.campaign_key.tolist(), dataset.campaign_rows, strict=True):
        values = [
            str(dataset.vocabulary.values[first + i][row - dataset.vocabulary.offsets[first + i]])
            for i, row in enumerate(rows)
        ]
        genres = sorted(toy_genres(movie), key=lambda g: (count[g], g))
        assert values == ["1930s" if movie < 105 else "1940s", *(genres + [""] * 3)[:3]]


def test_the_vocabulary_keeps_the_contract(toy):
    _, _, dataset, split = toy
    for field, values in zip(dataset.schema.fields, dataset.vocabulary.values, strict=True):
        assert (values[:-1] < values[1:]).all()
        assert ("" in values) == (field.slots == 1)
    train = dataset.campaign_key[split.train].astype(str)
    assert sorted(dataset.vocabulary.values[5]) == sorted(train)
    assert dataset.user_rows.dtype == dataset.campaign_rows.dtype == np.int32


def test_small_sets_are_four_fifths_of_the_campaigns(tmp_path):
    # Movie i has 2i + 3 likes, so a test campaign has i + 2 seeds in stage 1; there are 11 movies.
    # Four fifths of 11 are 8.8, so the ninth smallest set, of 10 seeds, is the last small one.
    ratings = {(u + 8, i + 95): 5 for i in range(11) for u in range(2 * i + 3)}
    dataset, split = build_toy(tmp_path, ratings, movies=11, min_positives=3)
    assert split.threshold == 10
    assert split.small.tolist() == [True] * 9 + [False] * 2
    assert dataset.stage1.positives[split.test].tolist() == [i + 2 for i in split.test]


def rows_by_example(dataset, split, stage, which):
    """{(movie, user): table rows} of the examples of training or test campaigns."""
    movies = set(dataset.campaign_key[getattr(split, which)].tolist())
    return {
        key: dataset.user_rows[view].tolist()
        for key, (_, view) in examples(dataset, stage).items()
        if key[0] in movies
    }


@pytest.mark.parametrize("mode", ["pool", "exposed"])
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**6))
def test_no_rating_of_a_test_campaign_reaches_a_feature(tmp_path, mode, seed):
    ratings = toy_ratings(USERS, MOVIES, seed=seed)
    dataset, split = build_toy(tmp_path, ratings, seed=seed, non_seeds=mode)

    # The test campaigns' ratings go to other users; their number of likes stays.
    swap = dict(
        zip(range(8, 8 + USERS), np.random.default_rng(seed).permutation(USERS) + 8, strict=True)
    )
    test = set(dataset.campaign_key[split.test].tolist())
    moved = {(int(swap[u]) if m in test else u, m): r for (u, m), r in ratings.items()}
    assert moved != ratings
    after, split_after = build_toy(tmp_path, moved, seed=seed, non_seeds=mode)

    assert examples(after, "stage2") != examples(dataset, "stage2")
    np.testing.assert_array_equal(split_after.train, split.train)
    np.testing.assert_array_equal(after.user_rows, dataset.user_rows)
    np.testing.assert_array_equal(after.user_key, dataset.user_key)
    before = rows_by_example(dataset, split, "stage1", "train")
    assert rows_by_example(after, split, "stage1", "train") == before


def flip(ratings, dataset, split, seed):
    """Turns likes of one training movie into low ratings, and as many back."""
    lower = Counter(movie for (_, movie), rating in ratings.items() if rating < 4)
    movies = [m for m in dataset.campaign_key[split.train].tolist() if lower[m]]
    movie = int(np.random.default_rng(seed).choice(movies))
    liked = [k for k, r in ratings.items() if k[1] == movie and r >= 4]
    lower = [k for k, r in ratings.items() if k[1] == movie and r < 4]
    n = min(len(liked), len(lower))
    return movie, ratings | dict.fromkeys(liked[:n], 1) | dict.fromkeys(lower[:n], 5)


@pytest.mark.parametrize(("users", "movies", "rate"), [(30, 14, 0.4), (12, 200, 0.75)])
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**6))
def test_the_answer_of_an_example_is_not_in_its_own_features(tmp_path, users, movies, rate, seed):
    """Whether a user liked a training campaign changes nothing in that example's features.

    In the second world histories are longer than their slots, so this holds for the cut as well.
    """
    size = {"users": users, "movies": movies}
    ratings = toy_ratings(users, movies, seed, liked=rate)
    dataset, split = build_toy(tmp_path, ratings, seed, non_seeds="exposed", **size)
    movie, flipped = flip(ratings, dataset, split, seed)
    after, split_after = build_toy(tmp_path, flipped, seed, non_seeds="exposed", **size)
    np.testing.assert_array_equal(split_after.train, split.train)

    def of_movie(data):
        return {u: (lab, v) for (m, u), (lab, v) in examples(data, "stage1").items() if m == movie}

    cut = [len(features(dataset, view)["liked_movies"]) == 80 for view in range(users)]
    assert any(cut) == (movies == 200)
    old, new = of_movie(dataset), of_movie(after)
    assert old.keys() == new.keys()
    changed = [u for u in old if old[u][0] != new[u][0]]
    assert changed
    for user in old:
        rows = dataset.user_rows[old[user][1]]
        np.testing.assert_array_equal(after.user_rows[new[user][1]], rows)
        assert str(movie) not in features(dataset, old[user][1])["liked_movies"]
    # Where nothing is cut, the plain view does show it, so the test has eyes.
    for user in changed if not any(cut) else []:
        shown = [features(d, user - 8)["liked_movies"] for d in (dataset, after)]
        assert set(shown[0]) ^ set(shown[1]) == {str(movie)}


def test_a_long_history_is_cut_in_an_order_of_its_own(tmp_path):
    ratings = {(u + 8, m + 95): 5 for u in range(12) for m in range(200)}
    dataset, split = build_toy(tmp_path, ratings, users=12, movies=200)
    train = set(dataset.campaign_key[split.train].astype(str).tolist())
    kept = [features(dataset, user)["liked_movies"] for user in range(12)]
    for history in kept:
        assert len(history) == len(set(history)) == 80 < len(train)
        assert set(history) < train
    # All like the same movies, yet each keeps its own choice of them.
    assert len({frozenset(history) for history in kept}) == 12
    # Without a movie that was kept, the next one moves up; without another, nothing changes.
    for (movie, user), (_, view) in examples(dataset, "stage1").items():
        if view >= 12:
            plain, own = kept[user - 8], features(dataset, view)["liked_movies"]
            assert own[:79] == [m for m in plain if m != str(movie)][:79]
            assert (own == plain) == (str(movie) not in plain)


def test_each_campaign_draws_for_itself(tmp_path):
    # Ten movies with the same eight likes and nothing else.
    same = {(u + 8, m + 95): 5 for u in range(8) for m in range(10)}
    options = {"movies": 10, "non_seeds_per_seed": 1}
    dataset, split = build_toy(tmp_path, same, **options)

    def drawn(data, movie, label):
        found = examples(data, "stage1").items()
        return frozenset(u for (m, u), (lab, _) in found if m == movie and lab == label)

    # Draws differ from campaign to campaign (there are 70 ways to halve eight seeds) ...
    test = dataset.campaign_key[split.test].tolist()
    for label in (0, 1):
        draws = {drawn(dataset, movie, label) for movie in test}
        assert len(draws) > 1
        assert {len(draw) for draw in draws} == {4}
    # ... and what happens to one campaign shifts no other's.
    fewer = same | {(user, test[0]): 1 for user in (8, 9, 10)}
    after, _ = build_toy(tmp_path, fewer, **options)
    for movie in test[1:]:
        for label in (0, 1):
            assert drawn(after, movie, label) == drawn(dataset, movie, label)


def test_the_seed_decides_everything_it_should(tmp_path):
    ratings = toy_ratings(USERS, MOVIES, seed=6)
    options = {"non_seeds_per_seed": 1}
    one, split = build_toy(tmp_path / "one", ratings, seed=1, **options)
    again, split_again = build_toy(tmp_path / "two", ratings, seed=1, **options)
    other, split_other = build_toy(tmp_path / "two", ratings, seed=2, **options)
    np.testing.assert_array_equal(split.train, split_again.train)
    np.testing.assert_array_equal(one.user_rows, again.user_rows)
    for stage in ("stage1", "stage2"):
        assert examples(one, stage) == examples(again, stage)
        assert examples(one, stage).keys() != examples(other, stage).keys()
    assert split.train.tolist() != split_other.train.tolist()


def test_references_count_training_campaigns_less_the_own_one(toy):
    _, _, dataset, split = toy
    train = set(dataset.campaign_key[split.train].tolist())
    known = {k: lab for k, (lab, _) in examples(dataset, "stage1").items() if k[0] in train}
    overall = sum(known.values()) / len(known)
    for stage in ("stage1", "stage2"):
        columns = getattr(dataset, stage)
        scores = user_references(dataset, split.train, columns)
        movies = np.repeat(dataset.campaign_key, columns.counts).tolist()
        users = dataset.user_key[columns.user].tolist()
        for e, (movie, user) in enumerate(zip(movies, users, strict=True)):
            rest = [lab for (m, u), lab in known.items() if u == user and m != movie]
            assert scores.activity[e] == sum(rest)
            expected = (sum(rest) + overall) / (len(rest) + 1)
            assert scores.like_rate[e] == pytest.approx(expected, rel=1e-6)


def test_missing_values_have_a_row_of_their_own(tmp_path):
    ratings = toy_ratings(3, MOVIES, seed=7, liked=0.9)
    lines = ["8\t17\tM\tjob\t123", "9\t\t\t\t", "10\told\tF\tjob\tV1A"]
    write_toy(tmp_path, ratings, 3, MOVIES, lines)
    item = tmp_path / "ml-100k.item"
    item.write_text(item.read_text().replace("1930", "V"))
    dataset, _ = build_movielens(tmp_path, seed=0, min_positives=2)
    fields = ("age", "gender", "occupation", "zip")
    found = [[features(dataset, view)[name][0] for name in fields] for view in range(3)]
    assert found == [["0", "M", "job", "12"], ["", "", "", ""], ["", "F", "job", "V1"]]
    assert (dataset.campaign_rows < dataset.num_rows).all()
    assert dataset.vocabulary.values[6].tolist() == ["", "1930s", "1940s"]


def test_it_survives_the_disk(toy, tmp_path):
    _, _, dataset, split = toy
    write_dataset(dataset, tmp_path / "dataset")
    opened = open_dataset(tmp_path / "dataset")
    np.testing.assert_array_equal(opened.user_rows, dataset.user_rows)
    assert examples(opened, "stage2") == examples(dataset, "stage2")
    for stage in ("stage1", "stage2"):
        np.testing.assert_array_equal(
            user_references(opened, split.train, getattr(opened, stage)),
            user_references(dataset, split.train, getattr(dataset, stage)),
        )


@pytest.mark.parametrize(
    ("kind", "line", "text", "what"),
    [
        ("inter", 1, "user_id:token\titem_id:token\tstars:float\ttimestamp:float", "rating:float"),
        ("inter", 1, "user_id:token\titem_id:token\trating:token\ttimestamp:float", "rating:float"),
        ("inter", 3, "8\t95\t\t0", "the rating is missing"),
        ("inter", 3, "7\t95\t5\t0", "user_id is missing from its table"),
        ("inter", 3, "8\t999\t5\t0", "item_id is missing from its table"),
        ("inter", 3, "8\tToy Story\t5\t0", "item_id is not a non-negative integer"),
        ("inter", 4, None, "rated this item on an earlier line"),
        ("inter", 4, "8\t95", "2 cells"),
        ("user", 3, "-1\t20\tM\tjob\t12345", "user_id is not a non-negative integer"),
        ("user", 4, None, "user_id occurs on an earlier line"),
        ("item", 5, None, "item_id occurs on an earlier line"),
        (
            "item",
            1,
            "item_id:token\tt:token_seq\trelease_year:token\tg:token_seq",
            "class:token_seq",
        ),
    ],
)
def test_bad_source_files_are_refused_by_line(tmp_path, kind, line, text, what):
    write_toy(tmp_path, toy_ratings(USERS, MOVIES, seed=8), USERS, MOVIES)
    path = tmp_path / f"ml-100k.{kind}"
    lines = path.read_text().splitlines()
    lines[line - 1] = lines[line - 2] if text is None else text
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as error:
        build_movielens(tmp_path, seed=0, min_positives=4)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert what in str(error.value)


def test_too_few_campaigns_and_unknown_modes_are_refused(tmp_path):
    write_toy(tmp_path, toy_ratings(USERS, MOVIES, seed=8), USERS, MOVIES)
    with pytest.raises(InputError, match="0 movies have enough likes"):
        build_movielens(tmp_path, seed=0, min_positives=100)
    with pytest.raises(InputError, match="train_fraction"):
        build_movielens(tmp_path, seed=0, min_positives=4, train_fraction=1.0)
    with pytest.raises(InputError, match="'pool' or 'exposed'"):
        build_movielens(tmp_path, seed=0, non_seeds="all")


@pytest.mark.skipif(
    "METAHEAC_ML100K" not in os.environ,
    reason="METAHEAC_ML100K does not name the folder of ml-100k.inter, .user and .item "
    "(GroupLens forbids redistribution, so they are not here)",
)
@pytest.mark.parametrize(
    ("mode", "train", "test"), [("pool", 104110, 66650), ("exposed", 35421, 22964)]
)
def test_the_real_files(mode, train, test):
    dataset, split = build_movielens(Path(os.environ["METAHEAC_ML100K"]), seed=0, non_seeds=mode)
    assert (dataset.num_campaigns, len(split.train), len(split.test)) == (293, 176, 117)
    both = dataset.stage1.counts + dataset.stage2.counts
    assert (both[split.train].sum(), both[split.test].sum()) == (train, test)
    assert dataset.num_users == 943 + dataset.stage1.positives[split.train].sum() == 943 + 23420
    assert (dataset.stage2.positives[split.test] >= 30).all()
    assert (dataset.stage2.counts > dataset.stage2.positives)[split.test].all()
    starts = dataset.schema.user_starts
    history = (dataset.user_rows[:, starts[5] :] < dataset.num_rows).sum(axis=1)
    assert (history[:943] == 80).mean() < 0.03
    # No view of a training campaign's seed holds the campaign itself.
    own = dataset.stage1.user >= 943
    movies = np.repeat(dataset.campaign_key, dataset.stage1.counts)[own].astype(str)
    rows = dataset.vocabulary.encode(5, movies)
    assert (rows < dataset.num_rows).all()
    assert not (dataset.user_rows[dataset.stage1.user[own]] == rows[:, None]).any()
