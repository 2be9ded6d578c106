import pickle
import pickletools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from metaheac_jax.data import authors
from metaheac_jax.data.authors import prepare, read_frame
from metaheac_jax.data.dataset import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.schema import TENCENT, Field, Schema

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "authors_sample_586.pkl"
needs_sample = pytest.mark.skipif(
    not SAMPLE.exists(), reason="the authors' sample (../shared/data) is not here"
)
SCHEMA = Schema(user=(Field("age"), Field("likes", 2)), campaign=(Field("kind"),))


# A pickle written by hand: pandas, and the numpy of that time, are not here to write it ---------


class Name(NamedTuple):
    """A global."""

    module: str
    name: str


class Make(NamedTuple):
    """``function(*args)``, or a new object of a class; then its state."""

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
            return pickle.dumps(x, protocol=3)[2:-1]  # less PROTO and STOP; no frames yet


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
    """A data frame as the authors' pandas pickled it: a block of numbers, a block of lists."""
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
    """Columns of rows of one campaign; values differ from row to row, pads are 9."""
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
    """A directory with the six files, some of them changed or left out."""
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


# Frames ----------------------------------------------------------------------------------------


def test_frame_by_hand(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(dump(frame(rows(7, 2, [1, 0, 1], 4))))
    seen = []
    columns = read_frame(path, progress=lambda *call: seen.append(call))
    expected = rows(7, 2, [1, 0, 1], 4)
    assert {name: values.tolist() for name, values in columns.items()} == expected
    assert seen[-1] == ("x.pkl", path.stat().st_size, path.stat().st_size)


@needs_sample
def test_sample_against_the_bytes_in_the_pickle():
    """pickletools lists the bytes of every array in order; numpy reads them without unpickling."""
    data = [arg for op, arg, _ in pickletools.genops(SAMPLE.read_bytes()) if "BYTES" in op.name]
    first, second = (
        np.frombuffer(raw, "<i8").reshape(-1, 586)
        for raw in data
        if len(raw) in (9 * 586 * 8, 13 * 586 * 8)
    )
    cells = [np.frombuffer(raw, "<i8") for raw in data if len(raw) in (40, 80)]
    ones = [field.name for field in TENCENT.user if field.slots == 1]
    many = [field.name for field in TENCENT.user if field.slots > 1]
    expected = dict(zip(("label", "aid", *ones), first, strict=True))
    expected |= {name: np.stack(cells[i * 586 : (i + 1) * 586]) for i, name in enumerate(many)}
    lengths = [f"{name}_length" for name in many]
    campaign = [field.name for field in TENCENT.campaign]
    expected |= dict(zip((*lengths, *campaign), second, strict=True))

    columns = read_frame(SAMPLE)
    assert list(columns) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(columns[name], values)
    assert set(columns["label"].tolist()) == {1}
    assert len(set(columns["aid"].tolist())) == 5


# Dataset ---------------------------------------------------------------------------------------


def test_six_files(tmp_path):
    data, split = prepare(write(tmp_path / "in"), tmp_path / "out", schema=SCHEMA)
    # The largest ids are age 3, likes 9 (a pad: the authors' tables have a row for it) and kind 2.
    assert data.vocabulary.sizes == (4, 10, 3)
    assert [v.tolist() for v in data.vocabulary.values] == [[*range(4)], [*range(10)], [*range(3)]]
    assert data.user_key.tolist() == list(range(12))
    pad = 17
    assert data.user_rows.tolist() == [
        [0, 4 + 0, 4 + 5], [1, 4 + 1, pad], [2, 4 + 2, 4 + 5],  # train_stage1
        [1, 4 + 5, 4 + 5], [2, 4 + 6, pad],  # test_hot_stage1
        [1, 4 + 1, 4 + 5], [2, 4 + 2, pad],  # test_cold_stage1
        [3, 4 + 3, 4 + 5], [0, 4 + 4, pad],  # train_stage2
        [0, 4 + 0, 4 + 5],  # test_hot_stage2
        [2, 4 + 2, 4 + 5], [3, 4 + 3, pad],  # test_cold_stage2
    ]  # fmt: skip
    assert data.campaign_key.tolist() == [3, 5, 7]
    assert data.campaign_rows.tolist() == [[14 + 0], [14 + 1], [14 + 2]]
    assert data.stage1.offsets.tolist() == [0, 2, 4, 7]
    assert data.stage1.user.tolist() == [3, 4, 5, 6, 0, 1, 2]
    assert data.stage1.label.tolist() == [0, 1, 1, 0, 1, 0, 0]
    assert data.stage2.offsets.tolist() == [0, 1, 3, 5]
    assert data.stage2.user.tolist() == [9, 10, 11, 7, 8]
    assert data.stage2.label.tolist() == [1, 0, 1, 1, 0]

    assert split.train.tolist() == [2]
    assert split.test.tolist() == [0, 1]
    assert split.small.tolist() == [False, True, False]
    assert split.threshold == 2000
    open_dataset(tmp_path / "out", verify=True)


def test_train_stage2_may_be_missing(tmp_path):
    source = write(tmp_path / "in", train_stage2=None)
    data, _ = prepare(source, tmp_path / "out", schema=SCHEMA)
    assert data.stage2.counts.tolist() == [1, 2, 0]
    assert data.users == 10


@needs_sample
def test_sample_as_a_dataset(tmp_path):
    columns = read_frame(SAMPLE)

    def some(aid: int) -> bytes:
        """A row of each column, as a campaign of this number."""
        row = {name: values[:1].tolist() for name, values in columns.items()}
        return dump(frame(row | {"aid": [aid]}))

    others = {
        f"{name}_{stage}": some(100 + i)
        for i, name in enumerate(("test_hot", "test_cold"))
        for stage in ("stage1", "stage2")
    }
    source = write(tmp_path / "in", train_stage1=SAMPLE.read_bytes(), train_stage2=None, **others)
    data, split = prepare(source, tmp_path / "out")
    assert data.stage1.offsets[-3] == 586
    assert len(split.train) == 5
    largest = {name: int(values.max()) for name, values in columns.items()}
    assert data.vocabulary.sizes == tuple(largest[f.name] + 1 for f in TENCENT.fields)
    for user in range(586):
        for f, field in enumerate(TENCENT.user):
            start = TENCENT.user_starts[f]
            mine = data.user_rows[user, start : start + field.slots]
            values = np.atleast_1d(columns[field.name][user])
            used = 1 if field.slots == 1 else columns[f"{field.name}_length"][user]
            np.testing.assert_array_equal(mine[:used], values[:used] + data.vocabulary.offsets[f])
            assert (mine[used:] == data.rows).all()


# Errors ----------------------------------------------------------------------------------------


def fails(source: Path, tmp_path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        prepare(source, tmp_path / "target" / "out", schema=SCHEMA)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not (tmp_path / "target").exists() or not list((tmp_path / "target").iterdir())


def test_missing_file(tmp_path):
    source = write(tmp_path / "in", test_hot_stage2=None)
    fails(source, tmp_path, "test_hot_stage2.pkl: missing")
    fails(tmp_path / "nowhere", tmp_path, "nowhere/train_stage1.pkl: missing")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": [1, 3]}, "row 1 (from 0): label is not 1, 0 or -1"),
        ({"age": [0, -1]}, "row 1 (from 0): age is not an id"),
        ({"age": [0, 10**8]}, "row 1 (from 0): age is not an id"),
        ({"likes": [[1, 2, 3], [1, -2, 3]]}, "row 1 (from 0): likes is not an id"),
        ({"likes_length": [4, 0]}, "row 0 (from 0): likes_length is not 0 to 3"),
        ({"likes_length": [1, -1]}, "row 1 (from 0): likes_length is not 0 to 3"),
        ({"likes": [1, 2]}, "column 'likes' does not hold a list of whole numbers"),
        ({"age": [[1], [2]]}, "column 'age' does not hold a whole number"),
        ({"kind": [1, 0]}, "row 1 (from 0): a campaign field is not what it was"),
        ({"kind": [0, 0]}, "campaign 5 has other features than elsewhere"),
        ({"aid": [7, 7], "kind": [2, 2]}, "campaign 7 is also in a train file"),
        ({"likes": [[1, 2, 3], [1, 2]]}, "lists of different lengths"),
    ],
)
def test_faulty_column(tmp_path, changes, words):
    spoilt = dump(frame(rows(5, 1, [1, 0], 0) | changes))
    fails(write(tmp_path / "in", test_cold_stage2=spoilt), tmp_path, "test_cold_stage2.pkl", words)


