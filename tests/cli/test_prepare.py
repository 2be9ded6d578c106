"""`metaheac prepare` and `metaheac simulate`: folders, schemas and options that make no sense."""

import json
import re
from dataclasses import replace

import authors_pickles
import numpy as np
import polars as pl
import pytest
import tables_world
from commands import contents, refuses, succeeds
from tencent_world import SMALL_SCHEMA, USERS, write

from metaheac_jax.cli import simulate
from metaheac_jax.cli.main import main
from metaheac_jax.data.sources.table_schema import Column
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.methods.similarity import cosine
from metaheac_jax.model import save
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


def test_the_authors_files_are_recognised(tmp_path, capsys):
    source, schema = authors_pickles.write(tmp_path / "source"), tmp_path / "schema.json"
    schema.write_text(json.dumps(authors_pickles.SCHEMA.to_json()))
    prepare, options = ("prepare", source), ("--schema", schema)
    succeeds(main, *prepare, tmp_path / "data", *options, "--max-ids", 17)
    assert f"{tmp_path / 'data'}: 12 users, 3 campaigns, " in capsys.readouterr().out
    assert not open_dataset(tmp_path / "data").one_row_per_user
    few = (*options, "--max-ids", 16)
    refuses(capsys, main, *prepare, tmp_path / "few", *few, words=("more than 16",))
    extends = (*options, "--extends", tmp_path / "data")
    refuses(capsys, main, *prepare, tmp_path / "new", *extends, words=("not for the authors'",))
    assert contents(tmp_path) >= {"source", "schema.json", "data"}
    (source / "train_stage1.pkl").write_bytes(authors_pickles.LARGE_MEMO)
    little = (*options, "--max-memory", 0.25)
    words = ("takes more than 0.25 GiB of memory to read", "raise max_memory (--max-memory)")
    refuses(capsys, main, *prepare, tmp_path / "new", *little, words=words)
    assert not contents(tmp_path) & {"few", "new"}


def test_sensitive_fields_are_named(tmp_path, capsys):
    source, schema = tmp_path / "source", tmp_path / "schema.json"
    source.mkdir()
    (source / "users.csv").write_text("user_id,city,gender,age\na,Rome,f,40\nb,Oslo,m,50\n")
    (source / "campaigns.csv").write_text("campaign_id,topic\n1,sport\n")
    (source / "examples.csv").write_text("campaign_id,user_id,label\n1,a,1\n1,b,0\n")
    fields = [{"name": "city"}, *({"name": n, "sensitive": True} for n in ("gender", "age"))]
    schema.write_text(json.dumps({"user": fields, "campaign": [{"name": "topic"}]}))
    succeeds(main, "prepare", source, tmp_path / "data", "--schema", schema)
    printed = capsys.readouterr().out
    assert "\nsensitive, left out of the model: gender, age\n" in printed
    assert "numbered by row" not in printed
    assert list(open_dataset(tmp_path / "data").sensitive) == ["gender", "age"]


def test_a_second_preparation_is_refused_before_its_work(tmp_path, capsys, writers):
    source, out = write(tmp_path / "source"), tmp_path / "data"
    (source / "userFeature.data").write_text("cannot be read")
    for arguments in (("prepare", source, out), ("simulate", out)):
        with writers.of(out) as process:
            words = (f"{out}: process {process} on ", " is writing it; wait for it")
            refuses(capsys, main, *arguments, words=words, code=75)
    assert contents(tmp_path) == {"source", ".data.lock"}


