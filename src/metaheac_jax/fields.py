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

#: Fields of up to so many values are pooled as a product with their counts.
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
        if not any(self.values):
            return self.vectors.reshape(*users, -1) @ kernel
        blocks = kernel.reshape(len(self.values), width, -1)
        others = blocks[np.flatnonzero(np.equal(self.values, 0))].reshape(-1, kernel.shape[-1])
        few = np.flatnonzero(self.values)
        ends = np.cumsum([self.values[field] for field in few])
        embeddings = jnp.split(self.embeddings, ends[:-1].tolist())
        products = [own @ blocks[field] for field, own in zip(few, embeddings, strict=True)]
        total = self.shares @ jnp.concatenate(products)
        return total + self.vectors.reshape(*users, -1) @ others if len(others) else total


def user_fields(
    table: Array, ids: Array, slots: Sequence[int], *, small_fields: Sequence[int] = ()
) -> UserFields:
    """The fields of users: a field is the mean of its values' embeddings, zero if it has none.

    Args:
      table: (R, k).
      ids: (..., S) rows; R, the pad id, counts for nothing.
      slots: slots of each field, summing to S.
      small_fields: values of each of the first fields, if their rows come first in the table, in
        that order. Of a field with a few values, (..., values) counts times (values, k) rows is
        several times faster than gathers and, in the derivative, scatters with many ids alike.
    """
    # Split rather than sliced: the derivative of a split is one concatenation.
    *blocks, rest = jnp.split(table, np.cumsum(small_fields).tolist()) if small_fields else [table]
    start, first = 0, 0
    shares, embeddings, vectors, values = [], [], [], []
    for width, block in zip(slots, blocks, strict=False):
        own, count, few = ids[..., start : start + width] - first, len(block), 0
        if count > COUNTED:
            vectors.append(_means(block, own[..., None, :]))
        else:
            share = _shares(own, count, table.dtype)
            if 0 < count < table.shape[-1]:
                few = count
                shares.append(share)
                embeddings.append(block)
            else:
                vectors.append((share @ block)[..., None, :])
        values.append(few)
        start, first = start + width, first + count
    # Neighbours of equal width are averaged together: few, long operations are faster.
    for width, group in groupby(slots[len(blocks) :]):
        count = len(list(group))
        own = ids[..., start : start + count * width] - first
        vectors.append(_means(rest, own.reshape(*ids.shape[:-1], count, width)))
        values += [0] * count
        start += count * width
    none = jnp.zeros(
        (*ids.shape[:-1], 0, table.shape[-1]), table.dtype
    )  # where no field is of a kind
    return UserFields(
        jnp.concatenate([*shares, none[..., 0]], axis=-1),
        jnp.concatenate([*embeddings, table[:0]]),
        jnp.concatenate([*vectors, none], axis=-2),
        tuple(values),
    )


def field_vectors(
    table: Array, ids: Array, slots: Sequence[int], *, small_fields: Sequence[int] = ()
) -> Array:
    """The same as plain vectors, (..., M, k)."""
    return user_fields(table, ids, slots, small_fields=small_fields).dense()


def _shares(ids: Array, values: int, dtype: jnp.dtype) -> Array:
    """(..., values) share of each value among the ids (..., width) that are values."""
    counts = _counts(ids, values).astype(dtype)
    if ids.shape[-1] == 1:
        return counts
    return counts / jnp.maximum(counts.sum(axis=-1, keepdims=True), 1)


def _counts(ids: Array, values: int) -> Array:
    """(..., values) how often each value is among the ids (..., width); others are not counted."""
    if ids.shape[-1] == 1:
        return jax.nn.one_hot(ids[..., 0], values, dtype=jnp.int32)
    # Up to eighteen times faster on a CPU than the sum of one-hot vectors.
    flat = ids.reshape(-1, ids.shape[-1])
    place = jnp.where(flat < 0, values, flat)  # a negative id would count from the end
    counts = jnp.zeros((len(flat), values), jnp.int32)
    counts = counts.at[jnp.arange(len(flat))[:, None], place].add(1, mode="drop")
    return counts.reshape(*ids.shape[:-1], values)


def _means(table: Array, ids: Array) -> Array:
    """(..., k) means of the rows at ids (..., width); those beyond the table count for nothing."""
    total = table.at[ids].get(mode="fill", fill_value=0).sum(axis=-2)
    if ids.shape[-1] == 1:
        return total
    present = (ids < len(table)).sum(axis=-1, keepdims=True)
    return total * (1 / jnp.maximum(present, 1))