@pytest.mark.parametrize("name", ["label", "age", "likes", "likes_length", "kind"])
def test_column_that_is_not_there(tmp_path, name):
    columns = rows(7, 2, [1, 0], 0)
    del columns[name]
    spoilt = dump(frame(columns))
    fails(write(tmp_path / "in", train_stage1=spoilt), tmp_path, f"no column {name!r}")


def test_truncated_and_other_files(tmp_path):
    whole = dump(frame(rows(7, 2, [1, 0], 0)))
    for content in (whole[:-1], whole[: len(whole) // 2], b"", b"PK\3\4", pickle.dumps([1, 2])):
        source = write(tmp_path / "in", train_stage1=content)
        fails(source, tmp_path, "train_stage1.pkl: not a data frame as the authors pickled it")


def test_directory_in_place_of_a_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_frame(tmp_path)


def test_target_must_not_swallow_the_source(tmp_path):
    source = write(tmp_path / "in")
    with pytest.raises(InputError, match="would replace the source"):
        prepare(source, tmp_path, schema=SCHEMA)
    assert (source / "train_stage1.pkl").exists()


# Attacks ---------------------------------------------------------------------------------------


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
        "os.system, protocol 0": pickle.dumps(Shell(MARK), protocol=0),
        "posix.system": call("posix", "system", MARK),
        "builtins.eval": call("builtins", "eval", EVAL),
        "builtins.exec": call("builtins", "exec", EVAL),
        "__builtin__.eval, the name of Python 2": call("__builtin__", "eval", EVAL),
        "subprocess": call("subprocess", "call", ["touch", "executed"]),
        "numpy, not admitted": call("numpy", "load", "executed", None, True),
        "numpy.f2py": call("numpy.f2py.diagnose", "run_command", MARK),
        "numpy.core.multiarray": call("numpy.core.multiarray", "fromfile", "x"),
        "pandas.eval": call("pandas", "eval", EVAL),
        "dotted name below an admitted one": dump(
            Make(Name("numpy", "ndarray.__subclasses__"), ())
        ),
        "dotted name through slice": dump(Make(Name("builtins", "slice.__class__"), ("x", (), {}))),
        "getattr": call("builtins", "getattr", NDARRAY, "tofile"),
        "INST opcode": b"(S'touch executed'\nios\nsystem\n.",
        "OBJ opcode": b"(cos\nsystem\nS'touch executed'\no.",
        "EXT opcode": b"\x80\x02\x82\x01.",
        "persistent id": b"Pexecuted\n.",
        "NEWOBJ": dump(Make(Name("os", "system"), (MARK,), new=True)),
        "inside the arguments of an admitted name": dump(
            Make(frame_class, (Make(Name("os", "system"), (MARK,)),))
        ),
        "as the state of an admitted name": dump(
            Make(frame_class, (), Make(Name("os", "system"), (MARK,)), new=True)
        ),
        "BUILD on the class itself": dump(function)[:-1]
        + opcodes({"__new__": Name("builtins", "eval")})
        + b"b.",
        "BUILD of class attributes": dump(function)[:-1]
        + opcodes((None, {"__setstate__": NDARRAY}))
        + b"b.",
        "BUILD on the class, then use": b"\x80\x02"
        + opcodes(frame_class)
        + opcodes((None, {"__setstate__": 1}))
        + b"b0"
        + opcodes(frame({"age": [1]}))
        + b".",
        "an admitted name called": dump(Make(Make(function, (NDARRAY, (0,), b"b")), (EVAL,))),
        "ndarray of objects over raw bytes": dump(
            Make(frame_class, (), {"_mgr": Make(NDARRAY, ((1,), "O", b"\1" * 8))}, new=True)
        ),
    }


@pytest.mark.parametrize("name", attacks())
def test_attack_is_refused_and_nothing_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("x.pkl").write_bytes(attacks()[name])
    with pytest.raises(InputError, match=r"x\.pkl: not a data frame as the authors pickled it"):
        read_frame(Path("x.pkl"))
    assert not Path("executed").exists()


def test_the_attacks_would_work_on_a_plain_unpickler(tmp_path, monkeypatch):
    """Else the test above would prove little."""
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "builtins.eval", "INST opcode", "OBJ opcode"):
        pickle.loads(attacks()[name])
        assert Path("executed").exists()
        Path("executed").unlink()


