"""The features of users that a learned prior reads, which need no labels.

    values -> coordinates -> joint factors of users -> features

A user's vector of a field is the mean of its values' `data.coordinates`, by co-occurrence and by
exposure; of a field with few values, the fraction of each instead; of a field that is a vector, its
leading components. What several fields show at once are `data.factors`. These are features, and so
are the vectors of fields with not too many values, of fields that are vectors, and what is known by
exposure.

Axes: P users, S slots of a user, M user fields, R table rows, k columns of a field's vector,
F entries of all vectors and 1, p features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from metaheac_jax.backend import jit
from metaheac_jax.customising.score import PROGRAMS_KEPT, over_users
from metaheac_jax.data.batches import generator
from metaheac_jax.data.coordinates import (
    exposure_coordinates,
    exposure_counts,
    fractions,
    leading_components,
    value_coordinates,
)
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.factors import factor_model
from metaheac_jax.data.views import UserRows
from metaheac_jax.methods.linear_head import LinearHead
from metaheac_jax.methods.method import Offline
from metaheac_jax.table.layout import Layout

_WIDTH = 10  # coordinates of each kind, and maximum number of values of a field with indicators
_MAX_PARTS = 6  # components of a vector are so many times as many at most
_MAX_OWN = 64  # maximum number of values of a field whose vector is a feature, too
#: Users whose values give the coordinates, and those whose vectors give factors and scales.
_USERS_OF_COORDINATES, _USERS_OF_FACTORS = 600_000, 1 << 16
#: Maximum number of examples of a training campaign; further ones hardly change its weights.
_MAX_EXAMPLES = 1 << 15
_MIN_VARIANCE = 1e-6  # of an entry of a vector; others are left out


class Features(NamedTuple):
    """How vectors of users become features of about unit variance.

    A state has it under ``features``.

    Attributes:
      weights: (F, p) float32; the last row, of 1, makes their mean zero.
      groups: (p,) number of the group of each feature: joint factors, or a part of a field.
    """

    weights: np.ndarray
    groups: np.ndarray

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(P, F) vectors of users -> (P, p) features."""
        return vectors @ self.weights

    def head(self, weights: np.ndarray, intercept: float) -> Array:
        """(F,) the head of weights (p,) and an intercept."""
        head = self.weights @ weights
        head[-1] += intercept
        return jnp.asarray(head, jnp.float32)


def learn_features(offline: Offline, num_factors: int) -> tuple[np.ndarray, Features]:
    """Learns the table (R, k) and the features from all users, and from who was shown what.

    Of the examples, only those of the stage's campaigns are read, and hardly their labels; see
    `exposure_coordinates`.
    """
    dataset, num_fields = offline.dataset, len(offline.dataset.schema.user)
    users = sampled_users(dataset.user_rows, _USERS_OF_COORDINATES)
    with threadpool_limits(1, "blas"):  # several threads would round otherwise
        table = coordinates_of(offline, users)
        users = sampled_users(users, _USERS_OF_FACTORS)
        vectors = vectors_of(dataset, jnp.asarray(table), users)[:, :-1]
        mean = vectors.mean(axis=0, dtype=np.float64)
        covariance = np.cov(vectors, rowvar=False, dtype=np.float64)
        used = np.flatnonzero(np.diag(covariance) > _MIN_VARIANCE)
        part, num_parts = used // _WIDTH, table.shape[1] // _WIDTH  # of each field
        field = part // num_parts
        scale = _root_mean(np.diag(covariance)[used], part)
        covariance = covariance[np.ix_(used, used)] / np.outer(scale, scale)
        read = factor_model(covariance, field, num_factors).read_out()
    spread = np.sqrt(np.trace(read @ covariance @ read.T) / max(len(read), 1))
    sizes = np.array(dataset.vocabulary.sizes[:num_fields])
    are_features = (sizes <= _MAX_OWN) | [field.vector > 0 for field in dataset.schema.user]
    entries = np.flatnonzero((part % num_parts > 0) | are_features[field])
    weights = np.zeros((len(mean) + 1, len(read) + len(entries)))
    weights[used] = np.hstack([read.T / spread, np.eye(len(used))[:, entries]]) / scale[:, None]
    weights[-1] = -mean @ weights[:-1]
    groups = np.append(np.full(len(read), num_parts * num_fields), part[entries])
    return table, Features(weights.astype(np.float32), groups)


