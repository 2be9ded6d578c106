import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metaheac_jax.data.dataset import (
    Dataset,
    group_by_campaign,
    new_directory,
    open_dataset,
    write_columns,
    write_dataset,
)
from metaheac_jax.errors import InputError
from metaheac_jax.schema import TENCENT, Field, Schema, Vocabulary

SCHEMA = Schema((Field("age"), Field("likes", 3)), (Field("kind"),))


def world() -> Dataset:
    """Three users, two campaigns; stage 1 has true probabilities, stage 2 has none."""
    stage1 = group_by_campaign(
        np.array([1, 0, 1]),
        np.array([2, 1, 0]),
        np.array([1, 0, 0]),
        campaigns=2,
        probability=np.array([0.5, 0.25, 0.125]),
    )
    stage2 = group_by_campaign(np.array([0]), np.array([2]), np.array([1]), campaigns=2)
    return Dataset(
        name="toy",
        schema=SCHEMA,
        vocabulary=Vocabulary((np.array([-1, 4]), np.array([7, 9]), np.array(["ad", "game"]))),
        user_key=np.array([30, 10, 20]),
        user_rows=np.array([[0, 2, 3, 6], [1, 6, 6, 6], [1, 3, 6, 6]], np.int32),
        campaign_key=np.array([5, 8]),
        campaign_rows=np.array([[4], [5]], np.int32),
        stage1=stage1,
        stage2=stage2,
    )


