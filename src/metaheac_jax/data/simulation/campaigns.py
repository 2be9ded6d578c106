"""Campaigns of a simulated world: attributes, targeting, tastes, and how many rows each gets.

Axes: C campaigns, D persona dimensions.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from metaheac_jax.data.simulation.shapes import PAIRS, PERSONA, Shape, persona_weights
from metaheac_jax.errors import InputError


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


def make_campaigns(shape: Shape, rng: np.random.Generator) -> Campaigns:
    """All campaigns of a world, drawn."""
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
    shared = np.concatenate([persona_weights(shape.common_taste), np.zeros(PAIRS)])[:, None]
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
        tilt=normal(layered(len(PERSONA))) * persona_weights(shape.tilt)[:, None],
        gender=gender,
        age=age,
        taste=np.sqrt(shape.common) * shared + np.sqrt(1 - shape.common) * own,
        rows=rows,
        rate=rate.clip(max=shape.rate_most),
    )


def expected_rows(
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
