"""The authors' files: every column is read, and pickles that are none of theirs are refused."""

import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest

from experiments.sources.official import KINDS, _Unpickler, columns_of, prepare
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.schema import TENCENT, Field, Schema

SAMPLE, ROWS = Path(__file__).parent / "authors_sample.pkl", 30  # see README.md there
SCHEMA = Schema(user=(Field("age"), Field("likes", 2)), campaign=(Field("kind"),))


def test_sample_against_the_bytes_in_the_pickle():
    """pickletools lists the bytes of every array in order; numpy reads them without unpickling."""
    data = [arg for op, arg, _ in pickletools.genops(SAMPLE.read_bytes()) if "BYTES" in op.name]
    first, second = (
        np.frombuffer(raw, "<i8").reshape(-1, ROWS)
        for raw in data
        if len(raw) in (9 * ROWS * 8, 13 * ROWS * 8)
    )
    cells = [np.frombuffer(raw, "<i8") for raw in data if len(raw) in (40, 80)]
    ones = [field.name for field in TENCENT.user if field.slots == 1]
    many = [field.name for field in TENCENT.user if field.slots > 1]
    expected = dict(zip(("label", "aid", *ones), first, strict=True))
    expected |= {name: np.stack(cells[i * ROWS : (i + 1) * ROWS]) for i, name in enumerate(many)}
    lengths = [f"{name}_length" for name in many]
    campaign = [field.name for field in TENCENT.campaign]
    expected |= dict(zip((*lengths, *campaign), second, strict=True))

    with SAMPLE.open("rb") as file:
        columns = columns_of(_Unpickler(file).load())
    assert list(columns) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(columns[name], values)
    assert set(columns["label"].tolist()) == {1}
    assert len(set(columns["aid"].tolist())) == 5


# Files as the authors' pandas wrote them -------------------------------------------------------


class DataFrame:
    """Pickled, by its name, as that of pandas; so are these."""

    def __init__(self, columns):
        numbers = [name for name, values in columns.items() if not isinstance(values[0], list)]
        lists = [name for name in columns if name not in numbers]
        names, cells = np.array([*numbers, *lists], object), np.empty((len(lists), 0), object)
        if lists:
            cells = np.empty((len(lists), len(columns[lists[0]])), object)
        for row, name in zip(cells, lists, strict=True):
            row[:] = [np.array(cell) for cell in columns[name]]
        block = np.asfortranarray([columns[name] for name in numbers])
        places = np.arange(len(numbers), len(names))
        blocks = [{"values": block, "mgr_locs": slice(0, len(numbers))}]
        blocks += [{"values": cells, "mgr_locs": places}]
        self._mgr = BlockManager([Index(names)], blocks)


class BlockManager:
    def __init__(self, axes, blocks):
        self.state = axes, [], [], {"0.14.1": {"axes": axes, "blocks": blocks}}

    def __getstate__(self):
        return self.state


class Index:
    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return _new_Index, (Index, {"data": self.data, "name": None})


def _new_Index(kind, state):
    return kind(state["data"])


def dump(columns):
    content = pickle.dumps(DataFrame(columns), protocol=3)
    content = content.replace(b"numpy._core", b"numpy.core")
    for module, kind in (
        ("pandas.core.frame", DataFrame),
        ("pandas.core.internals.managers", BlockManager),
        *(("pandas.core.indexes.base", own) for own in (Index, _new_Index)),
    ):
        ours, theirs = f"c{__name__}\n{kind.__name__}\n", f"c{module}\n{kind.__name__}\n"
        assert ours.encode() in content
        content = content.replace(ours.encode(), theirs.encode())
    return content


def rows(aid, kind, labels, first):
    """Columns of one campaign's rows; values differ from row to row, and pads are 9."""
    numbers = range(first, first + len(labels))
    return {
        "label": labels,
        "aid": [aid] * len(labels),
        "age": [n % 4 for n in numbers],
        "likes": [[n, 5, 7] if (n - first) % 2 == 0 else [n, 9, 9] for n in numbers],
        "likes_length": [3 if (n - first) % 2 == 0 else 1 for n in numbers],
        "kind": [kind] * len(labels),
    }


def write(source, **changes):
    """Writes the six files to a directory; ``changes`` replaces some, or omits them if None."""
    files = {
        "train_stage1": dump(rows(7, 2, [1, 0, 0], 0)),
        "train_stage2": dump(rows(7, 2, [1, 0], 3)),
        "test_hot_stage1": dump(rows(3, 0, [0, 1], 5)),
        "test_hot_stage2": dump(rows(3, 0, [1], 0)),
        "test_cold_stage1": dump(rows(5, 1, [1, -1], 1)),
        "test_cold_stage2": dump(rows(5, 1, [0, 1], 2)),
    }
    source.mkdir(exist_ok=True)
    for name, content in (files | changes).items():
        if content is not None:
            (source / f"{name}.pkl").write_bytes(content)
    return source


