"""An exported scorer: the same scores from raw values, without this package."""

import datetime
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import contents
from tables_world import world, write
from toy import UNTRAINED, with_shares

from experiments.examples.exported_scorer import ExportedScorer, raw_value
from metaheac_jax.customise import export
from metaheac_jax.customise.export import FORMAT, MANIFEST, export_scorer
from metaheac_jax.data.sources.table_schema import Column, TableSchema
from metaheac_jax.data.sources.tables import prepare
from metaheac_jax.errors import InputError
from metaheac_jax.methods import method_named
from metaheac_jax.sealed import read_sealed

SCHEMA = TableSchema(
    user=(
        Column("city"),
        Column("income", buckets=4),
        Column("likes", slots=3, separator=";"),
        Column("code", hash_rows=6),
    ),
    campaign=(Column("topic"), Column("budget", buckets=2)),
    min_count=12,
)
TINY = replace(UNTRAINED, online_learning_rate=0.05)


@pytest.fixture(scope="module")
def users():
    """Raw values of users: text, numbers, lists, many codes; some missing, some rare."""
    users, campaigns, examples = world()
    users["code"] = [f"x{n % 17}" if n % 5 else None for n in range(len(users["city"]))]
    return users, campaigns, examples


@pytest.fixture(scope="module")
def data(users, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return prepare(write(folder / "source", *users), folder / "data", schema=SCHEMA)


def customised(data, name, **changed):
    method = method_named(name, TINY).with_settings(offline_epochs=0, **changed)
    general = with_shares(method.fit(data, campaigns=[0, 1, 2]))
    return method.customise(general, data, [data.campaign(3)])[0]


def columns(users):
    return {name: values for name, values in users[0].items() if name != "user_id"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("metaheac", {"online_adapts": "heads"}),
        ("seed-aware", {}),
        ("solved-head", {}),
        ("ensemble", {}),
        ("lr-lengths", {}),
        ("mlp-pretraining", {}),
    ],
)
def test_scores_are_those_of_the_model(data, users, tmp_path, name, changed):
    model = customised(data, name, **changed)
    export_scorer(model, tmp_path / "export")
    scores = ExportedScorer(tmp_path / "export")(columns(users))
    expected = model.score(data.user_rows)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
    assert scores.dtype == np.float32
    assert np.ptp(expected) > 0.1


@pytest.fixture(scope="module")
def exported(data, tmp_path_factory):
    """A model, and the folder of its export."""
    model, folder = customised(data, "mlp-pretraining"), tmp_path_factory.mktemp("exported") / "tea"
    export_scorer(model, folder)
    return model, folder


def test_scores_do_not_need_this_package(data, users, exported, tmp_path):
    """In a process in which importing it fails."""
    model, folder = exported
    (tmp_path / "users.json").write_text(json.dumps(columns(users)))
    program = (
        "import json, sys\n"
        "sys.modules['metaheac_jax'] = None\n"
        "import numpy as np\n"
        "from exported_scorer import ExportedScorer\n"
        "scores = ExportedScorer(sys.argv[1])(json.load(open(sys.argv[2])))\n"
        "np.save(sys.argv[3], scores)\n"
        "assert not [name for name in sys.modules if name.startswith('metaheac_jax.')]\n"
    )
    arguments = (folder, tmp_path / "users.json", tmp_path / "scores.npy")
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2] / "experiments/examples")
    }
    environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, env=environment)
    np.testing.assert_allclose(
        np.load(tmp_path / "scores.npy"), model.score(data.user_rows), rtol=0, atol=1e-6
    )