def test_data_that_extend_others_or_a_model(tmp_path, capsys):
    source, schema = tmp_path / "source", tmp_path / "schema.json"
    write(source)
    schema.write_text(json.dumps(SMALL_SCHEMA))
    succeeds(main, "prepare", source, tmp_path / "first", "--schema", schema)
    first = open_dataset(tmp_path / "first")
    save(cosine().fit(first), tmp_path / "model")
    users = source / "userFeature.data"
    users.write_text(users.read_text().replace("os 2", "os 9"))
    for number, earlier in enumerate(("first", "model")):
        out = tmp_path / f"next{number}"
        options = ("--schema", schema, "--extends", tmp_path / earlier)
        succeeds(main, "prepare", source, out, *options)
        assert f"next: metaheac fit {out} MODEL --from EARLIER_MODEL" in capsys.readouterr().out
        data = open_dataset(out)
        assert data.vocabulary.values[1].tolist() == [1, 2, 3, 9]
        row = data.vocabulary.encode(1, [2])[0]
        assert row not in data.user_rows
        assert row in first.user_rows
    words = ("schema: differs from that of the earlier data, first in 'carrier'",)
    refuses(capsys, main, "prepare", source, out, "--extends", tmp_path / "model", words=words)


def test_a_field_whose_values_are_all_new_is_told(tmp_path, capsys):
    users, campaigns, examples = tables_world.world()
    users["age"] = ["1", "2"] * 40
    fields = (*tables_world.SCHEMA.user, Column("age"))
    schema = tmp_path / "s.json"
    schema.write_text(json.dumps(replace(tables_world.SCHEMA, user=fields).to_json()))
    source = tables_world.write(tmp_path / "source", users, campaigns, examples)
    succeeds(main, "prepare", source, tmp_path / "first", "--schema", schema)
    num_longer = sum(len(likes or []) > 3 for likes in users["likes"])
    cut = f"note: field likes: {num_longer} users have more than 3 values, of which the first 3 are"
    assert cut in capsys.readouterr().out
    save(cosine().fit(open_dataset(tmp_path / "first")), tmp_path / "model")
    options = ("--schema", schema, "--extends", tmp_path / "model")
    users["age"] = ["1", *["2.0", "1.0", None] * 26, "2.0"]
    tables_world.write(source, users, campaigns, examples)
    succeeds(main, "prepare", source, tmp_path / "some", *options)
    assert "note: field" not in capsys.readouterr().out
    users["age"][0] = ""
    tables_world.write(source, users, campaigns, examples)
    succeeds(main, "prepare", source, tmp_path / "none", *options)
    told = (
        f"\nnote: field age: its 2 values are all new to {tmp_path / 'model'}; is '1.0' spelled as "
        "'1' is there?\n"
    )
    printed = capsys.readouterr().out
    assert told in printed
    assert printed.count("note: field") == 1


@pytest.mark.filterwarnings("default:.*values that count as unknown")
@pytest.mark.parametrize("min_count", [1, 3])
def test_todays_users_are_scored_by_yesterdays_model(tmp_path, capsys, min_count):
    """A value that the model has not seen counts as unknown; other users' scores stay the same."""
    users, campaigns, examples = tables_world.world()
    schema = tmp_path / "s.json"
    table_schema = replace(tables_world.SCHEMA, min_count=min_count)
    schema.write_text(json.dumps(table_schema.to_json()))
    source = tables_world.write(tmp_path / "source", users, campaigns, examples)
    if min_count > 1:  # rare cities share a value, which unknown ones have as well
        users["city"][:2] = ["rare", "rare"]
        tables_world.write(source, users, campaigns, examples)
    succeeds(main, "prepare", source, tmp_path / "first", "--schema", schema)
    first = open_dataset(tmp_path / "first")
    general = save(cosine().fit(first), tmp_path / "model")
    users["city"][3:5] = ["new", "newer"]
    users["likes"][7] = ["new"]
    campaigns["topic"][0] = "new"
    tables_world.write(source, users, campaigns, examples)
    command = ("prepare", source, tmp_path / "next", "--schema", schema)
    extends = ("--extends", tmp_path / "model")
    succeeds(main, *command, *extends)
    with pytest.raises(InputError, match="or prepare the data with --extends MODEL --no-new-v"):
        general.check_data(open_dataset(tmp_path / "next"))
    capsys.readouterr()
    succeeds(main, *command, *extends, "--no-new-values")
    captured = capsys.readouterr()
    printed, told = captured.out, "city 2 (such as 'newer'), likes 1 (such as 'new'), topic 1"
    if min_count > 1:  # a user field's rare values are not kept anyway
        told = "likes 1 (such as '<unseen>'), topic 1 (such as 'new')"
    words = f"{source}: number of values that count as unknown, by field: {told}"
    assert f"warning: {words}" in captured.err
    assert f"next: metaheac expand EARLIER_MODEL --data {tmp_path / 'next'}\n" in printed
    assert "note: field" not in printed
    data = open_dataset(tmp_path / "next")
    general.check_data(data)
    rows, before = np.asarray(data.user_rows), np.asarray(first.user_rows)
    changed = data.find_users([users["user_id"][n] for n in (3, 4, 7)])
    assert (rows[changed[:2], 0] == data.vocabulary.unknown_row(0)).all()
    assert (data.vocabulary.unknown_row(0) == data.num_rows) == (min_count == 1)
    assert (rows[changed[2], 2:] == data.num_rows).all()
    others = np.setdiff1d(np.arange(80), changed)
    np.testing.assert_array_equal(rows[others], before[others])
    users["city"] = ["new"] * 80
    tables_world.write(source, users, campaigns, examples)
    succeeds(main, *command, *extends, "--no-new-values")
    told = f"note: field city: no cell has a value of {tmp_path / 'model'}; is it right?\n"
    assert told in capsys.readouterr().out
    users["city"] = ["c1"] * 80
    users["income"][0] = None
    campaigns["topic"] = ["food", "food", "food", None]
    tables_world.write(source, users, campaigns, examples)
    succeeds(main, *command, *extends, "--no-new-values")
    assert "topic 1 (such as '(missing)')\n" in capsys.readouterr().err
    words = ("--no-new-values: only with --extends",)
    refuses(capsys, main, *command, "--no-new-values", words=words)


