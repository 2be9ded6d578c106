"""The competition's files become the columns that a plain reading gives."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tencent_files import ADS, SCHEMA, TRAIN, TRUTH, USERS, write

from metaheac_jax.data.sources import tencent, text_blocks
from metaheac_jax.data.storage import open_dataset
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


def test_seeds_that_are_listed_first_do_not_stay_first(tmp_path):
    users = "".join(f"uid {u}|age 1|consumptionAbility 1|interest1 1|kw1 1\n" for u in range(40))
    lines = {c: "".join(f"{c},{u},{1 if u < 20 else -1}\n" for u in range(40)) for c in (5, 20)}
    train = "aid,uid,label\n" + lines[20]
    source = write(tmp_path / "in", users=users, train=train, truth=lines[5])
    data = tencent.prepare(source, tmp_path / "out", schema=SCHEMA)
    for stage, c in ((data.stage1, 1), (data.stage2, 0)):
        assert (np.diff(stage.label[stage.of(c)]) > 0).any()


def test_the_whole_of_a_small_world(tmp_path):
    data = tencent.prepare(write(tmp_path / "in"), tmp_path / "out", schema=SCHEMA)
    assert data.name == "Tencent look-alike"
    assert data.user_ids.tolist() == [30, 10, 12345678901234]  # file order
    # One-valued fields: missing is the value -1, only where it occurs.
    assert [v.tolist() for v in data.vocabulary.values] == [
        [-1, 0, 4],
        [-1, 0, 2],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],  # 99 and 98 are beyond the first ten
        [60, 70],  # 50 is beyond the slots
        [3],
        [7, 9],
    ]
    assert decode(data, "age") == [[4], [-1], [0]]
    assert decode(data, "consumptionAbility") == [[2], [0], [-1]]
    assert decode(data, "interest1") == [[9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [], [5]]
    assert decode(data, "kw1") == [[70, 60], [60], []]
    assert data.user_rows.shape == (3, 16)
    assert data.user_rows.dtype == np.int32

    assert data.campaign_ids.tolist() == [5, 20]
    assert data.campaign_rows.tolist() == [[18, 20], [18, 19]]  # offsets 18 and 19
    assert data.stage1.offsets.tolist() == [0, 2, 4]
    assert by_campaign(data.stage1) == [{(0, 0), (1, 1)}, {(1, 1), (0, 0)}]
    assert by_campaign(data.stage2) == [{(2, 1)}, {(2, 0)}]
    assert data.stage1.probability is None


def test_target_holds_the_columns_and_nothing_else(tmp_path):
    tencent.prepare(write(tmp_path / "in"), tmp_path / "out", schema=SCHEMA)
    data = open_dataset(tmp_path / "out", verify=True)  # the checksums hold
    assert isinstance(data.user_rows, np.memmap)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "raw_ids" not in names
    assert all(name.endswith(".npy") or name == "manifest.json" for name in names)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_relative_target_and_an_older_dataset_in_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("in"))
    tencent.prepare(Path("in"), Path("out"), schema=SCHEMA)
    Path("in", "SIMULATED").write_text("second\n")
    tencent.prepare(Path("in"), Path("out"), schema=SCHEMA)
    assert open_dataset(Path("out")).name == "second"
    assert decode(open_dataset(Path("out")), "age") == [[4], [-1], [0]]


def test_no_row_for_missing_where_nothing_is_missing(tmp_path):
    users = "uid 1|age 3\nuid 2|age 4\n"
    schema = Schema((Field("age"),), (Field("advertiserId"),))
    source = write(tmp_path / "in", users=users, train=TRAIN[:14] + "5,1,1\n", truth="5,2,-1\n")
    data = tencent.prepare(source, tmp_path / "out", schema=schema)
    assert data.vocabulary.values[0].tolist() == [3, 4]


def test_last_line_may_lack_its_newline(tmp_path):
    whole = write(tmp_path / "a")
    bare = write(tmp_path / "b", users=USERS[:-1], train=TRAIN[:-1], ads=ADS[:-1])
    one, two = (tencent.prepare(x, x / "out", schema=SCHEMA) for x in (whole, bare))
    np.testing.assert_array_equal(one.user_rows, two.user_rows)
    np.testing.assert_array_equal(one.stage1.user, two.stage1.user)


def test_simulated_world_says_so_and_brings_probabilities(tmp_path):
    source = write(tmp_path / "in")
    (source / "SIMULATED").write_text("simulated twin 3\n")
    np.save(source / "train_probability.npy", np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    data = tencent.prepare(source, tmp_path / "out", schema=SCHEMA)
    assert data.name == "simulated twin 3"
    chances = zip(data.stage1.user.tolist(), data.stage1.probability, strict=True)
    assert sorted(chances) == list(zip([0, 0, 1, 1], np.float32([0.2, 0.3, 0.1, 0.4]), strict=True))
    assert data.stage2.probability is None


def test_the_first_of_the_lines_of_a_user_and_a_campaign_counts(tmp_path):
    """Also where they are in both files, so that nobody is judged on whom a model learns from."""
    seed, non_seed = TRUTH.splitlines()
    truth = "\n".join(["5,10,1", seed, f"{seed.removesuffix(',1')},-1", non_seed])
    source = write(tmp_path / "in", train=TRAIN + "20,10,-1\n5,30,-1\n", truth=truth)
    np.save(source / "test1_truth_probability.npy", np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    with pytest.warns(UserWarning, match="has the same aid and uid") as told:
        data = tencent.prepare(source, tmp_path / "out", schema=SCHEMA)
    assert [str(one.message).partition("; an earlier")[0] for one in told] == [
        f"{source}/train.csv: lines left out: 2, the first is line 6",
        f"{source}/test1_truth.csv: lines left out: 2, the first is line 1",
    ]
    assert data.stage1.offsets.tolist() == [0, 2, 4]
    assert by_campaign(data.stage1) == [{(0, 0), (1, 1)}, {(1, 1), (0, 0)}]
    assert by_campaign(data.stage2) == [{(2, 1)}, {(2, 0)}]
    assert data.stage2.probability.tolist() == np.float32([0.2, 0.4]).tolist()


# Against a reading line by line ----------------------------------------------------------------


def plain_reading(text: str, schema: Schema):
    """User ids and raw values by the obvious program."""
    users = []
    for line in text.splitlines():
        parts = {name: values.split(" ") for name, _, values in
                 (part.partition(" ") for part in line.split("|"))}  # fmt: skip
        fields = []
        for field in schema.user:
            values = [int(v) for v in parts.get(field.name, [])[: min(10, field.slots)]]
            fields.append(values or ([-1] if field.slots == 1 else []))
        users.append((int(parts["uid"][0]), fields))
    return users


def test_many_users_over_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(text_blocks, "BLOCK", 3000)  # lines straddle the blocks
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
    text = "\n".join(lines) + "\n"
    ads = "aid," + ",".join(f.name for f in TENCENT.campaign) + "\n5,1,1,1,1,1,1\n"
    expected = plain_reading(text, TENCENT)
    examples = [(5, uid, rng.choice([1, -1])) for uid, _ in rng.sample(expected, 2000)]
    rows = [f"{a},{u},{y}\n" for a, u, y in examples]
    train, truth = "aid,uid,label\n" + "".join(rows[:1000]), "".join(rows[1000:])
    source = write(tmp_path / "in", users=text, ads=ads, train=train, truth=truth)
    seen = []
    data = tencent.prepare(source, tmp_path / "out", progress=lambda *call: seen.append(call))

    assert data.user_ids.tolist() == [uid for uid, _ in expected]
    for f, field in enumerate(TENCENT.user):
        assert decode(data, field.name) == [fields[f] for _, fields in expected]
        assert (np.diff(data.vocabulary.values[f]) > 0).all()
    for stage, own in ((data.stage1, examples[:1000]), (data.stage2, examples[1000:])):
        assert sorted(zip(data.user_ids[stage.user].tolist(), stage.label, strict=True)) == sorted(
            (u, int(y == 1)) for _, u, y in own
        )
    for name in ("userFeature.data", "train.csv", "test1_truth.csv"):
        done = [call[1] for call in seen if call[0] == name]
        assert done == sorted(done)
        assert len(done) > 3
        assert (name, done[-1], (source / name).stat().st_size) in seen
        assert done[-1] == (source / name).stat().st_size


pieces = st.sampled_from(
    ["uid", "uid 7", "age", "age 1", "kw1 1 2 3", "kw1 9", "consumptionAbility 2", "xinterest1 4",
     "interest1 4 x", "consumptionabilitY 3", "os x", "os", "", "uid 1 2", "age 123456789",
     "uid 1234567890123456", "uid 12345678901234567", "age 00000000000000007", "kw1  1", "kw1 1 ",
     "age -1", "age :", "age /", "kw1 1\r", "\0age 1", "interest1 1 2 3 4 5 6 7 8 9 10 x", "é 1"]
)  # fmt: skip


@settings(max_examples=500)
@given(st.lists(st.lists(pieces, max_size=4).map("|".join), min_size=1, max_size=3))
def test_the_fast_reader_refuses_just_what_the_slow_one_explains(lines):
    block = text_blocks.LEAD + "".join(f"{line}\n" for line in lines).encode()
    faults = [tencent._user_fault(line.encode(), SCHEMA) for line in lines]
    if any(faults):
        with pytest.raises(text_blocks.Malformed):
            tencent._parse_users(block, SCHEMA)
    else:
        uid, ids = tencent._parse_users(block, SCHEMA)
        expected = plain_reading("\n".join(lines), SCHEMA)
        assert uid.tolist() == [u for u, _ in expected]
        for line, (_, fields) in zip(ids, expected, strict=True):
            for f, start in enumerate(SCHEMA.user_starts):
                mine = line[start : start + SCHEMA.user[f].slots] - 1
                values = [v for v in mine.tolist() if v >= 0]
                assert values == [v for v in fields[f] if v >= 0]


def test_every_byte_that_is_no_digit_is_refused_in_a_number():
    for byte in set(range(256)) - set(b"0123456789 |\n"):
        for value in (b"%c", b"1%c", b"%c1", b"1234567%c", b"%c1234567", b"123%c5678"):
            line = b"uid 7|age " + value % byte
            assert tencent._user_fault(line, SCHEMA)
            with pytest.raises(text_blocks.Malformed):
                tencent._parse_users(text_blocks.LEAD + line + b"\n", SCHEMA)


@pytest.mark.parametrize("name", ["uid", "age", "interest1", "consumptionAbility"])
def test_a_name_that_is_nearly_a_field_is_another_field(name):
    near = [name[:i] + other + name[i + 1 :] for i in range(len(name)) for other in "X0\0"]
    near += [f"{other}{name}" for other in ("X", "0", "\0", "00000000")]
    near += [f"{name}{other}" for other in "X0\0"]
    for other in {*near, name[1:], name[:-1]} - {""}:
        block = text_blocks.LEAD + f"uid 7|{other} 5\n".encode()
        uid, ids = tencent._parse_users(block, SCHEMA)
        assert uid.tolist() == [7]
        assert not ids.any()


rows = st.sampled_from(
    ["1,2,1", "3,4,-1", "5,6,0", "1,2", "1,2,1,", "a,2,1", "1,,1", "1,2,3", "", "1,2,11",
     "-1,2,1", "1,2,-1\r", "1,12345678901234567,1", " 1,2,1", "1"]
)  # fmt: skip


@settings(max_examples=200)
@given(st.lists(rows, min_size=1, max_size=4))
def test_examples_are_read_as_line_by_line_or_refused(lines):
    block = text_blocks.LEAD + "".join(f"{line}\n" for line in lines).encode()
    if any(tencent._example_fault(line.encode()) for line in lines):
        with pytest.raises(text_blocks.Malformed):
            tencent._parse_examples(block)
    else:
        aid, uid, label = tencent._parse_examples(block)
        expected = [tuple(map(int, line.split(","))) for line in lines]
        assert list(zip(aid, uid, label, strict=True)) == [
            (a, u, int(y == 1)) for a, u, y in expected
        ]