def same(one, two) -> None:
    """Compares two datasets, or parts of them, down to dtypes."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if dataclasses.is_dataclass(a) and not isinstance(a, Schema):
            same(a, b)
        elif isinstance(a, tuple):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        else:
            assert a == b


# The dataset on disk ---------------------------------------------------------------------------


def test_round_trip(tmp_path):
    write_dataset(world(), tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    same(world(), data)
    assert isinstance(data.user_rows, np.memmap)
    assert (data.rows, data.users, data.campaigns) == (6, 3, 2)
    assert data.stage1.of(1) == slice(1, 3)
    assert data.stage1.counts.tolist() == [1, 2]
    assert data.stage1.positives.tolist() == [0, 1]


def test_parents_are_made_and_an_older_target_is_replaced(tmp_path):
    target = tmp_path / "a" / "b"
    write_dataset(dataclasses.replace(world(), name="old"), target)
    write_dataset(world(), target)
    assert open_dataset(target).name == "toy"
    assert [path.name for path in target.parent.iterdir()] == ["b"]


def test_crash_leaves_nothing(tmp_path):
    def crash() -> None:
        with new_directory(tmp_path / "out") as directory:
            (directory / "user_key.npy").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crash()
    assert not list(tmp_path.iterdir())


def test_crash_leaves_the_older_dataset(tmp_path):
    write_dataset(world(), tmp_path / "out")
    broken = dataclasses.replace(world(), stage2=None)
    with pytest.raises(AttributeError):
        write_dataset(broken, tmp_path / "out")
    same(world(), open_dataset(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("relative", [False, True])
def test_column_streamed_to_its_place_is_left_there(tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    with new_directory(Path("out") if relative else tmp_path / "out") as directory:
        rows = np.lib.format.open_memmap(
            directory / "user_rows.npy", mode="w+", dtype=np.int32, shape=(3, 4)
        )
        rows[:] = world().user_rows
        before = (directory / "user_rows.npy").stat().st_ino
        write_columns(dataclasses.replace(world(), user_rows=rows), directory)
        assert (directory / "user_rows.npy").stat().st_ino == before
    same(world(), open_dataset(tmp_path / "out"))


def test_column_mapped_from_elsewhere_is_copied(tmp_path):
    write_dataset(world(), tmp_path / "one")
    write_dataset(open_dataset(tmp_path / "one"), tmp_path / "two")
    same(world(), open_dataset(tmp_path / "two"))


def test_column_computed_from_a_map_is_written(tmp_path):
    write_dataset(world(), tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    changed = dataclasses.replace(data, user_key=data.user_key + 1)
    write_dataset(changed, tmp_path / "out")  # over the very files that are mapped
    assert open_dataset(tmp_path / "out").user_key.tolist() == [31, 11, 21]


def test_not_a_dataset(tmp_path):
    with pytest.raises(InputError, match="not a dataset"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="not a dataset"):
        open_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not valid JSON"), ("[]", "expected format"), ('{"format": "x"}', "expected format")],
)
def test_manifest_that_is_none(tmp_path, text, words):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=f"manifest.json: {words}"):
        open_dataset(tmp_path)


def test_every_file_is_named_when_missing_short_or_altered(tmp_path):
    write_dataset(world(), tmp_path / "out")
    names = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    assert len(names) == 4 + 3 + 4 + 3
    for name in names:
        path = tmp_path / "out" / name
        content = path.read_bytes()
        for spoilt, words in (
            (None, "missing"),
            (content[:-1], f"{len(content) - 1} bytes, expected {len(content)}"),
            (content[:-1] + bytes([content[-1] ^ 1]), "altered"),
        ):
            path.unlink()
            if spoilt is not None:
                path.write_bytes(spoilt)
            with pytest.raises(InputError) as caught:
                open_dataset(tmp_path / "out")
            assert str(path) in str(caught.value)
            assert words in str(caught.value)
            path.write_bytes(content)
    same(world(), open_dataset(tmp_path / "out"))


def test_alteration_goes_unnoticed_only_if_asked(tmp_path):
    write_dataset(world(), tmp_path / "out")
    path = tmp_path / "out" / "user_key.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    open_dataset(tmp_path / "out", verify=False)


@given(st.data(), st.integers(1, 6), st.integers(0, 40))
def test_group_by_campaign_keeps_every_example_in_order(data, campaigns, count):
    def column(most):
        return data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, most)))

    campaign, user, label = column(campaigns - 1), column(1000), column(1)
    probability = user / 1024  # exact in float32
    groups = group_by_campaign(campaign, user, label, campaigns=campaigns, probability=probability)
    assert groups.offsets.shape == (campaigns + 1,)
    for c in range(campaigns):
        mine = groups.of(c)
        np.testing.assert_array_equal(groups.user[mine], user[campaign == c])
        np.testing.assert_array_equal(groups.label[mine], label[campaign == c])
        np.testing.assert_array_equal(groups.probability[mine], probability[campaign == c])
        assert groups.counts[c] == (campaign == c).sum()
        assert groups.positives[c] == label[campaign == c].sum()


# Schema and vocabulary -------------------------------------------------------------------------


def test_the_fields_of_the_paper():
    assert len(TENCENT.user) == 14
    assert len(TENCENT.campaign) == 6
    assert sum(TENCENT.user_slots) == 57
    assert TENCENT.user_starts[:9] == (0, 1, 2, 3, 4, 5, 6, 7, 17)
    assert Schema.from_json(json.loads(json.dumps(TENCENT.to_json()))) == TENCENT


@pytest.mark.parametrize(
    ("user", "campaign", "words"),
    [
        ((Field("a"), Field("b")), (Field("a"),), "'a' is named twice"),
        ((), (Field("a"),), "at least one user field"),
        ((Field("a"),), (), "at least one user field"),
        ((Field("a"),), (Field("b", 2),), "'b' must have one slot"),
    ],
)
def test_schema_that_makes_no_sense(user, campaign, words):
    with pytest.raises(InputError, match=words):
        Schema(user, campaign)


@pytest.mark.parametrize(("name", "slots"), [("", 1), ("a", 0)])
def test_field_that_makes_no_sense(name, slots):
    with pytest.raises(InputError, match="needs a name and at least one slot"):
        Field(name, slots)


@pytest.mark.parametrize(
    "data", [[], {}, {"user": [{"nam": "a"}], "campaign": []}, {"user": 3, "campaign": []}, None]
)
def test_schema_from_other_data(data):
    with pytest.raises(InputError, match="schema: expected"):
        Schema.from_json(data)


values = st.sets(st.integers(-1, 50), max_size=20)


@given(st.lists(values, min_size=1, max_size=4), st.lists(st.integers(-3, 60), max_size=30))
def test_encode_gives_the_row_of_a_known_value_and_the_pad_id_otherwise(fields, raw):
    vocabulary = Vocabulary(tuple(np.array(sorted(known), np.int64) for known in fields))
    every = [(f, v) for f, known in enumerate(fields) for v in sorted(known)]  # row by row
    assert vocabulary.rows == len(every)
    for f in range(len(fields)):
        rows = vocabulary.encode(f, np.array(raw, np.int64))
        assert rows.dtype == np.int32
        expected = [every.index((f, v)) if (f, v) in every else len(every) for v in raw]
        assert rows.tolist() == expected


def test_encode_keeps_the_shape_and_takes_strings():
    vocabulary = Vocabulary((np.array([3]), np.array(["ad", "game"])))
    raw = np.array([["game", "ad"], ["adx", "z"]])
    assert vocabulary.encode(1, raw).tolist() == [[2, 1], [3, 3]]
