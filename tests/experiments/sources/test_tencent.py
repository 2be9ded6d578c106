"""The competition's files become the columns that a plain reading gives."""

import random

import pytest
from tencent_files import ADS, SCHEMA, TRAIN, TRUTH, USERS, write
from tencent_world import with_line

from experiments.sources import tencent
from metaheac_jax.errors import InputError
from metaheac_jax.schema import TENCENT, Field, Schema


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
    seed, non_seed = TRUTH.splitlines()
    truth = "\n".join(["5,10,1", seed, f"{seed.removesuffix(',1')},-1", non_seed])
    source = write(tmp_path / "in", train=TRAIN + "20,10,-1\n5,30,-1\n", truth=truth)
    with pytest.warns(UserWarning, match="lines left out: 4; .* has the same aid and uid"):
        data = tencent.prepare(source, tmp_path / "out", schema=SCHEMA)
    assert by_campaign(data.stage1) == [{(0, 0), (1, 1)}, {(1, 1), (0, 0)}]
    assert by_campaign(data.stage2) == [{(2, 1)}, {(2, 0)}]


def plain_reading(text: str, schema: Schema):
    """User ids and raw values by the obvious program."""
    users = []
    for line in text.splitlines():
        parts = {name: values.split(" ") for name, _, values in
                 (part.partition(" ") for part in line.split("|"))}  # fmt: skip
        fields = []
        for field in schema.user:
            values = [int(v) for v in parts.get(field.name, [])[: field.slots]]
            fields.append(values or ([MISSING] if field.slots == 1 else []))
        users.append((int(parts["uid"][0]), fields))
    return users


def test_many_users_against_a_reading_line_by_line(tmp_path):
    rng = random.Random(0)
    lines = []
    for uid in rng.sample(range(10**9), 2000):
        parts = [f"uid {uid}"]
        for field in (*TENCENT.user, Field("interest5", 30), Field("os")):
            if rng.random() < 0.8:
                count = rng.randint(1, field.slots + 5) if field.slots > 1 else 1
                largest = 10 ** rng.randint(1, 6)
                parts.append(f"{field.name} " + " ".join(
                    str(rng.randrange(largest)) for _ in range(count)))  # fmt: skip
        rng.shuffle(parts)
        lines.append("|".join(parts))
    text = "\n".join(lines)
    ads = "aid," + ",".join(f.name for f in TENCENT.campaign) + "\n5,1,1,1,1,1,1\n"
    expected = plain_reading(text, TENCENT)
    examples = [(5, uid, rng.choice([1, -1])) for uid, _ in rng.sample(expected, 2000)]
    rows = [f"{a},{u},{y}\n" for a, u, y in examples]
    train, truth = "aid,uid,label\n" + "".join(rows[:1000]), "".join(rows[1000:])
    source = write(tmp_path / "in", users=text, ads=ads, train=train, truth=truth)
    data = tencent.prepare(source, tmp_path / "out")

    assert data.user_ids.tolist() == [uid for uid, _ in expected]
    for f, field in enumerate(TENCENT.user):
        assert decode(data, field.name) == [fields[f] for _, fields in expected]
    for stage, own in ((data.stage1, examples[:1000]), (data.stage2, examples[1000:])):
        assert sorted(zip(data.user_ids[stage.user].tolist(), stage.label, strict=True)) == sorted(
            (u, int(y == 1)) for _, u, y in own
        )


FILES = {
    "users": ("userFeature.data", USERS),
    "train": ("train.csv", TRAIN),
    "truth": ("test1_truth.csv", TRUTH),
    "ads": ("adFeature.csv", ADS),
}


@pytest.mark.parametrize(
    ("file", "number", "line", "words"),
    [
        ("users", 2, "uid 1|age", "between bars, got 'uid 1|age'"),
        ("users", 2, "", "between bars, got ''"),
        ("users", 2, "uid 1|age 4x", "field number number"),
        ("users", 2, "uid 1|age -1", "field number number"),
        ("users", 2, "age 2", "expected 'uid number'"),
        ("users", 2, "uid 1 2", "expected 'uid number'"),
        ("users", 2, "uid 30|age 1", "the uid is on an earlier line"),
        ("train", 3, "5,10", "expected a whole number as label"),
        ("train", 3, "x,10,1", "expected a whole number as aid"),
        ("train", 3, "5,10,3", "expected label 1 or -1"),
        ("train", 3, "6,10,1", "the aid has no line in adFeature.csv"),
        ("truth", 1, "5,11,1", "the uid has no line in userFeature.data"),
        ("ads", 3, "5,9,2,", "expected a whole number as productType"),
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


@pytest.mark.parametrize("content", [None, b"", b"uid 1|age \xff\n"])
@pytest.mark.parametrize("name", ["userFeature.data", "adFeature.csv", "train.csv"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content):
    source = write(tmp_path / "in")
    (source / name).unlink()
    if content is not None:
        (source / name).write_bytes(content)
    with pytest.raises(
        InputError, match=f"{name}: (cannot be read|has no line).*; get the file again"
    ):
        tencent.prepare(source, tmp_path / "out", schema=SCHEMA)
