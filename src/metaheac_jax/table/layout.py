"""Where each field lies in the ids of an example and in the table.

A vector comes before all other fields. Each of its slots has the 32 bits of a number, where other
slots have a table row; the pad id stands for the number 0. Its field vector is the sum of the
numbers times the table rows of its components.

Axes: B examples, S slots of a user, M user fields, N campaign fields, Q users on each side of a
reference set, k embedding width, R rows of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from jax import Array

from metaheac_jax.schema import Schema, Vocabulary
from metaheac_jax.table.pooling import UserFields, fields_and_rows, summed_fields, user_fields
from metaheac_jax.table.rows import Ids, RowIndex

#: A field with at most this many values is small.
SMALL = 1024


@dataclass(frozen=True)
class Layout:
    """How the network's inputs are made from the fields of a data set.

    It does not hold R, so data sets with equal layouts share compiled programs.

    Attributes:
      user_slots: number of slots of each of the M user fields.
      small_fields: number of values of each leading user field, up to the first with more than
        `SMALL` values. The rows of these fields come first in the table, in this order, and keep
        their numbers in a step; see `pooling.user_fields`.
      num_campaign_fields: N.
      num_vectors: number of the user fields that are vectors, the first ones.
    """

    user_slots: tuple[int, ...]
    small_fields: tuple[int, ...]
    num_campaign_fields: int
    num_vectors: int = 0

    @staticmethod
    def of(schema: Schema, vocabulary: Vocabulary) -> Layout:
        """The layout for a schema and the values of its fields."""
        sizes = vocabulary.sizes[: len(schema.user)]
        return Layout(
            user_slots=tuple(field.slots for field in schema.user),
            small_fields=tuple(takewhile(lambda size: size <= SMALL, sizes)),
            num_campaign_fields=len(schema.campaign),
            num_vectors=sum(field.vector > 0 for field in schema.user),
        )

    @property
    def num_user_fields(self) -> int:
        """M."""
        return len(self.user_slots)

    @property
    def num_slots(self) -> int:
        """S."""
        return sum(self.user_slots)

    @property
    def num_numbers(self) -> int:
        """Number of slots that hold numbers, and of their table rows; both are the first ones."""
        return sum(self.user_slots[: self.num_vectors])

    def numbers(self, ids: np.ndarray) -> np.ndarray:
        """(P, S) rows of users -> (P, V) float32 numbers of their vectors."""
        return np.ascontiguousarray(ids[:, : self.num_numbers]).view(np.float32)

    def users(self, table: Array, ids: Array) -> UserFields:
        """(R, k) table and (..., S) rows -> (..., M, k) field vectors of users."""
        return user_fields(table, ids, self.user_slots, **self._kinds)

    def summed(self, table: Array, ids: Array, *, mean: bool = True) -> Array:
        """(R, k) table and (..., S) rows -> (..., k), the sum over a user's field vectors."""
        return summed_fields(table, ids, self.user_slots, self.num_vectors, mean=mean)

    def only(self, fields: Sequence[bool], ids: np.ndarray, num_rows: int) -> np.ndarray:
        """(P, S) rows, with the pad id R in the slots of fields (M,) that are not chosen."""
        return np.where(np.repeat(fields, self.user_slots), ids, num_rows)

    def inputs(self, table: Array, ids: Ids) -> tuple[UserFields, Array]:
        """The arguments of `networks.Network.apply` after the parameters.

        Args:
          table: (R, k).
          ids: rows of that table. If the layout has small fields, the table starts with their rows.

        Returns:
          `UserFields` (B, M, k) and campaign fields (N, k) or (B, N, k).
        """
        return fields_and_rows(table, ids.user, ids.campaign, self.user_slots, **self._kinds)

    def row_index(self, num_rows: int) -> RowIndex:
        """An index of a table with R rows that does not renumber the small fields' rows."""
        return RowIndex(num_rows, sum(self.small_fields), self.num_numbers)

    @property
    def _kinds(self) -> dict[str, Any]:
        return {"small_fields": self.small_fields, "num_vectors": self.num_vectors}