def test_raw_values_have_the_rows_of_the_data(data, users, exported):
    scorer = ExportedScorer(exported[1])
    fields = scorer.manifest["fields"]
    rows = [scorer.rows(field, users[0][field["name"]]) for field in fields]
    np.testing.assert_array_equal(np.concatenate(rows, axis=1), data.user_rows)
    assert (data.user_rows == data.num_rows).any()  # lists shorter than their slots
    # What the data have not seen, and other kinds of the same cell.
    vocabulary = data.vocabulary
    for field, cells, raw in (
        (0, ["Atlantis", None, ""], ["Atlantis", "", ""]),
        (
            1,
            [-1e9, "2.5", None, float("nan"), "nan"],
            data.schema.user[1].bucket(np.array([-1e9, 2.5, *[np.nan] * 3])),
        ),
        (3, ["never", "x1"], data.schema.user[3].hashed(["never", "x1"])),
    ):
        expected = vocabulary.encode(field, raw)[:, None]
        np.testing.assert_array_equal(scorer.rows(fields[field], cells), expected)
    [likes] = scorer.rows(fields[2], [np.array(["t1", None, "", "Atlantis", "t2", "t3"], object)])
    expected = vocabulary.encode(2, ["t1", "Atlantis", "t2"])
    np.testing.assert_array_equal(likes, expected)
    assert scorer.rows(fields[2], [None]).tolist() == [[data.num_rows] * 3]


CELLS = {
    "premium": [n % 2 == 0 if n % 5 else None for n in range(80)],
    "hashed": [n % 2 == 0 for n in range(80)],
    "zip": pl.Series([n % 3 if n % 7 else None for n in range(80)], dtype=pl.Float64),
    "rating": [n % 4 / 2 for n in range(80)],
    "account": pl.Series([n % 9 for n in range(80)], dtype=pl.Float64),
    "liked": [" tea; jazz;;golf"] * 40 + ["jazz", "", None, ";"] * 10,
    "visits": pl.Series([n % 4 if n % 6 else None for n in range(80)], dtype=pl.Float64),
    "tags": [["", "a", None, "b"], ["b"], None, []] * 20,
    "since": [datetime.datetime(2026, 1, n % 28 + 1) for n in range(80)],
}


@pytest.fixture(scope="module")
def typed(users, exported, tmp_path_factory):
    """Data from a Parquet file with columns of many types, and what is exported of their fields."""
    schema = TableSchema(
        user=(
            Column("premium"),
            Column("hashed", hash_rows=50),
            Column("zip"),
            Column("rating"),
            Column("account", hash_rows=50),
            Column("liked", slots=3, separator=";"),
            Column("visits", slots=2, separator=";"),
            Column("tags", slots=2),
            Column("since"),
        ),
        campaign=SCHEMA.campaign,
    )
    folder = tmp_path_factory.mktemp("typed")
    table = {"user_id": users[0]["user_id"], **CELLS}
    source = write(folder / "source", table, *users[1:], form="parquet")
    data = prepare(source, folder / "data", schema=schema)
    model, other = exported
    general = replace(model.general, schema=data.schema, vocabulary=data.vocabulary)
    with pytest.MonkeyPatch.context() as patch:  # a program of other fields: it is not called
        patch.setattr(export, "_program", lambda *_: (other / "scorer.stablehlo").read_bytes())
        export_scorer(replace(model, general=general), folder / "tea")
    return data, ExportedScorer(folder / "tea")


def test_cells_of_any_type_have_the_rows_of_the_data(typed):
    data, scorer = typed
    first = 0
    for field in scorer.manifest["fields"]:
        cells = pl.Series(CELLS[field["name"]]).to_list()
        expected = data.user_rows[:, first : first + field["slots"]]
        first += field["slots"]
        if field["name"] == "since":
            for cell in (cells[0], np.datetime64(cells[0], "ns"), cells[0].date()):
                with pytest.raises(ValueError, match=r"field 'since': .*: expected text, a number"):
                    scorer.rows(field, [cell])
            cells = [f"{cell}.000000" for cell in cells]
        if field["name"] == "liked":  # with a separator in the file
            cells = [cell and [value.strip() for value in cell.split(";")] for cell in cells]
        if field["name"] == "visits":
            cells = [[cell] for cell in cells]
        np.testing.assert_array_equal(scorer.rows(field, cells), expected)
        numpy = [cell if isinstance(cell, list | None) else np.array([cell])[0] for cell in cells]
        np.testing.assert_array_equal(scorer.rows(field, numpy), expected)
    assert first == data.user_rows.shape[1]


