"""List lengths as additional user fields.

A many-valued field enters as the mean of its values' embeddings, which loses the number of values.
The lengths of a user's lists show how active the user is. This is not in the paper.

Axes: U users, S slots of a user, L many-valued fields, R rows of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from metaheac_jax.schema import Field, Schema

_CLASSES = 12  # maximum number of length classes, besides the empty list


def length_classes(slots: int) -> np.ndarray:
    """The shortest length in each class, spaced geometrically from 1 to ``slots``."""
    return np.unique(np.geomspace(1, slots, _CLASSES).round().astype(int))


@dataclass(frozen=True)
class Lengths:
    """Adds list lengths to the users of a schema.

    Attributes:
      schema: the schema without the lengths.
      num_rows: R, the number of rows of the table without the lengths.
      num_user_rows: number of rows of the user fields, which come first in that table.
    """

    schema: Schema
    num_rows: int
    num_user_rows: int

    @cached_property
    def many(self) -> list[tuple[int, Field]]:
        """First slot and field of each many-valued field, (L,)."""
        pairs = zip(self.schema.user_starts, self.schema.user, strict=True)
        return [(start, field) for start, field in pairs if field.slots > 1 and not field.vector]

    @cached_property
    def vocabularies(self) -> list[np.ndarray]:
        """The classes of each length field; 0 is the empty list."""
        return [np.append(0, length_classes(field.slots)) for _, field in self.many]

    def __call__(self, users: Any) -> Any:
        """(U, S) table rows of users -> (U, S + L) rows of the table with the lengths.

        Takes NumPy or JAX arrays, also under `jax.jit`.
        """
        array, there, lengths = users.__array_namespace__(), users < self.num_rows, []
        for (start, field), row_of in zip(self.many, self._row_of_length, strict=True):
            length = there[:, start : start + field.slots].sum(axis=1)
            lengths.append(array.asarray(row_of)[length][:, None])
        numbers, rows = users[:, : self.schema.num_numbers], users[:, self.schema.num_numbers :]
        return array.concatenate([numbers, self._moved(rows), *lengths], axis=1).astype(np.int32)

    def campaigns(self, campaigns: np.ndarray) -> np.ndarray:
        """(..., N) table rows of campaigns -> their rows in the table with the lengths."""
        return self._moved(campaigns).astype(np.int32)

    @cached_property
    def _row_of_length(self) -> list[np.ndarray]:
        """Per length field, the table row of each length, (slots + 1,)."""
        rows, offset = [], self.num_user_rows
        for (_, field), classes in zip(self.many, self.vocabularies, strict=True):
            lengths = np.arange(field.slots + 1)
            rows.append(offset + np.searchsorted(classes, lengths, side="right") - 1)
            offset += len(classes)
        return rows

    def _moved(self, ids: Any) -> Any:
        added = sum(map(len, self.vocabularies))
        return ids.__array_namespace__().where(ids < self.num_user_rows, ids, ids + added)
