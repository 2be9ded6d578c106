"""A first schema, from the files themselves."""

import datetime
from pathlib import Path

import polars as pl
import pytest
from tables_world import SCHEMA, world, write

from metaheac_jax.data.sources.table_inference import infer_schema
from metaheac_jax.data.sources.table_schema import Column, TableSchema
from metaheac_jax.data.sources.tables import prepare
from metaheac_jax.errors import InputError

SURVEY = Path(__file__).parent / "survey.csv.gz"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_inferred_schema_can_be_used(tmp_path, form):
    source = write(tmp_path / "source", *world(), form)
    inferred, left_out = infer_schema(source)
    assert not left_out
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
    schema, _ = infer_schema(SURVEY)
    assert (schema.user_id, schema.missing, schema.campaign) == ("Respondent", ("NA",), ())
    fields = {column.name: column for column in schema.user}
    assert fields["Hobbyist"] == Column("Hobbyist")
    assert fields["Age"] == Column("Age", buckets=10)
    assert fields["DevType"] == Column("DevType", slots=10, separator=";")
    assert "Respondent" not in fields


@pytest.mark.parametrize(
    "first", [["a", "b", "b"], ["a", None, "b"], [["a"], ["b"], ["c"]], [1.5, 2, 3]]
)
def test_a_first_column_that_is_no_id(tmp_path, first):
    path = tmp_path / "people.parquet"
    pl.DataFrame({"x": first, "y": [1, 2, 3]}).write_parquet(path)
    schema, _ = infer_schema(path)
    assert schema.user_id == ""
    assert [column.name for column in schema.user] == ["x", "y"]


def test_columns_that_cannot_be_fields_are_left_out(tmp_path):
    users, campaigns, examples = world()
    no_fields = {
        "photo": [b"\xff\xfe"] * 80,
        "place": pl.Series([[1.0, 2.0]] * 80, dtype=pl.Array(pl.Float64, 2)),
        "stay": [datetime.timedelta(days=1)] * 80,
        "pairs": [[[1, 2]]] * 80,
        "nothing": pl.Series([[]] * 80, dtype=pl.List(pl.String)),
        "separators": ["; ;"] * 80,
        "income/month": list(range(80)),
        "email": [None, *(f"{n}@x.org" for n in range(79))],
    }
    tags = {"tags": [["a"]] * 4}
    source = write(tmp_path / "a", users | no_fields, campaigns | tags, examples, "parquet")
    schema, left_out = infer_schema(source)
    assert left_out == [*no_fields, *tags]
    assert schema == infer_schema(write(tmp_path / "b", users, campaigns, examples, "parquet"))[0]


def test_a_text_of_few_users_or_of_two_is_a_field(tmp_path):
    """Only a column of many texts without equal ones identifies users; campaigns may have names."""
    users, campaigns, examples = world(num_users=102, num_campaigns=60)
    texts = [f"x{n}" for n in range(101)]
    users["some"] = [*texts[:50], *[None] * 52]
    users["twice"] = [*texts, "x0"]
    campaigns["name"] = [f"x{n}" for n in range(60)]
    source = write(tmp_path / "source", users, campaigns, examples)
    schema, left_out = infer_schema(source)
    assert not left_out
    assert {"some", "twice"} < {column.name for column in schema.user}
    assert "name" in {column.name for column in schema.campaign}


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        (pl.Series(map(str, range(80)), dtype=pl.Categorical), Column("x", buckets=10)),
        (pl.Series([str(n).encode() for n in range(80)]), Column("x", buckets=10)),
        ([float("nan"), *range(79)], Column("x", buckets=10)),
        ([float("inf"), *range(79)], Column("x")),
        ([None, *["NA"] * 9, *map(str, range(70))], Column("x", buckets=10)),
        (
            pl.Series(["NA"] * 9 + list(map(str, range(71))), dtype=pl.Categorical),
            Column("x", buckets=10),
        ),
        (
            pl.Series(["NA"] * 9 + list(map(str, range(71)))).cast(pl.Binary),
            Column("x", buckets=10),
        ),
        ([[], [None, 1.5, 2]] * 40, Column("x", slots=2)),
        (
            ["tea|rock;pop", "golf|tea", "golf|rock;pop|tea"] * 26 + ["tea"] * 2,
            Column("x", slots=3, separator="|"),
        ),
    ],
)
def test_what_is_inferred_of_any_type_can_be_used(tmp_path, cells, column):
    users, campaigns, examples = world()
    users["x"] = pl.Series(cells, strict=False)
    source = write(tmp_path / "source", users, campaigns, examples, "parquet")
    schema, _ = infer_schema(source)
    assert schema.user[-1] == column
    prepare(source, tmp_path / "data", schema=schema)


def test_a_column_without_a_name_is_no_id(tmp_path):
    """As pandas writes its index."""
    users, campaigns, examples = world()
    source = write(tmp_path / "source", users, campaigns, examples)
    pl.read_csv(source / "users.csv").with_row_index("").write_csv(source / "users.csv")
    with pytest.raises(InputError, match=r"users\.csv: column 1 has no name; .*index=False"):
        infer_schema(source)
    assert prepare(source, tmp_path / "data", schema=SCHEMA).num_users == 80


@pytest.mark.parametrize(
    ("users", "campaigns", "words"),
    [
        ("user_id,city", "campaign_id", r"campaigns\.csv: has no field besides the id; add a c"),
        ("user_id", "campaign_id,topic", r"users\.csv: has no field besides the id; add a c"),
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


@pytest.mark.parametrize(
    ("content", "lacks"),
    [
        ("user_id\n1\n2\n", ""),
        ("user_id,a/b\n1,2\n", r" \(a/b cannot be one\)"),
        ("a/b,tags\n1,;\n1,;\n", r" \(a/b, tags cannot be one\)"),
    ],
)
def test_users_alone_need_a_field(tmp_path, content, lacks):
    (tmp_path / "users.csv").write_text(content)
    words = rf"users\.csv: has no field besides the id{lacks}; add a column, or separate the values"
    with pytest.raises(InputError, match=words):
        infer_schema(tmp_path)
    pl.DataFrame({"user_id": [1, 2]}).write_parquet(tmp_path / "users.parquet")
    (tmp_path / "users.csv").unlink()
    with pytest.raises(
        InputError, match=r"users\.parquet: has no field besides the id; add a col.*n$"
    ):
        infer_schema(tmp_path)


@pytest.mark.parametrize("ids", [["k1"] * 4, ["k1", None, "k2", "k3"], [0.5, 1.0, 2.0, 3.0]])
@pytest.mark.parametrize("name", ["users", "campaigns"])
def test_a_first_column_that_no_example_can_refer_to(tmp_path, name, ids):
    users, campaigns, examples = world()
    first = {"x": ids * (20 if name == "users" else 1)}
    tables = (first | users, campaigns) if name == "users" else (users, first | campaigns)
    source = write(tmp_path / "source", *tables, examples, "parquet")
    with pytest.raises(InputError, match=rf"{name}\.parquet: the first column, 'x', cannot be the"):
        infer_schema(source)


def test_examples_need_campaigns(tmp_path):
    (tmp_path / "users.csv").write_text("user_id,city\n1,Rome\n")
    (tmp_path / "examples.csv").write_text("campaign_id,user_id,label\n1,1,1\n")
    with pytest.raises(InputError, match=r"has no campaigns\.parquet, \.csv or \.csv\.gz"):
        infer_schema(tmp_path)
    (tmp_path / "users.csv").unlink()
    with pytest.raises(InputError, match=r"has no users\.parquet, \.csv or \.csv\.gz"):
        infer_schema(tmp_path)
