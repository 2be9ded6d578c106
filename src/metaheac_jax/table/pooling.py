"""Field vectors of users, pooled from the embeddings of their values (paper section 3.1).

The vector of a field is the mean of its values' embeddings. A field with fewer values than the
embedding width is kept as an unevaluated product: fractions of the values (per user) times their
embeddings (shared by all users). The next operation is linear in the vector, so it can multiply the
few embeddings instead of the vectors of all users.

Axes: ... users (any leading axes), S slots of a user, M user fields, M' of them kept as vectors,
V values of all fields kept as products, k embedding width, R table rows, h outputs of a layer.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.backend import profile
from metaheac_jax.table.rows import rows_of

#: A field with at most this many values is pooled as fractions times embeddings.
MAX_PRODUCT_VALUES = 256


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("fractions", "embeddings", "vectors", "counts"),
    meta_fields=("num_values",),
)
@dataclass(frozen=True, eq=False)
class UserFields:
    """(..., M, k) field vectors of users, some of them as products.

    `dense` evaluates the products. The leaves have no common axis of users, so `UserFields` cannot
    be vmapped or sliced over users.

    Attributes:
      fractions: (..., V) the count of each value in the user's field over the field's total count.
      embeddings: (V, k) embeddings of these values.
      vectors: (..., M', k) field vectors of the M' other fields.
      counts: (..., M) number of values that the user has in each field.
      num_values: number of values, out of V, of each of the M fields; 0 for the M' kept as vectors.
    """

    fractions: Array
    embeddings: Array
    vectors: Array
    counts: Array
    num_values: tuple[int, ...]

    @classmethod
    def of(cls, user: UserFields | Array) -> UserFields:
        """Wraps plain (..., M, k) field vectors, without products, as of one value each."""
        if isinstance(user, UserFields):
            return user
        user = jnp.asarray(user)
        fractions, embeddings = user[..., 0, :0], jnp.zeros((0, user.shape[-1]), user.dtype)
        counts = jnp.ones_like(user[..., 0])
        return cls(fractions, embeddings, user, counts, (0,) * user.shape[-2])

    @property
    def size(self) -> int:
        """M k, the number of entries per user."""
        return len(self.num_values) * self.vectors.shape[-1]

    def with_fields(self, fields: Array) -> UserFields:
        """Appends fields of one value: (N, k), the same for all users, or (..., N, k)."""
        fields = jnp.broadcast_to(fields, (*self.vectors.shape[:-2], *fields.shape[-2:]))
        vectors = jnp.concatenate([self.vectors, fields], axis=-2)
        counts = jnp.concatenate([self.counts, jnp.ones_like(fields[..., 0])], axis=-1)
        num_values = self.num_values + (0,) * fields.shape[-2]
        return UserFields(self.fractions, self.embeddings, vectors, counts, num_values)

    def columns(self, which: slice) -> UserFields:
        """(..., M, k) -> (..., M, k'): some of the entries of each field vector."""
        embeddings, vectors = self.embeddings[:, which], self.vectors[..., which]
        return replace(self, embeddings=embeddings, vectors=vectors)

    def dense(self) -> Array:
        """(..., M, k) field vectors, with all products evaluated."""
        fields, start, other = [], 0, 0
        for count in self.num_values:
            if count:
                block = slice(start, start + count)
                fields.append(self.fractions[..., block] @ self.embeddings[block])
            else:
                fields.append(self.vectors[..., other, :])
            start, other = start + count, other + (not count)
        return jnp.stack(fields, axis=-2)

    def mean(self) -> Array:
        """(..., k) mean over the M fields."""
        total = self.vectors.sum(axis=-2)
        if any(self.num_values):
            total += self.fractions @ self.embeddings
        return total / len(self.num_values)

    def product(self, kernel: Array) -> Array:
        """(M k, h) kernel -> (..., h), the concatenated field vectors times the kernel."""
        users, width = self.vectors.shape[:-2], self.vectors.shape[-1]
        vectors = self.vectors.reshape(*users, self.vectors.shape[-2] * width)
        products = [f for f, count in enumerate(self.num_values) if count]
        if not products:
            return vectors @ kernel
        # A split, not indexing: its derivative is one concatenation.
        blocks = jnp.split(kernel.reshape(len(self.num_values), width, -1), len(self.num_values))
        # Fields are padded to equally many values: one batched product and its derivatives compile
        # faster than one product per field.
        counts = [self.num_values[f] for f in products]
        field, value = np.repeat(np.arange(len(counts)), counts), [*map(np.arange, counts)]
        index = field, np.concatenate(value)
        padded = jnp.zeros((len(counts), max(counts), width), self.embeddings.dtype)
        padded = padded.at[index].set(self.embeddings)
        total = self.fractions @ (padded @ jnp.concatenate([blocks[f] for f in products]))[index]
        if not vectors.shape[-1]:
            return total
        others = [block for block, count in zip(blocks, self.num_values, strict=True) if not count]
        return total + vectors @ jnp.concatenate(others).reshape(-1, kernel.shape[-1])


def user_fields(
    table: Array,
    ids: Array,
    slots: Sequence[int],
    *,
    small_fields: Sequence[int] = (),
    num_vectors: int = 0,
) -> UserFields:
    """`fields_and_rows` without more rows."""
    none, kinds = jnp.zeros(0, jnp.int32), {"small_fields": small_fields}
    return fields_and_rows(table, ids, none, slots, num_vectors=num_vectors, **kinds)[0]


def fields_and_rows(
    table: Array,
    ids: Array,
    more: Array,
    slots: Sequence[int],
    *,
    small_fields: Sequence[int] = (),
    num_vectors: int = 0,
) -> tuple[UserFields, Array]:
    """Pools the embeddings of users: the mean over a field's values, or zero if it has none.

    Args:
      table: (R, k).
      ids: (..., S) table rows; the pad id R is ignored.
      more: (...,) table rows that are only read, by the same gather.
      slots: number of slots of each field, summing to S.
      small_fields: number of values of each of the first fields, whose rows come first in the
        table, in this order. Up to `MAX_PRODUCT_VALUES`, a product with (..., values) fractions
        replaces gathers and, in the derivative, slower scatters with many equal ids.
      num_vectors: number of the first fields that are vectors, which are small; see `layout`. Their
        numbers are the fractions.

    Returns:
      The fields, and the (..., k) rows of ``more``.
    """
    width, small, of_slots = table.shape[-1], _ranges(small_fields), _ranges(slots)
    multiplied = [f for f, rows in enumerate(small) if len(rows) <= MAX_PRODUCT_VALUES]
    products = [f for f in multiplied if 0 < len(small[f]) < width]
    evaluated = [f for f in multiplied if f not in products]
    counts = _counts(ids < table.shape[0], of_slots, table.dtype)
    counts = jnp.concatenate(
        [jnp.ones_like(counts[..., :num_vectors]), counts[..., num_vectors:]], axis=-1
    )
    gathered = [f for f in range(len(slots)) if f not in multiplied]
    # Adjacent fields with equally many slots are averaged in one operation, which is faster.
    groups = [
        list(group) for _, group in groupby(gathered, lambda f: (slots[f], bisect(multiplied, f)))
    ]
    by_slot, lists = jnp.moveaxis(ids, -1, 0), list[Array]()
    for group in groups:
        of_group = by_slot[of_slots[group[0]].start : of_slots[group[-1]].stop]
        lists.append(of_group.reshape(len(group), slots[group[0]], *ids.shape[:-1]))
    by_slots = profile().gathers_by_slot
    means, (embeddings, rows) = (_means_by_slot if by_slots else _means_by_list)(
        table,
        lists,
        [counts[..., group[0] : group[-1] + 1] for group in groups],
        (jnp.array([row for f in (*products, *evaluated) for row in small[f]], jnp.int32), more),
    )
    vectors = {group[0]: mean for group, mean in zip(groups, means, strict=True)}
    of_values = [f for f in (*products, *evaluated) if f >= num_vectors]
    fields = [(of_slots[f], small[f]) for f in of_values]
    if profile().scatters_numbers:
        fractions = _fractions(ids, fields, table.dtype)
    else:
        fractions = _compared(ids, fields, counts[..., of_values])
    if num_vectors:
        numbers = numbers_in(ids[..., : small[num_vectors - 1].stop])
        ends = [small[f].stop for f in range(num_vectors - 1)]
        parts = dict(enumerate(jnp.split(numbers, ends, axis=-1)))
        ends = np.cumsum([len(small[f]) for f in of_values])[:-1].tolist()
        parts |= zip(of_values, jnp.split(fractions, ends, axis=-1), strict=False)
        each = [parts[f] for f in (*products, *evaluated)]
        fractions = jnp.concatenate(each, axis=-1).astype(table.dtype)
    ends = np.cumsum([sum(len(small[f]) for f in products), *(len(small[f]) for f in evaluated)])
    product_fractions, *others = jnp.split(fractions, ends[:-1].tolist(), axis=-1)
    product_embeddings, *blocks = jnp.split(embeddings, ends[:-1].tolist())
    for f, share, block in zip(evaluated, others, blocks, strict=True):
        vectors[f] = (share @ block)[..., None, :]
    empty = jnp.zeros((*ids.shape[:-1], 0, width), table.dtype)  # if all fields are products
    user = UserFields(
        product_fractions,
        product_embeddings,
        jnp.concatenate([*(vectors[f] for f in sorted(vectors)), empty], axis=-2),
        counts,
        tuple(len(small[f]) if f in products else 0 for f in range(len(slots))),
    )
    return user, rows


def numbers_in(ids: Array) -> Array:
    """(..., n) slots of vectors -> (..., n) float32 numbers."""
    return jax.lax.bitcast_convert_type(ids, jnp.float32)


def summed_fields(
    table: Array, ids: Array, slots: Sequence[int], num_vectors: int = 0, *, mean: bool = True
) -> Array:
    """(..., k) the sum over the M fields of the vectors that `user_fields` makes.

    It adds up one slot after the other and makes no vector per field, so it suits wide tables.
    Arguments are as in `user_fields`; without ``mean``, all values are added.
    """
    field = np.repeat(np.arange(len(slots)), slots)
    present = (ids < table.shape[0]).astype(table.dtype)
    counts = present @ np.equal.outer(field, field).astype(table.dtype)
    shares = present / jnp.maximum(counts, 1) if mean else present

    def add(slot: Array, total: Array) -> Array:
        rows = table.at[ids[..., slot]].get(mode="clip")  # the share of the pad id is 0
        return total + rows * shares[..., slot, None]

    first = sum(slots[:num_vectors])
    start = jnp.zeros((*ids.shape[:-1], table.shape[-1]), table.dtype)
    if first:
        start += numbers_in(ids[..., :first]).astype(table.dtype) @ table[:first]
    return jax.lax.fori_loop(first, ids.shape[-1], add, start, unroll=8)


def _counts(present: Array, of_slots: Sequence[range], dtype: jnp.dtype) -> Array:
    """(..., S) whether a slot has a value -> (..., M) number of values of each field."""
    field = np.repeat(np.arange(len(of_slots)), [len(slots) for slots in of_slots])
    return present.astype(dtype) @ np.equal.outer(field, np.arange(len(of_slots))).astype(dtype)


def _ranges(lengths: Sequence[int]) -> list[range]:
    """Adjacent ranges of these lengths, starting at 0."""
    ends = np.cumsum(lengths, dtype=int).tolist()
    return [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _fractions(ids: Array, fields: Sequence[tuple[range, range]], dtype: jnp.dtype) -> Array:
    """(..., values of these fields): the count of each value over the field's total count.

    One scatter for all fields compiles faster than one per field.

    Args:
      ids: (..., S) table rows.
      fields: slots and table rows of each field.
      dtype: data type of the fractions.
    """
    values = np.array([len(rows) for _, rows in fields], int)
    columns = values.sum()
    # For each slot: its index, its field, and the first row and first column of that field.
    slot = np.array([index for slots, _ in fields for index in slots], int)
    field = np.repeat(np.arange(len(fields)), [len(slots) for slots, _ in fields])
    row = np.array([rows.start for _, rows in fields], int)[field]
    column = (np.cumsum(values) - values)[field]

    value = ids.reshape(-1, ids.shape[-1])[:, slot] - row
    present = (value >= 0) & (value < values[field])  # negative indices would wrap around
    total = present.astype(dtype) @ np.equal.outer(field, field).astype(dtype)
    target = jnp.arange(value.shape[0])[:, None], jnp.where(present, value + column, columns)
    fractions = jnp.zeros((value.shape[0], columns), dtype)
    fractions = fractions.at[target].add(1 / jnp.maximum(total, 1), mode="drop")
    return fractions.reshape(*ids.shape[:-1], columns)


def _compared(ids: Array, fields: Sequence[tuple[range, range]], counts: Array) -> Array:
    """`_fractions` for an accelerator, which scatters single numbers slowly.

    Args:
      ids: (..., S) table rows.
      fields: slots and table rows of each field.
      counts: (..., fields) number of values.
    """
    columns = [counts[..., :0]]
    for number, (slots, rows) in enumerate(fields):
        found = (ids[..., slot, None] == np.array(rows) for slot in slots)
        total: Any = sum(match.astype(counts.dtype) for match in found)
        columns.append(_mean(total, counts[..., number], len(slots)))
    # Without the barrier a TPU would compare once more for each product with the fractions.
    return jax.lax.optimization_barrier(jnp.concatenate(columns, axis=-1))


def _mean(total: Array, counts: Array, num_slots: int) -> Array:
    """(..., k) sum over slots, (...,) number of values in them -> (..., k)."""
    return total if num_slots == 1 else total * (1 / jnp.maximum(counts, 1))[..., None]


def _means_by_list(
    table: Array, lists: list[Array], counts: list[Array], more: tuple[Array, ...]
) -> tuple[list[Array], list[Array]]:
    """Means of the rows of lists, and more rows.

    A list has a gather of its own, since its rows are not split off again; a sum over a leading
    axis is the fastest.

    Args:
      table: (R, k).
      lists: (fields, slots, ...) table rows of each group of fields.
      counts: (..., fields) number of values, for each group.
      more: arrays (...,) of table rows.

    Returns:
      (..., fields, k) means over slots of each group, and (..., k) rows for each array of ``more``.
    """
    rows = iter(_rows_of_all(table, *(ids for ids in lists if ids.shape[1] == 1), *more))
    each = [next(rows) if ids.shape[1] == 1 else rows_of(table, ids) for ids in lists]
    sums = [jnp.moveaxis(of_group.sum(axis=1), 0, -2) for of_group in each]
    return list(map(_mean, sums, counts, [ids.shape[1] for ids in lists])), list(rows)


def _rows_of_all(table: Array, *ids: Array) -> list[Array]:
    """(R, k) table and arrays (...,) of table rows -> (..., k) each, by one gather."""
    rows = rows_of(table, jnp.concatenate([array.reshape(-1) for array in ids]))
    parts = jnp.split(rows, np.cumsum([array.size for array in ids])[:-1].tolist())
    pairs = zip(ids, parts, strict=True)
    return [part.reshape(*array.shape, table.shape[-1]) for array, part in pairs]


@jax.custom_jvp
def _means_by_slot(
    table: Array, lists: list[Array], counts: list[Array], more: tuple[Array, ...]
) -> tuple[list[Array], list[Array]]:
    """`_means_by_list` for a TPU.

    Without derivatives each slot has a gather, whose small array stays on the chip. The pad id
    reads the last row, which is subtracted from the sum; a TPU takes longer to mask it.
    """

    def mean(slots: Array, count: Array) -> Array:
        clipped: Any = {"mode": "clip", "wrap_negative_indices": False}
        total = sum(table.at[slot].get(**clipped) for slot in slots)
        return _mean(total - (len(slots) - count)[..., None] * table[-1], count, len(slots))

    means = [
        jnp.stack(list(map(mean, ids, jnp.moveaxis(count, -1, 0))), axis=-2)
        for ids, count in zip(lists, counts, strict=True)
    ]
    return means, [rows_of(table, rows) for rows in more]


@_means_by_slot.defjvp
def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
    means = lambda table: _means_by_list(table, *primals[1:])  # noqa: E731
    return means(primals[0]), means(tangents[0])
