"""MovieLens as campaigns: above all, that no feature tells an answer."""

import dataclasses
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

from metaheac_jax.data.sources.movielens import (
    EDITIONS,
    build_movielens,
    find_edition,
    user_references,
)
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.errors import InputError


def movies_of(dataset, campaigns=slice(None)):
    """Ids of campaigns as numbers."""
    return [int(key) for key in dataset.campaign_ids[campaigns]]


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
    test = set(movies_of(dataset, split.test))
    assert {movie for movie, _ in stage2} == test

    likes = Counter(movie for (_, movie), rating in ratings.items() if rating >= 4)
    assert movies_of(dataset) == sorted((m for m, n in likes.items() if n >= 4), key=str)
    for movie in movies_of(dataset):
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
            keys = dataset.user_ids[stage.user[stage.of(campaign)]]
            assert (keys[1:] > keys[:-1]).all()


def test_histories_are_those_of_the_training_campaigns_less_one_movie(toy):
    """Every example's features, from the ratings by the slow and plain way."""
    ratings, _, dataset, split = toy
    train = movies_of(dataset, split.train)
    left_out = {}
    for stage in ("stage1", "stage2"):
        for (movie, user), (label, view) in examples(dataset, stage).items():
            found = features(dataset, view)
            liked = {m for m in train if ratings.get((user, m), 0) >= 4}
            shown = set(map(int, found["liked_movies"]))
            assert shown <= liked
            assert len(shown) == len(found["liked_movies"]) == max(len(liked) - 1, 0)
            if label == 1 and movie in train:
                assert liked - shown == {movie}
            elif movie in train and len(liked) > 1:
                left_out.setdefault(user, []).extend(liked - shown)
            count = Counter(genre for m in shown for genre in toy_genres(m))
            assert found["liked_genres"] == sorted(count, key=lambda g: (-count[g], g))
            assert found["zip"] == [str(90000 + 377 * (user - 8))[:2]]
            assert found["gender"] == ["MF"[user % 2]]
            assert found["occupation"] == [f"job{(user - 8) % 3}"]
    # Which movie a non-seed lacks is drawn for each campaign anew.
    varied = [len(set(movies)) > 1 for movies in left_out.values() if len(movies) > 1]
    assert np.mean(varied) > 0.5


@pytest.mark.parametrize(("users", "movies", "rate"), [(30, 14, 0.4), (12, 200, 0.75)])
@pytest.mark.parametrize("mode", ["pool", "exposed"])
def test_the_length_of_a_history_does_not_tell_the_label(tmp_path, users, movies, rate, mode):
    """All views of a user have as many movies, in training campaigns, held-out ones and tests."""
    ratings = toy_ratings(users, movies, seed=2, liked=rate)
    size = {"users": users, "movies": movies}
    dataset, split = build_toy(tmp_path, ratings, non_seeds=mode, **size)
    train = movies_of(dataset, split.train)
    lengths = np.array(
        [len(features(dataset, v)["liked_movies"]) for v in range(dataset.num_users)]
    )
    for user in range(8, 8 + users):
        liked = sum(ratings.get((user, m), 0) >= 4 for m in train)
        of_user = lengths[dataset.user_ids.astype(int) == user]
        assert set(of_user) == {min(max(liked - 1, 0), 80)}


def test_campaigns_are_their_year_and_genres_rarest_first(toy):
    _, _, dataset, _ = toy
    count = Counter(genre for m in range(95, 95 + MOVIES) for genre in toy_genres(m))
    first = len(dataset.schema.user)
    for movie, rows in zip(movies_of(dataset), dataset.campaign_rows, strict=True):
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
    train = dataset.campaign_ids[split.train].astype(str)
    assert sorted(dataset.vocabulary.values[5]) == sorted(train)
    assert dataset.user_rows.dtype == dataset.campaign_rows.dtype == np.int32


def test_small_sets_are_four_fifths_of_the_campaigns(tmp_path):
    # Movie i has 2i + 3 likes, so a test campaign has i + 2 seeds in stage 1; there are 11 movies.
    # Four fifths of 11 are 8.8, so the ninth smallest set, of 10 seeds, is the last small one.
    ratings = {(u + 8, i + 95): 5 for i in range(11) for u in range(2 * i + 3)}
    dataset, split = build_toy(tmp_path, ratings, movies=11, min_likes=3)
    assert split.threshold == 10
    movies = np.array(movies_of(dataset)) - 95
    assert split.small.tolist() == (movies < 9).tolist()
    assert dataset.stage1.positives[split.test].tolist() == [i + 2 for i in movies[split.test]]