def test_an_attack_leaves_the_reader_unchanged(tmp_path):
    good, bad = tmp_path / "good.pkl", tmp_path / "bad.pkl"
    good.write_bytes(dump(frame(rows(7, 2, [1, 0], 0))))
    before = {name: values.tolist() for name, values in read_frame(good).items()}
    for content in attacks().values():
        bad.write_bytes(content)
        with pytest.raises(InputError):
            read_frame(bad)
    after = {name: values.tolist() for name, values in read_frame(good).items()}
    assert before == after


@pytest.mark.parametrize(
    "values",
    [
        Make(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1, 1), dtype("O8", "|"), False, b"\1" * 8)),
        Make(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1, 2), dtype("i8", "<"), False, b"\1" * 8)),
        Make(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1, 10**15), dtype("i8", "<"), False, b"")),
        Make(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1, 1), dtype("V8", "|"), False, b"\1" * 8)),
        Make(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1, 1), dtype("i8", "O"), False, b"\1" * 8)),
        Make(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1, 1), NDARRAY, False, b"\1" * 8)),
        Make(RECONSTRUCT, (NDARRAY, (0,), b"b")),
        [[1]],
    ],
)
def test_array_that_does_not_add_up(tmp_path, values):
    blocks = [{"values": values, "mgr_locs": Make(Name("builtins", "slice"), (0, 1, 1))}]
    path = tmp_path / "x.pkl"
    path.write_bytes(dump(frame({"age": [1]}, blocks=blocks)))
    with pytest.raises(InputError, match="not a data frame as the authors pickled it"):
        read_frame(path)


