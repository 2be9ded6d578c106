"""The competition's files become the columns that a plain reading gives."""

import pytest
from tencent_world import with_line

from experiments.sources import tencent
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema

SCHEMA = Schema(
    user=(Field("age"), Field("consumptionAbility"), Field("interest1", 12), Field("kw1", 2)),
    campaign=(Field("productType"), Field("advertiserId")),
)
USERS = (
    "uid 30|age 4|consumptionAbility 2|interest1 9 8 7 6 5 4 3 2 1 0 99 98|kw1 70 60 50|os 1 2\n"
    "kw1 60|uid 10|gender 2|consumptionAbility 0\n"
    "uid 12345678901234|interest1 5|kw3 1 2 3|age 0\n"
)
FILES = {
    "users": ("userFeature.data", USERS),
    "ads": ("adFeature.csv", "aid,advertiserId,campaignId,productType\n20,7,1,3\n5,9,2,3\n"),
    "train": ("train.csv", "aid,uid,label\n20,10,1\n5,30,-1\n20,30,-1\n5,10,1\n"),
    "truth": ("test1_truth.csv", "5,12345678901234,1\n20,12345678901234,0\n"),
}


def write(source, **changes):
    """Writes the four files to a directory; ``changes`` replaces the text of some."""
    source.mkdir(exist_ok=True)
    for key, (name, text) in FILES.items():
        (source / name).write_text(changes.get(key, text))
    return source


def decode(data, field: str) -> list[list[int]]:
    """Raw values of one user field, a list a user, pads left out."""
    f = [x.name for x in data.schema.user].index(field)
    start, slots = data.schema.user_starts[f], data.schema.user[f].slots
    values, offset = data.vocabulary.values[f], data.vocabulary.offsets[f]
    mine = data.user_rows[:, start : start + slots]
    return [[int(values[row - offset]) for row in line if row != data.num_rows] for line in mine]


def by_campaign(stage):
    """A set of (user, label) of each campaign."""
    pairs = list(zip(stage.user.tolist(), stage.label.tolist(), strict=True))
    return [set(pairs[stage.of(c)]) for c in range(len(stage.counts))]


MISSING = -(2**63)


def test_the_whole_of_a_small_world(tmp_path):
    data = tencent.prepare(write(tmp_path / "in"), tmp_path / "out", schema=SCHEMA)
    assert data.name == "Tencent look-alike"
    assert data.user_ids.tolist() == [30, 10, 12345678901234]  # file order
    assert decode(data, "age") == [[4], [MISSING], [0]]
    assert decode(data, "consumptionAbility") == [[2], [0], [MISSING]]
    assert decode(data, "interest1") == [[9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 99, 98], [], [5]]
    assert decode(data, "kw1") == [[70, 60], [60], []]  # 50 is beyond the slots
    assert data.campaign_ids.tolist() == [5, 20]
    first = data.vocabulary.offsets[-2:]
    assert (data.campaign_rows - first).tolist() == [[0, 1], [0, 0]]
    assert by_campaign(data.stage1) == [{(0, 0), (1, 1)}, {(1, 1), (0, 0)}]
    assert by_campaign(data.stage2) == [{(2, 1)}, {(2, 0)}]


def test_the_first_of_the_lines_of_a_user_and_a_campaign_counts(tmp_path):
    """Also where they are in both files, so that nobody is judged on whom a model learns from."""
    train, (seed, non_seed) = FILES["train"][1], FILES["truth"][1].splitlines()
    truth = "\n".join(["5,10,1", seed, f"{seed.removesuffix(',1')},-1", non_seed])
    source = write(tmp_path / "in", train=train + "20,10,-1\n5,30,-1\n", truth=truth)
    with pytest.warns(UserWarning, match="lines left out: 4; .* has the same aid and uid"):
        data = tencent.prepare(source, tmp_path / "out", schema=SCHEMA)
    assert by_campaign(data.stage1) == [{(0, 0), (1, 1)}, {(1, 1), (0, 0)}]
    assert by_campaign(data.stage2) == [{(2, 1)}, {(2, 0)}]


@pytest.mark.parametrize(
    ("file", "number", "line", "words"),
    [
        ("users", 2, "uid 1|age", "between bars, got 'uid 1|age'"),
        ("users", 2, "uid 1|age 4x", "field number number"),
        ("users", 2, "age 2", "expected 'uid number'"),
        ("users", 2, "uid 30|age 1", "the uid is on an earlier line"),
        ("train", 3, "5,10", "expected a whole number as label"),
        ("train", 3, "5,10,3", "expected label 1 or -1"),
        ("train", 3, "6,10,1", "the aid has no line in adFeature.csv"),
        ("truth", 1, "5,11,1", "the uid has no line in userFeature.data"),
        ("ads", 3, "20,9,2,3", "the aid is on an earlier line"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, file, number, line, words):
    name, text = FILES[file]
    source = write(tmp_path / "in", **{file: with_line(text, number, line)})
    with pytest.raises(InputError, match=f"{name}: line {number}: ") as caught:
        tencent.prepare(source, tmp_path / "out", schema=SCHEMA)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("userFeature.data", b"uid 1|age \xff\n"), ("adFeature.csv", b""), ("train.csv", None)],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content):
    source = write(tmp_path / "in")
    (source / name).unlink()
    if content is not None:
        (source / name).write_bytes(content)
    with pytest.raises(
        InputError, match=f"{name}: (cannot be read|has no line).*; get the file again"
    ):
        tencent.prepare(source, tmp_path / "out", schema=SCHEMA)
