"""A faulty file of the competition is refused in one line that names file, line and reason."""

import errno
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from tencent_files import ADS, SCHEMA, TRAIN, TRUTH, USERS, write
from tencent_world import with_line

from metaheac_jax.data.sources import tencent, text_blocks
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema


def fails(source: Path, tmp_path: Path, words: list[str], schema: Schema = SCHEMA) -> None:
    """Preparing must fail in one line with all of these words, and leave nothing behind."""
    target = tmp_path / "target" / "out"
    with pytest.raises(InputError) as caught:
        tencent.prepare(source, target, schema=schema)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not target.parent.exists() or not list(target.parent.iterdir())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("uid 1|age", "expected 'field value value ...' between bars, got 'age'"),
        ("uid 1|age ", "got 'age '"),
        ("uid 1||age 2", "got ''"),
        ("", "got ''"),
        ("uid 1|age 4x", "expected whole numbers up to 99999999 in 'age', got '4x'"),
        ("uid 1|age -1", "got '-1'"),
        ("uid 1|age 100000000", "got '100000000'"),
        ("uid 1|age 1|age 2", "field 'age' occurs twice"),
        ("age 2", "expected one uid, a whole number, got ''"),
        ("uid abc", "expected one uid, a whole number, got 'abc'"),
        ("uid 1 2", "got '1 2'"),
        ("uid 30|age 1", "uid 30 is already on line 1"),
        ("uid 1|age 1\r", r"got '1\r'"),
        ("uid 1|age 1|kw", "got 'kw'"),
    ],
)
def test_faulty_user_line(tmp_path, line, words):
    source = write(tmp_path / "in", users=with_line(USERS, 2, line))
    fails(source, tmp_path, ["userFeature.data: line 2: ", words])


def test_faulty_line_in_a_late_block(tmp_path, monkeypatch):
    monkeypatch.setattr(text_blocks, "BLOCK", 100)
    lines = [f"uid {i}|age {i % 7}" for i in range(1, 500)]
    lines[400] = "uid x"
    lines[450] = "uid y"
    source = write(tmp_path / "in", users="\n".join(lines))
    fails(source, tmp_path, ["userFeature.data: line 401: ", "'x'"])


def test_truncated_last_user_line(tmp_path):
    source = write(tmp_path / "in", users=USERS[: USERS.rindex(" ")])  # "...|kw3 1 2 3|age"
    fails(source, tmp_path, ["userFeature.data: line 3: ", "'age'"])


def test_file_that_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(text_blocks, "LINE_LIMIT", 1 << 10)
    monkeypatch.setattr(text_blocks, "BLOCK", 1 << 8)
    source = write(tmp_path / "in", users=b"\x00" * 5000)
    fails(source, tmp_path, ["userFeature.data: a line has over 1024 bytes"])


@pytest.mark.parametrize("name", ["userFeature.data", "adFeature.csv", "train.csv"])
def test_missing_empty_and_unreadable_file(tmp_path, name):
    source = write(tmp_path / "in")
    (source / name).write_text("")
    fails(source, tmp_path, [name, "empty"])
    (source / name).unlink()
    fails(source, tmp_path, [name, "cannot be read (No such file"])
    (source / name).mkdir()
    fails(source, tmp_path, [name, "is not a regular file, so it cannot be read"])


def test_a_disk_that_cannot_be_read_is_not_taken_for_one_that_is_full(tmp_path, monkeypatch):
    source = write(tmp_path / "in")

    class Broken(io.BufferedReader):
        def read(self, size=-1, /):
            if size == text_blocks.BLOCK:  # not its first bytes
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *args, **more: (
            Broken(io.FileIO(path))
            if path.name == "userFeature.data"
            else opened(path, *args, **more)
        ),
    )
    with pytest.raises(OSError, match="Input/output error") as caught:
        tencent.prepare(source, tmp_path / "out", schema=SCHEMA)
    assert caught.value.filename == str(source / "userFeature.data")


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path):
    source = write(tmp_path / "in")
    (source / "train.csv").unlink()
    os.mkfifo(source / "train.csv")
    fails(source, tmp_path, ["train.csv", "is not a regular file"])


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\xef\xbb\xbf", ["line 1: a byte order mark; save the file as UTF-8 without one"]),
        (b"\x1f\x8b\x08", ["compressed; decompress it first"]),
    ],
)
def test_a_byte_order_mark_and_compression_are_named(tmp_path, start, words):
    source = write(tmp_path / "in")
    for name in ("userFeature.data", "adFeature.csv", "train.csv"):
        whole = (source / name).read_bytes()
        (source / name).write_bytes(start + whole)
        fails(source, tmp_path, [name, *words])
        (source / name).write_bytes(whole)


def test_ids_that_would_take_too_much_memory_are_refused(tmp_path):
    source, out = write(tmp_path / "in"), tmp_path / "out"
    tencent.prepare(source, out, schema=SCHEMA, max_ids=100_000_000)
    largest = re.sub(r"\|age \d+", "|age 99999998", USERS, count=1)
    assert largest != USERS
    source = write(tmp_path / "large", users=largest)
    fails(source, tmp_path, ["'age' has an id of 99999998", "more than 100000000", "--max-ids"])
    with pytest.raises(InputError, match="add up to more than 3; renumber the ids, or raise max_i"):
        tencent.prepare(tmp_path / "in", out, schema=SCHEMA, max_ids=3)


