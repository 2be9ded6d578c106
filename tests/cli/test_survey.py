"""A real survey, a row per person: from the file to an audience that may answer likewise."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from commands import refuses, succeeds

from metaheac_jax.cli.main import main

SURVEY = Path(__file__).parents[1] / "data" / "sources" / "survey.csv.gz"
#: The answers that make campaigns; one of them is asked for an audience.
QUESTIONS = ("DatabaseWorkedWith", "PlatformWorkedWith")
ASKED = {"column": "PlatformWorkedWith", "value": "Docker"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("survey")


def test_from_a_survey_to_an_audience(folder, capsys):
    schema, data, model = folder / "schema.json", folder / "data", folder / "model"
    schema.write_text("mine")
    words = (f"--infer: {schema} exists; give --overwrite to replace it",)
    refuses(capsys, main, "prepare", SURVEY, "--infer", schema, words=words)
    assert schema.read_text() == "mine"
    succeeds(main, "prepare", SURVEY, "--infer", schema, "--overwrite")
    words = 'move the fields whose values make campaigns from "user" to "campaigns_from"'
    assert words in capsys.readouterr().out
    refuses(capsys, main, "prepare", SURVEY, data, "--schema", schema, words=("has no 'campaign'",))

    edited = json.loads(schema.read_text())
    fields = {field["name"]: field for field in edited["user"]}
    fields["Gender"]["sensitive"] = True
    edited["campaigns_from"] = [fields.pop(name) for name in QUESTIONS]
    edited["user"] = list(fields.values())
    schema.write_text(json.dumps(edited))
    options = ("--schema", schema, "--skip-unknown-users")
    words = (f'--skip-unknown-users: {schema} makes campaigns with "campaigns_from"',)
    refuses(capsys, main, "prepare", SURVEY, data, *options, words=words)
    succeeds(main, "prepare", SURVEY, data, "--schema", schema)
    printed = capsys.readouterr().out
    assert f"{data}: 997 users, 27 campaigns, " in printed
    assert "\nsensitive, left out of the model: Gender\n" in printed
    assert "numbered by row" not in printed
    no_ids = folder / "no_ids.json"
    no_ids.write_text(json.dumps({**edited, "user_id": ""}))
    succeeds(main, "prepare", SURVEY, folder / "rows", "--schema", no_ids)
    assert "note: users have no ids and are numbered by row, so seeds" in capsys.readouterr().out

    succeeds(main, "fit", data, model, "--method", "cosine", "--campaigns", "paper")
    succeeds(main, "evaluate", model, "--data", data)
    printed = capsys.readouterr().out
    aucs = re.findall(r"seeds +\S+ +(\d+) +\S+ +(0\.\d{4})", printed)
    campaigns = [int(count) for count, _ in aucs]
    assert sum(campaigns) in (12, 15)  # the answers to one of the two questions
    assert sum(float(auc) * int(count) for count, auc in aucs) / sum(campaigns) > 0.65
    assert "other values of the same column" not in printed
    one, about_one = folder / "one", folder / "about_one"
    schema.write_text(json.dumps(edited | {"campaigns_from": edited["campaigns_from"][1:]}))
    succeeds(main, "prepare", SURVEY, one, "--schema", schema)
    succeeds(main, "fit", one, about_one, "--method", "cosine", "--campaigns", "paper")
    succeeds(main, "evaluate", about_one, "--data", one)
    words = "note: for 6 of these 6 campaigns the model was trained on other values of the same col"
    assert words in capsys.readouterr().out

    people = pl.read_csv(SURVEY, infer_schema=False)
    answer = pl.col(ASKED["column"]).str.split(";").list.contains(ASKED["value"])
    users = set(people.filter(answer)["Respondent"].to_list())
    seeds = sorted(users)[:150]
    (folder / "seeds").write_text("\n".join(["user_id", *seeds]))
    (folder / "attributes.json").write_text(json.dumps(ASKED))
    out = folder / "audience.csv"
    options = ("--data", data, "--seeds", folder / "seeds")
    attributes = ("--attributes", folder / "attributes.json")
    succeeds(main, "expand", model, *options, *attributes, "--size", 100, "--out", out)
    audience = pl.read_csv(out, infer_schema=False)["user_id"].to_list()
    others = set(people["Respondent"].to_list()) - set(seeds)
    share = len(users & set(audience)) / 100
    assert share > 1.4 * len(users - set(seeds)) / len(others)

    capsys.readouterr()
    succeeds(main, "traits", out, *options, "--out", folder / "traits.csv")
    traits = pl.read_csv(folder / "traits.csv")
    assert set(QUESTIONS).isdisjoint(traits["field"])
    assert traits.filter(field="LanguageWorkedWith")["lift"].max() > 1.3