def test_users_alone_are_scored_by_yesterdays_model(tmp_path, capsys):
    """Tables of users suffice; their rows are those of the data with campaigns."""
    schema, today = tmp_path / "s.json", tmp_path / "today"
    schema.write_text(json.dumps(tables_world.SCHEMA.to_json()))
    source = tables_world.write(tmp_path / "source", *tables_world.world())
    succeeds(main, "prepare", source, tmp_path / "first", "--schema", schema)
    first = open_dataset(tmp_path / "first")
    general = save(cosine().fit(first), tmp_path / "model")
    today.mkdir()
    (source / "users.csv").rename(today / "users.csv")
    command = ("prepare", today, tmp_path / "next", "--schema", schema)
    hint = "has no campaigns.parquet, .csv or .csv.gz; or let the schema name columns in "
    hint += '"campaigns_from"; or, to score users with a model, give --extends MODEL'
    refuses(capsys, main, *command, words=(hint,))
    extends = ("--extends", tmp_path / "model")
    refuses(capsys, main, *command, *extends, words=(hint,))
    (today / "examples.csv").write_bytes((source / "examples.csv").read_bytes())
    words = ("has no campaigns.parquet", "or leave users alone there")
    refuses(capsys, main, *command, *extends, "--no-new-values", words=words)
    refuses(capsys, main, *command, words=('name columns in "campaigns_from"\n',))
    (today / "examples.csv").unlink()
    succeeds(main, *command, *extends, "--no-new-values")
    said = capsys.readouterr().out
    assert f"{tmp_path / 'next'}: 80 users, without campaigns\nnext: metaheac expand" in said
    data = open_dataset(tmp_path / "next")
    general.check_data(data)
    np.testing.assert_array_equal(data.user_rows, first.user_rows)
    np.testing.assert_array_equal(data.user_ids, first.user_ids)
    assert (data.num_campaigns, len(data.stage1.user), len(data.stage2.user)) == (0, 0, 0)
    seeds, attributes = tmp_path / "seeds.csv", tmp_path / "attributes.json"
    seeds.write_text("user_id\n" + "\n".join(own.decode() for own in data.user_ids[:9]))
    attributes.write_text(json.dumps({"topic": "food", "budget": 1}))
    files = ("--seeds", seeds, "--attributes", attributes, "--least-seeds", 5, "--size", 20)
    for name in ("first", "next"):
        out = tmp_path / f"{name}.csv"
        succeeds(
            main, "expand", tmp_path / "model", "--data", tmp_path / name, *files, "--out", out
        )
    assert (tmp_path / "next.csv").read_text() == (tmp_path / "first.csv").read_text()
    words = (f"{tmp_path / 'next'}: has users alone; prepare campaigns and examples",)
    for which in ("all", "paper", "official"):
        command = ("fit", tmp_path / "next", tmp_path / "new", "--campaigns", which)
        refuses(capsys, main, *command, words=words)
    words = ("has no examples of stage 2",)
    refuses(capsys, main, "evaluate", tmp_path / "model", "--data", tmp_path / "next", words=words)


