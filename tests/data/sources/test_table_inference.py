"""A first schema, from the files themselves."""

from pathlib import Path

import polars as pl
import pytest
from tables_world import world, write

from metaheac_jax.data.sources.table_inference import infer_schema
from metaheac_jax.data.sources.table_schema import Column, TableSchema
from metaheac_jax.data.sources.tables import prepare
from metaheac_jax.errors import InputError

SURVEY = Path(__file__).parent / "survey.csv.gz"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_inferred_schema_can_be_used(tmp_path, form):
    source = write(tmp_path / "source", *world(), form)
    inferred = infer_schema(source)
    separator = ";" if form == "csv" else ""
    assert inferred == TableSchema(
        user=(
            Column("city"),
            Column("income", buckets=10),
            Column("likes", slots=5, separator=separator),
        ),
        campaign=(Column("topic"), Column("budget")),
    )
    assert prepare(source, tmp_path / "data", schema=inferred).num_users == 80


def test_a_survey():
    schema = infer_schema(SURVEY)
    assert (schema.user_id, schema.missing, schema.campaign) == ("Respondent", ("NA",), ())
    fields = {column.name: column for column in schema.user}
    assert fields["Hobbyist"] == Column("Hobbyist")
    assert fields["Age"] == Column("Age", buckets=10)
    assert fields["DevType"] == Column("DevType", slots=10, separator=";")
    assert "Respondent" not in fields


@pytest.mark.parametrize("first", [["a", "b", "b"], ["a", None, "b"], [["a"], ["b"], ["c"]]])
def test_a_first_column_that_is_no_id(tmp_path, first):
    path = tmp_path / "people.parquet"
    pl.DataFrame({"x": first, "y": [1, 2, 3]}).write_parquet(path)
    schema = infer_schema(path)
    assert schema.user_id == ""
    assert [column.name for column in schema.user] == ["x", "y"]


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "people.parquet"
    pl.DataFrame({"x": [1, 2], "hash": [b"\xff\xfe", b"\xfa"]}).write_parquet(path)
    with pytest.raises(InputError, match="column 'hash': expected text or numbers"):
        infer_schema(path)


@pytest.mark.parametrize(
    ("users", "campaigns", "words"),
    [
        ("user_id,city", "campaign_id", r"campaigns\.csv: has no column besides the id; add one"),
        ("user_id", "campaign_id,topic", r"users\.csv: has no column besides the id; add one"),
        (
            "user_id,age,city",
            "campaign_id,city",
            r"users\.csv and .*campaigns\.csv: both have a column 'city'; rename one of them",
        ),
    ],
)
def test_columns_from_which_no_schema_can_be_made(tmp_path, users, campaigns, words):
    for name, header in (("users", users), ("campaigns", campaigns)):
        (tmp_path / f"{name}.csv").write_text(f"{header}\n{header}\n")
    with pytest.raises(InputError, match=words):
        infer_schema(tmp_path)


def test_examples_need_campaigns(tmp_path):
    (tmp_path / "users.csv").write_text("user_id,city\n1,Rome\n")
    (tmp_path / "examples.csv").write_text("campaign_id,user_id,label\n1,1,1\n")
    with pytest.raises(InputError, match=r"has no campaigns\.parquet, \.csv or \.csv\.gz"):
        infer_schema(tmp_path)
    (tmp_path / "users.csv").unlink()
    with pytest.raises(InputError, match=r"has no users\.parquet, \.csv or \.csv\.gz"):
        infer_schema(tmp_path)
