"""A simulated twin of the Tencent look-alike data, for those without the competition's files.

The recipe, in the order of the code:

1. **Users.** A user is a hidden persona z ~ N(0, I): gender, age, wealth, and so on, and six
   hobbies. A one-valued field cuts a mixture of z and noise at the field's quantiles. A list's
   length cuts such a mixture too; its values come from topics, which the persona picks (a softmax,
   pulled by the field's own ``pull`` of z), and within a topic by popularity, none twice.
2. **Campaigns.** Attributes follow an advertiser, which (mostly) has one category. A campaign is
   shown by hard targeting (one gender, a range of ages: others hardly ever) times soft targeting
   exp(tilt . z), and has a taste. Tilts and tastes are sums of a category's, an advertiser's and
   the campaign's own part, so that a campaign's attributes tell something about both.
3. **Exposures.** A user who occurs in a stage (1.12 rows on average) is shown campaigns by weight,
   balanced so that each campaign gets its quota of rows; never the same pair in both stages.
4. **Conversions.** The log-odds are linear and pairwise in x, the best linear estimate of z from
   what is observed (one-valued fields and lists' mean topics: what a network can see). One scale,
   common to all campaigns, makes the AUC of the true probability .80; an intercept a campaign
   gives its positive rate.
5. **Labels** are drawn by systematic sampling: a row is positive with exactly its probability, and
   a campaign has exactly as many positives as its probabilities sum to (up to rounding).

The constants were set from published statistics of the real data and then frozen; how methods fare
on the world played no part. The rule: pool marginals as published; loadings from the information
(MI) between fields; targeting from the MI of fields and list lengths with the campaign; pulls from
the MI of tokens and from how well tokens tell gender and age; the part of taste that is common to
all campaigns from what it does to missing lists (interest2 is missing for .34 of all users and .25
of the positive ones, interest1 for .09 and .125). ``tests/test_simulation.py`` compares figure by
figure, at a tenth of the large vocabularies, where the constants were set.

Axes: U users (of a chunk), C campaigns, E examples, D persona dimensions, T topics, S slots,
V values of a field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import polars as pl

from metaheac_jax.data.dataset import new_directory
from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress, silent

#: Dimensions of a persona. ``apps`` and ``browsing`` are how active a user is there.
PERSONA = (
    *("gender", "age", "wealth", "home", "schooling", "north", "east", "apps", "browsing"),
    *(f"hobby{i}" for i in range(6)),
)
TOPICS = 24  # of each list field
PAIRS = 8  # pairwise terms of a taste
CHUNK = 50_000  # users held in memory at a time
ORDERS = 8  # orders of the named fields within a chunk of lines


@dataclass(frozen=True)
class Score:
    """A mixture of persona dimensions and noise, of unit variance, cut at quantiles.

    Attributes:
      shares: of the outcomes, from the lowest scores on; empty where lists cut it themselves.
      loadings: weights of persona dimensions, their squares summing to at most 1.
      codes: the outcomes as the file has them; 0, 1, 2, ... if not given.
    """

    shares: tuple[float, ...]
    loadings: Mapping[str, float]
    codes: tuple[int, ...] = ()


@dataclass(frozen=True)
class List:
    """A field whose values have no order.

    Attributes:
      source: the score that decides how long the list is; lists of one source are missing together.
      lengths: shares of 0, 1, 2, ... values.
      values: distinct values at full cardinality.
      covered: chance that a draw gives one of the 1, 10, 100, 1000 most popular values. (Without
        repetition a popular value comes out less often than it is drawn, in long lists.)
      pull: how strongly persona dimensions decide the topic; ``hobby`` stands for each hobby.
      popular_first: the list is in order of popularity.
    """

    source: str
    lengths: tuple[float, ...]
    values: int
    covered: tuple[float, ...]
    pull: Mapping[str, float]
    popular_first: bool = False


def _present(missing: float, *shares: float) -> tuple[float, ...]:
    """Shares of the lengths 0, 1, 2, ... from the missing share and those among the present."""
    scale = (1 - missing) / sum(shares)
    return (missing, *(share * scale for share in shares))


@dataclass(frozen=True)
class Shape:
    """All that describes a world but its size. Mappings by persona dimension know ``hobby``, too.

    Attributes:
      name: for the title.
      campaigns, advertisers, campaign_ids, sizes, categories, products, product_types: counts.
      one_category: share of advertisers with a single category.
      spread: shape of the Weibull distribution of campaigns' rows.
      least_rows: expected rows of a campaign in stage 1, at least.
      pool_share: of all examples, that of stage 2.
      rows_per_user: in a stage, of the users who occur there.
      rate_least, rate_mean, rate_sd, rate_most: of campaigns' positive rates in stage 1.
      one_gender, age_range: share of exposures under hard targeting by gender and by age.
      leak: log-weight of users outside a hard target.
      tilt: standard deviation over campaigns of the soft targeting.
      common: share of the taste's variance that all campaigns have in common.
      common_taste: its direction.
      pairwise: share of a campaign's own taste that is in products of two directions of x.
      auc: of the true probability against labels, mean over campaigns.
      fields: the one-valued features.
      sources: the scores behind the lists' lengths.
      lists: the features with lists; LBS is a list of one.
    """

    name: str
    campaigns: int
    advertisers: int
    campaign_ids: int
    sizes: int
    categories: int
    products: int
    product_types: int
    one_category: float
    spread: float
    least_rows: int
    pool_share: float
    rows_per_user: float
    rate_least: float
    rate_mean: float
    rate_sd: float
    rate_most: float
    one_gender: float
    age_range: float
    leak: float
    tilt: Mapping[str, float]
    common: float
    common_taste: Mapping[str, float]
    pairwise: float
    auc: float
    fields: Mapping[str, Score]
    sources: Mapping[str, Score]
    lists: Mapping[str, List]


TENCENT = Shape(
    name="Tencent",
    campaigns=173,
    advertisers=79,
    campaign_ids=138,
    sizes=15,
    categories=40,
    products=33,
    product_types=4,
    one_category=0.84,
    spread=0.85,  # 60% of campaigns have <= 2k seeds, 80% <= 4k, 90% <= 6k at the real size
    least_rows=100,
    pool_share=2_265_989 / (8_798_814 + 2_265_989),
    rows_per_user=1.12,
    rate_least=0.0444,
    rate_mean=0.0478,
    rate_sd=0.0014,
    rate_most=0.0551,
    one_gender=0.87,
    age_range=0.5,
    leak=-4.0,
    tilt={
        "gender": 0.4,
        "age": 0.3,
        "wealth": 0.7,
        "home": 0.65,
        "schooling": 0.65,
        "north": 0.85,
        "east": 0.85,
        "apps": 0.88,
        "browsing": 0.8,
        "hobby": 0.87,
    },
    common=0.5,
    common_taste={"apps": -0.2, "browsing": 0.5, "hobby": 0.6},
    pairwise=0.3,
    auc=0.80,
    fields={
        # Tokens tell age group 2 well (AUC .80), so it is put at the young end of the scale.
        "age": Score((0.003, 0.21, 0.23, 0.12, 0.207, 0.23), {"age": 1.0}, (0, 2, 1, 3, 4, 5)),
        "gender": Score((0.003, 0.677, 0.32), {"gender": 1.0}),
        "carrier": Score((0.28, 0.48, 0.10, 0.14), {"wealth": 0.52, "home": 0.5}),
        "consumptionAbility": Score((0.22, 0.60, 0.18), {"wealth": 0.85, "gender": -0.42}),
        "education": Score(
            (0.01, 0.13, 0.30, 0.05, 0.01, 0.02, 0.17, 0.31), {"age": 0.33, "schooling": 0.8}
        ),
        "house": Score((0.82, 0.18), {"home": 0.85}),  # 0 is missing: left out of the line
    },
    sources={
        "apps": Score((), {"apps": 0.9, "age": 0.3}),
        "keywords": Score((), {"apps": 0.75, "age": 0.25}),
        "browsing": Score((), {"browsing": 0.9, "gender": 0.2, "wealth": -0.25}),
        "feeds": Score((), {"browsing": 0.45, "apps": 0.4}),
        "rare": Score((), {}),
    },
    lists={
        "LBS": List(
            "rare", (0, 1), 855, (0.038, 0.234, 0.675), {"age": 0.2, "north": 1.2, "east": 1.2}
        ),
        "interest1": List(
            "apps",
            _present(0.09, 0, 0.108, 0.006, 0.09, 0.017, 0.079, 0.03, 0.066, 0.037, 0.567),
            124,
            (0.14, 0.63, 0.999),
            {"age": 0.35, "gender": 0.25, "hobby": 0.3},
            popular_first=True,
        ),
        "interest2": List(
            "browsing",
            _present(0.34, 0.037, 0.211, 0.077, 0.129, 0.081, 0.078, 0.066, 0.053, 0.045, 0.223),
            82,
            (0.24, 0.72, 1.0),
            {"gender": 0.8, "age": 0.35, "hobby": 0.45},
        ),
        "interest3": List(
            "rare",
            _present(0.97, 0.08, 0.06, 0.03, 0.08, 0.03, 0.05, 0.1, 0.07, 0.15, 0.35),
            12,
            (0.15, 0.95),
            {"gender": 0.2, "hobby": 0.1},
        ),
        "kw1": List(
            "keywords",
            _present(0.10, 0.033, 0.029, 0.031, 0.042, 0.865),
            263_312,
            (0.014, 0.088, 0.275, 0.54),
            {"age": 0.42, "gender": 0.15, "hobby": 0.5},
        ),
        "kw2": List(
            "feeds",
            _present(0.03, 0.002, 0.005, 0.004, 0.007, 0.982),
            49_780,
            (0.013, 0.11, 0.41, 0.81),
            {"gender": 1.6, "age": 0.45, "hobby": 1.8},
        ),
        "topic1": List(
            "keywords",
            _present(0.08, 0, 0, 0, 0, 1),
            10_002,
            (0.068, 0.178, 0.335, 0.66),
            {"age": 0.32, "gender": 0.2, "hobby": 0.3},
        ),
        "topic2": List(
            "feeds",
            _present(0.04, 0, 0, 0, 0, 1),
            9_984,
            (0.0085, 0.052, 0.225, 0.66),
            {"gender": 0.8, "age": 0.25, "hobby": 0.7},
        ),
    },
)

#: The Tencent twin in the counts of the paper's WeChat data, which cannot be had: 90 campaigns, one
#: positive to ten negatives, 286,036 seeds and 3,146,396 rows of stage 2, that is eleven a seed, as
#: stage 1 has by its rate. Nothing else of that data is known. Users, targeting, tastes and the
#: reachable AUC are the Tencent twin's; attributes have as many values for a campaign as there;
#: rates spread about their mean as there. The sizes spread wider, by our choice: so 7 of the 90
#: campaigns lie above T = 10,000 seeds, at the real size, where the Tencent twin's spread would
#: leave 5. The days, three, have no part: nothing in the files tells when a campaign ran.
WECHAT = replace(
    TENCENT,
    name="WeChat-shaped Tencent",
    campaigns=90,
    advertisers=41,
    campaign_ids=72,
    categories=21,
    products=17,
    spread=0.6,
    pool_share=0.5,
    rate_least=TENCENT.rate_least * (1 / 11) / TENCENT.rate_mean,
    rate_mean=1 / 11,
    rate_sd=TENCENT.rate_sd * (1 / 11) / TENCENT.rate_mean,
    rate_most=TENCENT.rate_most * (1 / 11) / TENCENT.rate_mean,
)

#: Features that the competition's files have and the model does not use: a reader must skip them.
UNUSED = {
    "marriageStatus": ("11", "10", "13 15", "5 13", "2"),
    "os": ("1", "2", "1 2"),
    "ct": ("1", "3 1", "4 2 3 1", "3 4"),
}


class Campaigns(NamedTuple):
    """Attributes, targeting and taste of every campaign.

    Attributes:
      attributes: columns of adFeature.csv.
      tilt: (D, C) soft targeting.
      gender: (3, C) log-weight of a user by gender; ``age``: (6, C) by age.
      taste: (D + PAIRS, C) weights of linear and pairwise terms.
      rows: (C,) relative number of rows; mean 1.
      rate: (C,) positive rate.
    """

    attributes: dict[str, np.ndarray]
    tilt: np.ndarray
    gender: np.ndarray
    age: np.ndarray
    taste: np.ndarray
    rows: np.ndarray
    rate: np.ndarray


class Tokens(NamedTuple):
    """How a list's values are drawn; values are ordered by topic, then popularity.

    Attributes:
      edges: (T + 1,) of the topics in the cumulative distribution of values.
      cumulative: (V,) distribution of values.
      topic: (V,) of each value.
      raw: (V,) raw value as the file has it; ``rank``: (V,) popularity, 0 the highest.
      pull: (D, T) topic logits per unit of persona.
    """

    edges: np.ndarray
    cumulative: np.ndarray
    topic: np.ndarray
    raw: np.ndarray
    rank: np.ndarray
    pull: np.ndarray


class Truth(NamedTuple):
    """What decides conversions, for pairs that the files have no line of, too.

    Attributes:
      key: (U,) uid of every user, ascending; ``aid``: (C,) of every campaign, ascending.
      traits: (U, D) float32, x of every user, in the order of `PERSONA`.
      pairs: (2, D, PAIRS) the directions whose products are the pairwise terms.
      weights: (D + PAIRS, C) of the linear and pairwise terms.
      intercept: (C,).
    """

    key: np.ndarray
    aid: np.ndarray
    traits: np.ndarray
    pairs: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray

    def probability(self, user: np.ndarray, campaign: np.ndarray) -> np.ndarray:
        """(E,) true conversion probability of users (E,) and campaigns (E,), by position."""
        terms = _terms(self.traits[user], self.pairs)
        odds = np.einsum("et,te->e", terms, self.weights[:, campaign])
        return _sigmoid(odds + self.intercept[campaign])


def read_truth(directory: Path) -> Truth:
    """What decides conversions in a world that `write_world` has written."""
    with np.load(directory / "truth.npz", allow_pickle=False) as file:
        return Truth(**file)


class Users(NamedTuple):
    """A chunk of users.

    Attributes:
      persona: (U, D) z, hidden.
      fields: name -> (U,) outcome of a one-valued field.
      lists: name -> (U, S) positions among a field's values, -1 where there is none.
      observed: (U, F) what conversion may depend on: one-hot fields, mean topics of lists.
    """

    persona: np.ndarray
    fields: dict[str, np.ndarray]
    lists: dict[str, np.ndarray]
    observed: np.ndarray


def write_world(
    target: Path,
    *,
    users: int = 1_000_000,
    examples: int | None = None,
    cardinality: float = 0.1,
    pool_rows: int = 1500,
    seed: int = 0,
    shape: Shape = TENCENT,
    progress: Progress = silent,
) -> None:
    """Writes a simulated world in the competition's own format, whole or not at all.

    Files: ``adFeature.csv``, ``userFeature.data``, ``train.csv`` (stage 1) and ``test1_truth.csv``
    (stage 2, positives first); ``train_probability.npy`` and ``test1_truth_probability.npy``
    (float32, the true conversion probability of each data line) and ``truth.npz`` (see
    `read_truth`); ``SIMULATED`` (one line). The same arguments give the same bytes.

    Args:
      target: a directory; an existing one is replaced if it is a simulated world.
      users: the pool, all written to userFeature.data.
      examples: rows of both stages together, about; .8 a user by default.
      cardinality: the large vocabularies (kw1, kw2, topic1, topic2) have this share of their real
        size, but 1,000 values at least. The constants were set at .1; at 1 a single value of topic1
        or topic2 tells about a third less of the campaign than in the real data.
      pool_rows: every campaign has about this many rows in stage 2 at least, even where the real
        data's ratio of the stages would give fewer; stage 1 gets the rest.
      seed: of everything.
      shape: the world's recipe.
      progress: called in users.

    Raises:
      InputError: an argument is out of range, the examples are too few for ``pool_rows`` or too
        many for the users, or the target is something else.
    """
    if users < 1 or seed < 0 or pool_rows < 0 or not 0 < cardinality <= 1:
        raise InputError(
            "simulated world: expected users >= 1, seed >= 0, pool rows >= 0 and a cardinality in "
            f"(0, 1], got {users}, {seed}, {pool_rows} and {cardinality}"
        )
    examples = int(0.8 * users) if examples is None else examples
    campaigns = _make_campaigns(shape, _rng(seed, "campaigns"))
    quotas = _quotas(shape, campaigns.rows, users, examples, pool_rows)
    tokens = {n: _make_tokens(s, cardinality, _rng(seed, n)) for n, s in shape.lists.items()}
    key = np.cumsum(_rng(seed, "keys").integers(1, 8, users))

    # A sample of users who are not in the world balances exposure and estimates z linearly.
    sample = _make_users(shape, tokens, 20_000, _rng(seed, "sample"))
    estimate = np.linalg.lstsq(sample.observed, sample.persona, rcond=None)[0]
    estimate /= (sample.observed @ estimate).std(0)
    weights, even = np.exp(_appeal(campaigns, sample)), np.ones(shape.campaigns, np.float32)
    balance = [_balance(weights, quota, even, rounds=50) for quota in quotas]

    estimates = np.empty((users, len(PERSONA)), np.float32)
    drawn: list[list[np.ndarray]] = [[], []]
    shown = np.zeros((2, shape.campaigns))
    with new_directory(target, marker="SIMULATED") as directory:
        with (directory / "userFeature.data").open("wb") as file:
            for start in range(0, users, CHUNK):
                rng = _rng(seed, "users", start)
                chunk = _make_users(shape, tokens, min(CHUNK, users - start), rng)
                stop = start + len(chunk.persona)
                estimates[start:stop] = chunk.observed @ estimate
                weights = np.exp(_appeal(campaigns, chunk))
                for stage, quota in enumerate(quotas):
                    # What is due by now, less what was shown: chance does not add up.
                    due = np.maximum(
                        quota * stop / users - shown[stage], 0.1 * quota * CHUNK / users
                    )
                    balance[stage] = _balance(weights, due, balance[stage], rounds=3)
                    occur = quota.sum() / shape.rows_per_user / users
                    pairs = _expose(weights * balance[stage], occur, shape.rows_per_user, rng)
                    weights[pairs[0], pairs[1]] = 0  # never again in the next stage
                    shown[stage] += np.bincount(pairs[1], minlength=shape.campaigns)
                    drawn[stage].append(pairs + np.array([[start], [0]]))
                file.write(_lines(shape, chunk, tokens, key[start:stop], rng))
                progress("simulating users", stop, users)
        exposed = [np.concatenate(pairs, axis=1) for pairs in drawn]
        _write_examples(directory, shape, campaigns, key, estimates, exposed, seed)
        pl.DataFrame(campaigns.attributes).write_csv(directory / "adFeature.csv")
        told = f"simulated {shape.name} twin (seed {seed}, {users:,} users)\n"
        (directory / "SIMULATED").write_text(told)


def _rng(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A stream of its own for every purpose, so that one can change without moving the others."""
    entropy = [seed, *purpose.encode(), *numbers]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def _weights(of: Mapping[str, float]) -> np.ndarray:
    """(D,) from a mapping; ``hobby`` stands for each hobby."""
    return np.array([of.get(name, of.get(name.rstrip("0123456789"), 0.0)) for name in PERSONA])


