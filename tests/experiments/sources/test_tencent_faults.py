"""A faulty file of the competition is refused in one line that names file and line."""

import re
from pathlib import Path

import pytest
from tencent_files import ADS, SCHEMA, TRAIN, TRUTH, USERS, write
from tencent_world import with_line

from experiments.sources import tencent
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema


def fails(source: Path, tmp_path: Path, *words: str, schema: Schema = SCHEMA) -> None:
    """Preparing must fail in one line with all of these words, and leave nothing behind."""
    target = tmp_path / "target" / "out"
    with pytest.raises(InputError) as caught:
        tencent.prepare(source, target, schema=schema)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not target.parent.exists() or not list(target.parent.iterdir())


FAULTS = [
    ("users", 2, "uid 1|age", "between bars, got 'uid 1|age'"),
    ("users", 2, "uid 1|age ", "between bars"),
    ("users", 2, "uid 1||age 2", "between bars"),
    ("users", 2, "", "between bars, got ''"),
    ("users", 2, "uid 1|age 4x", "whole numbers up to 99999999 in 'age'"),
    ("users", 2, "uid 1|age -1", "whole numbers up to"),
    ("users", 2, "uid 1|age 100000000", "whole numbers up to"),
    ("users", 2, "uid 1|kw1 1 1.5", "whole numbers up to 99999999 in 'kw1'"),
    ("users", 2, "uid 1|age 1\r", "whole numbers up to"),
    ("users", 2, "uid 1|age 1|age 2", "at most once"),
    ("users", 2, "age 2", "expected one uid"),
    ("users", 2, "uid abc", "expected one uid"),
    ("users", 2, "uid 1 2", "expected one uid"),
    ("users", 2, "uid 30|age 1", "uid 30 is already on line 1"),
    ("train", 3, "5,10", "expected a whole number as label, got None"),
    ("train", 3, "x,10,1", "expected a whole number as aid, got 'x'"),
    ("train", 3, "5,1.5,1", "expected a whole number as uid, got '1.5'"),
    ("train", 3, "5,10,3", "expected label 1 or -1, got 3"),
    ("train", 3, "6,10,1", "aid 6 has no line in adFeature.csv"),
    ("train", 3, "5,11,1", "uid 11 has no line in userFeature.data"),
    ("truth", 2, "5,10,", "expected a whole number as label"),
    ("truth", 1, "5,11,1", "uid 11 has no line"),
    ("ads", 3, "5,9,2,", "expected a whole number as productType"),
    ("ads", 3, "20,9,2,3", "aid 20 occurs twice"),
]
FILES = {
    "users": ("userFeature.data", USERS),
    "train": ("train.csv", TRAIN),
    "truth": ("test1_truth.csv", TRUTH),
    "ads": ("adFeature.csv", ADS),
}


@pytest.mark.parametrize(("file", "number", "line", "words"), FAULTS)
def test_a_faulty_line_is_named(tmp_path, file, number, line, words):
    name, text = FILES[file]
    source = write(tmp_path / "in", **{file: with_line(text, number, line)})
    fails(source, tmp_path, f"{name}: line {number}: ", words)


def test_a_faulty_line_in_a_late_block(tmp_path, monkeypatch):
    monkeypatch.setattr(tencent, "BLOCK", 100)
    lines = [f"uid {i}|age {i % 7}" for i in range(1, 500)]
    lines[400] = "uid x"
    lines[450] = "uid y"
    fails(write(tmp_path / "in", users="\n".join(lines)), tmp_path, "line 401: ", "'uid x'")


@pytest.mark.parametrize("name", ["userFeature.data", "adFeature.csv", "train.csv"])
def test_missing_empty_and_unreadable_files(tmp_path, name):
    source = write(tmp_path / "in")
    (source / name).write_text("")
    fails(source, tmp_path, name, "empty")
    (source / name).unlink()
    fails(source, tmp_path, name, "cannot be read (No such file")
    (source / name).mkdir()
    fails(source, tmp_path, name, "is not a regular file")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("users", b"uid 1|age \xff\n", ["userFeature.data: not UTF-8"]),
        ("users", re.sub(r"age \d+", "age 99999998", USERS, count=1), ["'age' has an id of 99999"]),
        ("train", TRAIN.partition("\n")[2], ["train.csv: line 1: expected a column 'aid'"]),
        ("train", "aid,uid,label\n", ["train.csv: no line"]),
        ("train", TRAIN + "5,10,1,1\n", ["train.csv: cannot be read"]),
        ("ads", ADS.replace("aid,", "id,"), ["adFeature.csv: line 1: expected a column 'aid'"]),
    ],
)
def test_faulty_files(tmp_path, file, content, words):
    fails(write(tmp_path / "in", **{file: content}), tmp_path, *words)


def test_fields_that_the_files_lack(tmp_path):
    source = write(tmp_path / "in")
    unknown = Schema((Field("age"), Field("shoeSize")), (Field("advertiserId"),))
    fails(source, tmp_path, "no line has the user field 'shoeSize'", schema=unknown)
    unknown = Schema((Field("age"),), (Field("colour"),))
    fails(source, tmp_path, "adFeature.csv", "'colour'", schema=unknown)


def test_target_must_not_swallow_the_source(tmp_path):
    source = write(tmp_path / "in")
    with pytest.raises(InputError, match="would replace the source"):
        tencent.prepare(source, source, schema=SCHEMA)
    assert (source / "userFeature.data").read_text() == USERS
