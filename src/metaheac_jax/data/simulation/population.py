"""The users and campaigns of a simulated world, and who is shown what.

Draws of users are decided in float64. Processors round differently; in float32 a draw could differ
between them, and all later draws with it. Exposures are drawn by targeting, and balanced to meet
quotas.

Axes: U users (of a chunk), D persona dimensions, T topics, S slots, V values of a field, F observed
features, C campaigns, E exposures.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from metaheac_jax.data.simulation.shapes import (
    FIELDS,
    LISTS,
    PAIRS,
    PERSONA,
    SOURCES,
    List,
    Score,
    Shape,
    persona_weights,
)
from metaheac_jax.errors import InputError

TOPICS = 24  # per list field
_ONE_CATEGORY = 0.84  # fraction of advertisers with a single category
_MIN_EXAMPLES = 100  # minimum expected number of examples of a campaign in stage 1
_ONE_GENDER, _AGE_RANGE = 0.87, 0.5  # fractions of exposures under hard targeting
_LEAK = -4.0  # log-weight of users outside a hard target
_COMMON = 0.5  # fraction of the taste's variance that all campaigns share
_PAIRWISE = 0.3  # fraction of the variance of a campaign's own taste that is in pairwise terms
#: Standard deviation over campaigns of the soft targeting; ``hobby`` stands for each hobby.
_TILT = {
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
}
#: Direction of the taste that all campaigns share.
_COMMON_TASTE = {"apps": -0.2, "browsing": 0.5, "hobby": 0.6}


class TokenDistribution(NamedTuple):
    """The distribution of a list's values, which are ordered by topic, then popularity.

    Attributes:
      edges: (T + 1,) bounds of the topics in the cumulative distribution of values.
      cumulative: (V,) distribution of values.
      topic: (V,) topic of each value.
      raw: (V,) raw value in the table; ``rank``: (V,) rank by popularity, 0 is the most popular.
      pull: (D, T) topic logits per unit of persona.
    """

    edges: np.ndarray
    cumulative: np.ndarray
    topic: np.ndarray
    raw: np.ndarray
    rank: np.ndarray
    pull: np.ndarray


class Users(NamedTuple):
    """A chunk of users.

    Attributes:
      persona: (U, D) z, hidden.
      fields: name -> (U,) outcome of a one-valued field.
      lists: name -> (U, S) positions among a field's values, -1 in empty slots.
      observed: (U, F) inputs of the conversion model: one-hot fields and mean topics of lists.
    """

    persona: np.ndarray
    fields: dict[str, np.ndarray]
    lists: dict[str, np.ndarray]
    observed: np.ndarray


def make_tokens(spec: List, cardinality: float, rng: np.random.Generator) -> TokenDistribution:
    """The distribution of a list field's values; see `world.write_world` for ``cardinality``."""
    values = spec.values
    if values > 2000:
        values = max(1000, round(values * cardinality))
    known = [(10.0**i, chance) for i, chance in enumerate(spec.covered) if 10**i < values]
    rank, chance = np.array([*known, (values, 1.0)]).T
    covered = np.exp(np.interp(np.log(np.arange(1, values + 1)), np.log(rank), np.log(chance)))
    popularity = np.sort(np.diff(covered, prepend=0))[::-1]
    # Topics take turns in random order; each turn takes the most popular remaining value.
    turns = np.tile(np.arange(TOPICS), (-(-values // TOPICS), 1))
    topic = rng.permuted(turns, axis=1).ravel()[:values]
    order = np.argsort(topic, kind="stable")
    cumulative = np.cumsum(popularity[order]) / popularity.sum()
    ends = np.searchsorted(topic[order], np.arange(TOPICS), side="right")
    edges = np.concatenate([[0.0], np.concatenate([[0.0], cumulative])[ends]])
    pull = rng.standard_normal((len(PERSONA), TOPICS)) * persona_weights(spec.pull)[:, None]
    if np.any(pull):  # columns of equal length make topics about equally frequent
        pull *= np.linalg.norm(persona_weights(spec.pull)) / np.linalg.norm(pull, axis=0)
    raw = rng.permutation(values)[order] + 1
    return TokenDistribution(edges, cumulative, topic[order], raw, order, pull)


def make_users(tokens: dict[str, TokenDistribution], count: int, rng: np.random.Generator) -> Users:
    """Draws ``count`` users."""
    persona = rng.standard_normal((count, len(PERSONA)))

    def score(spec: Score) -> np.ndarray:
        loading = persona_weights(spec.loadings)
        noise = np.sqrt(max(1 - loading @ loading, 0.0))
        return persona @ loading + noise * rng.standard_normal(count)

    fields = {n: np.searchsorted(_cuts(s.fractions), score(s)) for n, s in FIELDS.items()}
    observed = [np.eye(len(FIELDS[n].fractions), dtype=np.float32)[v] for n, v in fields.items()]
    sources = {name: score(spec) for name, spec in SOURCES.items()}
    lists = {}
    for name, spec in LISTS.items():
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
    tokens: TokenDistribution,
    persona: np.ndarray,
    length: np.ndarray,
    slots: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """(U, S) positions of distinct values, -1 beyond a user's length.

    A value with no distinct replacement after 30 draws is omitted.
    """
    mass = np.maximum(np.diff(tokens.edges), 1e-30)
    chance = np.exp(persona @ tokens.pull) * mass
    chance = np.cumsum(chance, axis=1)
    chance /= chance[:, -1:]

    def sample(user: np.ndarray) -> np.ndarray:
        cumulative, dart = chance[user], rng.random(len(user))
        topic = (cumulative[:, :-1] < dart[:, None]).sum(1)
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
        redrawn = np.unique(user)
        values = drawn[redrawn]
        repeated = np.zeros(values.shape, bool)
        for late in range(1, slots):
            equal = values[:, :late] == values[:, late : late + 1]
            repeated[:, late] = equal.any(1) & (values[:, late] >= 0)
        index, slot = np.nonzero(repeated)
        user = redrawn[index]
    drawn[user, slot] = -1
    return drawn


def _cuts(fractions: tuple[float, ...]) -> np.ndarray:
    """Thresholds of a standard normal variable that divide it into these fractions."""
    inner = np.cumsum(fractions)[:-1] / sum(fractions)
    return np.array([NormalDist().inv_cdf(min(max(x, 1e-12), 1 - 1e-12)) for x in inner])


class Campaigns(NamedTuple):
    """Attributes, targeting and taste of each campaign.

    Attributes:
      ids: (C,) ascending.
      attributes: name -> (C,) values of a field.
      tilt: (D, C) soft targeting.
      gender: (3, C) log-weight of a user by gender; ``age``: (6, C) by age group.
      taste: (D + PAIRS, C) weights of linear and pairwise terms.
      volume: (C,) relative number of examples; mean 1.
      rate: (C,) fraction of positives.
    """

    ids: np.ndarray
    attributes: dict[str, np.ndarray]
    tilt: np.ndarray
    gender: np.ndarray
    age: np.ndarray
    taste: np.ndarray
    volume: np.ndarray
    rate: np.ndarray


def make_campaigns(shape: Shape, rng: np.random.Generator) -> Campaigns:
    """Draws all campaigns of a world."""
    count = shape.campaigns
    advertiser, category = _advertisers(shape, rng)
    group = _campaign_groups(shape, advertiser, category, rng)
    product, product_type = _products(shape, rng)
    quantiles = (-np.log1p(-(np.arange(count) + 0.5) / count)) ** (1 / shape.spread)  # Weibull
    volume = rng.permutation(quantiles)
    volume /= volume.mean()

    def layered(terms: int) -> np.ndarray:
        """(terms, C) in (0, 1), from terms of the category, the advertiser and the campaign.

        Values are uniform over examples rather than over campaigns, so that an interval contains
        the same fraction of the examples in every world.
        """
        layers = rng.standard_normal((3, terms, count))
        total = 2 * layers[0][:, category] + 1.5 * layers[1][:, advertiser] + 1.5 * layers[2]
        order = np.argsort(total, axis=1)
        level = np.empty((terms, count))
        ranks = (np.cumsum(volume[order], 1) - volume[order] / 2) / count
        np.put_along_axis(level, order, ranks, 1)
        return level

    normal = np.vectorize(NormalDist().inv_cdf)
    gender, age = _hard_targeting(shape, layered)
    variances = [(1 - _PAIRWISE) / len(PERSONA), _PAIRWISE / PAIRS]
    scale = np.sqrt(np.repeat(variances, [len(PERSONA), PAIRS]))[:, None]
    own_taste = scale * normal(layered(len(scale)))
    shared_taste = np.concatenate([persona_weights(_COMMON_TASTE), np.zeros(PAIRS)])[:, None]
    shared_taste /= np.linalg.norm(shared_taste)
    concentration = ((shape.rate_mean - shape.rate_min) / shape.rate_sd) ** 2
    excess = rng.gamma(concentration, size=count) * shape.rate_sd / np.sqrt(concentration)
    rate = shape.rate_min + excess
    ids = np.sort(rng.choice(2300, count, replace=False)) + 1
    rng.permutation(2_000_000)  # ids of the creatives, which tell nothing: no table has them
    return Campaigns(
        ids=ids,
        attributes={
            "advertiserId": advertiser + 1,
            "campaignId": group + 1,
            "creativeSize": _cover(shape.sizes, count, rng) + 1,
            "adCategoryId": category + 1,
            "productId": product,
            "productType": product_type + 1,
        },
        tilt=normal(layered(len(PERSONA))) * persona_weights(_TILT)[:, None],
        gender=gender,
        age=age,
        taste=np.sqrt(_COMMON) * shared_taste + np.sqrt(1 - _COMMON) * own_taste,
        volume=volume,
        rate=rate.clip(max=shape.rate_max),
    )


def _cover(kinds: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """(size,) kinds with skewed frequencies, each at least once."""
    frequency = rng.dirichlet(np.full(kinds, 0.7))
    kind = np.concatenate([np.arange(kinds), rng.choice(kinds, size - kinds, p=frequency)])
    return rng.permutation(kind)


def _advertisers(shape: Shape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(C,) advertiser and (C,) category of each campaign."""
    advertiser = _cover(shape.advertisers, shape.campaigns, rng)
    first = _cover(shape.categories, shape.advertisers, rng)
    second = rng.permutation(shape.advertisers)
    several = np.flatnonzero(np.bincount(advertiser) > 1)
    two_categories = round((1 - _ONE_CATEGORY) * shape.advertisers)
    category = first[advertiser]
    # Half of the campaigns of an advertiser with two categories have the second.
    for one in rng.permutation(several)[:two_categories]:
        campaigns = np.flatnonzero(advertiser == one)
        category[campaigns[len(campaigns) // 2 :]] = first[second[one]]
    return advertiser, category


def _campaign_groups(
    shape: Shape, advertiser: np.ndarray, category: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(C,) group, shared within an advertiser and category until few enough remain."""
    group = np.arange(shape.campaigns)
    for one in rng.permutation(shape.campaigns):
        alike = (advertiser == advertiser[one]) & (category == category[one])
        other = np.flatnonzero(alike & (group != group[one]))
        if len(np.unique(group)) > shape.campaign_ids and len(other):
            group[one] = group[other[0]]
    return group


def _products(shape: Shape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(C,) product, 0 (none) for half of the campaigns, and (C,) its type."""
    product = np.zeros(shape.campaigns, np.int64)
    having = rng.permutation(shape.campaigns)[: shape.campaigns // 2]
    product[having] = 1 + _cover(shape.products - 1, len(having), rng)
    return product, _cover(shape.product_types, shape.products, rng)[product]


def _hard_targeting(
    shape: Shape, layered: Callable[[int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(3, C) and (6, C) log-weights of a user by gender and by age group."""
    gender = np.zeros((len(FIELDS["gender"].fractions), shape.campaigns))
    lean, men = layered(1)[0], FIELDS["gender"].fractions[1]
    gender[:2, lean > 1 - _ONE_GENDER * (1 - men)] = _LEAK
    gender[[[0], [2]], lean < _ONE_GENDER * men] = _LEAK
    ages = np.array(FIELDS["age"].fractions)
    centre = np.searchsorted(np.cumsum(ages)[:-1], layered(1)[0])
    outside = np.abs(np.arange(len(ages))[:, None] - centre) > 1
    return gender, np.where(outside & (layered(1)[0] < _AGE_RANGE), _LEAK, 0.0)


def expected_examples(
    shape: Shape, volume: np.ndarray, users: int, examples: int, min_pool_examples: int
) -> tuple[np.ndarray, np.ndarray]:
    """(C,) expected number of examples per campaign in stage 1, and (C,) in stage 2.

    Args:
      shape: the world's recipe.
      volume: (C,) relative number of examples.
      users: number of users of the world.
      examples: number of examples in both stages together.
      min_pool_examples: minimum expected number of examples of each campaign in stage 2.

    Raises:
      InputError: the examples are too few for stage 1, or too many for the users.
    """

    def fit(total: float, minimum: int) -> np.ndarray:
        low, high = 0.0, total  # bounds of the factor that gives the total
        for _ in range(60):
            factor = (low + high) / 2
            above = np.maximum(minimum, factor * volume).sum() > total
            low, high = (low, factor) if above else (factor, high)
        return np.maximum(minimum, low * volume)

    count = len(volume)
    stage2_total = max(examples * shape.pool_fraction, min_pool_examples * count)
    stage2 = fit(stage2_total, min_pool_examples)
    left = examples - stage2.sum()
    if left < _MIN_EXAMPLES * count:
        raise InputError(
            f"simulated world: {examples:,} examples are too few for {count} campaigns with "
            f"{min_pool_examples} pool examples each; ask for more, or for fewer pool examples"
        )
    needed = max(left, stage2.sum()) / shape.per_user
    if needed > users:
        raise InputError(
            f"simulated world: {examples:,} examples need {int(needed) + 1:,} users, got "
            f"{users:,}; ask for more users or fewer examples"
        )
    return fit(left, _MIN_EXAMPLES), stage2


def appeal(campaigns: Campaigns, users: Users) -> np.ndarray:
    """(U, C) log-weight of showing a campaign to a user."""
    soft = users.persona @ campaigns.tilt
    hard = campaigns.gender[users.fields["gender"]] + campaigns.age[users.fields["age"]]
    return soft + hard


def balance_exposure(
    weights: np.ndarray, quota: np.ndarray, factor: np.ndarray, rounds: int
) -> np.ndarray:
    """(C,) factors of the weights at which expected exposures are proportional to the quota.

    Args:
      weights: (U, C) weights of showing a campaign to a user.
      quota: (C,) number of exposures.
      factor: (C,) initial factors.
      rounds: number of fixed-point iterations.
    """
    for _ in range(rounds):
        shown = (factor / (weights @ factor)[:, None] * weights).mean(0)
        factor = factor * quota / quota.sum() / np.maximum(shown, 1e-9)
    return factor


def expose(
    weights: np.ndarray, occur: float, per_user: float, rng: np.random.Generator
) -> np.ndarray:
    """(2, E) random pairs of users and campaigns.

    Args:
      weights: (U, C) weights of showing a campaign to a user.
      occur: fraction of users who occur.
      per_user: mean number of campaigns of a user who occurs, 1 or more.
      rng: makes all draws.
    """
    more = per_user % 1
    fractions = (*[1.0] * int(per_user), 0.9 * more, 0.1 * more)  # who gets one more campaign
    dart = rng.random(len(weights))
    user = np.flatnonzero(dart < occur)
    race = rng.standard_exponential((len(user), weights.shape[1]))
    race = weights[user] / np.maximum(race, 1e-30)
    pairs = []
    for fraction in fractions:
        remaining = np.flatnonzero(dart[user] < occur * fraction)
        winner = race[remaining].argmax(1)
        race[remaining, winner] = 0
        pairs.append(np.stack([user[remaining], winner]))
    return np.concatenate(pairs, axis=1)
