import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaheac_jax.data import blocks, tencent
from metaheac_jax.data.dataset import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.schema import TENCENT, Field, Schema

SCHEMA = Schema(
    user=(Field("age"), Field("consumptionAbility"), Field("interest1", 12), Field("kw1", 2)),
    campaign=(Field("productType"), Field("advertiserId")),
)
USERS = (
    "uid 30|age 4|consumptionAbility 2|interest1 9 8 7 6 5 4 3 2 1 0 99 98|kw1 70 60 50|os 1 2\n"
    "kw1 60|uid 10|gender 2|consumptionAbility 0\n"
    "uid 12345678901234|interest1 5|kw3 1 2 3|age 0\n"
)
ADS = "aid,advertiserId,campaignId,productType\n20,7,1,3\n5,9,2,3\n"
TRAIN = "aid,uid,label\n20,10,1\n5,30,-1\n20,30,-1\n5,10,1\n"
TRUTH = "5,12345678901234,1\n20,10,0\n"


def write(source: Path, **changes: str | bytes) -> Path:
    """A source directory with the four files, some of them changed."""
    names = {
        "users": "userFeature.data",
        "ads": "adFeature.csv",
        "train": "train.csv",
        "truth": "test1_truth.csv",
    }
    texts = {"users": USERS, "ads": ADS, "train": TRAIN, "truth": TRUTH} | changes
    source.mkdir(exist_ok=True)
    for key, text in texts.items():
        content = text if isinstance(text, bytes) else text.encode()
        (source / names[key]).write_bytes(content)
    return source


def decode(data, field: str) -> list[list[int]]:
    """Raw values of one user field, a list a user, pads left out."""
    f = [x.name for x in data.schema.user].index(field)
    start, slots = data.schema.user_starts[f], data.schema.user_slots[f]
    values, offset = data.vocabulary.values[f], data.vocabulary.offsets[f]
    mine = data.user_rows[:, start : start + slots]
    return [[int(values[row - offset]) for row in line if row != data.rows] for line in mine]


def test_the_whole_of_a_small_world(tmp_path):
    data = tencent.prepare(write(tmp_path / "in"), tmp_path / "out", schema=SCHEMA)
    assert data.name == "Tencent look-alike"
    assert data.user_key.tolist() == [30, 10, 12345678901234]  # file order
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

    assert data.campaign_key.tolist() == [5, 20]
    assert data.campaign_rows.tolist() == [[18, 20], [18, 19]]  # offsets 18 and 19
    assert data.stage1.offsets.tolist() == [0, 2, 4]
    assert data.stage1.user.tolist() == [0, 1, 1, 0]
    assert data.stage1.label.tolist() == [0, 1, 1, 0]
    assert data.stage2.user.tolist() == [2, 1]
    assert data.stage2.label.tolist() == [1, 0]
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
    tencent.prepare(Path("in"), Path("out"), schema=SCHEMA, name="first")
    tencent.prepare(Path("in"), Path("out"), schema=SCHEMA, name="second")
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
    np.testing.assert_array_equal(data.stage1.probability, np.float32([0.2, 0.4, 0.1, 0.3]))
    assert data.stage2.probability is None


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
    monkeypatch.setattr(blocks, "BLOCK", 3000)  # lines straddle the blocks
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
    examples = [(5, expected[rng.randrange(2000)][0], rng.choice([1, -1])) for _ in range(3000)]
    rows = "".join(f"{a},{u},{y}\n" for a, u, y in examples)
    source = write(tmp_path / "in", users=text, ads=ads, train="aid,uid,label\n" + rows, truth=rows)
    seen = []
    data = tencent.prepare(source, tmp_path / "out", progress=lambda *call: seen.append(call))

    assert data.user_key.tolist() == [uid for uid, _ in expected]
    for f, field in enumerate(TENCENT.user):
        assert decode(data, field.name) == [fields[f] for _, fields in expected]
        assert (np.diff(data.vocabulary.values[f]) > 0).all()
    for stage in (data.stage1, data.stage2):
        assert data.user_key[stage.user].tolist() == [u for _, u, _ in examples]
        assert stage.label.tolist() == [int(y == 1) for _, _, y in examples]
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


@settings(max_examples=500, deadline=None)
@given(st.lists(st.lists(pieces, max_size=4).map("|".join), min_size=1, max_size=3))
def test_the_fast_reader_refuses_just_what_the_slow_one_explains(lines):
    block = blocks.LEAD + "".join(f"{line}\n" for line in lines).encode()
    faults = [tencent._user_fault(line.encode(), SCHEMA) for line in lines]
    if any(faults):
        with pytest.raises(blocks.Malformed):
            tencent._parse_users(block, SCHEMA)
    else:
        uid, ids = tencent._parse_users(block, SCHEMA)
        expected = plain_reading("\n".join(lines), SCHEMA)
        assert uid.tolist() == [u for u, _ in expected]
        for line, (_, fields) in zip(ids, expected, strict=True):
            for f, start in enumerate(SCHEMA.user_starts):
                mine = line[start : start + SCHEMA.user_slots[f]] - 1
                values = [v for v in mine.tolist() if v >= 0]
                assert values == [v for v in fields[f] if v >= 0]


