"""The fields of users: what the embeddings of their values are pooled to (paper section 3.1).

A field's vector is the mean of its values' embeddings. Where a field has only a few values, fewer
than an embedding is wide, the vector is left as a product that has not been carried out: shares of
the values (a short row a user) times their embeddings (a few rows for all users). Whatever comes
next is linear in it, and multiplies the few rows instead of all users' vectors. Half of the Tencent
data's fields are such, and they would be half of the arithmetic of the experts' first layer.

Axes: ... users (any leading axes), S slots of a user, M user fields, V values of all fields with
few values together, k embedding width, R rows of the table, h outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

#: Fields of up to so many values are pooled as a product with their shares.
COUNTED = 256


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("shares", "embeddings", "vectors"),
    meta_fields=("values",),
)
@dataclass(frozen=True, eq=False)
class UserFields:
    """(..., M, k) field vectors of users, some of them as products; see the module.

    `dense` makes a plain array of it. Its leaves have no common axis of users, so it is neither
    mapped nor sliced over them.

    Attributes:
      shares: (..., V) how much of a user's field each value is: its count over that of all.
      embeddings: (V, k) of these values.
      vectors: (..., M', k) of the M' other fields.
      values: of each of the M fields, how many of the V are its; 0 for one of the M' others.
    """

    shares: Array
    embeddings: Array
    vectors: Array
    values: tuple[int, ...]

    @classmethod
    def of(cls, user: UserFields | Array) -> UserFields:
        """Plain (..., M, k) field vectors as they are: no field as a product."""
        if isinstance(user, UserFields):
            return user
        user = jnp.asarray(user)
        shares, embeddings = user[..., 0, :0], jnp.zeros((0, user.shape[-1]), user.dtype)
        return cls(shares, embeddings, user, (0,) * user.shape[-2])

    @property
    def size(self) -> int:
        """M k, the numbers of a user."""
        return len(self.values) * self.vectors.shape[-1]

    def beside(self, fields: Array) -> UserFields:
        """With further fields behind, (N, k) of all users alike or (..., N, k)."""
        fields = jnp.broadcast_to(fields, (*self.vectors.shape[:-2], *fields.shape[-2:]))
        vectors = jnp.concatenate([self.vectors, fields], axis=-2)
        values = self.values + (0,) * fields.shape[-2]
        return UserFields(self.shares, self.embeddings, vectors, values)

    def dense(self) -> Array:
        """(..., M, k), all products carried out."""
        fields, first, other = [], 0, 0
        for few in self.values:
            if few:
                own = slice(first, first + few)
                fields.append(self.shares[..., own] @ self.embeddings[own])
            else:
                fields.append(self.vectors[..., other, :])
            first, other = first + few, other + (not few)
        return jnp.stack(fields, axis=-2)

    def sum_over_users(self) -> Array:
        """(..., B, M, k) -> (..., M, k)."""
        shares, vectors = self.shares.sum(axis=-2), self.vectors.sum(axis=-3)
        return UserFields(shares, self.embeddings, vectors, self.values).dense()

    def mean(self) -> Array:
        """(..., k) mean over the M fields."""
        total = self.vectors.sum(axis=-2)
        if any(self.values):
            total += self.shares @ self.embeddings
        return total / len(self.values)

    def product(self, kernel: Array) -> Array:
        """(M k, h) -> (..., h): all of a user's numbers, concatenated, times the kernel."""
        users, width = self.vectors.shape[:-2], self.vectors.shape[-1]
        vectors = self.vectors.reshape(*users, self.vectors.shape[-2] * width)
        few = [f for f, values in enumerate(self.values) if values]
        if not few:
            return vectors @ kernel
        # Split rather than indexed: the derivative of a split is one concatenation.
        blocks = jnp.split(kernel.reshape(len(self.values), width, -1), len(self.values))
        # The fields padded to as many values: one batched product, and its derivatives, compile
        # sooner than a product a field, and these rows are few.
        counts = [self.values[f] for f in few]
        own = np.repeat(np.arange(len(few)), counts), np.concatenate([*map(np.arange, counts)])
        padded = jnp.zeros((len(few), max(counts), width), self.embeddings.dtype)
        padded = padded.at[own].set(self.embeddings)
        total = self.shares @ (padded @ jnp.concatenate([blocks[f] for f in few]))[own]
        if not vectors.shape[-1]:
            return total
        others = [block for block, values in zip(blocks, self.values, strict=True) if not values]
        return total + vectors @ jnp.concatenate(others).reshape(-1, kernel.shape[-1])


def user_fields(
    table: Array, ids: Array, slots: Sequence[int], *, small_fields: Sequence[int] = ()
) -> UserFields:
    """The fields of users: a field is the mean of its values' embeddings, zero if it has none.

    Args:
      table: (R, k).
      ids: (..., S) rows; R, the pad id, counts for nothing.
      slots: slots of each field, summing to S.
      small_fields: values of each of the first fields, if their rows come first in the table, in
        that order. Of a field with a few values, (..., values) shares times (values, k) rows is
        several times faster than gathers and, in the derivative, scatters with many ids alike.
    """
    width, small = table.shape[-1], _ranges(small_fields)
    of, pooled = _ranges(slots), [f for f, own in enumerate(small) if len(own) <= COUNTED]
    few = [f for f in pooled if 0 < len(small[f]) < width]
    counted = [f for f in pooled if f not in few]
    shares = _shares(ids, [(of[f], small[f]) for f in (*few, *counted)], table.dtype)
    # Split rather than sliced: the derivative of a split is one concatenation.
    *blocks, rest = jnp.split(table, [own.stop for own in small])
    ends = np.cumsum([sum(len(small[f]) for f in few), *(len(small[f]) for f in counted)])
    few_shares, *parts = jnp.split(shares, ends[:-1].tolist(), axis=-1)
    vectors = []
    for f, block in enumerate(blocks):
        if f in counted:
            vectors.append((parts[counted.index(f)] @ block)[..., None, :])
        elif f not in few:
            own = ids[..., None, of[f].start : of[f].stop]
            vectors.append(_means(block, own - small[f].start))
    # Neighbours of equal width are averaged together: few, long operations are faster.
    first, start = sum(small_fields), sum(slots[: len(blocks)])
    for each, group in groupby(slots[len(blocks) :]):
        count = len(list(group))
        own = ids[..., start : start + count * each] - first
        vectors.append(_means(rest, own.reshape(*ids.shape[:-1], count, each)))
        start += count * each
    none = jnp.zeros((*ids.shape[:-1], 0, width), table.dtype)  # where all fields are few
    return UserFields(
        few_shares,
        jnp.concatenate([*(blocks[f] for f in few), table[:0]]),
        jnp.concatenate([*vectors, none], axis=-2),
        tuple(len(small[f]) if f in few else 0 for f in range(len(slots))),
    )


def field_vectors(
    table: Array, ids: Array, slots: Sequence[int], *, small_fields: Sequence[int] = ()
) -> Array:
    """The same as plain vectors, (..., M, k)."""
    return user_fields(table, ids, slots, small_fields=small_fields).dense()


def _ranges(lengths: Sequence[int]) -> list[range]:
    """Neighbouring ranges of these lengths, the first from 0."""
    ends = np.cumsum(lengths, dtype=int).tolist()
    return [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _shares(ids: Array, fields: Sequence[tuple[range, range]], dtype: jnp.dtype) -> Array:
    """(..., values of these fields) how much of a user's field each value is.

    One scatter for all fields: a good deal less to compile than one a field.

    Args:
      ids: (..., S).
      fields: slots of each, and rows.
      dtype: of the shares.
    """
    values = np.array([len(rows) for _, rows in fields], int)
    columns = values.sum()
    # Of each slot: its number, its field, and the row and the column where that field begins.
    slot = np.array([number for slots, _ in fields for number in slots], int)
    field = np.repeat(np.arange(len(fields)), [len(slots) for slots, _ in fields])
    row = np.array([rows.start for _, rows in fields], int)[field]
    column = (np.cumsum(values) - values)[field]

    own = ids.reshape(-1, ids.shape[-1])[:, slot] - row
    present = (own >= 0) & (own < values[field])  # a negative id would count from the end
    of_field = present.astype(dtype) @ np.equal.outer(field, field).astype(dtype)
    place = jnp.arange(len(own))[:, None], jnp.where(present, own + column, columns)
    shares = jnp.zeros((len(own), columns), dtype)
    shares = shares.at[place].add(1 / jnp.maximum(of_field, 1), mode="drop")
    return shares.reshape(*ids.shape[:-1], columns)


def _means(table: Array, ids: Array) -> Array:
    """(..., k) means of the rows at ids (..., width); those beyond the table count for nothing."""
    total = table.at[ids].get(mode="fill", fill_value=0).sum(axis=-2)
    if ids.shape[-1] == 1:
        return total
    present = (ids < len(table)).sum(axis=-1, keepdims=True)
    return total * (1 / jnp.maximum(present, 1))