def test_six_files_become_a_dataset_and_a_split(tmp_path):
    data, split = prepare(write(tmp_path / "in"), tmp_path / "out", schema=SCHEMA)
    values = [own.tolist() for own in data.vocabulary.values]
    assert values[::2] == [[*range(4)], [*range(3)]]
    assert 9 not in values[1]  # a pad
    # Ties are broken by ids, so they do not lie in the order of the files, seeds first.
    assert sorted(data.user_ids) == list(range(12)) != data.user_ids.tolist()
    assert data.campaign_ids.tolist() == [3, 5, 7]
    first = data.vocabulary.offsets[-1]
    assert data.campaign_rows.tolist() == [[first], [first + 1], [first + 2]]

    def examples(stage, campaign):
        """Label, age and likes of a campaign's users."""
        of, found = stage.of(campaign), []
        for user, label in zip(stage.user[of], stage.label[of], strict=True):
            age, *likes = data.user_rows[user]
            likes = [values[1][row - 4] for row in likes if row < data.num_rows]
            found.append((int(label), int(age), likes))
        return sorted(found)

    assert examples(data.stage1, 0) == [(0, 1, [5, 5]), (1, 2, [6])]
    assert examples(data.stage1, 1) == [(0, 2, [2]), (1, 1, [1, 5])]
    assert examples(data.stage1, 2) == [(0, 1, [1]), (0, 2, [2, 5]), (1, 0, [0, 5])]
    assert examples(data.stage2, 0) == [(1, 0, [0, 5])]
    assert examples(data.stage2, 1) == [(0, 2, [2, 5]), (1, 3, [3])]
    assert examples(data.stage2, 2) == [(0, 0, [4]), (1, 3, [3, 5])]
    assert (split.train.tolist(), split.test.tolist()) == ([2], [0, 1])
    assert split.small.tolist() == [False, True, False]
    assert split.threshold == 2000
    open_dataset(tmp_path / "out", verify=True)


def fails(source, tmp_path, *words):
    with pytest.raises(InputError) as caught:
        prepare(source, tmp_path / "out", schema=SCHEMA)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not (tmp_path / "out").exists()


def test_only_the_second_stage_of_training_may_be_missing(tmp_path):
    prepare(write(tmp_path / "in", train_stage2=None), tmp_path / "made", schema=SCHEMA)
    (tmp_path / "in" / "test_hot_stage2.pkl").unlink()
    fails(tmp_path / "in", tmp_path, "test_hot_stage2.pkl: cannot be read", "get the file")
    assert KINDS == ("train", "test_hot", "test_cold")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"likes": [[1, 2, 3], [1, 2]]}, "test_cold_stage2.pkl: not a data frame"),
        ({"likes_length": []}, "test_cold_stage2.pkl: not a data frame"),
        ({"kind": [1, 0]}, "in: campaign 5 has different fields"),
        ({"kind": [0, 0]}, "in: campaign 5 has different fields"),
        ({"aid": [7, 7], "kind": [2, 2]}, "in: campaign 7 has different fields or kinds of files"),
    ],
)
def test_faulty_columns(tmp_path, changes, words):
    columns = {name: own for name, own in (rows(5, 1, [1, 0], 0) | changes).items() if own}
    fails(write(tmp_path / "in", test_cold_stage2=dump(columns)), tmp_path, words)


# Pickles that are no data frame of the authors --------------------------------------------------

MARK = b"touch executed"  # run in the test's directory
ATTACKS = {
    "a call": b"cos\nsystem\n(X\x0e\0\0\0" + MARK + b"tR.",
    "EXT opcode": b"\x80\x02\x82\x01.",
    "persistent id": b"Pexecuted\n.",
    "numpy, not admitted": b"cnumpy\nload\n(S'executed'\ntR.",
    "dotted name": b"\x80\x04X\5\0\0\0numpyX\x16\0\0\0ndarray.__subclasses__\x93.",
    "attributes of the stand-in": b"cnumpy\nndarray\n(NdS'__new__'\ncnumpy\ndtype\nstb.",
    "an admitted name called": b"cnumpy\nndarray\n(tR(S'" + MARK + b"'\ntR.",
    "objects over raw bytes": b"cnumpy\nndarray\n((K\1tX\1\0\0\0OC\x08\1\1\1\1\1\1\1\1tR.",
    "a list": pickle.dumps([1, 2]),
    "cut off": dump(rows(7, 2, [1, 0], 0))[:-1],
    "empty": b"",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused_and_nothing_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "in", train_stage1=ATTACKS[name])
    fails(source, tmp_path, "train_stage1.pkl: not a data frame pickled by the authors")
    assert not Path("executed").exists()


@pytest.mark.parametrize("code", [b"O8", b"V8", b"i9"])
def test_bytes_of_objects_and_other_types_are_no_array(tmp_path, code):
    content = dump(rows(7, 2, [1, 0, 0], 0)).replace(b"X\2\0\0\0i8", b"X\2\0\0\0" + code)
    fails(write(tmp_path / "in", train_stage1=content), tmp_path, "train_stage1.pkl: not a data ")