@pytest.mark.parametrize("cell", [7, np.int64(7), 7.0])
def test_a_whole_number_is_spelled_as_the_known_values(typed, cell):
    field = {**typed[1].manifest["fields"][2], "whole": False}
    assert raw_value(field, cell) == "7.0"
    assert raw_value({**field, "whole": True}, cell) == "7"
    with pytest.raises(ValueError, match="9007199254740992: expected its text"):
        raw_value(field, 2**53)


@pytest.mark.parametrize(
    ("name", "cell", "expected"),
    [
        ("premium", b"true", "text, a number"),
        ("premium", [True], "text, a number"),
        ("hashed", datetime.date(2026, 1, 1), "text, a number"),
        ("rating", 1e-9, "its text, since that of a float varies"),
        ("rating", float(np.float32(0.1)), "its text"),
        ("tags", "a;b", "a list; split text at the separator in the schema"),
        ("tags", 5, "a list"),
        ("liked", ["tea", datetime.date(2026, 1, 1)], "text, a number"),
    ],
)
def test_a_cell_whose_text_is_not_known_is_refused(typed, name, cell, expected):
    scorer = typed[1]
    [field] = [field for field in scorer.manifest["fields"] if field["name"] == name]
    with pytest.raises(ValueError, match=f"^field '{name}': .*: expected {expected}") as refused:
        scorer.rows(field, [cell])
    assert "\n" not in str(refused.value)


def test_an_export_of_before_does_not_tell_how_floats_are_spelled(data, users, exported, tmp_path):
    shutil.copytree(exported[1], tmp_path / "tea")
    manifest = json.loads((tmp_path / "tea" / MANIFEST).read_text())
    for field in manifest["fields"]:
        del field["whole"]
    (tmp_path / "tea" / MANIFEST).write_text(json.dumps(manifest))
    scores = ExportedScorer(tmp_path / "tea")(columns(users))
    np.testing.assert_array_equal(scores, ExportedScorer(exported[1])(columns(users)))


@pytest.mark.parametrize("count", [1, 7])
def test_any_number_of_users_is_scored(data, users, exported, count):
    some = {name: values[:count] for name, values in columns(users).items()}
    scores = ExportedScorer(exported[1])(some)
    expected = exported[0].score(data.user_rows[:count])
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_an_export_says_what_it_is_and_replaces_an_older_one(data, exported):
    model, folder = exported
    export_scorer(model, folder)
    assert contents(folder) == {
        MANIFEST,
        "scorer.stablehlo",
        "weights.npz",
        "values.npz",
        "excluded.csv",
    }
    body = read_sealed(folder, MANIFEST, format=FORMAT, remedy="")
    assert (body["method"], body["campaign"]) == ("mlp-pretraining", "campaign k3")
    assert body["made_from"] == []  # besides the general model: no campaign folder
    assert body["platforms"] == ["cpu", "cuda", "tpu"]
    assert (body["slots"], body["pad"]) == (6, data.num_rows)


def test_seeds_and_excluded_users_are_listed_once_and_in_order(exported, tmp_path, monkeypatch):
    model, folder = exported
    monkeypatch.setattr(export, "_program", lambda *_: (folder / "scorer.stablehlo").read_bytes())
    seeds = [user_id.decode() for user_id in model.seed_ids]
    for more in ([], [seeds[0], "an id that is longer than any seed's"]):
        excluded = np.array([user_id.encode() for user_id in more]) if more else ()
        campaign = replace(model.campaign, excluded_ids=excluded)
        export_scorer(replace(model, campaign=campaign), tmp_path / "tea")
        lines = (tmp_path / "tea" / "excluded.csv").read_text().splitlines()
        assert lines == ["user_id", *sorted({*seeds, *more})]


def test_what_cannot_be_exported(data, exported, tmp_path, monkeypatch):
    model = customised(data, "cosine", online_patience=None)
    with pytest.raises(InputError, match="campaign k3: 'cosine' has no network to export; use a "):
        export_scorer(model, tmp_path / "export")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    with pytest.raises(InputError, match=r"mine: exists and has no scorer\.json"):
        export_scorer(exported[0], tmp_path / "mine")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="an export needs flatbuffers; install it with pip"):
        export_scorer(exported[0], tmp_path / "export")
    assert contents(tmp_path) == {"mine"}
    assert contents(tmp_path / "mine") == {"thesis.tex"}
