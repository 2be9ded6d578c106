"""The authors' files: every column is read, and what makes no sense is refused by name."""

import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
from authors_pickles import SCHEMA, dump, frame, rows, write

from experiments.sources.official import prepare, read_frame
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.schema import TENCENT

SAMPLE, ROWS = Path(__file__).parent / "authors_sample.pkl", 30  # see README.md there


# Frames ----------------------------------------------------------------------------------------


def pairs(stage):
    """(user, label) of all examples, ascending."""
    return sorted(zip(stage.user.tolist(), stage.label.tolist(), strict=True))


def test_frame_by_hand(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(dump(frame(rows(7, 2, [1, 0, 1], 4))))
    columns = read_frame(path)
    expected = rows(7, 2, [1, 0, 1], 4)
    assert {name: values.tolist() for name, values in columns.items()} == expected


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

    columns = read_frame(SAMPLE)
    assert list(columns) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(columns[name], values)
    assert set(columns["label"].tolist()) == {1}
    assert len(set(columns["aid"].tolist())) == 5


# Dataset ---------------------------------------------------------------------------------------


def test_six_files_become_a_dataset_and_a_split(tmp_path):
    data, split = prepare(write(tmp_path / "in"), tmp_path / "out", schema=SCHEMA)
    # The largest ids are age 3, likes 9 (a pad: the authors' tables have a row for it) and kind 2.
    assert data.vocabulary.sizes == (4, 10, 3)
    assert [v.tolist() for v in data.vocabulary.values] == [[*range(4)], [*range(10)], [*range(3)]]
    # Ties are broken by ids, so they do not lie in the order of the files, seeds first.
    assert sorted(data.user_ids) == list(range(12)) != data.user_ids.tolist()
    pad = 17
    assert data.user_rows.tolist() == [
        [0, 4 + 0, 4 + 5], [1, 4 + 1, pad], [2, 4 + 2, 4 + 5],  # train_stage1
        [1, 4 + 5, 4 + 5], [2, 4 + 6, pad],  # test_hot_stage1
        [1, 4 + 1, 4 + 5], [2, 4 + 2, pad],  # test_cold_stage1
        [3, 4 + 3, 4 + 5], [0, 4 + 4, pad],  # train_stage2
        [0, 4 + 0, 4 + 5],  # test_hot_stage2
        [2, 4 + 2, 4 + 5], [3, 4 + 3, pad],  # test_cold_stage2
    ]  # fmt: skip
    assert data.campaign_ids.tolist() == [3, 5, 7]
    assert data.campaign_rows.tolist() == [[14 + 0], [14 + 1], [14 + 2]]
    assert data.stage1.offsets.tolist() == [0, 2, 4, 7]
    assert pairs(data.stage1) == [(0, 1), (1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 0)]
    assert set(data.stage1.user[data.stage1.of(2)].tolist()) == {0, 1, 2}
    assert data.stage2.offsets.tolist() == [0, 1, 3, 5]
    assert pairs(data.stage2) == [(7, 1), (8, 0), (9, 1), (10, 0), (11, 1)]
    assert set(data.stage2.user[data.stage2.of(2)].tolist()) == {7, 8}

    assert split.train.tolist() == [2]
    assert split.test.tolist() == [0, 1]
    assert split.small.tolist() == [False, True, False]
    assert split.threshold == 2000
    open_dataset(tmp_path / "out", verify=True)


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
        ({"likes": [1, 2]}, "column 'likes' does not hold one list of whole numbers"),
        ({"age": [[1], [2]]}, "column 'age' does not hold one whole number"),
        ({"likes": [[1, 2, 3], [1, 2]]}, "lists of different lengths"),
    ],
)
def test_faulty_column(tmp_path, changes, words):
    spoilt = dump(frame(rows(5, 1, [1, 0], 0) | changes))
    fails(write(tmp_path / "in", test_cold_stage2=spoilt), tmp_path, "test_cold_stage2.pkl", words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": [1, 0]}, "campaign 5 has different campaign fields"),
        ({"kind": [0, 0]}, "campaign 5 has different campaign fields"),
        ({"aid": [7, 7], "kind": [2, 2]}, "campaign 7 has different kinds of files"),
    ],
)
def test_a_campaign_is_the_same_in_all_rows_and_files(tmp_path, changes, words):
    spoilt = dump(frame(rows(5, 1, [1, 0], 0) | changes))
    fails(write(tmp_path / "in", test_cold_stage2=spoilt), tmp_path, f"in: {words}")


def test_truncated_and_other_files(tmp_path):
    whole = dump(frame(rows(7, 2, [1, 0], 0)))
    for content in (whole[:-1], whole[: len(whole) // 2], b"", b"PK\3\4", pickle.dumps([1, 2])):
        source = write(tmp_path / "in", train_stage1=content)
        fails(source, tmp_path, "train_stage1.pkl: not a data frame pickled by the authors")