def test_lists_must_not_borrow_from_each_other(tmp_path):
    def cell(data: bytes) -> Make:
        return Make(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (2,), dtype("i8", "<"), False, data))

    cells = np.empty((1, 2), object)
    cells[0] = objects([cell(b"\1" * 8), cell(b"\1" * 24)])  # 32 bytes together, as they should be
    blocks = [{"values": array(cells), "mgr_locs": Make(Name("builtins", "slice"), (0, 1, 1))}]
    path = tmp_path / "x.pkl"
    path.write_bytes(dump(frame({"age": [1]}, blocks=blocks)))
    with pytest.raises(InputError, match="lists of different lengths"):
        read_frame(path)


def test_columns_must_have_one_length(tmp_path):
    blocks = [
        {"values": array(np.zeros((1, rows), np.int64)),
         "mgr_locs": Make(Name("builtins", "slice"), (i, i + 1, 1))}
        for i, rows in enumerate((3, 2))
    ]  # fmt: skip
    path = tmp_path / "x.pkl"
    path.write_bytes(dump(frame({"age": [1], "kind": [1]}, blocks=blocks)))
    with pytest.raises(InputError, match="columns of different lengths"):
        read_frame(path)


def test_just_nine_names():
    assert len(authors._ADMITTED) == 9
    assert all(issubclass(stand_in, authors._Record) for stand_in in authors._ADMITTED.values())
