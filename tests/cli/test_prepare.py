"""`metaheac prepare` and `metaheac simulate`: folders, schemas and options that make no sense."""

import json

import pytest
from commands import contents, refuses, succeeds
from tencent_world import SMALL_SCHEMA, USERS, write

from metaheac_jax.cli.main import main
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.schema import Schema


def test_a_schema_chooses_the_fields(tmp_path, capsys):
    source, schema = write(tmp_path / "source"), tmp_path / "schema.json"
    schema.write_text(json.dumps(SMALL_SCHEMA))
    succeeds(main, "prepare", source, tmp_path / "data", "--schema", schema)
    data = open_dataset(tmp_path / "data")
    assert data.schema == Schema.from_json(SMALL_SCHEMA)
    assert data.user_rows.shape == (USERS, 3)
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'data'}: 300 users, 12 campaigns, 960 examples to learn from" in printed


def test_sensitive_fields_are_named(tmp_path, capsys):
    source, schema = tmp_path / "source", tmp_path / "schema.json"
    source.mkdir()
    (source / "users.csv").write_text("user_id,city,gender,age\na,Rome,f,40\nb,Oslo,m,50\n")
    (source / "campaigns.csv").write_text("campaign_id,topic\n1,sport\n")
    (source / "examples.csv").write_text("campaign_id,user_id,label\n1,a,1\n1,b,0\n")
    fields = [{"name": "city"}, *({"name": n, "sensitive": True} for n in ("gender", "age"))]
    schema.write_text(json.dumps({"user": fields, "campaign": [{"name": "topic"}]}))
    succeeds(main, "prepare", source, tmp_path / "data", "--schema", schema)
    assert "\nsensitive, left out of the model: gender, age\n" in capsys.readouterr().out
    assert list(open_dataset(tmp_path / "data").sensitive) == ["gender", "age"]


def test_a_second_preparation_is_refused_before_its_work(tmp_path, capsys, writers):
    source, out = write(tmp_path / "source"), tmp_path / "data"
    (source / "userFeature.data").write_text("cannot be read")
    for arguments in (("prepare", source, out), ("simulate", out)):
        with writers.of(out) as process:
            words = (f"{out}: process {process} on ", " is writing it; wait for it")
            refuses(capsys, main, *arguments, words=words)
    assert contents(tmp_path) == {"source", ".data.lock"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prepare", "nowhere", "data"), "nowhere: no such folder"),
        (("prepare", "source", "data", "--schema", "none.json"), "none.json: No such file"),
        (("prepare", "source", "data", "--schema", "bad.json"), "bad.json: Expecting value"),
        (("prepare", "source", "source"), "source: "),
        (("prepare", "empty", "data"), "empty/"),
        (("prepare", "source"), "prepare: give the folder to write, or --infer"),
        (("prepare", "source", "--infer", "schema.json"), "source: has no users.parquet"),
        (("prepare", "tables", "data"), "tables need a --schema; metaheac prepare tables"),
        (("simulate", "world", "--users", 1000), "--users: expected 110000 or more, got 1000"),
        (("simulate", "world", "--seed", -1), "--seed: expected 0 or more, got -1"),
    ],
)
def test_bad_options_leave_nothing(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "users.csv").write_text("user_id,age\n1,2\n")
    (tmp_path / "bad.json").write_text('{"user": [')
    before = contents(tmp_path), contents(source)
    refuses(capsys, main, *arguments, words=(words,))
    assert (contents(tmp_path), contents(source)) == before
