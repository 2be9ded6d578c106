"""Table rows of users, computed for those that are read.

    history, vectors and stored rows -> rows in the table of a model -> with list lengths

Axes: U users, S slots of a user, V slots of vectors, n users that are read, R table rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from metaheac_jax.data.history import History
from metaheac_jax.data.list_lengths import Lengths


@dataclass(frozen=True, eq=False)
class UserView:
    """(U, S) table rows of users, of which those that are read are computed.

    The first slots have the numbers of vectors, see `table.layout`: of the history, then others.

    Attributes:
      stored: (U, S') table rows, an array or a memory map.
      numbers: (U, V) float32 numbers of vectors; None if there are none.
      lookup: (R' + 1,) int32 maps R' stored rows and their pad id; None if they are as stored.
      history: adds histories; None if a model reads none.
      lengths: adds the lengths of lists; None if no method has asked for them.
    """

    stored: np.ndarray
    numbers: np.ndarray | None = None
    lookup: np.ndarray | None = None
    history: History | None = None
    lengths: Lengths | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(U, S)."""
        added = 0 if self.lengths is None else len(self.lengths.many)
        added += 0 if self.numbers is None else self.numbers.shape[1]
        added += 0 if self.history is None else len(self.history.summary.center)
        return len(self.stored), self.stored.shape[1] + added

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, users: Any) -> np.ndarray:
        """(n, S) rows of users, by index array or slice."""
        return self.of_examples(users, -1)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The rows of all users."""
        return np.array(self[:], dtype, copy=copy)

    def of_examples(
        self, users: Any, campaign: int | np.ndarray | None, times: np.ndarray | None = None
    ) -> np.ndarray:
        """Reads users who are examples of a campaign, by index; their histories lack it.

        Args:
          users: (n,) indices, or a slice.
          campaign: index of the campaign, or (n,) one for each; None is not in the data.
          times: (n,) when they were shown it; histories have what was before. None for now.

        Returns:
          (n, S).
        """
        rows = self.stored[users]
        if self.lookup is not None:
            rows = self.lookup[rows]
        parts = []
        if self.history is not None:
            indices = isinstance(users, np.ndarray) and users.dtype != bool
            numbers = users if indices else np.arange(len(self))[users]
            parts.append(self.history(numbers, -1 if campaign is None else campaign, times))
        if self.numbers is not None:
            parts.append(self.numbers[users])
        if parts:
            rows = np.concatenate([*(part.view(np.int32) for part in parts), rows], axis=1)
        return np.asarray(rows) if self.lengths is None else self.lengths(np.asarray(rows))

    @property
    def without_numbers(self) -> UserView:
        """(U, S) the same without vectors."""
        return replace(self, numbers=None, history=None)

    def mapped(self, lookup: np.ndarray) -> UserView:
        """The same in another table, to whose rows (R + 1,) int32 maps R rows and their pad id."""
        assert self.lengths is None
        return replace(self, lookup=lookup if self.lookup is None else lookup[self.lookup])


#: (P, S) table rows of users: an array, or a view of users.
UserRows: TypeAlias = np.ndarray | UserView
