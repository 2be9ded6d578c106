"""List lengths as additional user fields.

A many-valued field enters as the mean of its values' embeddings, which loses the number of values.
The lengths of a user's lists show how active the user is. This is not in the paper.

Axes: U users, S slots of a user, L many-valued fields, R rows of the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from metaheac_jax.data.dataset import ComputedRows, Dataset, UserRows
from metaheac_jax.schema import Field, Schema, Vocabulary

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
        """First slot and field of each many-valued field, (L,); one of a list of campaigns."""
        pairs = zip(self.schema.user_starts, self.schema.user, strict=True)
        own = ((start, field) for start, field in pairs if field.history in ("", field.name))
        return [(start, field) for start, field in own if field.slots > 1]

    @cached_property
    def vocabularies(self) -> list[np.ndarray]:
        """The classes of each length field; 0 is the empty list."""
        return [np.append(0, length_classes(field.slots)) for _, field in self.many]

    def users(self, users: Any) -> Any:
        """(U, S) table rows of users -> (U, S + L) rows of the table with the lengths.

        Takes NumPy or JAX arrays, also under `jax.jit`.
        """
        array, there, lengths = users.__array_namespace__(), users < self.num_rows, []
        for (start, field), row_of in zip(self.many, self._row_of_length, strict=True):
            length = there[:, start : start + field.slots].sum(axis=1)
            lengths.append(array.asarray(row_of)[length][:, None])
        return array.concatenate([self._moved(users), *lengths], axis=1).astype(np.int32)

    def rows(self, users: UserRows) -> UserRows:
        """The same for user rows; only rows that are read are computed."""
        return ComputedRows(users, self.users, users.shape[1] + len(self.many))

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


def with_lengths(dataset: Dataset) -> tuple[Dataset, Lengths]:
    """The dataset with a length field per list, and the `Lengths` that adds them to other users.

    The new ``user_rows`` are computed when they are read.
    """
    schema, sizes = dataset.schema, dataset.vocabulary.sizes
    fields = len(schema.user)
    lengths = Lengths(schema, dataset.num_rows, sum(sizes[:fields]))
    names = [field.name for field in schema.fields]
    for _, field in lengths.many:
        names.append(f"{field.name}_length")
        while names[-1] in names[:-1]:
            names[-1] += "_"
    added = tuple(map(Field, names[len(schema.fields) :]))
    values = dataset.vocabulary.values
    new = replace(
        dataset,
        schema=replace(schema, user=schema.user + added),
        vocabulary=Vocabulary((*values[:fields], *lengths.vocabularies, *values[fields:])),
        user_rows=lengths.rows(dataset.user_rows),
        campaign_rows=lengths.campaigns(dataset.campaign_rows),
    )
    return new, lengths
