"""Fields, schemas, and the table row of every known value."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaheac_jax.errors import InputError
from metaheac_jax.schema import TENCENT, Field, Schema, Vocabulary


def test_the_fields_of_the_paper():
    assert len(TENCENT.user) == 14
    assert len(TENCENT.campaign) == 6
    assert TENCENT.num_slots == 57
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
def test_an_invalid_schema_is_refused(user, campaign, words):
    with pytest.raises(InputError, match=words):
        Schema(user, campaign)


@pytest.mark.parametrize(("name", "slots"), [("", 1), ("a", 0)])
def test_a_field_needs_a_name_and_a_slot(name, slots):
    with pytest.raises(InputError, match="needs a name and at least one slot"):
        Field(name, slots)


@pytest.mark.parametrize("name", [".a", "..", "/a", "a/b", "a\\b", "a\0"])
def test_a_name_that_cannot_be_that_of_a_file_is_refused(name):
    with pytest.raises(InputError, match="a name must not start with a dot or have a slash"):
        Field(name)


def test_a_name_that_is_too_long_for_a_file_is_refused():
    Field("é" * 100)
    with pytest.raises(
        InputError, match=r"field 'é+\.\.\.': a name must not have more than 200 bytes"
    ):
        Field("é" * 100 + "a")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], r"schema: expected a JSON object, got \[\]"),
        (None, "schema: expected a JSON object, got null"),
        ({}, "schema: has no 'user'; name the fields there"),
        ({"user": []}, "schema: has no 'campaign'; name the fields there"),
        ({"user": 3, "campaign": []}, "schema: user is 3, expected a list"),
        (
            {"user": [{"nam": "a"}], "campaign": []},
            "schema: field: unknown key 'nam'; expected name, slots, edges, hash_rows",
        ),
        ({"user": [{}], "campaign": []}, "schema: field '' needs a name"),
    ],
)
def test_schema_from_other_data(data, words):
    with pytest.raises(InputError, match=words):
        Schema.from_json(data)


values = st.sets(st.integers(-1, 50), max_size=20)


@given(st.lists(values, min_size=1, max_size=4), st.lists(st.integers(-3, 60), max_size=30))
def test_encode_gives_the_row_of_a_known_value_and_the_pad_id_otherwise(fields, raw):
    vocabulary = Vocabulary(tuple(np.array(sorted(known), np.int64) for known in fields))
    every = [(f, v) for f, known in enumerate(fields) for v in sorted(known)]  # row by row
    assert vocabulary.num_rows == len(every)
    for f in range(len(fields)):
        rows = vocabulary.encode(f, np.array(raw, np.int64))
        assert rows.dtype == np.int32
        expected = [every.index((f, v)) if (f, v) in every else len(every) for v in raw]
        assert rows.tolist() == expected


def test_encode_keeps_the_shape_and_takes_strings():
    vocabulary = Vocabulary((np.array([3]), np.array(["ad", "game"])))
    raw = np.array([["game", "ad"], ["adx", "z"]])
    assert vocabulary.encode(1, raw).tolist() == [[2, 1], [3, 3]]


# Buckets ----------------------------------------------------------------------------------------


def test_the_hash_is_that_of_every_other_version():
    field = Field("a", hash_rows=1000)
    assert field.hashed(["Rome", "Köln", "", "17"]).tolist() == [324, 889, -1, 256]
    assert field.all_buckets.tolist() == list(range(-1, 1000))
    assert Field("a", slots=3, hash_rows=4).all_buckets.tolist() == [0, 1, 2, 3]


def test_values_as_reports_show_them():
    number = Field("income", edges=(1.0, 2.5))
    assert [number.text(b) for b in number.all_buckets] == [
        "(missing)",
        "-inf to 1",
        "1 to 2.5",
        "2.5 to inf",
    ]
    hashed = Field("device", hash_rows=2)
    shown = [hashed.text(b) for b in hashed.all_buckets]
    assert shown == ["(missing)", "hash bucket 0", "hash bucket 1"]
    assert [Field("city").text(v) for v in ("", "Rome")] == ["(missing)", "Rome"]


@pytest.mark.parametrize("options", [{"hash_rows": -1}, {"hash_rows": 3, "edges": (1.0,)}])
def test_hash_rows_that_make_no_sense(options):
    with pytest.raises(InputError, match=r"field 'a': .*hash_rows"):
        Field("a", **options)


@pytest.mark.parametrize("edges", [["a"], [None], 3, [10**400], [2, 1], [float("nan"), 1]])
def test_edges_that_are_no_ascending_numbers(edges):
    with pytest.raises(InputError, match=r"field 'a': edges (are not a list of numb|do not asc)"):
        Field("a", edges=edges)


def test_buckets_are_told_apart():
    days = Field("born", edges=(19800101.0, 19800102.0, 19800103.5))
    assert days.text(1) == "19800101 to 19800102"
    near = Field("rate", edges=(0.12345678, 0.12345679, 1e300))
    texts = [near.text(b) for b in near.all_buckets]
    assert texts[2] == "0.12345678 to 0.12345679"
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("value", [10**400, True, "many", [1]])
def test_an_attribute_that_is_no_number(value):
    schema = Schema((Field("u"),), (Field("budget", edges=(1.0, 5.0)),))
    vocabulary = Vocabulary((np.array(["x"]), schema.campaign[0].all_buckets))
    with pytest.raises(InputError, match=r"attributes: budget is .*, expected a number"):
        vocabulary.encode_attributes(schema, {"budget": value})


def test_attributes_of_hashed_fields_are_never_unknown():
    schema = Schema((Field("u"),), (Field("brand", hash_rows=10), Field("topic")))
    brand = schema.campaign[0].all_buckets
    vocabulary = Vocabulary((np.array(["x"]), brand, np.array(["food"])))
    for value in ("never seen", 17, ""):
        [bucket] = schema.campaign[0].hashed([str(value)])
        found = vocabulary.encode_attributes(schema, {"brand": value, "topic": "food"})
        assert found.tolist() == [1 + 1 + bucket, 12]
    with pytest.raises(InputError, match=r"brand is \[3\], expected text or a number"):
        vocabulary.encode_attributes(schema, {"brand": [3], "topic": "food"})
    for value in (1.0, True, np.True_):
        with pytest.raises(InputError, match=r"brand is .*, but its field is hashed; give it as t"):
            vocabulary.encode_attributes(schema, {"brand": value, "topic": "food"})


@pytest.mark.parametrize(
    ("known", "raw", "place"),
    [
        (["1", "2.5"], 1.0, 0),
        (["1.0", "6"], 1.0, 0),
        (["0.00001", "1"], 1e-5, 0),
        (["0.1", "1"], np.float32(0.1), 0),
        (["1", "2.5"], 2.5, 1),
        (["1"], "1.0", 1),
        (["1"], 3.0, 1),
        (["1.0", "2.0"], 2, 1),
        (["1", "1.0"], 1, 0),
        (["1.0", "x"], 2, 2),
        (["9007199254740992.0"], 2**53 + 1, 1),
        (["False", "True"], True, 1),
        (["FALSE", "TRUE", "false"], False, 2),
        (["1", "no"], True, 2),
        (["18_24"], 1824, 1),
        ([" 7", "7 "], 7, 2),
    ],
)
def test_a_number_or_truth_is_the_known_value_that_equals_it(known, raw, place):
    schema = Schema((Field("u"),), (Field("price"),))
    vocabulary = Vocabulary((np.array([]), np.array(known)))
    assert vocabulary.encode_attributes(schema, {"price": raw}).tolist() == [place]


# Vocabularies that go on ------------------------------------------------------------------------


def test_a_vocabulary_that_extends_another_has_the_values_of_both():
    schema = Schema((Field("a"), Field("b")), (Field("c"),))
    old = Vocabulary((np.array([1, 5]), np.array(["x", "z"]), np.array(["p"])))
    new = Vocabulary((np.array([3, 5]), np.array(["y"]), np.array(["long", "p"])))
    both = new.extending(schema, schema, old)
    assert [values.tolist() for values in both.values] == [
        [1, 3, 5],
        ["x", "y", "z"],
        ["long", "p"],
    ]
    other = Schema((Field("a"), Field("b", 2)), (Field("c"),))
    with pytest.raises(InputError, match="differs from that of the earlier data, first in 'b'"):
        new.extending(schema, other, old)
    text = Vocabulary((np.array(["1"]), *old.values[1:]))
    with pytest.raises(InputError, match="field 'a': text and whole numbers cannot be values"):
        text.extending(schema, schema, old)
