"""The folder of a run: resumed as it stands, replaced as a whole, and never somebody else's."""

import json
from dataclasses import asdict, replace

import pytest

from experiments.comparison import run_folder
from experiments.comparison.run_folder import open_run, stored_result
from metaheac_jax.errors import InputError
from metaheac_jax.files import write_json
from metaheac_jax.settings import OFFICIAL, PAPER

CONFIG = {"settings": asdict(PAPER), "seed": 0, "split": None, "sizes": (1, 2)}


def test_a_run_of_the_same_configuration_is_resumed_as_it_stands(tmp_path):
    directory = tmp_path / "deep" / "run"
    open_run(directory, CONFIG, resume=False)
    write_json(directory / "methods" / "lr.json", {"label": "LR"})
    (directory / "log.jsonl").write_text("{}\n")
    open_run(directory, CONFIG, resume=True)
    assert json.loads((directory / "methods" / "lr.json").read_text()) == {"label": "LR"}
    assert (directory / "log.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (CONFIG | {"settings": asdict(OFFICIAL)}, "settings"),
        (CONFIG | {"seed": 1}, r"seed \(0, now 1\)"),
        (CONFIG | {"sizes": (1, 3), "split": "paper"}, "sizes, split"),
        (CONFIG | {"more": 1}, r"more \(none, now 1\)"),
        ({key: value for key, value in CONFIG.items() if key != "seed"}, r"seed \(0, now none\)"),
    ],
)
def test_a_run_of_another_configuration_is_not_resumed(tmp_path, config, what):
    open_run(tmp_path / "run", CONFIG, resume=False)
    (tmp_path / "run" / "methods" / "lr.json").write_text("{}")
    with pytest.raises(InputError, match=f"config.json: started with another {what}; "):
        open_run(tmp_path / "run", config, resume=True)
    assert (tmp_path / "run" / "methods" / "lr.json").exists()


def test_a_run_of_another_library_is_resumed_only_if_that_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "environment", lambda _: {"jax": "1"})
    open_run(tmp_path, CONFIG, resume=False)
    monkeypatch.setattr(run_folder, "environment", lambda _: {"jax": "2"})
    with pytest.raises(InputError, match="allow it with --allow-change jax, or start afresh"):
        open_run(tmp_path, CONFIG, resume=True)
    with pytest.warns(UserWarning, match=r"another jax \(1, now 2\), which was allowed"):
        open_run(tmp_path, CONFIG, resume=True, allow_changes=["jax"])
    open_run(tmp_path, CONFIG, resume=True)


def test_a_run_of_other_code_of_the_experiments_is_not_resumed(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "adapting.py").write_text("RATE = 1")
    monkeypatch.setattr(run_folder, "EXPERIMENTS", tmp_path / "code")
    open_run(tmp_path / "run", CONFIG, resume=False)
    open_run(tmp_path / "run", CONFIG, resume=True)
    (tmp_path / "code" / "adapting.py").write_text("RATE = 2")
    with pytest.raises(InputError, match="allow it with --allow-change code"):
        open_run(tmp_path / "run", CONFIG, resume=True)


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(InputError, match="run: no run to resume; omit --resume to start one"):
        open_run(tmp_path / "run", CONFIG, resume=True)
    assert not list(tmp_path.iterdir())


def test_a_damaged_configuration_is_named(tmp_path):
    open_run(tmp_path, CONFIG, resume=False)
    (tmp_path / "config.json").write_text("")
    with pytest.raises(InputError, match=r"config.json: damaged; start afresh without --resume"):
        open_run(tmp_path, CONFIG, resume=True)


def test_a_new_run_replaces_what_the_older_one_left_and_nothing_else(tmp_path):
    open_run(tmp_path, CONFIG, resume=False)
    own = ("methods/lr.json", "checkpoints/lr/8", "log.jsonl")
    for name in (*own, "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    open_run(tmp_path, CONFIG | {"seed": 1}, resume=False)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "methods", "notes.txt"}
    assert not list((tmp_path / "methods").iterdir())
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


@pytest.mark.parametrize("name", ["methods", "checkpoints"])
def test_somebody_elses_folders_are_not_deleted(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("ten years")
    with pytest.raises(InputError, match=f"has {name} but no config.json"):
        open_run(tmp_path, CONFIG, resume=False)
    assert (tmp_path / name / "thesis.tex").exists()


def test_a_result_is_taken_only_with_the_settings_it_was_reached_with(tmp_path):
    path = tmp_path / "lr.json"
    write_json(path, {"label": "LR", "settings": asdict(PAPER)})
    assert stored_result(path, PAPER)["label"] == "LR"
    with pytest.raises(InputError, match=r"lr.json: reached with other settings; start afresh"):
        stored_result(path, replace(PAPER, online_learning_rate=0.5))
    path.write_text("")
    with pytest.raises(InputError, match=r"lr.json: damaged; delete it and resume"):
        stored_result(path, PAPER)