def rows_by_example(dataset, split, stage, which):
    """{(movie, user): table rows} of the examples of training or test campaigns."""
    movies = set(movies_of(dataset, getattr(split, which)))
    return {
        key: dataset.user_rows[view].tolist()
        for key, (_, view) in examples(dataset, stage).items()
        if key[0] in movies
    }


@pytest.mark.parametrize("mode", ["pool", "exposed"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_no_rating_of_a_test_campaign_reaches_a_feature(tmp_path, mode, seed):
    ratings = toy_ratings(USERS, MOVIES, seed=seed)
    dataset, split = build_toy(tmp_path, ratings, seed=seed, non_seeds=mode)

    # The test campaigns' ratings go to other users; their number of likes stays.
    swap = dict(
        zip(range(8, 8 + USERS), np.random.default_rng(seed).permutation(USERS) + 8, strict=True)
    )
    test = set(movies_of(dataset, split.test))
    moved = {(int(swap[u]) if m in test else u, m): r for (u, m), r in ratings.items()}
    assert moved != ratings
    after, split_after = build_toy(tmp_path, moved, seed=seed, non_seeds=mode)

    assert examples(after, "stage2") != examples(dataset, "stage2")
    np.testing.assert_array_equal(split_after.train, split.train)
    np.testing.assert_array_equal(after.user_rows, dataset.user_rows)
    np.testing.assert_array_equal(after.user_ids, dataset.user_ids)
    before = rows_by_example(dataset, split, "stage1", "train")
    assert rows_by_example(after, split, "stage1", "train") == before


@pytest.mark.parametrize("mode", ["pool", "exposed"])
def test_campaigns_apart_are_in_no_history(tmp_path, mode):
    """They are as test campaigns are: one view per user, and no rating of theirs in a feature."""
    ratings = toy_ratings(USERS, MOVIES, seed=5)
    dataset, split = build_toy(tmp_path, ratings, non_seeds=mode)
    apart = split.train[[1, 4]]
    found, again = build_toy(tmp_path, ratings, non_seeds=mode, apart=apart)
    np.testing.assert_array_equal(again.train, split.train)
    movies = {str(movie) for movie in movies_of(dataset, apart)}
    shown = [set(features(found, view)["liked_movies"]) for view in range(found.num_users)]
    assert set().union(*shown) == {str(m) for m in movies_of(dataset, split.train)} - movies
    for campaign in range(dataset.num_campaigns):  # the examples are the same
        own = [
            (
                data.user_ids[data.stage1.user[data.stage1.of(campaign)]],
                data.stage1.label[data.stage1.of(campaign)],
            )
            for data in (dataset, found)
        ]
        for one, other in zip(*own, strict=True):
            np.testing.assert_array_equal(one, other)
        views = found.stage1.user[found.stage1.of(campaign)]
        shared = campaign in split.test or campaign in apart
        assert ((views < USERS) == shared).all()


def flip(ratings, dataset, split, seed):
    """Turns likes of one training movie into low ratings, and as many back."""
    lower = Counter(movie for (_, movie), rating in ratings.items() if rating < 4)
    movies = [m for m in movies_of(dataset, split.train) if lower[m]]
    movie = int(np.random.default_rng(seed).choice(movies))
    liked = [k for k, r in ratings.items() if k[1] == movie and r >= 4]
    lower = [k for k, r in ratings.items() if k[1] == movie and r < 4]
    n = min(len(liked), len(lower))
    return movie, ratings | dict.fromkeys(liked[:n], 1) | dict.fromkeys(lower[:n], 5)


@pytest.mark.parametrize(("users", "movies", "rate"), [(30, 14, 0.4), (12, 200, 0.75)])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_the_answer_of_an_example_is_not_in_its_own_features(tmp_path, users, movies, rate, seed):
    """A seed and a non-seed see the same movies of the user, but for the one that a non-seed lacks.

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
    assert any(old[user][0] != new[user][0] for user in old)
    for user in old:
        pair = [(dataset, *old[user]), (after, *new[user])]
        seen = {label: features(data, view)["liked_movies"] for data, label, view in pair}
        if len(seen) == 1:
            np.testing.assert_array_equal(*(data.user_rows[view] for data, _, view in pair))
        else:
            kept = [m for m in seen[1] if m in seen[0]]
            assert kept == seen[0][: len(kept)]
            assert len(seen[1]) - len(kept) <= 1
        assert all(str(movie) not in shown for shown in seen.values())


def test_a_long_history_is_cut_in_an_order_of_its_own(tmp_path):
    ratings = {(u + 8, m + 95): 5 for u in range(12) for m in range(200)}
    dataset, split = build_toy(tmp_path, ratings, users=12, movies=200)
    train = set(map(str, movies_of(dataset, split.train)))
    kept = [features(dataset, user)["liked_movies"] for user in range(12)]
    for history in kept:
        assert len(history) == len(set(history)) == 80 < len(train)
        assert set(history) < train
    shared = dict(zip(map(int, dataset.user_ids), kept, strict=False))
    # All like the same movies, yet each keeps its own choice of them.
    assert len({frozenset(history) for history in kept}) == 12
    # All views of a user have one order: without one movie the next moves up.
    for (movie, user), (_, view) in examples(dataset, "stage1").items():
        if view >= 12:
            other, own = shared[user], features(dataset, view)["liked_movies"]
            both = [m for m in own if m in other]
            assert both == [m for m in other if m in own]
            assert len(both) >= 79
            assert str(movie) not in own


def test_each_campaign_draws_for_itself(tmp_path):
    # Ten movies with the same eight likes and nothing else.
    same = {(u + 8, m + 95): 5 for u in range(8) for m in range(10)}
    options = {"movies": 10, "non_seeds_per_seed": 1}
    dataset, split = build_toy(tmp_path, same, **options)

    def drawn(data, movie, label):
        found = examples(data, "stage1").items()
        return frozenset(u for (m, u), (lab, _) in found if m == movie and lab == label)

    # Draws differ from campaign to campaign (there are 70 ways to halve eight seeds) ...
    test = movies_of(dataset, split.test)
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
    train = set(movies_of(dataset, split.train))
    known = {k: lab for k, (lab, _) in examples(dataset, "stage1").items() if k[0] in train}
    overall = sum(known.values()) / len(known)
    for stage in ("stage1", "stage2"):
        columns = getattr(dataset, stage)
        scores = user_references(dataset, split.train, columns)
        movies = np.repeat(movies_of(dataset), columns.counts).tolist()
        users = dataset.user_ids[columns.user].astype(int).tolist()
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
    dataset, _ = build_movielens(tmp_path, seed=0, min_likes=2)
    fields = ("age", "gender", "occupation", "zip")
    found = [[features(dataset, view)[name][0] for name in fields] for view in range(3)]
    assert dataset.user_ids[:3].tolist() == [b"10", b"8", b"9"]
    assert found == [["", "F", "job", "V1"], ["0", "M", "job", "12"], ["", "", "", ""]]
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
        ("inter", 1, "user_id:token\titem_id:token\tstars:float\ttimestamp:float", "'rating'"),
        ("inter", 1, "user_id:token\titem_id:token\trating:token\ttimestamp:float", "rating:float"),
        ("inter", 3, "8\t95\t\t0", "the rating is missing"),
        ("inter", 3, "7\t95\t5\t0", "user_id is missing from its table"),
        ("inter", 3, "8\t999\t5\t0", "item_id is missing from its table"),
        ("inter", 3, "\t95\t5\t0", "user_id is missing from its table"),
        ("inter", 4, None, "rated this item on an earlier line"),
        ("inter", 4, "8\t95", "2 cells"),
        ("user", 3, "\t20\tM\tjob\t12345", "user_id is missing"),
        ("user", 4, None, "user_id occurs on an earlier line"),
        ("item", 5, None, "item_id occurs on an earlier line"),
        (
            "item",
            1,
            "item_id:token\tt:token_seq\trelease_year:token\tg:token_seq",
            "'class'",
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
        build_movielens(tmp_path, seed=0, min_likes=4)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert what in str(error.value)


def test_too_few_campaigns_and_unknown_modes_are_refused(tmp_path):
    write_toy(tmp_path, toy_ratings(USERS, MOVIES, seed=8), USERS, MOVIES)
    with pytest.raises(InputError, match="0 movies have enough likes"):
        build_movielens(tmp_path, seed=0, min_likes=100)
    with pytest.raises(InputError, match="train_fraction"):
        build_movielens(tmp_path, seed=0, min_likes=4, train_fraction=1.0)
    with pytest.raises(InputError, match="'exposed' or 'pool'"):
        build_movielens(tmp_path, seed=0, non_seeds="all")


def test_movielens_1m_differs_in_form_only(tmp_path):
    """Text ids, numbers as floats, another name of the genres, and Windows line ends."""
    ratings = toy_ratings(USERS, MOVIES, seed=9)
    lines = [f"{u + 8}\t{10 + 3 * u}\t{'MF'[u % 2]}\t{u % 3}\t{90000 + u}" for u in range(USERS)]
    old = write_toy(tmp_path / "100k", ratings, USERS, MOVIES, lines)
    new = tmp_path / "1m"
    new.mkdir()
    for kind in ("inter", "user", "item"):
        header, *rows = (old / f"ml-100k.{kind}").read_text().splitlines()
        for name in ("age", "occupation", "release_year"):
            header = header.replace(f"{name}:token", f"{name}:float")
        header = header.replace("class:token_seq", "genre:token")
        (new / f"ml-1m.{kind}").write_bytes("\r\n".join([header, *rows, ""]).encode())
    built = [build_movielens(at, seed=0, min_likes=4) for at in (old, new)]
    assert [d.name.split(",")[0] for d, _ in built] == ["MovieLens-100K", "MovieLens-1M"]
    for at, (dataset, split) in zip("ab", built, strict=True):
        write_dataset(dataclasses.replace(dataset, name="either"), tmp_path / at)
        assert len(split.train) == round(0.6 * dataset.num_campaigns) > 0
    files = [sorted(f for f in (tmp_path / at).iterdir()) for at in "ab"]
    for one, other in zip(*files, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("age", ["25.9", "1e30"])
def test_a_number_that_is_not_whole_is_named(tmp_path, age):
    lines = [f"{u + 8}\t{age if u == 1 else 20}\tM\t1\t9" for u in range(USERS)]
    folder = write_toy(tmp_path, toy_ratings(USERS, MOVIES, seed=9), USERS, MOVIES, lines)
    path = folder / "ml-100k.user"
    path.write_text(path.read_text().replace("age:token", "age:float"))
    with pytest.raises(InputError, match=r"ml-100k.user:\d+: age is not a whole number; fix"):
        build_movielens(folder, seed=0, min_likes=4)


def test_ids_may_be_text_and_many(tmp_path):
    ratings = toy_ratings(USERS, MOVIES, seed=9)
    write_toy(tmp_path, ratings, USERS, MOVIES)
    for kind in ("inter", "item"):
        path = tmp_path / f"ml-100k.{kind}"
        at = {"inter": 1, "item": 0}[kind]
        header, *rows = (line.split("\t") for line in path.read_text().splitlines())
        for row in rows:
            row[at] = f"{row[at]}, La Ciénaga (2001)"
        path.write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n")
    dataset, split = build_movielens(tmp_path, seed=0, min_likes=4)
    names = [key.decode() for key in dataset.campaign_ids]
    assert names == sorted(names)
    assert all(name.endswith(", La Ciénaga (2001)") for name in names)
    shown = {name for view in range(USERS) for name in features(dataset, view)["liked_movies"]}
    assert shown <= {names[c] for c in split.train}


def test_the_edition_is_found_by_its_files(tmp_path):
    with pytest.raises(InputError, match=r"ml-100k\.inter or ml-1m\.inter .*, found neither"):
        build_movielens(tmp_path, seed=0)
    for edition in EDITIONS:
        (tmp_path / f"{edition.stem}.inter").touch()
    with pytest.raises(InputError, match=r"found ml-100k\.inter and ml-1m\.inter"):
        find_edition(tmp_path)


REAL = {
    "ml-100k": ("METAHEAC_ML100K", 943, 293, {"exposed": (35315, 23070), "pool": (101206, 69554)}),
    "ml-1m": ("METAHEAC_ML1M", 6040, 827, {"exposed": (402831, 266555), "pool": (1237484, 828135)}),
}


@pytest.mark.parametrize("mode", ["exposed", "pool"])
@pytest.mark.parametrize("stem", list(REAL))
def test_the_real_files(stem, mode):
    variable, users, campaigns, counts = REAL[stem]
    if variable not in os.environ:
        pytest.skip(
            f"{variable} does not name the folder of {stem}.inter, .user and .item (GroupLens "
            "forbids redistribution, so they are not here)"
        )
    dataset, split = build_movielens(Path(os.environ[variable]), seed=0, non_seeds=mode)
    assert dataset.num_campaigns == campaigns
    both = dataset.stage1.counts + dataset.stage2.counts
    assert (both[split.train].sum(), both[split.test].sum()) == counts[mode]
    assert dataset.num_users == users + both[split.train].sum()
    assert (dataset.stage2.positives[split.test] >= 30).all()
    assert (dataset.stage2.counts > dataset.stage2.positives)[split.test].all()
    # All views of a user have as many movies, and none that of a training campaign has it.
    first = dataset.schema.user_starts[5]
    lengths = (dataset.user_rows[:, first:] < dataset.num_rows).sum(axis=1)
    user = np.unique(dataset.user_ids, return_inverse=True)[1]
    assert (lengths == lengths[np.unique(user, return_index=True)[1]][user]).all()
    own = dataset.stage1.user >= users
    movies = np.repeat(dataset.campaign_ids, dataset.stage1.counts)[own]
    rows = dataset.vocabulary.encode(5, np.char.decode(movies))
    assert (rows < dataset.num_rows).all()
    for column in range(first, first + 80):
        assert not (dataset.user_rows[dataset.stage1.user[own], column] == rows).any()
