"""The features of users that a learned prior reads, which need no labels.

    table of values -> factors of users -> features

Of a field with few values, the factors are the fraction of each; of another, the mean of its
values' `data.coordinates`; or the sums instead. Products of directions are further factors.

Axes: P users, S slots of a user, M user fields, R table rows, k coordinates, F factors, p features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.sparse import csr_matrix

from metaheac_jax.backend import jit
from metaheac_jax.customising.score import PROGRAMS_KEPT, over_users
from metaheac_jax.data.coordinates import campaign_coordinates, value_coordinates
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.history import NAMES
from metaheac_jax.data.views import UserRows
from metaheac_jax.methods.linear_head import LinearHead
from metaheac_jax.model import State
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.sparse import value_counts

_MIN_VARIANCE = 1e-6  # of a feature; others are left out


class Features(NamedTuple):
    """How factors become features of about unit variance; a state has it under ``features``.

    Attributes:
      columns: (p,) positions of the features among the factors; the other factors do not vary.
      centre: (p,) means over users.
      deviation: (p,) standard deviations; those of a field are equal, so that a value's coordinates
        keep their proportions.
    """

    columns: np.ndarray
    centre: np.ndarray
    deviation: np.ndarray

    def __call__(self, factors: np.ndarray) -> np.ndarray:
        """(P, F) factors -> (P, p) features."""
        return (factors[:, self.columns] - self.centre) / self.deviation

    def head(self, weights: np.ndarray, intercept: float, num_factors: int) -> Array:
        """(F, ...) the heads of weights (p, ...) and an intercept."""
        head = np.zeros((num_factors, *weights.shape[1:]))
        head[self.columns] = (weights.T / self.deviation).T
        head[-1] = intercept - self.centre @ head[self.columns]
        return jnp.asarray(head, jnp.float32)


def coordinates_of(dataset: Dataset, users: np.ndarray, width: int) -> np.ndarray:
    """(P, S) table rows of users -> (R, k) coordinates; campaigns in histories have their own."""
    vocabulary, num_rows = dataset.vocabulary, dataset.num_rows
    coordinates = value_coordinates(dataset.layout, users, num_rows, width)
    if dataset.schema.history:  # the last lists are those that are computed
        fields = [number for number, *_ in dataset.schema.lists[-len(NAMES) :]]
        starts, sizes = vocabulary.offsets, vocabulary.sizes
        each = [slice(starts[f], starts[f] + sizes[f]) for f in fields]
        values = value_counts(users, num_rows)
        converts, others = (csr_matrix(values[:, own]) for own in each)
        known = campaign_coordinates(converts, others, width)
        for own, of in zip(each, known, strict=True):
            coordinates[own] = of
    return coordinates


def with_indicators(dataset: Dataset, coordinates: np.ndarray) -> np.ndarray:
    """(R, k) coordinates of values -> the same, with an indicator of each value of small fields."""
    table, width = coordinates.copy(), coordinates.shape[1]
    vocabulary = dataset.vocabulary
    ranges = zip(dataset.schema.user, vocabulary.offsets, vocabulary.sizes, strict=False)
    for _, start, size in ranges:  # those of campaign fields follow
        if size <= width:
            table[start : start + size] = np.eye(size, width)
    return table


def groups_of(columns: np.ndarray, network: LinearHead, num_fields: int) -> np.ndarray:
    """(p,) positions of factors -> the number of the field of each, or M for a product."""
    return np.minimum(columns // network.width, num_fields)


def features_of(
    network: LinearHead, dataset: Dataset, params: Any, table: Any, users: UserRows
) -> Features:
    """Chooses features, and scales them by users (P, S)."""
    factors = factors_of(network, dataset.layout, params, jnp.asarray(table), users)
    variance = factors.var(axis=0, dtype=np.float64)
    columns = np.flatnonzero(variance > _MIN_VARIANCE)
    groups = groups_of(columns, network, len(dataset.schema.user))
    own = np.unique(groups, return_inverse=True)[1]
    deviation = np.sqrt(np.bincount(own, variance[columns]) / np.bincount(own))[own]
    centre = factors.mean(axis=0, dtype=np.float64)[columns]
    return Features(columns, centre.astype(np.float32), deviation.astype(np.float32))


def network_and_features(state: State) -> tuple[LinearHead, Features]:
    """A state's network, and how its factors become features."""
    kept = dict(jax.device_get(state["features"]))
    return LinearHead(state["table"].shape[1], bool(kept.pop("sums"))), Features(**kept)


def factors_of(
    network: LinearHead, layout: Layout, params: Any, table: Any, users: UserRows
) -> np.ndarray:
    """(P, S) table rows of users -> (P, F) factors."""
    factors = partial(_compiled_factors(network, layout), params, table)
    return over_users(factors, users, layout.num_slots, len(table))


@lru_cache(PROGRAMS_KEPT)
def _compiled_factors(network: LinearHead, layout: Layout) -> Callable[..., Array]:
    @jit
    def factors(params: dict[str, Array], table: Array, users: Array) -> Array:
        return network.offset_and_factors(params, layout.users(table, users))[1]

    return factors
