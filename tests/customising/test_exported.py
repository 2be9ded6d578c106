"""An exported scorer: the same scores from raw values, without the part that trains."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy import tiny, with_shares

from metaheac_jax.customising import exported as module
from metaheac_jax.customising.exported import FORMAT, MANIFEST, export_scorer, open_export
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.examples import group_by_campaign
from metaheac_jax.errors import InputError
from metaheac_jax.methods import customise, fit
from metaheac_jax.model import FunctionScorer
from metaheac_jax.schema import MISSING_WHOLE as MISSING
from metaheac_jax.schema import UNSEEN, Field, Schema, Vocabulary
from metaheac_jax.sealed import read_sealed

FIELDS = (
    Field("city"),
    Field("zip"),
    Field("income", edges=(10.0, 20.0)),
    Field("likes", 3),
    Field("code", hash_rows=6),
)
VALUES = (
    np.array(["", "12.5", UNSEEN, "Lyon", "Paris", "true"]),
    np.array([MISSING, 5, 75001]),
    np.array([-1, 0, 1, 2]),
    np.array(["golf", "tea"]),
    np.array([-1, 0, 1, 2, 3, 4, 5]),
    np.arange(3),
)
SCHEMA, VOCABULARY = Schema(FIELDS, (Field("topic"),)), Vocabulary(VALUES)
PAD = VOCABULARY.num_rows
FILES = ("scorer.stablehlo", "values.npz", "weights.npz", MANIFEST)


def contents(folder):
    return {path.name for path in folder.iterdir()}


def column(field, cells, slots=1):
    """(P, slots) rows of raw values, by the vocabulary."""
    rows = np.full((len(cells), slots), PAD, np.int32)
    for user, cell in enumerate(cells):
        own = cell if slots > 1 else [cell]
        if own:
            rows[user, : len(own)] = VOCABULARY.encode(field, own)
    return rows


def world(users=80):
    """Users as raw values, and the data that `prepare` would make of them."""
    n, likes = np.arange(users), [[], ["tea"], ["golf", "tea"], ["tea", "no such"]]
    cells = {
        "city": [["Paris", "Lyon", "Atlantis", None][i % 4] for i in n],
        "zip": [[75001, 5, 7, None, "5"][i % 5] for i in n],
        "income": [[3, 10, 15.5, 99.0, None, "nan"][i % 6] for i in n],
        "likes": [likes[i % 4] for i in n],
        "code": [f"x{i % 9}" if i % 4 else "" for i in n],
    }
    wholes = [MISSING if own is None else int(own) for own in cells["zip"]]
    numbers = np.array([np.nan if own is None else float(own) for own in cells["income"]])
    parts = [
        column(0, [own or "" for own in cells["city"]]),
        column(1, wholes),
        column(2, FIELDS[2].bucket(numbers).tolist()),
        column(3, cells["likes"], 3),
        column(4, FIELDS[4].hashed(cells["code"]).tolist()),
    ]
    rng = np.random.default_rng(0)
    campaign = np.repeat(np.arange(4), 40)
    user = np.concatenate([rng.choice(users, 40, replace=False) for _ in range(4)])
    stage = group_by_campaign(campaign, user, rng.random(160) < 0.4, num_campaigns=4)
    return cells, Dataset(
        name="raw",
        schema=SCHEMA,
        vocabulary=VOCABULARY,
        user_ids=n,
        user_rows=np.concatenate(parts, axis=1),
        campaign_ids=np.arange(4),
        campaign_rows=(PAD - 3 + np.arange(4)[:, None] % 3).astype(np.int32),
        stage1=stage,
        stage2=stage,
    )


CELLS, DATA = world()


def customised(name):
    method = tiny(name, online_learning_rate=0.05, list_lengths=name != "metaheac")
    general = with_shares(fit(DATA, method, campaigns=[0, 1, 2]))
    return customise(general, DATA, DATA.campaign(3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metaheac", "solved-head", "ensemble", "lr"])
def test_scores_are_those_of_the_model(tmp_path, name):
    model = customised(name)
    export_scorer(model, tmp_path / "export")
    scores = open_export(tmp_path / "export")(CELLS)
    np.testing.assert_allclose(scores, model.score(DATA.user_rows), rtol=0, atol=1e-5)
    assert scores.dtype == np.float32
    assert np.ptp(scores) > 0.1


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, and the folder of its export."""
    model, folder = customised("mlp-pretraining"), tmp_path_factory.mktemp("exported") / "tea"
    export_scorer(model, folder)
    return model, folder


def test_scoring_imports_no_part_that_trains(exported, tmp_path):
    model, folder = exported
    (tmp_path / "users.json").write_text(json.dumps(CELLS))
    program = (
        "import json, sys\n"
        "import numpy as np\n"
        "from metaheac_jax.customising.exported import open_export\n"
        "scores = open_export(sys.argv[1])(json.load(open(sys.argv[2])))\n"
        "np.save(sys.argv[3], scores)\n"
        "heavy = 'flax', 'optax', 'orbax', 'polars', 'metaheac_jax.training'\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
    )
    arguments = (folder, tmp_path / "users.json", tmp_path / "scores.npy")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, env=environment)
    expected = model.score(DATA.user_rows)
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, rtol=0, atol=1e-6)


