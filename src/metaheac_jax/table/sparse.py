"""Values of users as sparse matrices, for linear models.

Axes: P users, S slots of a user, R rows of the table.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, hstack

from metaheac_jax.table.layout import Layout

_LEAST = 1e-30  # of a number other than 0


def value_counts(layout: Layout, ids: np.ndarray, num_rows: int) -> csr_matrix:
    """(P, S) table rows of users -> (P, R) how often each row occurs among a user's values.

    For a component of a vector, it is the number.
    """
    user, slot = np.nonzero(_present(layout, ids, num_rows))
    data = np.ones(len(user), np.float32)
    return _with_numbers(
        layout, ids, csr_matrix((data, (user, ids[user, slot])), (len(ids), num_rows))
    )


def full_lists(layout: Layout, ids: np.ndarray, num_rows: int) -> tuple[csr_matrix, np.ndarray]:
    """How often each row would occur in the lists of users if all lists were full.

    `pooling` averages over a field's values; this is proportional to its fractions.

    Args:
      layout: layout of the ids.
      ids: (P, S) table rows of users.
      num_rows: R.

    Returns:
      (P, R): each row's fraction of its field's values, times the field's number of slots; of a
        component of a vector, the number.
      (R,): that number of slots; 1 for rows that no user has, and of vectors.
    """
    present, slots = _present(layout, ids, num_rows), np.array(layout.user_slots)
    counts = np.add.reduceat(present, np.cumsum(slots) - slots, axis=1, dtype=np.int32)
    user, slot = np.nonzero(present)
    row, field = ids[user, slot], np.repeat(np.arange(len(slots)), slots)[slot]
    matrix = csr_matrix((slots[field] / counts[user, field], (user, row)), (len(ids), num_rows))
    num_slots = np.ones(num_rows)
    num_slots[row] = slots[field]
    return _with_numbers(layout, ids, matrix), num_slots


def _present(layout: Layout, ids: np.ndarray, num_rows: int) -> np.ndarray:
    """(P, S) whether each slot has a value; False for those of vectors."""
    present = ids < num_rows
    present[:, : layout.num_numbers] = False
    return present


def _with_numbers(layout: Layout, ids: np.ndarray, matrix: csr_matrix) -> csr_matrix:
    """(P, R) with the numbers of vectors in their columns, which are the first ones."""
    count = layout.num_numbers
    if not count:
        return matrix
    numbers = layout.numbers(ids)
    numbers = np.where(np.abs(numbers) < _LEAST, 0, numbers)  # the pad id is close to 0
    others = matrix[:, count:]
    return csr_matrix(hstack([csr_matrix(numbers), others], dtype=matrix.dtype))
