"""Cells of a column as table rows, for `metaheac prepare` and for exports alike.

Axes: P users or campaigns, n values of a column.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Vocabulary, as_texts, whole_number

#: Range of whole numbers that are looked up in an array.
_NEAR = 1 << 20


@dataclass(frozen=True)
class Encoder:
    """Turns columns of Arrow into table rows; each distinct value of a column is looked up once.

    Attributes:
      number: position of the field in the vocabulary.
      field: how cells are read.
      vocabulary: values of all fields.
      missing: as in `Schema`.
    """

    number: int
    field: Field
    vocabulary: Vocabulary
    missing: tuple[str, ...]

    @functools.cached_property
    def _known(self) -> pa.Array:
        """Texts of the values that have table rows; none for buckets."""
        texts = [] if self.field.edges else as_texts(self.vocabulary.values[self.number])
        return pa.array(texts, pa.string())

    @functools.cached_property
    def _absent(self) -> pa.Array:
        """Texts that stand for a missing value."""
        return pa.array(["", "NaN", *self.missing, *(f"{text}.0" for text in self.missing)])

    def check(self, kind: pa.DataType) -> None:
        """Refuses a column of another type."""
        right, expected = _is_value(kind), "text, numbers, dates, or true and false"
        if self.field.vector:
            right = _is_list(kind) and _is_number(kind.value_type)
            expected = f"lists of {self.field.vector} numbers"
        elif self.field.separator:
            right, expected = is_text(kind), "text with separators"
        elif self.field.slots > 1:
            right = _is_list(kind) and _is_value(_plain(kind.value_type))
            expected = "lists"
        elif self.field.edges:
            right &= not (types.is_boolean(kind) or types.is_temporal(kind))
            expected = "numbers"
        if not right:
            raise InputError(
                f"users: column {self.field.name!r} is of type {kind}, expected {expected}; cast it"
            )

    def rows(self, column: pa.Array) -> np.ndarray:
        """(P, slots) int32 table rows of the cells of P users, or the numbers of their vectors."""
        slots = self.field.slots
        if self.field.vector:
            return self._vectors(column).view(np.int32)
        if self.field.edges:
            buckets = self.field.bucket(self._numbers(column))
            return self.vocabulary.encode(self.number, buckets)[:, None]
        if slots == 1:
            found = self._values(column)
            [none] = self.vocabulary.encode_texts(self.number, [""])
            return np.where(found < 0, none, found)[:, None]
        lists = self._lists(column)
        found = self._values(lists.flatten())
        length = pc.list_value_length(lists).fill_null(0).to_numpy()
        if (found < 0).any():
            user = np.repeat(np.arange(len(length)), length)[found >= 0]
            found, length = found[found >= 0], np.bincount(user, minlength=len(length))
        if (length > slots).any():
            first = np.repeat(np.cumsum(length) - length, length)
            found = found[np.arange(len(found)) - first < slots]
        rows = np.full((len(length), slots), self.vocabulary.num_rows, np.int32)
        rows[np.arange(slots) < length[:, None]] = found
        return rows

    def unseen(self, column: pa.Array) -> tuple[float, str]:
        """The share of a category's values that are unseen, of those present, and one of them."""
        if self.field.edges or self.field.vector:
            return 0.0, ""
        values = column if self.field.slots == 1 else self._lists(column).flatten()
        rows = self._values(values)
        unseen = rows == self.vocabulary.num_rows
        if not unseen.any():
            return 0.0, ""
        return unseen.sum() / (rows >= 0).sum(), str(values[int(unseen.argmax())])

    def _vectors(self, column: pa.Array) -> np.ndarray:
        """(P, V) float32 standardised numbers of vectors; 0, the mean, for a missing one."""
        count, lists = self.field.vector, column.drop_null()
        right = pc.list_value_length(lists).to_numpy(zero_copy_only=False) == count
        cells = pc.cast(lists.filter(pa.array(right, pa.bool_())).flatten(), pa.float64())
        raw = cells.fill_null(np.nan).to_numpy(zero_copy_only=False).reshape(-1, count)
        with np.errstate(over="ignore"):
            standard = ((raw - self.field.center) / self.field.scale).astype(np.float32)
        right[right] = np.isfinite(standard).all(axis=1)
        present = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        if not right.all():
            raise InputError(
                f"users: row {present[right.argmin()] + 1}: column {self.field.name!r} has no "
                f"{count} finite numbers; repair it"
            )
        numbers = np.zeros((len(column), count), np.float32)
        numbers[present] = standard
        return numbers

    def _lists(self, column: pa.Array) -> pa.Array:
        if _is_list(column.type):
            return column
        lists = pc.split_pattern(pc.cast(column, pa.string()).fill_null(""), self.field.separator)
        return pa.ListArray.from_arrays(lists.offsets, pc.utf8_trim_whitespace(lists.values))

    def _values(self, values: pa.Array) -> np.ndarray:
        """(n,) int32 table rows of a category's values, -1 where one is missing."""
        if types.is_signed_integer(values.type) and self._whole is not None:
            first, rows = self._whole
            numbers = pc.cast(values, pa.int64()).fill_null(first).to_numpy()
            found = rows[np.clip(numbers, first, first + len(rows) - 1) - first]
            if values.null_count:
                found[values.is_null().to_numpy(zero_copy_only=False)] = -1
            return found
        texts, index = _distinct(values)
        missing = pc.is_in(texts, self._absent).to_numpy(zero_copy_only=False)
        place = pc.index_in(texts, self._known).fill_null(-1).to_numpy()
        rows = (place + self.vocabulary.offsets[self.number]).astype(np.int32)
        other = np.flatnonzero((place < 0) & ~missing)  # unseen, or spelled otherwise
        spelled = texts.take(pa.array(other)).to_pylist()
        rows[other] = self.vocabulary.encode_texts(self.number, spelled)
        rows[missing] = -1
        return rows[index]

    @functools.cached_property
    def _whole(self) -> tuple[int, np.ndarray] | None:
        """Table rows of the whole numbers from the first on; None if known ones are far apart.

        The first and the last number have the row of all unseen ones.
        """
        known = self.vocabulary.values[self.number]
        if self.field.edges or known.dtype.kind == "U":
            return None
        numbers = [*filter(None, map(whole_number, [*as_texts(known), *self.missing])), 0]
        first, last = min(numbers) - 1, max(numbers) + 1
        if last - first > _NEAR:
            return None
        near = np.arange(first, last + 1)
        missing = pc.is_in(pa.array(as_texts(near)), self._absent).to_numpy(zero_copy_only=False)
        return first, np.where(missing, -1, self.vocabulary.encode(self.number, near))

    def _numbers(self, column: pa.Array) -> np.ndarray:
        """(P,) float64 numbers, NaN for missing ones."""
        if not self.missing and (types.is_integer(column.type) or types.is_float64(column.type)):
            numbers = pc.cast(column, pa.float64(), safe=False)
            return numbers.fill_null(np.nan).to_numpy(zero_copy_only=False)
        texts, index = _distinct(column)
        present = pc.if_else(pc.is_in(texts, self._absent), pa.scalar(None, pa.string()), texts)
        try:
            numbers = pc.cast(present, pa.float64()).fill_null(np.nan)
        except pa.ArrowInvalid as error:
            raise InputError(f"users: column {self.field.name!r}: {error}; repair it") from error
        return numbers.to_numpy(zero_copy_only=False)[index]


