"""Pickles that are no data frame of the authors, most of them malicious: nothing runs."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from authors_pickles import (
    NDARRAY,
    RECONSTRUCT,
    Make,
    Name,
    array,
    dtype,
    dump,
    frame,
    objects,
    opcodes,
)

from experiments.sources.official import read_frame
from metaheac_jax.errors import InputError


class Shell:
    """Pickles, in the ordinary way, as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


MARK = "touch executed"  # run in the test's directory
EVAL = "__import__('os').system('touch executed')"


def attacks() -> dict[str, bytes]:
    frame_class, function = Name("pandas.core.frame", "DataFrame"), RECONSTRUCT

    def call(module: str, name: str, *args: Any) -> bytes:
        return dump(Make(Name(module, name), args))

    return {
        "os.system": pickle.dumps(Shell(MARK)),
        "builtins.eval": call("builtins", "eval", EVAL),
        "numpy, not admitted": call("numpy", "load", "executed", None, True),
        "dotted name below an admitted one": dump(
            Make(Name("numpy", "ndarray.__subclasses__"), ())
        ),
        "INST opcode": b"(S'touch executed'\nios\nsystem\n.",
        "OBJ opcode": b"(cos\nsystem\nS'touch executed'\no.",
        "EXT opcode": b"\x80\x02\x82\x01.",
        "persistent id": b"Pexecuted\n.",
        "NEWOBJ": dump(Make(Name("os", "system"), (MARK,), new=True)),
        "as the state of an admitted name": dump(
            Make(frame_class, (), Make(Name("os", "system"), (MARK,)), new=True)
        ),
        "BUILD on the class itself": dump(function)[:-1]
        + opcodes({"__new__": Name("builtins", "eval")})
        + b"b.",
        "BUILD of class attributes": dump(function)[:-1]
        + opcodes((None, {"__setstate__": NDARRAY}))
        + b"b.",
        "an admitted name called": dump(Make(Make(function, (NDARRAY, (0,), b"b")), (EVAL,))),
        "ndarray of objects over raw bytes": dump(
            Make(frame_class, (), {"_mgr": Make(NDARRAY, ((1,), "O", b"\1" * 8))}, new=True)
        ),
    }


@pytest.mark.parametrize("name", attacks())
def test_attack_is_refused_and_nothing_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("x.pkl").write_bytes(attacks()[name])
    with pytest.raises(InputError, match=r"x\.pkl: not a data frame pickled by the authors"):
        read_frame(Path("x.pkl"))
    assert not Path("executed").exists()


def test_the_attacks_would_work_on_a_plain_unpickler(tmp_path, monkeypatch):
    """Else the test above would prove little."""
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "builtins.eval", "INST opcode", "OBJ opcode"):
        pickle.loads(attacks()[name])
        assert Path("executed").exists()
        Path("executed").unlink()


@pytest.mark.parametrize(
    "values",
    [
        Make(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1, 1), dtype("O8", "|"), False, b"\1" * 8)),
        Make(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1, 10**15), dtype("i8", "<"), False, b"")),
        Make(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1, 1), dtype("V8", "|"), False, b"\1" * 8)),
        Make(RECONSTRUCT, (NDARRAY, (0,), b"b")),
        [[1]],
    ],
)
def test_array_that_does_not_add_up(tmp_path, values):
    blocks = [{"values": values, "mgr_locs": Make(Name("builtins", "slice"), (0, 1, 1))}]
    path = tmp_path / "x.pkl"
    path.write_bytes(dump(frame({"age": [1]}, blocks=blocks)))
    with pytest.raises(InputError, match="not a data frame pickled by the authors"):
        read_frame(path)


def test_lists_must_have_one_type(tmp_path):
    """Bytes of floats are no whole numbers, even if there are as many."""

    def cell(kind: str) -> Make:
        return Make(
            RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1,), dtype(kind, "<"), False, b"\1" * 8)
        )

    cells = np.empty((1, 2), object)
    cells[0] = objects([cell("i8"), cell("f8")])
    blocks = [{"values": array(cells), "mgr_locs": Make(Name("builtins", "slice"), (0, 1, 1))}]
    path = tmp_path / "x.pkl"
    path.write_bytes(dump(frame({"age": [1]}, blocks=blocks)))
    with pytest.raises(InputError, match="lists of different types"):
        read_frame(path)
