"""Schema files of tables: read, written, and refused in one line that names what is wrong."""

import json

import pytest

from metaheac_jax.data.sources.table_schema import Column, TableSchema
from metaheac_jax.errors import InputError

FULL = TableSchema(
    user=(
        Column("city", hash_rows=64),
        Column("income", buckets=4),
        Column("likes", slots=3, separator=";"),
        Column("gender", sensitive=True),
    ),
    campaign=(Column("topic"),),
    user_id="uid",
    campaign_id="cid",
    min_count=3,
    missing=("NA", "?"),
)
SURVEY = TableSchema(user=(Column("city"),), campaigns_from=(Column("vote"),), min_seeds=9)


@pytest.mark.parametrize("schema", [FULL, SURVEY])
def test_what_is_written_is_read(tmp_path, schema):
    path = tmp_path / "schema.json"
    for mark in ("", "\ufeff"):  # as Windows editors begin a file
        path.write_text(mark + json.dumps(schema.to_json()), encoding="utf-8")
        assert TableSchema.read(path) == schema


def test_the_id_of_campaigns_may_be_a_field_of_users():
    """It is a column of another file; and users without ids have no id column."""
    TableSchema((Column("campaign_id"),), (Column("topic"),))
    TableSchema((Column("user_id"),), campaigns_from=(Column("vote"),), user_id="")
    TableSchema((Column("city"),), campaigns_from=(Column("vote"),), user_id="campaign_id")


def test_what_is_of_no_use_is_not_written():
    assert FULL.to_json()["user"][3] == {"name": "gender", "sensitive": True}
    assert not {"campaigns_from", "min_seeds"} & set(FULL.to_json())
    assert not {"campaign", "campaign_id", "missing"} & set(SURVEY.to_json())


def fields(*user, **rest):
    """A schema of users' fields as text; campaigns have a field."""
    return json.dumps({"user": user, "campaign": [{"name": "topic"}], **rest})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "Expecting value"),
        ("[3]", r"expected a JSON object, got \[3\]"),
        ('{"campaign": []}', "has no 'user'; name the fields of users there"),
        (fields(min_seeds=9), 'schema: min_seeds is for "campaigns_from"; remove it'),
        ('{"user": [{"name": "a"}], "min_seeds": 9}', "has no 'campaign'; "),
        ('{"user": []}', "has no 'campaign'; .* or in 'campaigns_from' columns of users"),
        ('{"user": [], "campaign": []}', "has no 'campaign'"),
        (
            fields({"nme": "a"}),
            "field: unknown key 'nme'; expected name, slots, separator, buckets, hash_rows, sens",
        ),
        (fields({"slots": 2}), "field: has no 'name'"),
        (fields("city"), 'field: expected a JSON object, got "city"'),
        (fields({"name": 3}), "name is 3, expected text"),
        (fields({"name": "a", "slots": "3"}), "'a': slots is \"3\", expected a whole number"),
        (fields({"name": "a", "sensitive": 1}), "'a': sensitive is 1, expected true or false"),
        (fields(uid="a"), "unknown key 'uid'; expected user, campaign, user_id, campaign_id, min"),
        (fields({"name": "topic"}), "'topic' is named twice"),
        (fields({"name": "user_id"}), "field 'user_id' is the id column and not a field"),
        (fields(user_id="id", campaign_id="id"), "user_id and campaign_id are both 'id', but exam"),
        (fields({"name": "uid"}, user_id="uid"), "field 'uid' is the id column"),
        (fields(campaign=[{"name": "campaign_id"}]), "field 'campaign_id' is the id column"),
        (
            fields(campaign=[], campaigns_from=[{"name": "user_id"}]),
            "field 'user_id' is the id column",
        ),
        (
            fields({"name": "a", "slots": 0}),
            "'a': slots: expected a whole number of 1 or more, got 0",
        ),
        (fields({"name": "a", "separator": ";"}), "'a': only a list has a separator; set slots"),
        (fields({"name": "a", "buckets": 1}), "'a': a number needs two buckets or more"),
        (fields({"name": "a", "buckets": 2, "slots": 2}), "and a single slot"),
        (fields({"name": "a", "slots": 10**18}), "'a': slots: expected a whole number of at most"),
        (fields({"name": "a", "buckets": -1}), "'a': buckets: expected a whole number of 0 or"),
        (fields({"name": "a", "hash_rows": -1}), "'a': hash_rows: expected a whole number of 0"),
        (fields({"name": "a", "hash_rows": 10**19}), "hash_rows: expected a whole number of at mo"),
        (fields(min_count=10**19), "schema: min_count: expected a whole number of at most"),
        (
            fields({"name": "a", "hash_rows": 5, "buckets": 3}),
            "'a': only a category that is not sensitive",
        ),
        (fields({"name": "a", "hash_rows": 5, "sensitive": True}), "that is not sensitive"),
        (fields(missing=[3]), "missing must be a list of strings"),
        (fields(campaigns_from=[{"name": "vote"}]), "either campaign or campaigns_from"),
        (
            fields(campaign=[{"name": "a", "sensitive": True}]),
            "campaign field 'a' cannot be sensitive; user fields can",
        ),
        (
            fields({"name": "vote"}, campaign=[], campaigns_from=[{"name": "vote"}]),
            "'vote' is named twice",  # or the answer would be an input of the model
        ),
        (
            fields({"name": "value"}, campaign=[], campaigns_from=[{"name": "vote"}]),
            "field 'value': campaigns_from makes a field of this name; rename the column",
        ),
        (
            fields(campaign=[], campaigns_from=[{"name": "a", "buckets": 3}]),
            "campaigns_from 'a': a column of values has no buckets",
        ),
    ],
)
def test_a_bad_schema_is_one_line(tmp_path, text, words):
    path = tmp_path / "schema.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        TableSchema.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
