"""Values of users as sparse matrices, for linear models.

Axes: P users, S slots of a user, R rows of the table.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from metaheac_jax.table.layout import Layout


def value_counts(ids: np.ndarray, num_rows: int) -> csr_matrix:
    """(P, S) table rows of users -> (P, R) how often each row occurs among a user's values."""
    user, slot = np.nonzero(ids < num_rows)
    shape = (len(ids), num_rows)
    return csr_matrix((np.ones(len(user), np.float32), (user, ids[user, slot])), shape)


def full_lists(layout: Layout, ids: np.ndarray, num_rows: int) -> tuple[csr_matrix, np.ndarray]:
    """How often each row would occur in the lists of users if all lists were full.

    `pooling` averages over a field's values; this is proportional to its fractions.

    Args:
      layout: layout of the ids.
      ids: (P, S) table rows of users.
      num_rows: R.

    Returns:
      (P, R): each row's fraction of its field's values, times the field's number of slots.
      (R,): that number of slots; 1 for rows that no user has.
    """
    present, slots = ids < num_rows, np.array(layout.user_slots)
    counts = np.add.reduceat(present, np.cumsum(slots) - slots, axis=1, dtype=np.int32)
    user, slot = np.nonzero(present)
    row, field = ids[user, slot], np.repeat(np.arange(len(slots)), slots)[slot]
    matrix = csr_matrix((slots[field] / counts[user, field], (user, row)), (len(ids), num_rows))
    num_slots = np.ones(num_rows)
    num_slots[row] = slots[field]
    return matrix, num_slots