def _cuts(shares: tuple[float, ...]) -> np.ndarray:
    """Thresholds of a standard normal that leave these shares between them."""
    inner = np.cumsum(shares)[:-1] / sum(shares)
    return np.array([NormalDist().inv_cdf(min(max(x, 1e-12), 1 - 1e-12)) for x in inner])


def _make_campaigns(shape: Shape, rng: np.random.Generator) -> Campaigns:
    count = shape.campaigns

    def cover(kinds: int, size: int) -> np.ndarray:
        """(size,) kinds, every one at least once, some much more often than others."""
        share = rng.dirichlet(np.full(kinds, 0.7))
        kind = np.concatenate([np.arange(kinds), rng.choice(kinds, size - kinds, p=share)])
        return rng.permutation(kind)

    normal = np.vectorize(NormalDist().inv_cdf)
    advertiser = cover(shape.advertisers, count)
    # An advertiser's second category, if it has one, takes some of its campaigns.
    first, second = cover(shape.categories, shape.advertisers), rng.permutation(shape.advertisers)
    several = np.flatnonzero(np.bincount(advertiser) > 1)
    both = rng.permutation(several)[: round((1 - shape.one_category) * shape.advertisers)]
    category = first[advertiser]
    for one in both:
        of = np.flatnonzero(advertiser == one)
        category[of[len(of) // 2 :]] = first[second[one]]
    # Campaigns of one advertiser and category share campaign ids until few enough are left.
    campaign_id = np.arange(count)
    for one in rng.permutation(count):
        alike = (advertiser == advertiser[one]) & (category == category[one])
        other = np.flatnonzero(alike & (campaign_id != campaign_id[one]))
        if len(np.unique(campaign_id)) > shape.campaign_ids and len(other):
            campaign_id[one] = campaign_id[other[0]]
    # Half of the campaigns have product 0, none; a product has one type.
    product = np.zeros(count, np.int64)
    having = rng.permutation(count)[: count // 2]
    product[having] = 1 + cover(shape.products - 1, len(having))
    product_type = cover(shape.product_types, shape.products)[product]

    rows = rng.permutation((-np.log1p(-(np.arange(count) + 0.5) / count)) ** (1 / shape.spread))
    rows /= rows.mean()

    def layered(terms: int) -> np.ndarray:
        """(terms, C) in (0, 1): from the category's, the advertiser's and the campaign's own part.

        A share of the range is that share of all rows, so that worlds of other seeds are alike.
        """
        part = rng.standard_normal((3, terms, count))
        whole = 2 * part[0][:, category] + 1.5 * part[1][:, advertiser] + 1.5 * part[2]
        order = np.argsort(whole, axis=1)
        at = np.empty((terms, count))
        np.put_along_axis(at, order, (np.cumsum(rows[order], 1) - rows[order] / 2) / count, 1)
        return at

    gender = np.zeros((len(shape.fields["gender"].shares), count))
    lean, men = layered(1)[0], shape.fields["gender"].shares[1]
    gender[:2, lean > 1 - shape.one_gender * (1 - men)] = shape.leak
    gender[[[0], [2]], lean < shape.one_gender * men] = shape.leak
    ages = np.array(shape.fields["age"].shares)
    centre = np.searchsorted(np.cumsum(ages)[:-1], layered(1)[0])
    outside = np.abs(np.arange(len(ages))[:, None] - centre) > 1
    age = np.where(outside & (layered(1)[0] < shape.age_range), shape.leak, 0.0)

    parts = [(1 - shape.pairwise) / len(PERSONA), shape.pairwise / PAIRS]
    size = np.sqrt(np.repeat(parts, [len(PERSONA), PAIRS]))[:, None]
    own = size * normal(layered(len(size)))
    shared = np.concatenate([_weights(shape.common_taste), np.zeros(PAIRS)])[:, None]
    shared /= np.linalg.norm(shared)
    spare = ((shape.rate_mean - shape.rate_least) / shape.rate_sd) ** 2
    rate = shape.rate_least + rng.gamma(spare, size=count) * shape.rate_sd / np.sqrt(spare)
    return Campaigns(
        attributes={
            "aid": np.sort(rng.choice(2300, count, replace=False)) + 1,
            "advertiserId": advertiser + 1,
            "campaignId": campaign_id + 1,
            "creativeId": rng.permutation(2_000_000)[:count] + 1,
            "creativeSize": cover(shape.sizes, count) + 1,
            "adCategoryId": category + 1,
            "productId": product,
            "productType": product_type + 1,
        },
        tilt=normal(layered(len(PERSONA))) * _weights(shape.tilt)[:, None],
        gender=gender,
        age=age,
        taste=np.sqrt(shape.common) * shared + np.sqrt(1 - shape.common) * own,
        rows=rows,
        rate=rate.clip(max=shape.rate_most),
    )


def _quotas(
    shape: Shape, rows: np.ndarray, users: int, examples: int, pool_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """(C,) expected rows of every campaign in stage 1 and in stage 2."""

    def fit(total: float, least: int) -> np.ndarray:
        low, high = 0.0, total  # of the factor at which rows, with floors, add up to the total
        for _ in range(60):
            factor = (low + high) / 2
            above = np.maximum(least, factor * rows).sum() > total
            low, high = (low, factor) if above else (factor, high)
        return np.maximum(least, low * rows)

    stage2 = fit(max(examples * shape.pool_share, pool_rows * len(rows)), pool_rows)
    left = examples - stage2.sum()
    if left < shape.least_rows * len(rows):
        raise InputError(
            f"simulated world: {examples:,} examples leave {max(int(left), 0):,} for stage 1 "
            f"beside {pool_rows} pool rows for each of {len(rows)} campaigns; ask for at least "
            f"{(pool_rows + 2 * shape.least_rows) * len(rows):,} examples, or fewer pool rows"
        )
    most = max(left, stage2.sum()) / shape.rows_per_user
    if most > users:
        raise InputError(
            f"simulated world: {examples:,} examples need {int(most) + 1:,} users at "
            f"{shape.rows_per_user} rows a user, got {users:,}; "
            "ask for more users or fewer examples"
        )
    return fit(left, shape.least_rows), stage2


def _make_tokens(spec: List, cardinality: float, rng: np.random.Generator) -> Tokens:
    values = spec.values
    if values > 2000:
        values = max(1000, round(values * cardinality))
    known = [(10.0**i, share) for i, share in enumerate(spec.covered) if 10**i < values]
    at, share = np.array([*known, (values, 1.0)]).T
    covered = np.exp(np.interp(np.log(np.arange(1, values + 1)), np.log(at), np.log(share)))
    popularity = np.sort(np.diff(covered, prepend=0))[::-1]
    # Topics take turns, in random order, in picking values from the most popular on.
    turns = np.tile(np.arange(TOPICS), (-(-values // TOPICS), 1))
    topic = rng.permuted(turns, axis=1).ravel()[:values]
    order = np.argsort(topic, kind="stable")
    cumulative = np.cumsum(popularity[order]) / popularity.sum()
    ends = np.searchsorted(topic[order], np.arange(TOPICS), side="right")
    edges = np.concatenate([[0.0], np.concatenate([[0.0], cumulative])[ends]])
    pull = rng.standard_normal((len(PERSONA), TOPICS)) * _weights(spec.pull)[:, None]
    if np.any(pull):  # of one length, so that topics are about equally common
        pull *= np.linalg.norm(_weights(spec.pull)) / np.linalg.norm(pull, axis=0)
    raw = rng.permutation(values)[order] + 1
    return Tokens(edges, cumulative, topic[order], raw, order, pull.astype(np.float32))


def _make_users(
    shape: Shape, tokens: dict[str, Tokens], count: int, rng: np.random.Generator
) -> Users:
    persona = rng.standard_normal((count, len(PERSONA)), dtype=np.float32)

    def score(spec: Score) -> np.ndarray:
        loading = _weights(spec.loadings)
        noise = np.sqrt(max(1 - loading @ loading, 0.0))
        return persona @ loading + noise * rng.standard_normal(count)

    fields = {n: np.searchsorted(_cuts(s.shares), score(s)) for n, s in shape.fields.items()}
    observed = [np.eye(len(shape.fields[n].shares), dtype=np.float32)[v] for n, v in fields.items()]
    sources = {name: score(spec) for name, spec in shape.sources.items()}
    lists = {}
    for name, spec in shape.lists.items():
        length = np.searchsorted(_cuts(spec.lengths), sources[spec.source])
        drawn = _draw(tokens[name], persona, length, len(spec.lengths) - 1, rng)
        if spec.popular_first:
            rank = np.where(drawn < 0, len(tokens[name].rank), tokens[name].rank[drawn])
            drawn = np.take_along_axis(drawn, np.argsort(rank, axis=1, kind="stable"), 1)
        lists[name] = drawn
        user, slot = np.nonzero(drawn >= 0)
        topic = tokens[name].topic[drawn[user, slot]]
        counts = np.bincount(user * TOPICS + topic, minlength=count * TOPICS)
        counts = counts.reshape(count, TOPICS).astype(np.float32)
        observed.append(counts / np.maximum(counts.sum(1, keepdims=True), 1))
    return Users(persona, fields, lists, np.concatenate(observed, axis=1))


def _draw(
    tokens: Tokens, persona: np.ndarray, length: np.ndarray, slots: int, rng: np.random.Generator
) -> np.ndarray:
    """(U, S) positions of distinct values, -1 beyond a user's length."""
    mass = np.maximum(np.diff(tokens.edges), 1e-30).astype(np.float32)
    chance = np.exp(persona @ tokens.pull) * mass
    chance = np.cumsum(chance, axis=1)
    chance /= chance[:, -1:]

    def sample(user: np.ndarray) -> np.ndarray:
        at, dart = chance[user], rng.random(len(user), dtype=np.float32)
        topic = (at[:, :-1] < dart[:, None]).sum(1)
        low, high = tokens.edges[topic], tokens.edges[topic + 1]
        position = low + rng.random(len(user)) * (high - low)
        return np.searchsorted(tokens.cumulative, position, side="right").clip(
            max=len(tokens.cumulative) - 1
        )

    drawn = np.full((len(length), slots), -1, np.int64)
    user, slot = np.nonzero(np.arange(slots) < length[:, None])
    for _ in range(30):
        if not len(user):
            break
        drawn[user, slot] = sample(user)
        rows = np.unique(user)
        part = drawn[rows]
        again = np.zeros(part.shape, bool)
        for late in range(1, slots):
            same = part[:, :late] == part[:, late : late + 1]
            again[:, late] = same.any(1) & (part[:, late] >= 0)
        row, slot = np.nonzero(again)
        user = rows[row]
    drawn[user, slot] = -1  # a value that found no distinct one in 30 draws is left out
    return drawn


def _appeal(campaigns: Campaigns, users: Users) -> np.ndarray:
    """(U, C) log-weight with which a campaign is shown to a user."""
    soft = users.persona @ campaigns.tilt.astype(np.float32)
    hard = campaigns.gender[users.fields["gender"]] + campaigns.age[users.fields["age"]]
    return soft + hard.astype(np.float32)


def _balance(weights: np.ndarray, quota: np.ndarray, factor: np.ndarray, rounds: int) -> np.ndarray:
    """(C,) factors of the (U, C) weights that share users' exposures out as the quota does."""
    for _ in range(rounds):
        shown = (factor / (weights @ factor)[:, None] * weights).mean(0)
        factor = (factor * quota / quota.sum() / np.maximum(shown, 1e-9)).astype(np.float32)
    return factor


def _expose(
    weights: np.ndarray, occur: float, rows_per_user: float, rng: np.random.Generator
) -> np.ndarray:
    """(2, E) users and campaigns: a user's one to three distinct campaigns, by weight."""
    more = rows_per_user - 1
    dart = rng.random(len(weights))
    user = np.flatnonzero(dart < occur)
    race = rng.standard_exponential((len(user), weights.shape[1]), np.float32)
    race = weights[user] / np.maximum(race, 1e-30)
    pairs = []
    for share in (1.0, 0.9 * more, 0.1 * more):  # 1 + .9 more + .1 more rows on average
        still = np.flatnonzero(dart[user] < occur * share)
        first = race[still].argmax(1)
        race[still, first] = 0
        pairs.append(np.stack([user[still], first]))
    return np.concatenate(pairs, axis=1)


def _lines(
    shape: Shape, users: Users, tokens: dict[str, Tokens], key: np.ndarray, rng: np.random.Generator
) -> bytes:
    """The chunk's lines of userFeature.data, shuffled: named fields in any order, optional."""
    columns: dict[str, np.ndarray | pl.Series] = {"uid": key}
    named: dict[str, pl.Expr] = {}
    for name, value in users.fields.items():
        codes = shape.fields[name].codes
        columns[name] = np.array(codes)[value] if codes else value
        text = pl.format(name + " {}", pl.col(name))
        named[name] = pl.when(pl.col(name) > 0).then(text) if name == "house" else text
    for name, drawn in users.lists.items():
        slots = [f"{name}.{slot}" for slot in range(drawn.shape[1])]
        raw = np.where(drawn < 0, 0, tokens[name].raw[drawn])
        columns.update(zip(slots, raw.T, strict=True))
        present = [pl.when(pl.col(slot) > 0).then(pl.col(slot)) for slot in slots]
        text = pl.concat_str(pl.lit(name), *present, separator=" ", ignore_nulls=True)
        named[name] = pl.when(pl.max_horizontal(slots) > 0).then(text)
    for name, texts in UNUSED.items():
        columns[name] = pl.Series(texts).gather(rng.integers(len(texts), size=len(key)))
        named[name] = pl.format(name + " {}", pl.col(name))
    frame = pl.DataFrame(columns)
    lines = []
    bounds = [len(key) * part // ORDERS for part in range(ORDERS + 1)]
    for start, stop in pairwise(bounds):
        order = [named[name] for name in rng.permutation(list(named))]
        uid = pl.format("uid {}", pl.col("uid"))
        line = pl.concat_str(uid, *order, separator="|", ignore_nulls=True).alias("line")
        lines.append(frame[start:stop].select(line))
    shuffled = pl.concat(lines)[rng.permutation(len(key))]
    return shuffled.write_csv(include_header=False, quote_style="never").encode()


def _write_examples(
    directory: Path,
    shape: Shape,
    campaigns: Campaigns,
    key: np.ndarray,
    estimates: np.ndarray,
    exposed: list[np.ndarray],
    seed: int,
) -> None:
    """Conversions: train.csv, test1_truth.csv, the true probability of their lines, and of all."""
    directions = _rng(seed, "pairs").standard_normal((2, len(PERSONA), PAIRS))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def liking(user: np.ndarray, campaign: np.ndarray) -> np.ndarray:
        terms = _terms(estimates[user], directions)
        return np.einsum("et,te->e", terms, campaigns.taste[:, campaign])

    likings = [liking(*pairs) for pairs in exposed]
    campaign = exposed[0][1]
    scale = _scale(likings[0], campaign, campaigns.rate, shape.auc)
    intercept = _intercepts(scale * likings[0], campaign, campaigns.rate)
    aid, weights = campaigns.attributes["aid"], scale * campaigns.taste
    truth = Truth(key, aid, estimates, directions, weights, intercept)
    np.savez(directory / "truth.npz", **truth._asdict())
    for name, pairs, like in zip(("train", "test1_truth"), exposed, likings, strict=True):
        rng = _rng(seed, name)
        user, campaign = pairs
        probability = _sigmoid(scale * like + intercept[campaign])
        label = _labels(probability, campaign, rng)
        order = rng.permutation(len(user))
        if name == "test1_truth":
            order = order[np.argsort(-label[order], kind="stable")]
        table = pl.DataFrame(
            {
                "aid": campaigns.attributes["aid"][campaign[order]],
                "uid": key[user[order]],
                "label": label[order],
            }
        )
        table.write_csv(directory / f"{name}.csv", include_header=name == "train")
        np.save(directory / f"{name}_probability.npy", probability[order].astype(np.float32))


def _terms(x: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(E, D) x of users -> (E, D + PAIRS) linear and pairwise terms."""
    x = x.astype(np.float64)
    left, right = directions
    return np.concatenate([x, (x @ left) * (x @ right)], axis=1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _intercepts(log_odds: np.ndarray, campaign: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """(C,) intercepts that give every campaign its rate, by bisection."""
    count = np.maximum(np.bincount(campaign, minlength=len(rate)), 1)
    low, high = np.full(len(rate), -40.0), np.full(len(rate), 40.0)
    for _ in range(40):
        middle = (low + high) / 2
        mean = np.bincount(campaign, _sigmoid(log_odds + middle[campaign]), len(rate)) / count
        low, high = np.where(mean < rate, middle, low), np.where(mean < rate, high, middle)
    return (low + high) / 2


def _scale(like: np.ndarray, campaign: np.ndarray, rate: np.ndarray, auc: float) -> float:
    """The factor of all likings at which the expected AUC, mean over campaigns, is ``auc``."""
    order = np.lexsort((like, campaign))
    like, campaign = like[order], campaign[order]
    start = np.searchsorted(campaign, np.arange(len(rate)))[campaign]

    def reached(scale: float) -> float:
        p = _sigmoid(scale * like + _intercepts(scale * like, campaign, rate)[campaign])
        below = np.cumsum(1 - p) - (1 - p)
        below -= below[start]  # non-converting mass below a row, in its campaign
        pairs = [np.bincount(campaign, x, len(rate)) for x in (p * below, p, 1 - p, p * (1 - p))]
        return float(np.mean(pairs[0] / (pairs[1] * pairs[2] - pairs[3])))

    low, high = 0.0, 5.0
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < auc else (low, middle)
    return (low + high) / 2


def _labels(probability: np.ndarray, campaign: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(E,) 1 or -1: in a random order, wherever the running sum of p passes a whole number."""
    order = np.lexsort((rng.random(len(campaign)), campaign))
    passed = np.cumsum(probability[order])
    first = np.searchsorted(campaign[order], np.arange(campaign.max() + 1))
    offset = rng.random(campaign.max() + 1) - (passed - probability[order])[first]
    passed += offset[campaign[order]]
    label = np.empty(len(campaign), np.int64)
    label[order] = np.where(np.floor(passed) > np.floor(passed - probability[order]), 1, -1)
    return label