def sampled_users(users: UserRows, count: int) -> np.ndarray:
    """(P, S) table rows of at most ``count`` users, evenly spaced among all."""
    step = max(1, -(-len(users) // count))
    return np.asarray(users[::step])


def coordinates_of(offline: Offline, users: np.ndarray) -> np.ndarray:
    """(P, S) table rows of users -> (R, k) coordinates by co-occurrence, then by exposure.

    A value of a small field has an indicator instead, and a component of a vector its entries in
    the leading components.
    """
    dataset = offline.dataset
    schema, layout, num_rows = dataset.schema, dataset.layout, dataset.num_rows
    starts, sizes = dataset.vocabulary.offsets, dataset.vocabulary.sizes
    ranges = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    longest = max(field.vector for field in schema.user)
    width = _WIDTH * max(2, min(-(-longest // _WIDTH), _MAX_PARTS))
    table = np.zeros((num_rows, width), np.float32)
    field = np.repeat(np.arange(len(sizes)), sizes)
    pairs = list(zip(schema.user, sizes, strict=False))
    no_vector = [not field.vector for field in schema.user]
    values = fractions(layout, layout.only(no_vector, users, num_rows), num_rows)
    table[:, :_WIDTH] = value_coordinates(values, field, _WIDTH)
    large = [size > _WIDTH and not field.vector for field, size in pairs]
    counts = exposure_counts(
        (fractions(layout, layout.only(large, rows, num_rows), num_rows), label)
        for rows, (label, _) in examples_of(offline)
    )
    for rows, (field, size), is_large in zip(ranges, pairs, large, strict=False):
        if field.vector:
            numbers = layout.numbers(users)[:, rows]
            table[rows] = leading_components(numbers, width)
        elif size <= _WIDTH:
            table[rows, :_WIDTH] = np.eye(size, _WIDTH)
        elif is_large:
            each = [csr_matrix(of[:, rows]) for of in counts]
            table[rows, _WIDTH : 2 * _WIDTH] = exposure_coordinates(each, _WIDTH)
    return table


def examples_of(
    offline: Offline,
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray | float]]]:
    """Reads the examples of each of the stage's campaigns: rows (n, S); labels (n,) and weights."""
    dataset, stage = offline.dataset, offline.dataset.stage1
    for c in offline.campaigns.tolist():
        kept = np.arange(*stage.offsets[c : c + 2])
        if len(kept) > _MAX_EXAMPLES:
            kept = np.sort(generator(offline.seed, c).permutation(kept)[:_MAX_EXAMPLES])
        times = None if stage.time is None else stage.time[kept]
        weight = 1.0 if stage.weight is None else stage.weight[kept]
        rows = dataset.user_rows.of_examples(stage.user[kept], c, times)
        yield rows, (stage.label[kept], weight)


def vectors_of(dataset: Dataset, table: Any, users: UserRows) -> np.ndarray:
    """(P, S) table rows of users -> (P, F) the factors of the network."""
    layout = dataset.layout
    vectors = partial(_compiled_vectors(layout), table)
    return over_users(vectors, users, layout.num_slots, len(table))


@lru_cache(PROGRAMS_KEPT)
def _compiled_vectors(layout: Layout) -> Callable[..., Array]:
    @jit
    def vectors(table: Array, users: Array) -> Array:
        return LinearHead().offset_and_factors({}, layout.users(table, users))[1]

    return vectors


def _root_mean(variance: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The root of the mean variance of each entry's part."""
    number = np.unique(part, return_inverse=True)[1]
    return np.sqrt(np.bincount(number, variance) / np.bincount(number))[number]
