"""The values of users as numbers, for a linear model of what `pooling` makes of them.

Axes: P users, S slots of a user, R rows of the table.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from metaheac_jax.table.layout import Layout


def full_lists(layout: Layout, ids: np.ndarray, num_rows: int) -> tuple[csr_matrix, np.ndarray]:
    """How often each row would be in the lists of users, if all lists were full.

    Args:
      layout: of the ids.
      ids: (P, S) table rows of users.
      num_rows: R.

    Returns:
      (P, R): the fraction that a row is of its field's values, times the field's number of slots.
      (R,): that number, and 1 for rows that no user has.
    """
    present, slots = ids < num_rows, layout.user_slots
    starts, of_field = np.cumsum([0, *slots[:-1]]), np.repeat(slots, slots)
    counts = np.add.reduceat(present, starts, axis=1, dtype=np.float64)
    times = of_field * present / np.maximum(np.repeat(counts, slots, axis=1), 1)
    num_slots = np.ones(num_rows + 1)
    num_slots[ids] = of_field
    user, slot = np.nonzero(present)
    matrix = csr_matrix((times[user, slot], (user, ids[user, slot])), (len(ids), num_rows))
    return matrix, num_slots[:-1]