def test_users_without_the_columns_of_campaigns_are_scored(tmp_path, capsys):
    """Without new values, a file that lacks columns of campaigns_from is one of users alone."""
    schema, file = tmp_path / "schema.json", tmp_path / "people.csv"
    votes = [f"{n},{'ab'[n % 2]},{'xyz'[n % 3]},{'pq'[n % 2]}" for n in range(300)]
    file.write_text("\n".join(["user_id,city,vote,drink", *votes]) + "\n")
    names = [{"name": "vote"}, {"name": "drink"}]
    fields = {"user_id": "user_id", "user": [{"name": "city"}], "campaigns_from": names}
    schema.write_text(json.dumps(fields))
    succeeds(main, "prepare", file, tmp_path / "first", "--schema", schema)
    first = open_dataset(tmp_path / "first")
    assert first.num_campaigns == 5
    extends = ("--extends", tmp_path / "first", "--schema", schema, "--no-new-values")
    file.write_text("user_id,city\n7,b\n8,a\n")
    succeeds(main, "prepare", file, tmp_path / "next", *extends)
    data = open_dataset(tmp_path / "next")
    assert data.num_campaigns == 0
    assert data.schema == first.schema
    assert data.vocabulary.sizes == first.vocabulary.sizes
    assert data.user_rows[:, 0].tolist() == [1, 0]
    file.write_text("user_id,city,vote\n7,b,x\n8,a,y\n")
    succeeds(main, "prepare", file, tmp_path / "next", *extends)
    assert open_dataset(tmp_path / "next").num_campaigns == 0
    words = ("has no column 'drink'",)
    refuses(capsys, main, "prepare", file, tmp_path / "next", *extends[:-1], words=words)
    file.write_text("user_id,city,vote,drink\n7,b,x,p\n8,a,y,q\n")
    words = ("no value of vote, drink has at least 50", "remove one of these columns")
    refuses(capsys, main, "prepare", file, tmp_path / "next", *extends, words=words)


def test_folders_that_cannot_be_extended_are_named(tmp_path, capsys):
    source, schema = write(tmp_path / "source"), tmp_path / "schema.json"
    schema.write_text(json.dumps(SMALL_SCHEMA))
    command = ("prepare", source, tmp_path / "next", "--schema", schema, "--extends")
    words = (f"--extends: {tmp_path / 'none'}: is no folder; give that of a data set or a model",)
    refuses(capsys, main, *command, tmp_path / "none", words=words)
    (tmp_path / "tea").mkdir()
    (tmp_path / "tea" / "campaign.json").write_text("{}")
    words = (f"--extends: {tmp_path / 'tea'}: is a campaign; give its general model",)
    refuses(capsys, main, *command, tmp_path / "tea", words=words)


@pytest.mark.filterwarnings("default:.*values that count as unknown")
def test_a_competition_file_without_new_values(tmp_path, capsys):
    source, schema = write(tmp_path / "source"), tmp_path / "schema.json"
    schema.write_text(json.dumps(SMALL_SCHEMA))
    succeeds(main, "prepare", source, tmp_path / "first", "--schema", schema)
    first = open_dataset(tmp_path / "first")
    file = source / "userFeature.data"
    lines = file.read_text().splitlines()
    lines[0] = re.sub("gender [0-9]+", "gender 99", lines[0])
    file.write_text("\n".join(lines) + "\n")
    command = ("prepare", source, tmp_path / "next", "--schema", schema)
    extends = ("--extends", tmp_path / "first")
    succeeds(main, *command, *extends)
    assert open_dataset(tmp_path / "next").num_rows == first.num_rows + 1
    succeeds(main, *command, *extends, "--no-new-values")
    assert "unknown, by field: gender 1 (such as '99')\n" in capsys.readouterr().err
    data = open_dataset(tmp_path / "next")
    assert data.vocabulary.sizes == first.vocabulary.sizes
    changed = np.asarray(data.user_rows) != np.asarray(first.user_rows)
    assert changed.sum() == 1
    assert np.asarray(data.user_rows)[changed] == [data.num_rows]