def test_every_byte_that_is_no_digit_is_refused_in_a_number():
    for byte in set(range(256)) - set(b"0123456789 |\n"):
        for value in (b"%c", b"1%c", b"%c1", b"1234567%c", b"%c1234567", b"123%c5678"):
            line = b"uid 7|age " + value % byte
            assert tencent._user_fault(line, SCHEMA)
            with pytest.raises(blocks.Malformed):
                tencent._parse_users(blocks.LEAD + line + b"\n", SCHEMA)


@pytest.mark.parametrize("name", ["uid", "age", "interest1", "consumptionAbility"])
def test_a_name_that_is_nearly_a_field_is_another_field(name):
    near = [name[:i] + other + name[i + 1 :] for i in range(len(name)) for other in "X0\0"]
    near += [f"{other}{name}" for other in ("X", "0", "\0", "00000000")]
    near += [f"{name}{other}" for other in "X0\0"]
    for other in {*near, name[1:], name[:-1]} - {""}:
        block = blocks.LEAD + f"uid 7|{other} 5\n".encode()
        uid, ids = tencent._parse_users(block, SCHEMA)
        assert uid.tolist() == [7]
        assert not ids.any()


rows = st.sampled_from(
    ["1,2,1", "3,4,-1", "5,6,0", "1,2", "1,2,1,", "a,2,1", "1,,1", "1,2,3", "", "1,2,11",
     "-1,2,1", "1,2,-1\r", "1,12345678901234567,1", " 1,2,1", "1"]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4))
def test_the_same_for_examples(lines):
    block = blocks.LEAD + "".join(f"{line}\n" for line in lines).encode()
    if any(tencent._example_fault(line.encode()) for line in lines):
        with pytest.raises(blocks.Malformed):
            tencent._parse_examples(block)
    else:
        aid, uid, label = tencent._parse_examples(block)
        expected = [tuple(map(int, line.split(","))) for line in lines]
        assert list(zip(aid, uid, label, strict=True)) == [
            (a, u, int(y == 1)) for a, u, y in expected
        ]


# Errors ----------------------------------------------------------------------------------------


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


def replace_line(text: str, number: int, line: str) -> str:
    lines = text.split("\n")
    lines[number - 1] = line
    return "\n".join(lines)


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
        ("uid 1|age 1|age 2", "field 'age' is there twice"),
        ("age 2", "expected one uid, a whole number, got ''"),
        ("uid abc", "expected one uid, a whole number, got 'abc'"),
        ("uid 1 2", "got '1 2'"),
        ("uid 30|age 1", "uid 30 is already on line 1"),
        ("uid 1|age 1\r", r"got '1\r'"),
        ("uid 1|age 1|kw", "got 'kw'"),
    ],
)
def test_faulty_user_line(tmp_path, line, words):
    source = write(tmp_path / "in", users=replace_line(USERS, 2, line))
    fails(source, tmp_path, ["userFeature.data: line 2: ", words])


def test_faulty_line_in_a_late_block(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 100)
    lines = [f"uid {i}|age {i % 7}" for i in range(1, 500)]
    lines[400] = "uid x"
    lines[450] = "uid y"
    source = write(tmp_path / "in", users="\n".join(lines))
    fails(source, tmp_path, ["userFeature.data: line 401: ", "'x'"])


def test_truncated_last_user_line(tmp_path):
    source = write(tmp_path / "in", users=USERS[: USERS.rindex(" ")])  # "...|kw3 1 2 3|age"
    fails(source, tmp_path, ["userFeature.data: line 3: ", "'age'"])


def test_file_that_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "LINE_LIMIT", 1 << 10)
    monkeypatch.setattr(blocks, "BLOCK", 1 << 8)
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
    fails(source, tmp_path, [name, "cannot be read (Is a directory"])


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
    source = write(tmp_path / "in", **{file: replace_line(text, first + 1, line)})
    fails(source, tmp_path, [f"{name}: line {first + 1}: ", words])


def test_faulty_example_in_a_late_block(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 60)
    source = write(tmp_path / "in", train="aid,uid,label\n" + "5,10,1\n" * 100 + "5,11,1\n" * 9)
    fails(source, tmp_path, ["train.csv: line 102: ", "uid 11"])


def test_truncated_last_example(tmp_path):
    source = write(tmp_path / "in", train=TRAIN[:-3])  # "5,10"
    fails(source, tmp_path, ["train.csv: line 5: ", "expected 3 columns"])


def test_headers(tmp_path):
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
        ("20,9,2,3", "aid 20 is there twice"),
        ("5,9,2,3\r", r"got '3\r'"),
    ],
)
def test_faulty_campaign(tmp_path, line, words):
    source = write(tmp_path / "in", ads=replace_line(ADS, 3, line))
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
