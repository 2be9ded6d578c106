"""Checks of what is read: plain data and arrays are as declared, or one line says what is not.

A pattern of plain data, as JSON has it, is

    a type, or a tuple of types    a value of it; whole numbers have 64 bits, and text is Unicode
    a range                        a whole number in it
    [pattern]                      a list of any length; with several patterns, of these values
    {name: pattern}                an object that has these names, and possibly others
    {str: pattern}                 an object of any names, besides
"""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaheac_jax.errors import InputError

#: Whole numbers that count something.
COUNT = range(2**63)
#: Held while numpy parses headers: Python 3.11's parser fails in two threads at once.
_PARSING = threading.Lock()
_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "an object",
    bool: "a bool",
    type(None): "null",
}


def check_plain(value: Any, pattern: Any, where: str, remedy: str) -> None:
    """Refuses plain data that have another structure than a pattern.

    Raises:
      InputError: a value is missing, or is another; the message names it and begins with ``where``.
    """
    if isinstance(pattern, dict):
        right, said = isinstance(value, dict), "an object"
    elif isinstance(pattern, list):
        right = isinstance(value, list) and len(pattern) in (1, len(value))
        said = "a list" if len(pattern) == 1 else f"a list of {len(pattern)}"
    elif isinstance(pattern, range):
        right = type(value) is int and value in pattern
        said = f"a whole number from {pattern[0]} to {pattern[-1]}"
    else:
        kinds = pattern if isinstance(pattern, tuple) else (pattern,)
        right = any(_is(value, kind) for kind in kinds)
        said = " or ".join(_NAMES[kind] for kind in kinds)
    if not right:
        raise InputError(f"{where} is {value!r:.60}, expected {said}; {remedy}")
    if isinstance(pattern, dict):
        every = dict.fromkeys(value, pattern[str]) if str in pattern else {}
        for name, inner in {**every, **{k: v for k, v in pattern.items() if k is not str}}.items():
            if name not in value:
                raise InputError(f"{where}: has no {name!r}; {remedy}")
            check_plain(value[name], inner, f"{where}: {name}", remedy)
    elif isinstance(pattern, list):
        for number, item in enumerate(value):
            inner = pattern[min(number, len(pattern) - 1)]
            check_plain(item, inner, f"{where}, {number + 1}", remedy)


def _is(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str) and value == value.encode(errors="ignore").decode()
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind and (kind is not int or -(2**63) <= value < 2**63)


class Column(NamedTuple):
    """What an array must be.

    Attributes:
      dtypes: its possible dtypes: of numbers with the size, as in "i8 U". All floating-point
        numbers must be finite, and bytes and text must be Unicode.
      shape: lengths; a name is any length, the same wherever it stands, and may be in a sum.
      low, below: limits of the numbers; ``below`` may be such a name or sum.
      order: how neighbours must compare, such as ``np.less``.
    """

    dtypes: str
    shape: tuple[int | str, ...]
    low: float = -np.inf
    below: float | str = np.inf
    order: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


#: What arrays must be, by name.
Columns = Mapping[str, Column]


def check_arrays(
    arrays: Mapping[str, Any], columns: Columns, where: str, remedy: str, *, values: bool = True
) -> None:
    """Refuses arrays that are not as declared.

    Args:
      arrays: arrays by name; others than those in ``columns`` are ignored.
      columns: what each must be.
      where: what has them, for messages.
      remedy: advice, for messages.
      values: whether to read the arrays whole; otherwise only dtypes and shapes are compared.

    Raises:
      InputError: an array is missing or is another; the message names it.
    """
    sizes = dict[str, int]()
    for name, column in columns.items():
        if name not in arrays:
            raise InputError(f"{where}: has no {name}; {remedy}")
        array = arrays[name]
        kind = array.dtype.kind if array.dtype.kind in "US" else array.dtype.str[1:]
        lengths = array.shape if array.ndim == len(column.shape) else [None] * len(column.shape)
        for length, declared in zip(lengths, column.shape, strict=True):
            if isinstance(declared, str) and length is not None and " + " not in declared:
                sizes.setdefault(declared, length)
        shape = tuple(_size(size, sizes) for size in column.shape)
        if not array.dtype.isnative or kind not in column.dtypes.split() or array.shape != shape:
            told = f"{array.dtype.str} of shape {array.shape}, expected {column.dtypes} of {shape}"
            raise InputError(f"{where}: {name} is {told}; {remedy}".replace("'", ""))
        below = _size(column.below, sizes)
        if values and array.size and not _values_are_right(np.asarray(array), column, below):
            raise InputError(f"{where}: {name} has a value that is out of range; {remedy}")


def _size(declared: float | str, sizes: Mapping[str, int]) -> Any:
    """The length that a name, or a sum, stands for; itself if it is a number or unknown."""
    if not isinstance(declared, str):
        return declared
    terms = [sizes.get(term, term) for term in declared.split(" + ")]
    return sum(map(int, terms)) if all(str(term).isdecimal() for term in terms) else declared


def _values_are_right(array: np.ndarray, column: Column, below: float) -> bool:
    """Whether the values of an array that is not empty are as declared."""
    kind = array.dtype.kind
    if kind in "US" and array.dtype.itemsize == 0:
        return False
    if kind == "U":
        codes = np.ascontiguousarray(array).view(np.uint32)
        if (codes > 0x10FFFF).any() or (codes >> 11 == 0xD800 >> 11).any():  # surrogates
            return False
    elif kind == "S":
        codes = np.ascontiguousarray(array).view(np.uint8).reshape(array.size, -1)
        try:
            codes.tobytes().decode()
        except UnicodeDecodeError:
            return False
        if (codes[:, 0] >> 6 == 0b10).any():  # a character that begins in another text
            return False
    elif kind != "b":
        least, most = float(array.min()), float(array.max())
        if not (column.low <= least and most < below):  # NaN is in no range
            return False
    return column.order is None or bool(column.order(array[:-1], array[1:]).all())


def read_array(path: Path, remedy: str) -> np.ndarray:
    """Maps the array of a ``.npy`` file into memory.

    Raises:
      InputError: the file has no array, or one of objects.
    """
    try:
        with _PARSING:
            return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # of a damaged header, any
        raise InputError(f"{path}: has no array; {remedy}") from error


def read_archive(content: bytes, where: str, remedy: str) -> dict[str, np.ndarray]:
    """Reads the arrays of a ``.npz`` file that ``np.savez`` has written.

    Raises:
      InputError: the file is no such archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is compressed")
        with _PARSING, np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # of a damaged archive, any
        raise InputError(f"{where}: has no arrays; {remedy}") from error
