"""The recipe of the simulated world, set from published statistics.

Axes: D persona dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    """What distinguishes a world from that of the Tencent data, besides its size.

    Attributes:
      name: name in titles.
      campaigns, advertisers, campaign_ids, sizes, categories, products, product_types: counts.
      spread: shape parameter of the Weibull distribution of campaigns' numbers of examples.
      pool_fraction: fraction of all examples that are in stage 2.
      per_user: mean number of examples in a stage, over the users who occur in it.
      rate_min, rate_mean, rate_sd, rate_max: minimum, mean, standard deviation and maximum of the
        campaigns' fractions of positives in stage 1.
    """

    name: str = "Tencent"
    campaigns: int = 173
    advertisers: int = 79
    campaign_ids: int = 138
    sizes: int = 15
    categories: int = 40
    products: int = 33
    product_types: int = 4
    spread: float = 0.85  # gives the published distribution of seed counts at the real size
    pool_fraction: float = 2_265_989 / (8_798_814 + 2_265_989)
    per_user: float = 1.12
    rate_min: float = 0.0444
    rate_mean: float = 0.0478
    rate_sd: float = 0.0014
    rate_max: float = 0.0551


TENCENT_WORLD = Shape()
#: The one-valued features.
FIELDS = {
    # Tokens predict age group 2 well, so it is at the young end of the scale.
    "age": Score((0.003, 0.21, 0.23, 0.12, 0.207, 0.23), {"age": 1.0}, (0, 2, 1, 3, 4, 5)),
    "gender": Score((0.003, 0.677, 0.32), {"gender": 1.0}),
    "carrier": Score((0.28, 0.48, 0.10, 0.14), {"wealth": 0.52, "home": 0.5}),
    "consumptionAbility": Score((0.22, 0.60, 0.18), {"wealth": 0.85, "gender": -0.42}),
    "education": Score(
        (0.01, 0.13, 0.30, 0.05, 0.01, 0.02, 0.17, 0.31), {"age": 0.33, "schooling": 0.8}
    ),
    "house": Score((0.82, 0.18), {"home": 0.85}, (-1, 1)),
}
#: The scores that decide the lengths of lists.
SOURCES = {
    "apps": Score((), {"apps": 0.9, "age": 0.3}),
    "keywords": Score((), {"apps": 0.75, "age": 0.25}),
    "browsing": Score((), {"browsing": 0.9, "gender": 0.2, "wealth": -0.25}),
    "feeds": Score((), {"browsing": 0.45, "apps": 0.4}),
    "rare": Score((), {}),
}
#: The many-valued features; LBS is a list with one value.
LISTS = {
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
}


def persona_weights(weights: Mapping[str, float]) -> np.ndarray:
    """(D,) weights by dimension, 0 if absent; ``hobby`` stands for each hobby."""
    kinds = [(name, name.rstrip("0123456789")) for name in PERSONA]
    return np.array([weights.get(name, weights.get(kind, 0.0)) for name, kind in kinds])
