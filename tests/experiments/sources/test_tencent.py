"""The competition's files become the columns that a plain reading gives."""

import random

import numpy as np
import pytest
from tencent_files import ADS, SCHEMA, TRAIN, TRUTH, USERS, write

from experiments.sources import tencent
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
    monkeypatch.setattr(tencent, "BLOCK", 3000)  # lines straddle the blocks
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
    done = [call[1] for call in seen if call[0] == "userFeature.data"]
    assert done == sorted(done)
    assert len(done) > 3
    assert done[-1] == (source / "userFeature.data").stat().st_size