def _distinct(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The distinct values as texts, empty for null and NaN, and the (n,) position of each value.

    Numbers are spelled as polars does, but whole ones without ``.0``.
    """
    if types.is_null(values.type):
        values = pc.cast(values, pa.string())
    coded = values if types.is_dictionary(values.type) else values.dictionary_encode()
    distinct = coded.dictionary
    texts = pc.cast(distinct, pa.string())
    if types.is_floating(distinct.type):
        distinct = pc.cast(texts, pa.float64())  # 0.1 for a short 0.1, which is not the nearest
        whole = pc.and_(pc.equal(pc.floor(distinct), distinct), pc.less(pc.abs(distinct), 1e16))
        whole = pc.and_(whole, pc.not_equal(distinct, 0))  # -0 is spelled -0
        plain = pc.cast(pc.cast(pc.if_else(whole, distinct, 0.0), pa.int64()), pa.string())
        texts = pc.if_else(pc.is_nan(distinct), "", pc.if_else(whole, plain, texts))
    texts = pa.concat_arrays([texts.fill_null(""), pa.array([""])])
    return texts, coded.indices.fill_null(len(texts) - 1).to_numpy()


def type_of(schema: pa.Schema, column: str) -> pa.DataType:
    """The type of the values in a column.

    Raises:
      InputError: there is no such column.
    """
    if column not in schema.names:
        raise InputError(f"users: no column {column!r} in {', '.join(schema.names)[:200]}; add it")
    return _plain(schema.field(column).type)


def array_of(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if types.is_dictionary(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text."""
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_value(kind: pa.DataType) -> bool:
    """Whether a type is that of single values, which have texts."""
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_float16(kind)
    return not (types.is_nested(kind) or is_bytes)
