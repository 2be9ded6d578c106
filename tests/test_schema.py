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