def test_source_that_is_missing_or_no_directory(tmp_path):
    fails(tmp_path / "nowhere", tmp_path, ["nowhere/userFeature.data", "No such file"])
    (tmp_path / "file").write_text("x")
    fails(tmp_path / "file", tmp_path, ["file/userFeature.data", "Not a directory"])


@pytest.mark.parametrize(
    ("file", "name", "first"), [("train", "train.csv", 2), ("truth", "test1_truth.csv", 1)]
)
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("5,10", "expected 3 columns, aid,uid,label, got '5,10'"),
        ("5,10,1,1", "expected 3 columns"),
        ("", "expected 3 columns, aid,uid,label, got ''"),
        ("x,10,1", "expected a whole number as aid, got 'x'"),
        ("5,1.5,1", "expected a whole number as uid, got '1.5'"),
        ("5,10,3", "expected label 1 or -1, got '3'"),
        ("5,10,", "expected label 1 or -1, got ''"),
        ("6,10,1", "aid 6 has no line in adFeature.csv"),
        ("5,11,1", "uid 11 has no line in userFeature.data"),
        ("5,99999999999,1", "uid 99999999999 has no line in userFeature.data"),
        ("5,10,1\r", r"got '1\r'"),
    ],
)
def test_faulty_example(tmp_path, file, name, first, line, words):
    text = TRAIN if file == "train" else TRUTH
    source = write(tmp_path / "in", **{file: with_line(text, first + 1, line)})
    fails(source, tmp_path, [f"{name}: line {first + 1}: ", words])


def test_faulty_example_in_a_late_block(tmp_path, monkeypatch):
    monkeypatch.setattr(text_blocks, "BLOCK", 60)
    source = write(tmp_path / "in", train="aid,uid,label\n" + "5,10,1\n" * 100 + "5,11,1\n" * 9)
    fails(source, tmp_path, ["train.csv: line 102: ", "uid 11"])


def test_truncated_last_example(tmp_path):
    source = write(tmp_path / "in", train=TRAIN[:-3])  # "5,10"
    fails(source, tmp_path, ["train.csv: line 5: ", "expected 3 columns"])


def test_a_missing_header_and_missing_columns_are_named(tmp_path):
    source = write(tmp_path / "in", train=TRAIN.partition("\n")[2])
    fails(source, tmp_path, ["train.csv: line 1: expected the header 'aid,uid,label', got '20,10"])
    source = write(tmp_path / "in", train="aid,uid,label\n")
    fails(source, tmp_path, ["train.csv: no example"])
    source = write(tmp_path / "in", ads=ADS.replace("aid,", "id,"))
    fails(source, tmp_path, ["adFeature.csv: line 1: ", "no 'aid'"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("5,9,2", "expected 4 columns, got 3"),
        ("5,9,2,", "expected whole numbers, got ''"),
        ("5,9,2,3.0", "expected whole numbers, got '3.0'"),
        ("20,9,2,3", "aid 20 occurs twice"),
        ("5,9,2,3\r", r"got '3\r'"),
    ],
)
def test_faulty_campaign(tmp_path, line, words):
    source = write(tmp_path / "in", ads=with_line(ADS, 3, line))
    fails(source, tmp_path, ["adFeature.csv: line 3: ", words])


def test_fields_that_the_files_lack(tmp_path):
    source = write(tmp_path / "in")
    unknown = Schema((Field("age"), Field("shoeSize")), (Field("advertiserId"),))
    fails(source, tmp_path, ["userFeature.data", "no line has the user field 'shoeSize'"], unknown)
    unknown = Schema((Field("age"),), (Field("colour"),))
    fails(source, tmp_path, ["adFeature.csv", "no 'colour'"], unknown)


def test_target_must_not_swallow_the_source(tmp_path):
    source = write(tmp_path / "in")
    for target in (source, tmp_path):
        with pytest.raises(InputError, match="would replace the source"):
            tencent.prepare(source, target, schema=SCHEMA)
    assert (source / "userFeature.data").read_text() == USERS


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (np.zeros(3, np.float32), "float32 (3,), expected float32 (4,)"),
        (np.zeros(4), "float64 (4,), expected float32 (4,)"),
        (np.full(4, 1.5, np.float32), "outside 0 to 1"),
        (np.full(4, np.nan, np.float32), "outside 0 to 1"),
    ],
)
def test_faulty_probabilities(tmp_path, column, words):
    source = write(tmp_path / "in")
    np.save(source / "train_probability.npy", column)
    fails(source, tmp_path, ["train_probability.npy", words])


def test_probabilities_that_are_no_array(tmp_path):
    source = write(tmp_path / "in")
    (source / "train_probability.npy").write_bytes(b"not an array")
    fails(source, tmp_path, ["train_probability.npy", "not a .npy file"])