def test_a_field_of_rare_new_values_has_values(tmp_path, capsys):
    users, campaigns, examples = tables_world.world()
    schema = tmp_path / "s.json"
    schema.write_text(json.dumps(replace(tables_world.SCHEMA, min_count=3).to_json()))
    source = tables_world.write(tmp_path / "source", users, campaigns, examples)
    succeeds(main, "prepare", source, tmp_path / "first", "--schema", schema)
    tables_world.write(source, users | {"city": [f"x{n}" for n in range(80)]}, campaigns, examples)
    capsys.readouterr()
    options = ("--schema", schema, "--extends", tmp_path / "first")
    succeeds(main, "prepare", source, tmp_path / "next", *options)
    assert "note: field city" not in capsys.readouterr().out


def test_fields_without_a_value_that_day_are_told(tmp_path, capsys):
    users, campaigns, examples = tables_world.world()
    schema = tmp_path / "s.json"
    schema.write_text(json.dumps(tables_world.SCHEMA.to_json()))
    source = tables_world.write(tmp_path / "source", users, campaigns, examples)
    succeeds(main, "prepare", source, tmp_path / "first", "--schema", schema)
    first = open_dataset(tmp_path / "first")
    empty = {"city": [None] * 80, "income": [None] * 80, "likes": [[""]] * 80}
    for name, cells in empty.items():
        tables_world.write(source, users | {name: cells}, campaigns, examples)
        capsys.readouterr()
        options = ("--schema", schema, "--extends", tmp_path / "first")
        succeeds(main, "prepare", source, tmp_path / "next", *options)
        told = f"field {name}: no cell has a value, unlike in {tmp_path / 'first'}; is it right?"
        printed = capsys.readouterr().out
        assert f"note: {told}\n" in printed
        assert printed.count("note: field") == 1
        data = open_dataset(tmp_path / "next")
        for field in (0, 1, 2, 3, 4):
            own, old = (of.vocabulary.values[field].tolist() for of in (data, first))
            assert own[: len(old)] == old


def test_a_schema_does_not_replace_the_table_it_is_of(tmp_path, capsys):
    source = tables_world.write(tmp_path / "source", *tables_world.world())
    before = (source / "users.csv").read_bytes()
    words = (f"--infer: {source / 'users.csv'} would replace a file that is read",)
    given = ("prepare", source, "--infer", source / "users.csv", "--overwrite")
    refuses(capsys, main, *given, words=words)
    assert (source / "users.csv").read_bytes() == before


def test_a_schema_does_not_replace_a_part_of_a_table(tmp_path, capsys):
    part = tmp_path / "source" / "users.parquet" / "part-0.parquet"
    part.parent.mkdir(parents=True)
    pl.DataFrame({"user_id": [1, 2], "city": ["a", "b"]}).write_parquet(part)
    words = (f"--infer: {part} would replace a file that is read",)
    given = ("prepare", tmp_path / "source", "--infer", part, "--overwrite")
    refuses(capsys, main, *given, words=words)
    assert len(pl.read_parquet(part)) == 2


def test_hash_rows_of_every_large_field(tmp_path, capsys):
    source, schema = tables_world.write(tmp_path / "source", *tables_world.world()), tmp_path / "s"
    schema.write_text(json.dumps(tables_world.SCHEMA.to_json()))
    options = ("--schema", schema, "--hash-rows", 5)
    succeeds(main, "prepare", source, tmp_path / "data", *options)
    assert "\nhashed: likes\n" in capsys.readouterr().out
    rows = [field.hash_rows for field in open_dataset(tmp_path / "data").schema.fields]
    assert rows == [0, 0, 5, 0, 0]


