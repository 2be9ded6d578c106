"""Coordinates of values: which occur with the same others, learned from users without labels.

This is correspondence analysis of the matrix of users and values (Greenacre 2007, "Correspondence
Analysis in Practice"): the right singular vectors of D_u^-1/2 N D_v^-1/2, divided by the root of a
value's mass. Values that occur in the same users have similar coordinates. Those of the campaigns
in histories also show who converts in them: there, N has what is left of a conversion, 1 or 0, once
the campaign's rate is subtracted.

Axes: P users, S slots of a user, R rows of the table, k coordinates, H campaigns in histories.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from metaheac_jax.data.views import UserRows
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.sparse import full_lists

_SMOOTHING = 50.0  # users added to the mass of each value, so that rare values are near the origin
_MORE, _ROUNDS = 12, 5  # further vectors, and rounds, of the randomised method


def sampled_users(users: UserRows, count: int) -> np.ndarray:
    """(P, S) table rows of at most ``count`` users, evenly spaced among all."""
    step = max(1, -(-len(users) // count))
    return np.asarray(users[::step])


def value_coordinates(layout: Layout, users: np.ndarray, num_rows: int, width: int) -> np.ndarray:
    """(R, k) float32 coordinates of values; zero for values that no user has.

    The singular vectors come from a randomised method (Halko, Martinsson and Tropp 2011) with a
    fixed random start, in descending order of singular values. The first, which is constant, is
    left out.

    Args:
      layout: layout of the ids.
      users: (P, S) table rows.
      num_rows: R.
      width: k, the number of coordinates.
    """
    matrix, num_slots = full_lists(layout, users, num_rows)
    matrix.data *= (1 / num_slots)[matrix.indices]  # in place, since it is large
    matrix = matrix.astype(np.float32)
    mass = np.asarray(matrix.sum(axis=0)).ravel()
    scale = np.where(mass > 0, 1 / np.sqrt(mass + _SMOOTHING), 0).astype(np.float32)
    size = np.asarray(matrix.sum(axis=1)).ravel()  # number of fields that a user has
    of_user = (1 / np.sqrt(np.maximum(size, 1))).astype(np.float32)
    matrix.data *= np.repeat(of_user, np.diff(matrix.indptr))
    matrix.data *= scale[matrix.indices]
    vectors = _singular_vectors(matrix, width + 1)[:, 1:]
    return scale[:, None] * vectors * np.sqrt(np.float32(len(users)))


def campaign_coordinates(converts: csr_matrix, others: csr_matrix, width: int) -> np.ndarray:
    """(2, H, k) float32 coordinates of campaigns in the lists of those with a conversion, and not.

    Args:
      converts, others: (P, H) 1 where a user converted in a campaign, or was shown it and did not.
      width: k.
    """
    shown = converts + others
    count = np.asarray(shown.sum(axis=0)).ravel()
    rate = np.asarray(converts.sum(axis=0)).ravel() / np.maximum(count, 1)
    rest = csr_matrix(converts - shown.multiply(rate[None]), dtype=np.float32)
    scale = np.where(count > 0, 1 / np.sqrt(count + _SMOOTHING), 0)
    of_user = 1 / np.sqrt(np.maximum(np.asarray(shown.sum(axis=1)).ravel(), 1))
    rest.data *= np.repeat(of_user, np.diff(rest.indptr)) * scale[rest.indices]
    vectors = np.sqrt(shown.shape[0]) * scale[:, None] * _singular_vectors(rest, width)
    return np.stack([(1 - rate)[:, None] * vectors, -rate[:, None] * vectors]).astype(np.float32)


def _singular_vectors(matrix: csr_matrix, count: int) -> np.ndarray:
    """(P, R) -> (R, count) right singular vectors; zeros after the last one."""
    transposed, shape = csr_matrix(matrix.T), (matrix.shape[1], count + _MORE)
    start = np.random.Generator(np.random.Philox(0)).standard_normal(shape)
    basis = start.astype(np.float32)
    with threadpool_limits(1, "blas"):  # several threads would round otherwise
        for _ in range(_ROUNDS):
            basis, _ = np.linalg.qr(transposed @ (matrix @ basis))
        image = matrix @ basis
        _, rotation = np.linalg.eigh((image.T @ image).astype(np.float64))
        vectors = basis @ rotation[:, ::-1].astype(np.float32)
    return np.pad(vectors, ((0, 0), (0, max(0, count - vectors.shape[1]))))[:, :count]
