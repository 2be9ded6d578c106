"""What lies in a workspace is found by its manifests, and what is wrong with it is said."""

import gzip
import json
import os
import shutil
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from commands import exit_code
from toy import dataset
from writers import Writers

from metaheac_jax.audience import workspace as module
from metaheac_jax.audience.campaign_folder import add_feedback, save_customised, update_customised
from metaheac_jax.audience.retrieve import expand
from metaheac_jax.audience.workspace import (
    AUDIENCES,
    AUDIENCES_FORMAT,
    find_items,
    find_unfinished,
)
from metaheac_jax.cli.main import main
from metaheac_jax.cli.status import items_table
from metaheac_jax.customise import export
from metaheac_jax.data.campaign_record import Feedback
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.methods import method_named
from metaheac_jax.model import Judged, load, save
from metaheac_jax.sealed import seal
from metaheac_jax.settings import PAPER

TINY = replace(PAPER, width=2, num_experts=2, num_critics=2, batch_size=32, campaigns_per_step=2)
TINY = replace(TINY, offline_epochs=0, online_epochs=1, online_patience=None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with one of each kind; never changed."""
    folder = tmp_path_factory.mktemp("made")
    write_dataset(dataset(users=150, campaigns=6, per_campaign=60, pool=40), folder / "data")
    data, method = open_dataset(folder / "data"), method_named("mlp-pretraining", TINY)
    save(method.fit(data, campaigns=[0, 1, 2], seed=7), folder / "models" / "june")
    general = load(folder / "models" / "june")
    campaign = data.new_campaign([3, 10, 17], {"advertiser": 4, "category": 2})
    [model] = method.customise(general, data, [campaign])
    save_customised(model, data, folder / "campaigns" / "tea")
    expand(model, data, size=9).write(folder / "audience.csv")
    (folder / "seeds.csv").write_text("user_id\n3\n10\n")
    (folder / "notes.parquet").write_text("not a table")
    return folder


@pytest.fixture
def workspace(made, tmp_path):
    """A copy to change."""
    return shutil.copytree(made, tmp_path / "work")


def by_name(folder):
    return {str(item.path.relative_to(folder)): item for item in find_items(folder)}


def test_everything_is_found_and_nothing_else(made):
    items = by_name(made)
    kinds = {name: (item.kind, item.about) for name, item in items.items()}
    assert kinds == {
        "audience.csv": ("audience", "9 users"),
        "campaigns/tea": ("campaign", "3 seeds"),
        "data": ("data set", "toy: 150 users, 6 campaigns"),
        "models/june": ("model", "mlp-pretraining, k = 2, trained on 3 campaigns, seed 7"),
    }
    assert not any(item.trouble or item.writer for item in items.values())
    assert find_unfinished(made) == []


def test_the_best_judgement_of_a_model_is_shown(workspace):
    general = load(workspace / "models" / "june", optimizer=True)
    judged = (Judged(4, 0.6, 0.5), Judged(8, 0.71236, 0.4), Judged(12, 0.7, 0.3))
    save(replace(general, judgements=judged), workspace / "models" / "june")
    about = by_name(workspace)["models/june"].about
    assert about == "mlp-pretraining, k = 2, trained on 3 campaigns, held-out AUC 0.7124, seed 7"


def test_sizes_and_times_are_those_of_the_files(made):
    item = by_name(made)["models/june"]
    files = [path for path in (made / "models" / "june").rglob("*") if path.is_file()]
    assert item.size == sum(map(os.path.getsize, files)) > 1000
    assert item.modified == (made / "models" / "june" / "model.json").stat().st_mtime


def test_a_campaign_names_its_model_and_that_its_data(made):
    items = by_name(made)
    assert items["campaigns/tea"].parents == (("", items["models/june"].digest),)
    assert load(made / "models" / "june").origin.digest == items["models/june"].digest
    table = items_table(find_items(made), made)
    cells = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert cells["campaigns/tea"]["made from"] == "models/june"
    assert cells["models/june"]["made from"] == "data"
    assert cells["data"]["made from"] == ""


def test_exports_and_models_name_the_model_that_they_come_from(workspace):
    """Exports of before name no campaign."""
    june = load(workspace / "models" / "june")
    save(replace(june, parent=june.origin.digest), workspace / "models" / "july")
    (workspace / "scorer").mkdir()
    content = {"format": export.FORMAT, "method": june.method, "campaign": "campaign tea"}
    content["model_digest"] = june.origin.digest
    seal(workspace / "scorer", export.MANIFEST, content, [])
    rows = {name: cells for name, *cells in items_table(find_items(workspace), workspace).rows}
    assert rows["scorer"][:3] == ["export", "mlp-pretraining, campaign tea", "models/june"]
    assert rows["models/july"][2] == "data, models/june"


@pytest.mark.parametrize(
    ("size", "shown"),
    [(1023, "1023 B"), (1024, "1 KiB"), (1024**2 - 1024, "1023 KiB"), (1024**2, "1 MiB")],
)
def test_sizes_are_shown_in_powers_of_1024(made, size, shown):
    items = [replace(item, size=size) for item in find_items(made)]
    assert {row[-1] for row in items_table(items, made).rows} == {shown}


def test_a_parent_that_is_gone_is_said(workspace):
    digest = by_name(workspace)["models/june"].digest
    (workspace / "models" / "june" / "model.json").unlink()
    [row] = [r for r in items_table(find_items(workspace), workspace).rows if r[1] == "campaign"]
    assert row[3] == f"not in this folder ({digest[:8]})"


def test_feedback_that_is_not_learned_from_is_said(workspace):
    folder = workspace / "campaigns" / "tea"
    add_feedback(folder, Feedback.of(np.array([31, 38]), np.array([1, 0])))
    about = by_name(workspace)["campaigns/tea"].about
    assert about == "3 seeds, feedback on 2 users, not up to date: metaheac update"
    general = load(workspace / "models" / "june")
    update_customised(folder, general, open_dataset(workspace / "data"))
    assert by_name(workspace)["campaigns/tea"].about == "3 seeds, feedback on 2 users"
    update_customised(folder, general, open_dataset(workspace / "data"), exclude=[45, 52])
    about = by_name(workspace)["campaigns/tea"].about
    assert about == "3 seeds, feedback on 2 users, 2 users excluded"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "metaheac_jax other"}', None])
@pytest.mark.parametrize("name", ["data/manifest.json", "campaigns/tea/campaign.json"])
def test_a_damaged_manifest_is_named(workspace, name, content):
    path = workspace / name
    path.write_text(path.read_text().replace("toy", "joy") if content is None else content)
    if content is None and "campaign" in name:
        path.write_text(path.read_text().replace('"seeds": 3', '"seeds": 4'))
    items = by_name(workspace)
    [item] = [item for item in items.values() if item.trouble]
    assert item.path == path.parent
    assert str(path) in item.trouble
    assert len(items) == 4


def test_a_manifest_of_another_program_is_none_and_hides_nothing(workspace):
    items = by_name(workspace)
    (workspace / "manifest.json").write_text('{"name": "an app", "icons": []}')
    (workspace / "campaigns" / "model.json").write_text('{"format": "layers-model"}')
    (workspace / "audience.csv.json").write_text("{}")
    assert by_name(workspace) == items


def test_an_item_that_is_replaced_meanwhile_is_read_again(workspace, monkeypatch):
    read, manifest = module.read_sealed, workspace / "models" / "june" / "model.json"

    def disturbed(directory, *args, **more):
        if directory == manifest.parent and not manifest.read_bytes().endswith(b" "):
            manifest.write_bytes(manifest.read_bytes() + b" ")  # as another model's
            raise InputError("a file of the other model is missing")
        return read(directory, *args, **more)

    monkeypatch.setattr(module, "read_sealed", disturbed)
    assert by_name(workspace)["models/june"].trouble == ""


def test_a_missing_file_is_named(workspace):
    (workspace / "data" / "user_rows.npy").unlink()
    assert "user_rows.npy: missing" in by_name(workspace)["data"].trouble


def test_an_audience_that_is_cut_is_named_and_the_rest_is_shown(workspace):
    rows = "".join(f"{rank},u{7919 * rank},{1 / rank}\n" for rank in range(1, 20_000))
    whole = gzip.compress(f"rank,user_id,score\n{rows}".encode())
    cut = workspace / "cut.csv.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    items = by_name(workspace)
    assert len(items) == 5
    assert items["audience.csv"].about == "9 users"
    assert items["cut.csv.gz"].trouble.startswith(f"{cut}: cannot be read (unexpected end of file)")
    [row] = [row for row in items_table(find_items(workspace), workspace).rows if "cut" in row[0]]
    assert row[4] == "damaged"


def test_programs_read_the_status_as_json_and_its_exit_code(workspace, capsys):
    assert exit_code(main, "status", workspace, "--json") == 0
    june = by_name(workspace)["models/june"]
    shown = {item["path"]: item for item in json.loads(capsys.readouterr().out)["items"]}
    assert shown["models/june"] == {
        "path": "models/june",
        "kind": "model",
        "about": june.about,
        "damage": None,
        "writer": None,
        "made_from": ["data"],
        "digest": june.digest,
        "modified": shown["models/june"]["modified"],
        "bytes": june.size,
    }
    assert datetime.fromisoformat(shown["models/june"]["modified"]).timestamp() == int(
        june.modified
    )
    assert shown["audience.csv"]["digest"] is None

    (workspace / "data" / "manifest.json").write_text("{")
    (workspace / "july.training").mkdir()
    for options in ((), ("--json",)):
        capsys.readouterr()
        assert exit_code(main, "status", workspace, *options) == 3
    status = json.loads(capsys.readouterr().out)
    [damaged] = [item for item in status["items"] if item["damage"]]
    assert damaged["path"] == "data"
    assert damaged["damage"].startswith(f"{workspace / 'data' / 'manifest.json'}: ")
    assert [rest["path"] for rest in status["unfinished"]] == ["july.training"]


@pytest.fixture
def audiences(workspace):
    """A single audience and a folder of two, with their manifests; the model made all of them."""
    june, tea = (by_name(workspace)[name].digest for name in ("models/june", "campaigns/tea"))
    content = {"format": AUDIENCES_FORMAT, "made_from": [{"name": "june", "digest": june}]}
    many, single = workspace / "many", workspace / "audience.csv"
    many.mkdir()
    files = [many / "one.csv", many / "two.parquet"]
    for path in files:
        frame = pl.read_csv(single)
        frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    own = {"name": "one", "file": "one.csv", "made_from": [{"name": "tea", "digest": tea}]}
    seal(many, AUDIENCES, {**content, "campaigns": [own]}, files)
    seal(workspace, "audience.csv.json", content, [single])
    expected = {"audience.csv": "models/june", "many/one.csv": "campaigns/tea, models/june"}
    expected["many/two.parquet"] = "models/june"
    return workspace, expected


def lineage(folder, names):
    table = items_table(find_items(folder), folder)
    place = table.header.index("made from")
    return {row[0]: row[place] for row in table.rows if row[0] in names}


def test_audiences_have_no_trouble_when_nothing_is_wrong(audiences):
    workspace, expected = audiences
    assert lineage(workspace, expected) == expected
    assert not any(item.trouble for item in find_items(workspace))


@pytest.mark.parametrize("name", ["audience.csv", "many/one.csv", "many/two.parquet"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_an_audience_whose_size_has_changed_is_damaged_and_no_other(audiences, name, kept):
    """A cut file may have lost the columns by which an audience is known."""
    workspace, expected = audiences
    path = workspace / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    troubles = {name: item.trouble for name, item in by_name(workspace).items() if item.trouble}
    size = path.stat().st_size
    assert troubles == {name: f"{path}: {size} bytes, expected {len(whole)}; make it again"}
    assert lineage(workspace, expected) == expected
    [row] = [row for row in items_table(find_items(workspace), workspace).rows if row[0] == name]
    assert row[4] == "damaged"


def test_an_audience_that_is_deleted_takes_nothing_from_the_others(audiences):
    workspace, expected = audiences
    (workspace / "many" / "two.parquet").unlink()
    del expected["many/two.parquet"]
    assert lineage(workspace, {**expected, "many/two.parquet": ""}) == expected
    assert not any(item.trouble for item in find_items(workspace))


@pytest.mark.parametrize(
    ("manifest", "names"),
    [
        ("audience.csv.json", {"audience.csv"}),
        ("many/audiences.json", {"many/one.csv", "many/two.parquet"}),
    ],
)
@pytest.mark.parametrize("content", ["{", None])
def test_a_damaged_manifest_of_audiences_is_named(audiences, manifest, names, content):
    path = audiences[0] / manifest
    path.write_text(path.read_text().replace("june", "july") if content is None else content)
    found = {name: item for name, item in by_name(audiences[0]).items() if item.trouble}
    assert set(found) == names
    assert all(item.trouble.startswith(f"{path}: ") for item in found.values())


def test_a_pipe_is_no_audience_and_a_name_is_no_pattern(workspace):
    os.mkfifo(workspace / "pipe.csv")
    shutil.copy(workspace / "audience.csv", workspace / "a[1].csv")
    (workspace / "a*.csv").write_text("rank,user_id,score\n1,3,0.5\n")
    items = by_name(workspace)
    assert "pipe.csv" not in items
    assert (items["a[1].csv"].about, items["a*.csv"].about) == ("9 users", "1 users")


def test_what_is_not_finished_is_said_with_how_to_go_on(workspace):
    left = workspace / "models" / f".june.{'a' * 32}"
    shutil.copytree(workspace / "models" / "june", left)
    training = workspace / "models" / "late july.training"
    (training / "checkpoints").mkdir(parents=True)
    (training / "checkpoints" / "model.json").write_text("{}")  # checkpoints are no models
    (training / "checkpoints.json").write_text("{}")
    customised = workspace / "many.customised"
    customised.mkdir()
    # What lies in hidden folders, leftovers included, belongs to other programs or to a command.
    (left / f".state.{'b' * 32}").mkdir()
    (workspace / ".cache" / f".june.{'c' * 32}").mkdir(parents=True)
    found = dict(find_unfinished(workspace))
    assert set(found) == {left, training, customised}
    assert "metaheac expand, has customised; run the same command again" in found[customised]
    assert "the next one that writes june removes it" in found[left]
    assert f"metaheac fit DATA '{workspace}/models/late july' --resume" in found[training]
    assert len(find_items(workspace)) == 4


def test_what_lies_elsewhere_is_found_through_a_link(workspace, tmp_path):
    shutil.move(workspace / "data", tmp_path / "disk")
    (workspace / "data").symlink_to(tmp_path / "disk")
    (workspace / "models" / "loop").symlink_to(workspace)
    (workspace / "nowhere").symlink_to(tmp_path / "gone")
    (workspace / "latest").symlink_to(workspace / "models" / "june")  # is there already
    found = by_name(workspace)
    assert {"data", "models/june"} < {*found}
    assert not {"latest", "models/loop"} & {*found}
    assert (found["data"].kind, found["data"].trouble) == ("data set", "")
    assert found["data"].size > 1000
    rows = {name: cells for name, *cells in items_table([*found.values()], workspace).rows}
    assert rows["models/june"][2] == "data"


@pytest.mark.parametrize("ending", [".training", ".customised"])
def test_a_data_set_is_one_whatever_its_name(workspace, ending):
    (workspace / "data").rename(workspace / f"june{ending}")
    assert by_name(workspace)[f"june{ending}"].kind == "data set"
    assert find_unfinished(workspace) == []


def test_who_writes_is_said(workspace):
    (workspace / "models" / "july.training").mkdir()
    writers = Writers("fit")
    try:
        with writers.of(workspace / "data") as one, writers.of(workspace / "models/july") as two:
            assert by_name(workspace)["data"].writer.startswith(f"process {one} on ")
            [(_, advice)] = find_unfinished(workspace)
            assert advice.startswith(f"process {two} on ")
            assert advice.endswith(" is writing it")
    finally:
        writers.close()
    # They were killed, and their locks lie there still.
    assert (workspace / ".data.lock").exists()
    assert by_name(workspace)["data"].writer is None
    assert "--resume" in find_unfinished(workspace)[0].advice
