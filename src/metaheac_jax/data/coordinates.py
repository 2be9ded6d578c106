"""Coordinates of values: which occur with the same others, learned from users without labels.

This is correspondence analysis of the matrix of users and values (Greenacre 2007, "Correspondence
Analysis in Practice"): the right singular vectors of D_u^-1/2 N D_v^-1/2, divided by the root of a
value's mass. Values that occur in the same users have similar coordinates.

Axes: P users, S slots of a user, R rows of the table, k coordinates.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from metaheac_jax.data.dataset import UserRows
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
    transposed = csr_matrix(matrix.T)
    start = np.random.Generator(np.random.Philox(0)).standard_normal((num_rows, width + 1 + _MORE))
    basis = start.astype(np.float32)
    with threadpool_limits(1, "blas"):  # several threads would round otherwise
        for _ in range(_ROUNDS):
            basis, _ = np.linalg.qr(transposed @ (matrix @ basis))
        image = matrix @ basis
        _, rotation = np.linalg.eigh((image.T @ image).astype(np.float64))
        vectors = basis @ rotation[:, ::-1].astype(np.float32)
    return scale[:, None] * vectors[:, 1 : width + 1] * np.sqrt(np.float32(len(users)))
