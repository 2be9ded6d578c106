"""MovieLens as campaigns: above all, that no feature tells an answer."""

import os
from collections import Counter
from pathlib import Path

import pytest
from toy import digest_of
from toy_movielens import (
    MOVIES,
    USERS,
    build,
    build_toy,
    examples,
    features,
    toy_genres,
    toy_ratings,
    write_toy,
)

from experiments.sources.movielens import build_movielens, like_rate
from metaheac_jax.errors import InputError


def movies_of(dataset, campaigns=slice(None)):
    """Ids of campaigns as numbers."""
    return [int(key) for key in dataset.campaign_ids[campaigns]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    ratings = toy_ratings(USERS, MOVIES, seed=1)
    return ratings, *build_toy(tmp_path_factory.mktemp("toy"), ratings)


def test_who_is_a_seed_and_who_is_not(toy):
    ratings, dataset, split = toy
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
        assert others == {u for (u, m), rating in ratings.items() if m == movie and rating < 4}
        in_stage1 = Counter(lab for (m, _), (lab, _) in stage1.items() if m == movie)
        for label, whole in ((1, len(seeds)), (0, len(others))):
            assert in_stage1[label] == ((whole + 1) // 2 if movie in test else whole)


def test_users_are_their_traits(toy):
    _, dataset, _ = toy
    for index, row in enumerate(dataset.user_rows):
        user, found = int(dataset.user_ids[index]), features(dataset, row)
        assert found["zip"] == [str(90000 + 377 * (user - 8))[:2]]
        assert found["gender"] == ["MF"[user % 2]]
        assert found["occupation"] == [f"job{(user - 8) % 3}"]


def test_campaigns_are_their_year_and_genres_rarest_first(toy):
    _, dataset, _ = toy
    count = Counter(genre for m in range(95, 95 + MOVIES) for genre in toy_genres(m))
    first = len(dataset.schema.user)
    for movie, rows in zip(movies_of(dataset), dataset.campaign_rows, strict=True):
        values = [
            str(dataset.vocabulary.values[first + i][row - dataset.vocabulary.offsets[first + i]])
            for i, row in enumerate(rows)
        ]
        genres = sorted(toy_genres(movie), key=lambda g: (count[g], g))
        assert values == ["1930s" if movie < 105 else "1940s", *(genres + [""] * 3)[:3]]


def test_the_rate_of_likes_counts_training_campaigns(toy):
    _, dataset, split = toy
    train = set(movies_of(dataset, split.train))
    known = {k: lab for k, (lab, _) in examples(dataset, "stage1").items() if k[0] in train}
    overall = sum(known.values()) / len(known)
    scores = like_rate(dataset, split.train)
    users = dataset.user_ids[dataset.stage2.user].astype(int).tolist()
    for e, user in enumerate(users):
        own = [label for (_, u), label in known.items() if u == user]
        expected = (sum(own) + overall) / (len(own) + 1)
        assert scores[e] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "old", "new", "what"),
    [
        ("inter", "rating", "stars", "rating"),
        ("inter", "\n", "\n8\t95\t\t0\n", "cannot be read"),  # no rating
        ("inter", "\n", "\n8\t999\t5\t0\n", "cannot be read"),  # no such movie
        ("user", "user_id", "id", "user_id"),
    ],
)
def test_bad_source_files_are_refused(tmp_path, kind, old, new, what):
    write_toy(tmp_path, toy_ratings(USERS, MOVIES, seed=8), USERS, MOVIES)
    path = tmp_path / f"ml-100k.{kind}"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=what) as error:
        build(tmp_path, seed=0)
    assert str(error.value).startswith(f"{path}: ")


def test_too_few_campaigns_are_refused(tmp_path):
    write_toy(tmp_path, toy_ratings(USERS, MOVIES, seed=8), USERS, MOVIES)
    with pytest.raises(InputError, match="0 movies have enough likes"):
        build_movielens(tmp_path, seed=0)


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
    built = [build(at, seed=0) for at in (old, new)]
    assert [d.name.split(",")[0] for d, _ in built] == ["MovieLens-100K", "MovieLens-1M"]
    assert all(len(own.train) == round(0.6 * d.num_campaigns) > 0 for d, own in built)
    assert len({digest_of(dataset) for dataset, _ in built}) == 1


@pytest.mark.parametrize(
    ("stem", "users", "campaigns", "counts"),
    [("ml-100k", 943, 293, (35315, 23070)), ("ml-1m", 6040, 827, (402831, 266555))],
)
def test_the_real_files(stem, users, campaigns, counts):
    variable = f"METAHEAC_{stem.upper().replace('-', '')}"
    if variable not in os.environ:
        pytest.skip(
            f"{variable} does not name the folder of {stem}.inter, .user and .item (GroupLens "
            "forbids redistribution, so they are not here)"
        )
    dataset, split = build_movielens(Path(os.environ[variable]), seed=0)
    assert dataset.num_campaigns == campaigns
    both = dataset.stage1.counts + dataset.stage2.counts
    assert (both[split.train].sum(), both[split.test].sum()) == counts
    assert dataset.num_users == users


def test_the_librarys_histories_have_all_ratings_of_campaigns(tmp_path):
    ratings = toy_ratings(USERS, MOVIES, seed=1)
    dataset, _ = build_toy(tmp_path, ratings, history=True)
    assert dataset.num_users == USERS
    movies = set(movies_of(dataset))
    known = Counter(user for user, movie in ratings if movie in movies)
    assert Counter(dataset.by_user.counts.tolist()) == Counter(known.values())