def test_campaigns_that_nothing_can_be_trained_on_are_named(tmp_path, capsys):
    users, campaigns, examples = tables_world.world()
    of_k2 = [row for row in examples if row[0] == "k2"]
    few = [row for row in examples if row not in of_k2[5:]]
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(tables_world.SCHEMA.to_json()))
    for name, rows in (("all", examples), ("few", few)):
        source = tables_world.write(tmp_path / name, users, campaigns, rows)
        succeeds(main, "prepare", source, tmp_path / f"{name}-data", "--schema", schema)
        told = (
            "\nnote: fit needs --skip-unusable, since these campaigns have fewer than 20 examples "
            "to learn from, or only seeds or only non-seeds: k2\n"
        )
        printed = capsys.readouterr().out
        assert (told in printed) == (name == "few")
        number = len(campaigns["campaign_id"]) - (name == "few")
        lacking = f"note: by default fit needs 8 campaigns, and {number} can be used; --method lr "
        assert lacking in printed


def test_enough_campaigns_are_not_told_to_be_few(tmp_path, capsys):
    source = tables_world.write(tmp_path / "source", *tables_world.world(num_campaigns=8))
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(tables_world.SCHEMA.to_json()))
    succeeds(main, "prepare", source, tmp_path / "data", "--schema", schema)
    assert "note: by default fit needs" not in capsys.readouterr().out


@pytest.mark.filterwarnings("default:.* who are not in the file of users")
def test_examples_of_deleted_users_are_left_out_if_asked(tmp_path, capsys):
    users, campaigns, examples = tables_world.world()
    examples[2] = ("k1", "deleted", 0, 1)
    source, schema = tables_world.write(tmp_path / "s", users, campaigns, examples), tmp_path / "js"
    schema.write_text(json.dumps(tables_world.SCHEMA.to_json()))
    command = ("prepare", source, tmp_path / "data", "--schema", schema)
    refuses(capsys, main, *command, words=("line 4: unknown user_id deleted", "fix or remove it"))
    succeeds(main, *command, "--skip-unknown-users")
    told = f"1 of {len(examples)} examples are of users who are not in the file of users"
    assert f"warning: {source / 'examples.csv'}: {told}" in capsys.readouterr().err


def test_columns_that_a_first_schema_lacks_are_named(tmp_path, capsys):
    (tmp_path / "users.csv").write_text("user_id,a/b,.c,d\n1,2,3,4\n")
    succeeds(main, "prepare", tmp_path, "--infer", tmp_path / "schema.json")
    why = "they cannot be fields, or each user has another text or date"
    assert f"\nnote: left out, since {why}: a/b, .c\n" in capsys.readouterr().out


def test_a_first_column_that_repeats_an_id_is_told(tmp_path, capsys):
    path, told = tmp_path / "users.csv", "note: users are numbered by row, since the first column"
    for text, is_told in (
        ("id,city\n1,Rome\n2,Oslo\n", False),
        ("id,city\n1,Rome\n1,Oslo\n", True),
    ):
        path.write_text(text)
        succeeds(main, "prepare", tmp_path, "--infer", tmp_path / "schema.json", "--overwrite")
        assert (told in capsys.readouterr().out) == is_told


