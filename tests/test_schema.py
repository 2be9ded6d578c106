"""Fields, schemas, and the table row of every known value."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaheac_jax.errors import InputError
from metaheac_jax.schema import (
    MISSING_WHOLE,
    TENCENT,
    Field,
    Schema,
    Vocabulary,
    as_texts,
    as_values,
    union_of_values,
)


def test_the_fields_of_the_paper():
    assert len(TENCENT.user) == 14
    assert len(TENCENT.campaign) == 6
    assert TENCENT.num_slots == 57
    assert TENCENT.user_starts[:9] == (0, 1, 2, 3, 4, 5, 6, 7, 17)
    assert Schema.from_json(json.loads(json.dumps(TENCENT.to_json()))) == TENCENT


@pytest.mark.parametrize("name", ["", ".a", "..", "/a", "a/b", "a\\b", "a\0", "é" * 100 + "a"])
def test_a_name_that_cannot_be_that_of_a_file_is_refused(name):
    Field("é" * 100)
    with pytest.raises(InputError, match=r"^schema: field '.*name"):
        Field(name)


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 0},
        *({"edges": own} for own in (["a"], [None], 3, [10**400], [2, 1], [float("nan"), 1])),
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(InputError, match=f"^schema: field 'a': .*{next(iter(options))}"):
        Field("a", **options)


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


# Buckets ----------------------------------------------------------------------------------------


def test_values_as_reports_show_them():
    number = Field("income", edges=(1.0, 2.5))
    texts = ["(missing)", "below 1", "1 to 2.5", "2.5 or more"]
    assert [number.text(b) for b in number.all_buckets] == texts
    assert [Field("year", edges=(2024,)).text(b) for b in (0, 1)] == ["below 2024", "2024 or more"]
    texts = [Field("city").text(v) for v in ("", "Rome", MISSING_WHOLE, 7)]
    assert texts == ["(missing)", "Rome", "(missing)", "7"]


@pytest.mark.parametrize("value", [True, "many", [1]])
def test_an_attribute_that_is_no_number(value):
    schema = Schema((Field("u"),), (Field("budget", edges=(1.0, 5.0)),))
    vocabulary = Vocabulary((np.array(["x"]), schema.campaign[0].all_buckets))
    with pytest.raises(InputError, match=r"attributes: budget is .*, expected a number"):
        vocabulary.encode_attributes(schema, {"budget": value})


@pytest.mark.parametrize(
    ("known", "raw", "place"),
    [
        (["1", "2.5"], "1.0", 0),
        (["1", "2.5"], 2.5, 1),
        (["", "x"], None, 0),
        (["false", "true"], True, 1),
        (["false", "true"], "FALSE", 0),
        ([" 7", "7 "], 7, 2),
        ([MISSING_WHOLE, 4, 9], "9", 2),
        ([MISSING_WHOLE, 4, 9], "", 0),
        ([MISSING_WHOLE, 4, 9], "nine", 3),
    ],
)
def test_an_attribute_is_the_known_value_of_the_same_spelling(known, raw, place):
    schema = Schema((Field("u"),), (Field("price"),))
    vocabulary = Vocabulary((np.array([]), np.array(known)))
    assert vocabulary.encode_attributes(schema, {"price": raw}).tolist() == [place]


# Vocabularies of several data -------------------------------------------------------------------

texts = st.sets(st.sampled_from(["", "0", "-3", "17", "007", "a", "9" * 19, "x"]))


def plain(values):
    """Whether texts are those of whole numbers: the rule, as a reference."""
    rest = values - {""}
    return bool(rest) and all(
        v.lstrip("-").isdigit() and abs(int(v)) < 2**63 and str(int(v)) == v for v in rest
    )


@given(texts)
def test_values_are_whole_numbers_if_all_texts_are(values):
    found = as_values(values)
    assert found.dtype.kind == ("i" if plain(values) else "U")
    assert (found[1:] > found[:-1]).all()
    assert sorted(as_texts(found)) == sorted(values)


@given(texts, texts)
def test_a_union_is_that_of_the_texts(one, other):
    both = union_of_values(as_values(one), as_values(other))
    assert set(as_texts(both)) == one | other
    assert both.dtype.kind == "U" or plain(one | other)


@given(st.lists(texts, min_size=1, max_size=3), st.data())
def test_rows_of_another_vocabulary_are_those_of_its_texts(fields, data):
    other = [data.draw(texts) for _ in fields]
    here, there = (Vocabulary(tuple(map(as_values, part))) for part in (fields, other))
    lookup, every = here.rows_of(there), [as_texts(values) for values in here.values]
    place = 0
    for f, values in enumerate(there.values):
        for text in as_texts(values):
            first = here.offsets[f]
            known = first + every[f].index(text) if text in every[f] else here.num_rows
            assert lookup[place] == known
            place += 1
    assert lookup[place:].tolist() == [here.num_rows]


def test_the_union_of_two_vocabularies_has_the_values_of_both():
    texts = union_of_values(np.array(["long", "p"]), np.array(["p"]))
    assert union_of_values(np.array([3, 5]), np.array([1, 5])).tolist() == [1, 3, 5]
    assert texts.tolist() == ["long", "p"]