def test_any_number_of_users_is_scored_from_raw_values_or_rows(exported):
    model, folder = exported
    scorer = open_export(folder)
    for count in (1, 7):
        some = {name: values[:count] for name, values in CELLS.items()}
        np.testing.assert_array_equal(scorer.rows(some), DATA.user_rows[:count])
        scores = scorer.score(DATA.user_rows[:count])
        np.testing.assert_array_equal(scorer(some), scores)
        np.testing.assert_allclose(scores, model.score(DATA.user_rows[:count]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "cells", "raw"),
    [
        ("city", [12.5, "True", True, np.True_, "", float("nan")], ["12.5", *["true"] * 3, "", ""]),
        ("zip", [5.0, np.int64(5), "75001.0", "x", 2**70], [5, 5, 75001, -1, -1]),
        ("income", [-1e9, np.float32(20), "2.5"], [0, 2, 0]),
        ("code", ["7", 7, 7.0], FIELDS[4].hashed(["7"] * 3).tolist()),
    ],
)
def test_a_cell_of_any_type_is_read_as_its_text(exported, name, cells, raw):
    number = [field.name for field in FIELDS].index(name)
    full = {field.name: [[] if field.slots > 1 else None] * len(cells) for field in FIELDS}
    rows = open_export(exported[1]).rows(full | {name: cells})
    first = SCHEMA.user_starts[number]
    np.testing.assert_array_equal(rows[:, first], VOCABULARY.encode(number, raw))


def test_a_list_keeps_its_first_values_that_are_there(exported):
    lists = [["tea", None, "", "x", "golf", "tea"], None, float("nan"), np.array(["golf"], object)]
    full = {field.name: [None] * len(lists) for field in FIELDS} | {"likes": lists}
    found = open_export(exported[1]).rows(full)[:, 3:6]
    expected = column(3, [["tea", "x", "golf"], [], [], ["golf"]], 3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "cell"), [("city", b"Paris"), ("city", ["Paris"]), ("likes", "tea"), ("likes", 5)]
)
def test_a_cell_that_is_no_value_is_refused(exported, name, cell):
    full = {field.name: [[] if field.slots > 1 else None] for field in FIELDS}
    with pytest.raises(InputError, match=f"field '{name}': expected") as refused:
        open_export(exported[1]).rows(full | {name: [cell]})
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=f"no column '{name}'"):
        open_export(exported[1]).rows({own: full[own] for own in full if own != name})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_file_is_refused_before_it_is_used(exported, tmp_path, name, damage):
    export = tmp_path / "tea"
    export.mkdir()
    for path in exported[1].iterdir():
        (export / path.name).write_bytes(path.read_bytes())
    content = bytearray((export / name).read_bytes())
    for place in np.linspace(0, len(content) - 1, 9).astype(int) if damage == "flip" else [0]:
        spoilt = bytearray(content)
        spoilt[place] ^= 2
        (export / name).write_bytes(spoilt if damage == "flip" else content[: len(content) // 2])
        if damage == "gone":
            (export / name).unlink()
        with pytest.raises(InputError, match=name) as refused:
            open_export(export)
        assert "export the campaign again" in str(refused.value)


def test_no_path_stands_in_an_export(exported):
    """jax notes the source file of each operation in a program."""
    for path in exported[1].iterdir():
        content = path.read_bytes()
        for place in {*sys.path, str(Path(__file__).parents[2]), sys.prefix} - {"", "."}:
            assert place.encode() not in content, path
        assert not re.search(rb"\.py\b", content)


def test_an_export_says_what_it_is_and_replaces_an_older_one(exported):
    model, folder = exported
    export_scorer(model, folder)
    assert contents(folder) == set(FILES)
    body = read_sealed(folder, MANIFEST, format=FORMAT, remedy="")
    assert (body["method"], body["campaign"]) == ("mlp-pretraining", "campaign 3")
    assert body["platforms"] == ["cpu", "cuda", "tpu"]
    assert (body["slots"], body["pad"]) == (7, PAD)


def test_what_cannot_be_exported(exported, tmp_path, monkeypatch):
    model, _ = exported
    with pytest.raises(InputError, match="campaign 3: 'mlp-pretraining' has no network to export"):
        export_scorer(
            replace(model, scorer=FunctionScorer(lambda users: users)), tmp_path / "export"
        )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    with pytest.raises(InputError, match=r"mine: exists and has no scorer\.json"):
        export_scorer(model, tmp_path / "mine")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    for use in (lambda: export_scorer(model, tmp_path / "x"), lambda: open_export(tmp_path / "x")):
        with pytest.raises(InputError, match="needs flatbuffers; install it with pip"):
            use()
    assert contents(tmp_path) == {"mine"}
