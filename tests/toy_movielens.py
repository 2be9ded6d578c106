"""A small MovieLens: its files, the data set built from them, and its decoded examples."""

import numpy as np
import pytest

from experiments.sources import movielens

GENRES = ("Action", "Drama", "Horror", "War")


def toy_ratings(users, movies, seed, liked=0.4, lower=0.25):
    """{(user, movie): rating}; the ids have another order as strings than as numbers."""
    rng = np.random.default_rng(seed)
    draw = rng.random((users, movies))
    rating = np.where(draw < liked, rng.integers(4, 6, draw.shape), rng.integers(1, 4, draw.shape))
    return {(u + 8, m + 95): int(rating[u, m]) for u, m in np.argwhere(draw < liked + lower)}


def toy_genres(movie):
    return [GENRES[i] for i in range(4) if movie % (i + 2) == 0]


def write_toy(directory, ratings, users, movies, user_lines=None):
    """Writes the files of MovieLens-100K."""
    directory.mkdir(exist_ok=True)
    if user_lines is None:
        user_lines = [
            f"{u + 8}\t{10 + 3 * u}\t{'MF'[u % 2]}\tjob{u % 3}\t{90000 + 377 * u}"
            for u in range(users)
        ]
    item_lines = [
        f"{m + 95}\tSome Title\t{1930 + m % 70}\t{' '.join(toy_genres(m + 95))}"
        for m in range(movies)
    ]
    lines = {
        "user": [
            "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
            *user_lines[::-1],
        ],
        "item": [
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
            *item_lines[::-1],
        ],
        "inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
        + [f"{u}\t{m}\t{r}\t{i}" for i, ((u, m), r) in enumerate(ratings.items())],
    }
    for kind, text in lines.items():
        (directory / f"ml-100k.{kind}").write_text("\n".join(text) + "\n")
    return directory


USERS, MOVIES = 30, 14


def build(directory, **options):
    """`build_movielens`, for which four likes make a movie a campaign."""
    few = [edition._replace(min_likes=4) for edition in movielens.EDITIONS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(movielens, "EDITIONS", few)
        return movielens.build_movielens(directory, **options)


def build_toy(directory, ratings, seed=0, users=USERS, movies=MOVIES, **options):
    write_toy(directory, ratings, users, movies)
    return build(directory, seed=seed, **options)


def features(dataset, row):
    """{field: raw values} of a user's table rows."""
    found = {}
    for i, (field, start) in enumerate(
        zip(dataset.schema.user, dataset.schema.user_starts, strict=True)
    ):
        rows = row[start : start + field.slots]
        rows = rows[rows < dataset.num_rows] - dataset.vocabulary.offsets[i]
        found[field.name] = [str(value) for value in dataset.vocabulary.values[i][rows]]
    return found


def examples(dataset, stage):
    """{(movie, user): (label, index of the user)}; ids as numbers."""
    stage, users = getattr(dataset, stage), dataset.user_ids
    found = {}
    for campaign, movie in enumerate(dataset.campaign_ids):
        for e in range(stage.offsets[campaign], stage.offsets[campaign + 1]):
            index = int(stage.user[e])
            key = (int(movie), int(users[index]))
            assert key not in found
            found[key] = (int(stage.label[e]), index)
    return found
