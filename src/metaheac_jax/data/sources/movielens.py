"""MovieLens-100K as a look-alike problem: a movie is a campaign, the users who liked it are seeds.

The files are in RecBole's atomic format (``ml-100k.inter``, ``.user`` and ``.item``), which
RecBole's package contains. GroupLens forbids redistribution, so the caller provides the directory.

A user's features include the movies and genres that the user liked, which come from the same
ratings that are to be predicted. Two rules prevent leakage:

- histories contain *training* campaigns only: no rating of a test campaign affects any feature;
- in the examples of a training campaign, histories omit that campaign.

Under the second rule a user's features depend on the example. A user of the Dataset is therefore a
*view*: a MovieLens user with one campaign left out of the history, or a plain one. A history never
contains a campaign that the user did not like, so only the seeds of training campaigns need views.

Users have an age group, a gender, an occupation, the first two digits of the zip code, and the
liked genres and movies. A history with more movies than slots is cut in a random order that is
drawn once per user. This order is independent of ratings and times, so the cut reveals nothing
about the movie left out. Genres are sorted by the number of liked movies that have them.
Campaigns have a release year (a decade before 1990) and up to three genres, the rarest in the
catalogue first. Title and id are omitted, since they are unknown for every new campaign. An age
or year that is not a number counts as missing.

Axes: U MovieLens users, I movies, C campaigns, H training campaigns, G genres, V views (the
Dataset's users), E examples.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from metaheac_jax.data.dataset import Dataset, Examples, group_by_campaign
from metaheac_jax.data.sources.recbole import TYPES, read_atomic
from metaheac_jax.data.splits import Split
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema, Vocabulary

#: A rating of at least this is a conversion.
LIKED = 4.0

#: 80 slots hold the whole history of nearly every user. Of the genres, the ten that a user likes
#: most often distinguish users best.
SCHEMA = Schema(
    user=(
        Field("age"),
        Field("gender"),
        Field("occupation"),
        Field("zip"),
        Field("liked_genres", 10),
        Field("liked_movies", 80),
    ),
    campaign=(Field("release"), Field("genre1"), Field("genre2"), Field("genre3")),
)

#: Lower bounds of the age groups of later MovieLens editions.
AGES = (0, 18, 25, 35, 45, 50, 56)

# Random streams are seeded by (seed, one of these, ...), so that they are independent.
_SPLIT, _HISTORY, _EXAMPLES = range(3)


def build_movielens(
    source: Path,
    *,
    seed: int,
    non_seeds: Literal["pool", "exposed"] = "pool",
    non_seeds_per_seed: int = 4,
    min_positives: int = 60,
    train_fraction: float = 0.6,
) -> tuple[Dataset, Split]:
    """Builds the look-alike problem from the atomic files in a directory.

    All examples of a training campaign are stage 1. Of a test campaign, a random half of the seeds
    and a random half of the non-seeds (rounded up) are stage 1; the rest is stage 2.

    A seed set is small if it has at most T seeds, T being the smallest count such that at least
    80% of the campaigns have no more (the paper's 8:2 rule, section 4.1). The count is half of a
    campaign's seeds, which is what a test campaign has in stage 1.

    Args:
      source: directory with ``ml-100k.inter``, ``ml-100k.user`` and ``ml-100k.item``.
      seed: of the split, the order of histories, the choice of non-seeds and the stages.
      non_seeds: ``pool`` draws from the users who did not rate the movie; ``exposed`` takes all
        users who rated it below 4.
      non_seeds_per_seed: with ``pool``, the number of non-seeds to draw per seed; all candidates if
        there are fewer.
      min_positives: a movie with fewer likes is neither a campaign nor part of a history.
      train_fraction: fraction of the campaigns to train on.

    Raises:
      InputError: a file is missing or malformed, a column is missing, an id is not an integer or
        occurs twice, a rating is missing, repeated, or of an unknown user or movie (the message
        names file and line); or too few campaigns remain to split.
    """
    if non_seeds not in ("pool", "exposed"):
        raise InputError(f"non_seeds is {non_seeds!r}, expected 'pool' or 'exposed'")
    users, items, rated, liked = _read_source(Path(source))
    genres = _rarest_first([list(genres) for genres in items["class"]])
    chosen = np.flatnonzero(liked.sum(axis=0) >= min_positives)
    items, genres = items[chosen], [genres[item] for item in chosen]
    rated, liked = rated[:, chosen], liked[:, chosen]
    campaign_key = items["item_id"].to_numpy()
    split = _split(liked.sum(axis=0), seed, train_fraction, Path(source))

    stage1, stage2 = _draw_examples(
        liked,
        others=~rated if non_seeds == "pool" else rated & ~liked,
        others_per_seed=non_seeds_per_seed if non_seeds == "pool" else None,
        campaign_key=campaign_key,
        test=split.test,
        seed=seed,
    )
    stage1, view_user, view_without = _views(stage1, split.train, users=len(users))

    vocabulary, user_rows, campaign_rows = _features(
        users,
        items,
        genres,
        liked,
        # In the order of their vocabulary, which sorts ids as strings.
        history=split.train[np.argsort(campaign_key[split.train].astype(str))],
        view_user=view_user,
        view_without=view_without,
        seed=seed,
    )
    dataset = Dataset(
        name=f"MovieLens 100K, non-seeds: {non_seeds}",
        schema=SCHEMA,
        vocabulary=vocabulary,
        user_key=users["user_id"].to_numpy()[view_user],
        user_rows=user_rows,
        campaign_key=campaign_key,
        campaign_rows=campaign_rows,
        stage1=stage1,
        stage2=stage2,
    )
    return dataset, split


class References(NamedTuple):
    """Scores of an example's user that ignore the campaign; higher is likelier.

    Attributes:
      activity: (E,) float32, number of training campaigns of which the user is a seed.
      like_rate: (E,) float32, fraction of seeds among the user's training examples and one
        additional example at the overall rate.
    """

    activity: np.ndarray
    like_rate: np.ndarray


def user_references(dataset: Dataset, train: np.ndarray, examples: Examples) -> References:
    """Scores that ignore the campaign, for each of ``examples``: baselines for a model.

    They count the stage-1 examples of the training campaigns by ``dataset.user_key``, without the
    example's own campaign. With non-seeds ``exposed`` the like rate is the fraction of a user's
    ratings that are at least 4.

    Args:
      dataset: as built by `build_movielens`.
      train: (H,) indices of the training campaigns.
      examples: E examples, of either stage of ``dataset``.
    """
    keys = np.unique(dataset.user_key)

    def locate(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        user = np.searchsorted(keys, dataset.user_key[examples.user])
        return user, np.repeat(np.arange(dataset.num_campaigns), examples.counts)

    user, campaign = locate(dataset.stage1)
    in_training = np.isin(campaign, train)
    seen = np.zeros((len(keys), dataset.num_campaigns), np.int32)
    seen[user[in_training], campaign[in_training]] = 1
    seeds = np.zeros_like(seen)
    seeds[user[in_training], campaign[in_training]] = dataset.stage1.label[in_training]

    user, campaign = locate(examples)
    activity = seeds.sum(axis=1)[user] - seeds[user, campaign]
    count = seen.sum(axis=1)[user] - seen[user, campaign]
    overall = seeds.sum() / seen.sum()
    return References(
        activity=activity.astype(np.float32),
        like_rate=((activity + overall) / (count + 1)).astype(np.float32),
    )


def _read_source(source: Path) -> tuple[pl.DataFrame, pl.DataFrame, np.ndarray, np.ndarray]:
    """Users and items, ascending by id; rated and liked pairs, both (U, I) bool."""
    users = _read_table(
        source / "ml-100k.user",
        "user_id",
        {"age": "token", "gender": "token", "occupation": "token", "zip_code": "token"},
    )
    items = _read_table(
        source / "ml-100k.item", "item_id", {"release_year": "token", "class": "token_seq"}
    )
    path = source / "ml-100k.inter"
    ratings = _read_columns(path, {"user_id": "token", "item_id": "token", "rating": "float"})
    _refuse(path, ratings["rating"].is_null(), "the rating is missing")
    user = _positions(path, ratings["user_id"], users["user_id"])
    item = _positions(path, ratings["item_id"], items["item_id"])
    pairs = pl.Series(user * len(items) + item)
    _refuse(path, ~pairs.is_first_distinct(), "the user has rated this item on an earlier line")
    rated = np.zeros((len(users), len(items)), bool)
    rated[user, item] = True
    liked = np.zeros_like(rated)
    liked[user, item] = ratings["rating"].to_numpy() >= LIKED
    return users, items, rated, liked


def _read_columns(path: Path, columns: dict[str, str]) -> pl.DataFrame:
    """The columns with these names and types."""
    table = read_atomic(path)
    for name, kind in columns.items():
        if table.schema.get(name) != TYPES[kind]:
            raise InputError(f"{path}:1: expected a column {name}:{kind}, found none")
    return table.select(*columns)


def _read_table(path: Path, key: str, columns: dict[str, str]) -> pl.DataFrame:
    """The columns with these names and types, sorted by an integer key."""
    table = _read_columns(path, {key: "token", **columns})
    ids = _integers(path, table[key])
    _refuse(path, ~ids.is_first_distinct(), f"{key} occurs on an earlier line")
    return table.with_columns(ids).sort(key)


def _integers(path: Path, ids: pl.Series) -> pl.Series:
    numbers = ids.cast(pl.Int64, strict=False)
    _refuse(path, numbers.is_null() | (numbers < 0), f"{ids.name} is not a non-negative integer")
    return numbers


def _positions(path: Path, ids: pl.Series, known: pl.Series) -> np.ndarray:
    """Positions of ids among the known ones, which ascend."""
    numbers, keys = _integers(path, ids).to_numpy(), known.to_numpy()
    position = np.searchsorted(keys, numbers).clip(max=len(keys) - 1)
    _refuse(path, pl.Series(keys[position] != numbers), f"{ids.name} is missing from its table")
    return position


def _refuse(path: Path, faulty: pl.Series, reason: str) -> None:
    """Raises for the first faulty line of an atomic file."""
    line = faulty.arg_max()
    if line is not None and faulty[line]:
        raise InputError(f"{path}:{line + 2}: {reason}; fix or remove the line")


def _split(positives: np.ndarray, seed: int, train_fraction: float, source: Path) -> Split:
    """Divides campaigns into training and test ones at random; positives are (C,)."""
    num_campaigns = len(positives)
    num_train = round(train_fraction * num_campaigns)
    if not 0 < num_train < num_campaigns:
        raise InputError(
            f"{source}: {num_campaigns} movies have enough likes to be campaigns, too few to "
            "split; lower min_positives or change train_fraction"
        )
    order = np.random.default_rng([seed, _SPLIT]).permutation(num_campaigns)
    in_stage1 = -(-positives // 2)
    threshold = int(np.sort(in_stage1)[-(-num_campaigns * 8 // 10) - 1])
    return Split(
        train=np.sort(order[:num_train]),
        test=np.sort(order[num_train:]),
        small=in_stage1 <= threshold,
        threshold=threshold,
    )


def _draw_examples(
    seeds: np.ndarray,
    *,
    others: np.ndarray,
    others_per_seed: int | None,
    campaign_key: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> tuple[Examples, Examples]:
    """Both stages, over MovieLens users.

    Args:
      seeds: (U, C) bool.
      others: (U, C) bool, candidates for non-seeds.
      others_per_seed: non-seeds to draw per seed; all if None.
      campaign_key: (C,) ids; a campaign's draws depend on its id and ``seed`` alone.
      test: campaigns of which half the examples of either label are stage 2.
      seed: of the draws.
    """
    stages: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for campaign, key in enumerate(campaign_key):
        rng = np.random.default_rng([seed, _EXAMPLES, key])
        positive = rng.permutation(np.flatnonzero(seeds[:, campaign]))
        negative = rng.permutation(np.flatnonzero(others[:, campaign]))
        if others_per_seed is not None:
            negative = negative[: others_per_seed * len(positive)]
        for label, user in ((1, positive), (0, negative)):
            cut = -(-len(user) // 2) if campaign in test else len(user)
            for stage, users in zip(stages, (user[:cut], user[cut:]), strict=True):
                stage.append(
                    np.stack([np.full_like(users, campaign), users, np.full_like(users, label)])
                )

    def grouped(parts: list[np.ndarray]) -> Examples:
        campaign, user, label = np.concatenate(parts, axis=1)
        by_user = np.argsort(user)  # the order of examples must not reveal the label
        return group_by_campaign(
            campaign[by_user], user[by_user], label[by_user], num_campaigns=len(campaign_key)
        )

    return grouped(stages[0]), grouped(stages[1])


def _views(
    stage1: Examples, train: np.ndarray, *, users: int
) -> tuple[Examples, np.ndarray, np.ndarray]:
    """Gives each seed of a training campaign its own view.

    Returns:
      Stage 1 over views; the user of each view, (V,); and the campaign that it leaves out, (V,),
      -1 if none. The first U views are the plain ones.
    """
    campaign = np.repeat(np.arange(len(stage1.counts)), stage1.counts)
    needs_view = np.isin(campaign, train) & (stage1.label == 1)
    view = stage1.user.copy()
    view[needs_view] = users + np.arange(needs_view.sum())
    return (
        replace(stage1, user=view),
        np.concatenate([np.arange(users), stage1.user[needs_view]]),
        np.concatenate([np.full(users, -1), campaign[needs_view]]),
    )


def _features(
    users: pl.DataFrame,
    items: pl.DataFrame,
    genres: list[list[str]],
    liked: np.ndarray,
    *,
    history: np.ndarray,
    view_user: np.ndarray,
    view_without: np.ndarray,
    seed: int,
) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """Vocabulary, and table rows of views (V, S) and campaigns (C, N).

    Args:
      users: table of U users.
      items: table of the C campaigns' movies.
      genres: C lists, of these movies.
      liked: (U, C) bool.
      history: (H,) campaigns that histories may contain; their ids ascend as strings.
      view_user: (V,) user of each view.
      view_without: (V,) campaign that its history leaves out, or -1.
      seed: of the order in which histories are cut.
    """
    view_liked = liked[view_user][:, history] & (history != view_without[:, None])  # (V, H)
    order = np.random.default_rng([seed, _HISTORY]).random((len(users), len(history)))
    genre = np.array(sorted({name for campaign in history for name in genres[campaign]}), str)
    has_genre = np.array([np.isin(genre, genres[campaign]) for campaign in history])  # (H, G)
    genre_likes = view_liked.astype(np.int32) @ has_genre.astype(np.int32)  # (V, G)

    one_valued = {
        "age": np.array([_age_group(age) for age in users["age"]]),
        "gender": users["gender"].to_numpy().astype(str),
        "occupation": users["occupation"].to_numpy().astype(str),
        "zip": users["zip_code"].str.slice(0, 2).to_numpy().astype(str),
        "release": np.array([_release(year) for year in items["release_year"]]),
    }
    for i in range(3):
        one_valued[f"genre{i + 1}"] = np.array([(*names, "", "", "")[i] for names in genres])
    many_valued = {
        "liked_genres": (genre, genre_likes > 0, -genre_likes),
        "liked_movies": (
            items["item_id"].to_numpy()[history].astype(str),
            view_liked,
            order[view_user],
        ),
    }
    vocabulary = Vocabulary(
        tuple(
            many_valued[field.name][0]
            if field.name in many_valued
            else np.unique(np.append(one_valued[field.name], ""))  # "": missing
            for field in SCHEMA.fields
        )
    )
    blocks = []
    for i, field in enumerate(SCHEMA.fields):
        if field.name in many_valued:
            _, has, rank = many_valued[field.name]
            columns = _first_columns(has, rank, field.slots)
            rows = np.where(columns < 0, vocabulary.num_rows, columns + vocabulary.offsets[i])
        else:
            rows = vocabulary.encode(i, one_valued[field.name])[:, None]
            rows = rows[view_user] if field in SCHEMA.user else rows
        blocks.append(rows.astype(np.int32))
    return (
        vocabulary,
        np.concatenate(blocks[: len(SCHEMA.user)], axis=1),
        np.concatenate(blocks[len(SCHEMA.user) :], axis=1),
    )


def _first_columns(has: np.ndarray, rank: np.ndarray, slots: int) -> np.ndarray:
    """(V, slots) columns that a view has, lowest rank first, then -1; has and rank are (V, n)."""
    order = np.argsort(np.where(has, rank, np.inf), axis=1, kind="stable")[:, :slots]
    columns = np.full((len(has), slots), -1)
    columns[:, : order.shape[1]] = np.where(np.take_along_axis(has, order, axis=1), order, -1)
    return columns


def _rarest_first(genres: list[list[str]]) -> list[list[str]]:
    """Genres of each movie, the rarest among all movies first."""
    count = Counter(name for names in genres for name in set(names))
    return [sorted(set(names), key=lambda name: (count[name], name)) for names in genres]


def _age_group(age: str) -> str:
    """Lower bound of the age group; empty if the age is not a number."""
    return str(AGES[bisect(AGES, int(age)) - 1]) if age.isdecimal() else ""


def _release(year: str) -> str:
    """The year, or its decade before 1990; empty if it is not a number."""
    if not year.isdecimal():
        return ""
    return year if int(year) >= 1990 else f"{year[:-1]}0s"
