"""Two recipes for simulated worlds, set from published statistics.

Axes: D persona dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

#: Dimensions of a persona. ``apps`` and ``browsing`` are levels of activity.
PERSONA = (
    *("gender", "age", "wealth", "home", "schooling", "north", "east", "apps", "browsing"),
    *(f"hobby{i}" for i in range(6)),
)
PAIRS = 8  # pairwise terms of a taste


@dataclass(frozen=True)
class Score:
    """A mixture of persona dimensions and noise, of unit variance, cut at quantiles.

    Attributes:
      fractions: fraction of each outcome, from the lowest scores; empty if lists cut the score.
      loadings: weights of persona dimensions; their squares sum to at most 1.
      codes: values of the outcomes in the table, -1 for a missing value; empty for 0, 1, 2, ...
    """

    fractions: tuple[float, ...]
    loadings: Mapping[str, float]
    codes: tuple[int, ...] = ()


@dataclass(frozen=True)
class List:
    """A field whose values have no order.

    Attributes:
      source: the score that decides the length; lists of one source are missing together.
      lengths: fractions of lists with 0, 1, 2, ... values.
      values: number of distinct values at full cardinality.
      covered: probability that a draw gives one of the 1, 10, 100, 1000 most popular values.
        Since lists have no duplicates, popular values are less frequent in long lists.
      pull: strength of persona dimensions in the choice of topic; ``hobby`` stands for each hobby.
      popular_first: whether the list is in order of popularity.
    """

    source: str
    lengths: tuple[float, ...]
    values: int
    covered: tuple[float, ...]
    pull: Mapping[str, float]
    popular_first: bool = False


def _present(missing: float, *fractions: float) -> tuple[float, ...]:
    """Fractions of the lengths 0, 1, 2, ...; all but the first are given up to a factor."""
    scale = (1 - missing) / sum(fractions)
    return (missing, *(fraction * scale for fraction in fractions))


@dataclass(frozen=True)
class Shape:
    """A recipe for a world, without its size. In mappings, ``hobby`` stands for each hobby.

    Attributes:
      name: name in titles.
      campaigns, advertisers, campaign_ids, sizes, categories, products, product_types: counts.
      one_category: fraction of advertisers with a single category.
      spread: shape parameter of the Weibull distribution of campaigns' numbers of examples.
      min_examples: minimum expected number of examples of a campaign in stage 1.
      pool_fraction: fraction of all examples that are in stage 2.
      examples_per_user: mean number of examples in a stage, over the users who occur in it.
      rate_min, rate_mean, rate_sd, rate_max: minimum, mean, standard deviation and maximum of the
        campaigns' fractions of positives in stage 1.
      one_gender, age_range: fractions of exposures under hard targeting by gender and by age.
      leak: log-weight of users outside a hard target.
      tilt: standard deviation over campaigns of the soft targeting.
      common: fraction of the taste's variance that all campaigns share.
      common_taste: direction of the shared taste.
      pairwise: fraction of the variance of a campaign's own taste that is in pairwise terms.
      auc: AUC of the true probability against labels, as a mean over campaigns.
      fields: the one-valued features.
      sources: the scores that decide the lengths of lists.
      lists: the many-valued features; LBS is a list with one value.
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
    min_examples: int
    pool_fraction: float
    examples_per_user: float
    rate_min: float
    rate_mean: float
    rate_sd: float
    rate_max: float
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


TENCENT_WORLD = Shape(
    name="Tencent",
    campaigns=173,
    advertisers=79,
    campaign_ids=138,
    sizes=15,
    categories=40,
    products=33,
    product_types=4,
    one_category=0.84,
    spread=0.85,  # gives the published distribution of seed counts at the real size
    min_examples=100,
    pool_fraction=2_265_989 / (8_798_814 + 2_265_989),
    examples_per_user=1.12,
    rate_min=0.0444,
    rate_mean=0.0478,
    rate_sd=0.0014,
    rate_max=0.0551,
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
        # Tokens predict age group 2 well, so it is at the young end of the scale.
        "age": Score((0.003, 0.21, 0.23, 0.12, 0.207, 0.23), {"age": 1.0}, (0, 2, 1, 3, 4, 5)),
        "gender": Score((0.003, 0.677, 0.32), {"gender": 1.0}),
        "carrier": Score((0.28, 0.48, 0.10, 0.14), {"wealth": 0.52, "home": 0.5}),
        "consumptionAbility": Score((0.22, 0.60, 0.18), {"wealth": 0.85, "gender": -0.42}),
        "education": Score(
            (0.01, 0.13, 0.30, 0.05, 0.01, 0.02, 0.17, 0.31), {"age": 0.33, "schooling": 0.8}
        ),
        "house": Score((0.82, 0.18), {"home": 0.85}, (-1, 1)),
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

#: The Tencent twin with the counts of the paper's WeChat data, which is not public: 90 campaigns,
#: ten negatives per positive, and as many examples in stage 2 as in stage 1. Nothing else is known
#: of that data. Users, targeting, tastes, the AUC of the true probability, attribute values per
#: campaign and the relative spread of rates are those of the Tencent twin. Seed counts have a wider
#: distribution, so that enough campaigns exceed T = 10,000 seeds at the real size.
WECHAT_WORLD = replace(
    TENCENT_WORLD,
    name="WeChat-shaped Tencent",
    campaigns=90,
    advertisers=41,
    campaign_ids=72,
    categories=21,
    products=17,
    spread=0.6,
    pool_fraction=0.5,
    rate_min=TENCENT_WORLD.rate_min * (1 / 11) / TENCENT_WORLD.rate_mean,
    rate_mean=1 / 11,
    rate_sd=TENCENT_WORLD.rate_sd * (1 / 11) / TENCENT_WORLD.rate_mean,
    rate_max=TENCENT_WORLD.rate_max * (1 / 11) / TENCENT_WORLD.rate_mean,
)


def persona_weights(weights: Mapping[str, float]) -> np.ndarray:
    """(D,) weights by dimension, 0 if absent; ``hobby`` stands for each hobby."""
    kinds = [(name, name.rstrip("0123456789")) for name in PERSONA]
    return np.array([weights.get(name, weights.get(kind, 0.0)) for name, kind in kinds])