def test_names_in_brackets_are_printed(tmp_path, capsys, monkeypatch):
    source = tables_world.write(tmp_path / "source", *tables_world.world())
    schema, out, world = (tmp_path / name for name in ("[s].json", "[data]", "[world]"))
    succeeds(main, "prepare", source, "--infer", schema)
    succeeds(main, "prepare", source, out, "--schema", schema)
    monkeypatch.setattr(simulate, "write_table_world", lambda *_, **options: None)
    succeeds(main, "simulate", world, "--tables")
    (tmp_path / "[empty]").mkdir()
    succeeds(main, "status", tmp_path / "[empty]")
    printed = capsys.readouterr().out
    assert f"{schema}: edit it, then metaheac prepare with --schema\n" in printed
    assert f"{out}: 80 users, 4 campaigns, " in printed
    assert f"next: metaheac fit '{out}' MODEL\n" in printed
    assert f"{world}: a simulated world of 200,000 users\n" in printed
    schema = world / "schema.json"
    assert f"next: metaheac prepare '{world}' DATA --schema '{schema}'\n" in printed
    assert f"{tmp_path / '[empty]'}: no data set, model, campaign or audience\n" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prepare", "nowhere", "data"), "nowhere: no such folder"),
        (("prepare", "source", "data", "--schema", "none.json"), "none.json: No such file"),
        (
            ("prepare", "source", "data", "--schema", "bad.json"),
            "bad.json: not valid JSON (Expecting value",
        ),
        (("prepare", "source", "source"), "source: "),
        (
            ("prepare", "misnamed", "data", "--schema", "edges.json"),
            "misnamed: has none of users, campaigns, examples (.parquet, .csv, .csv.gz), nor the",
        ),
        (("prepare", "source"), "prepare: give the folder to write, or --infer"),
        (("prepare", "source", "--infer", "schema.json"), "source: has no users.parquet"),
        (("prepare", "tables", "data", "--overwrite"), "--overwrite: only with --infer"),
        (("prepare", "tables", "--infer", "s", "--schema", "x"), "--schema: not with --infer"),
        (("prepare", "tables", "--infer", "s", "--hash-rows", 5), "--hash-rows: not with --infer"),
        (("prepare", "tables", "--infer", "s", "--extends", "x"), "--extends: not with --infer"),
        (
            ("prepare", "tables", "--infer", "s", "--skip-unknown-users"),
            "--skip-unknown-users: not with --infer",
        ),
        (
            ("prepare", "source", "data", "--skip-unknown-users"),
            "--skip-unknown-users: only for tables, which source does not have",
        ),
        (("prepare", "tables", "--infer", "s", "--max-memory", 1), "--max-memory: not with --inf"),
        (("prepare", "tables", "--infer", "s", "--max-ids", 1), "--max-ids: not with --infer"),
        (("prepare", "tables", "data", "--max-ids", 1), "--max-ids: tables has tables, whose"),
        (("prepare", "tables", "data", "--max-memory", 1), "--max-memory: only for the authors'"),
        (("prepare", "source", "data", "--max-ids", 1), "add up to more than 1"),
        (("prepare", "source", "data", "--max-memory", 1), "--max-memory: only for the authors'"),
        (("prepare", "tables", "data"), "tables need a --schema; metaheac prepare tables"),
        (("prepare", "bad.json", "data"), "bad.json: is not a .parquet, .csv or .csv.gz file"),
        (("prepare", "source", "data", "--hash-rows", -1), "--hash-rows: expected 0 or more"),
        (("prepare", "source", "data", "--hash-rows", 9), "--hash-rows: source has no tables"),
        (
            ("prepare", "tables", "data", "--hash-rows", 9, "--extends", "old"),
            "--hash-rows: not with --extends",
        ),
        (("prepare", "source", "data", "--extends", "empty"), "empty: has no manifest.json"),
        (("prepare", "source", "data", "--schema", "edges.json"), "'a': expected name and slots"),
        (("simulate", "world", "--users", 1000), "--users: expected 110000 or more, got 1000"),
        (("simulate", "world", "--seed", -1), "--seed: expected 0 or more, got -1"),
    ],
)
def test_bad_options_leave_nothing(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    for name in ("tables", "misnamed"):
        (tmp_path / name).mkdir()
    (tmp_path / "misnamed" / "user.csv").write_text("user_id,age\n1,2\n")
    (tmp_path / "tables" / "users.csv").write_text("user_id,age\n1,2\n")
    (tmp_path / "bad.json").write_text('{"user": [')
    field = '[{"name": "a", "edges": [1]}]'
    (tmp_path / "edges.json").write_text(f'{{"user": {field}, "campaign": [{{"name": "b"}}]}}')
    before = contents(tmp_path), contents(source)
    refuses(capsys, main, *arguments, words=(words,))
    assert (contents(tmp_path), contents(source)) == before
