"""Campaigns of a simulated world: attributes, targeting, tastes and numbers of examples.

Axes: C campaigns, D persona dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from metaheac_jax.data.simulation.shapes import PAIRS, PERSONA, Shape, persona_weights
from metaheac_jax.errors import InputError


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
    variances = [(1 - shape.pairwise) / len(PERSONA), shape.pairwise / PAIRS]
    scale = np.sqrt(np.repeat(variances, [len(PERSONA), PAIRS]))[:, None]
    own_taste = scale * normal(layered(len(scale)))
    shared_taste = np.concatenate([persona_weights(shape.common_taste), np.zeros(PAIRS)])[:, None]
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
        tilt=normal(layered(len(PERSONA))) * persona_weights(shape.tilt)[:, None],
        gender=gender,
        age=age,
        taste=np.sqrt(shape.common) * shared_taste + np.sqrt(1 - shape.common) * own_taste,
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
    two_categories = round((1 - shape.one_category) * shape.advertisers)
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
    gender = np.zeros((len(shape.fields["gender"].fractions), shape.campaigns))
    lean, men = layered(1)[0], shape.fields["gender"].fractions[1]
    gender[:2, lean > 1 - shape.one_gender * (1 - men)] = shape.leak
    gender[[[0], [2]], lean < shape.one_gender * men] = shape.leak
    ages = np.array(shape.fields["age"].fractions)
    centre = np.searchsorted(np.cumsum(ages)[:-1], layered(1)[0])
    outside = np.abs(np.arange(len(ages))[:, None] - centre) > 1
    return gender, np.where(outside & (layered(1)[0] < shape.age_range), shape.leak, 0.0)


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
    if left < shape.min_examples * count:
        raise InputError(
            f"simulated world: {examples:,} examples leave {max(int(left), 0):,} for stage 1 "
            f"after {min_pool_examples} pool examples for each of {count} campaigns; ask for at "
            f"least {(min_pool_examples + 2 * shape.min_examples) * count:,} examples, or fewer "
            "pool examples"
        )
    needed = max(left, stage2.sum()) / shape.examples_per_user
    if needed > users:
        raise InputError(
            f"simulated world: {examples:,} examples need {int(needed) + 1:,} users at "
            f"{shape.examples_per_user} examples per user, got {users:,}; "
            "ask for more users or fewer examples"
        )
    return fit(left, shape.min_examples), stage2
