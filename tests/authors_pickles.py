"""Pickles of data frames as the authors of the paper wrote them, opcode by opcode.

The pandas and numpy versions that wrote the originals are not installed here.
"""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaheac_jax.schema import Field, Schema

SCHEMA = Schema(user=(Field("age"), Field("likes", 2)), campaign=(Field("kind"),))


class Name(NamedTuple):
    """A global name of a module."""

    module: str
    name: str


class Make(NamedTuple):
    """``function(*args)``, or a new object of that class; then its state."""

    function: Any
    args: tuple
    state: Any = None
    new: bool = False


def opcodes(x: Any) -> bytes:
    match x:
        case Name(module, name):
            return f"c{module}\n{name}\n".encode()
        case Make(function, args, state, new):
            made = opcodes(function) + opcodes(args) + (b"\x81" if new else b"R")
            return made if state is None else made + opcodes(state) + b"b"
        case tuple():
            return b"(" + b"".join(map(opcodes, x)) + b"t"
        case list():
            return b"(" + b"".join(map(opcodes, x)) + b"l"
        case dict():
            return b"(" + b"".join(opcodes(k) + opcodes(v) for k, v in x.items()) + b"d"
        case _:
            return pickle.dumps(x, protocol=3)[2:-1]  # without PROTO and STOP; it has no frames


def dump(x: Any) -> bytes:
    return b"\x80\x04" + opcodes(x) + b"."


RECONSTRUCT = Name("numpy.core.multiarray", "_reconstruct")
NDARRAY = Name("numpy", "ndarray")
INDEX = Name("pandas.core.indexes.base", "Index")


def dtype(code: str, order: str) -> Make:
    return Make(Name("numpy", "dtype"), (code, 0, 1), (3, order, None, None, None, -1, -1, 0))


def array(a: np.ndarray, *, fortran: bool = False) -> Make:
    if a.dtype == object:
        kind, data = dtype("O8", "|"), list(a.ravel("F" if fortran else "C"))
    else:
        kind, data = dtype(a.dtype.str[1:], a.dtype.str[0]), a.tobytes("F" if fortran else "C")
    return Make(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, a.shape, kind, fortran, data))


def index(kind: Name, data: np.ndarray) -> Make:
    new = Name("pandas.core.indexes.base", "_new_Index")
    return Make(new, (kind, {"data": array(data), "name": None}))


def objects(items: list) -> np.ndarray:
    out = np.empty(len(items), object)
    out[:] = items
    return out


def frame(columns: dict[str, list], **changes: Any) -> Make:
    """A data frame as the authors' pandas pickled it: a block of numbers and a block of lists."""
    numbers = [name for name, values in columns.items() if not isinstance(values[0], list)]
    lists = [name for name in columns if name not in numbers]
    rows = len(next(iter(columns.values())))
    cells = np.empty((len(lists), rows), object)
    for i, name in enumerate(lists):
        cells[i] = objects([array(np.array(cell, np.int64)) for cell in columns[name]])
    block = np.array([columns[name] for name in numbers], np.int64)
    axes = [
        index(INDEX, objects(numbers + lists)),
        index(Name("pandas.core.indexes.numeric", "Int64Index"), np.arange(rows)),
    ]
    places = np.arange(len(numbers), len(columns))
    blocks = [
        {"values": array(block, fortran=True),
         "mgr_locs": Make(Name("builtins", "slice"), (0, len(numbers), 1))},
        {"values": array(cells), "mgr_locs": array(places)},
    ]  # fmt: skip
    content = {"axes": axes, "blocks": blocks} | changes
    manager = Make(
        Name("pandas.core.internals.managers", "BlockManager"),
        (),
        (axes, [], [], {"0.14.1": content}),
        new=True,
    )
    state = {"_mgr": manager, "_typ": "dataframe", "_metadata": [], "attrs": {}}
    return Make(Name("pandas.core.frame", "DataFrame"), (), state, new=True)


def rows(aid: int, kind: int, labels: list[int], first: int) -> dict[str, list]:
    """Columns of one campaign's rows; values differ from row to row, and pads are 9."""
    n = len(labels)
    return {
        "label": labels,
        "aid": [aid] * n,
        "age": [(first + i) % 4 for i in range(n)],
        "likes": [[first + i, 9, 9] if i % 2 else [first + i, 5, 7] for i in range(n)],
        "likes_length": [1 if i % 2 else 3 for i in range(n)],
        "kind": [kind] * n,
    }


def write(source: Path, **changes: bytes | None) -> Path:
    """Writes the six files to a directory; ``changes`` replaces some, or omits them if None."""
    files = {
        "train_stage1": dump(frame(rows(7, 2, [1, 0, 0], 0))),
        "train_stage2": dump(frame(rows(7, 2, [1, 0], 3))),
        "test_hot_stage1": dump(frame(rows(3, 0, [0, 1], 5))),
        "test_hot_stage2": dump(frame(rows(3, 0, [1], 0))),
        "test_cold_stage1": dump(frame(rows(5, 1, [1, -1], 1))),
        "test_cold_stage2": dump(frame(rows(5, 1, [0, 1], 2))),
    }
    source.mkdir(exist_ok=True)
    for name, content in (files | changes).items():
        if content is not None:
            (source / f"{name}.pkl").write_bytes(content)
    return source
