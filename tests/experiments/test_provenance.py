"""Where results come from: commands that can be repeated, and one line that says it all."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import pytest

from experiments import movielens, tencent
from experiments.comparison import provenance as module
from experiments.comparison.provenance import command_of, describe_origin, provenance
from experiments.live_week.__main__ import Options as WeekOptions


@pytest.fixture(autouse=True)
def fresh():
    provenance.cache_clear()
    yield
    provenance.cache_clear()


def test_a_command_has_what_differs_from_the_defaults_and_not_where_files_are():
    options = tencent.Options(
        users=2_800_000,
        methods=("lr", "metaheac"),
        resume=True,
        out=Path("/somewhere/out"),
        cache_dir=Path("/somewhere/cache"),
    )
    expected = "python -m experiments.tencent --methods lr metaheac --users 2800000"
    assert command_of(options) == expected
    assert command_of(tencent.Options()) == "python -m experiments.tencent"
    assert command_of(tencent.Options(dry_run=True)).endswith(" --dry-run")
    changed = tencent.Options(set=("value_dropout=.7", "width=8"))
    assert command_of(changed) == "python -m experiments.tencent --set value_dropout=.7 width=8"
    assert command_of(WeekOptions(weeks=3)) == "python -m experiments.live_week --weeks 3"
    with_space = movielens.Options(data_dir=Path("/home/me/my data"))
    assert command_of(with_space) == "python -m experiments.movielens --data-dir 'my data'"


def test_a_command_of_the_process_itself_has_its_modules_name(monkeypatch):
    @dataclass(frozen=True)
    class Options:
        runs: int = 1

    monkeypatch.setattr(Options, "__module__", "__main__")
    spec = type("Spec", (), {"name": "experiments.tencent"})
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    assert command_of(Options(runs=2)) == "python -m experiments.tencent --runs 2"


def git(directory, *arguments):
    names = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *names, *arguments], cwd=directory, check=True, capture_output=True)


def test_the_commit_says_whether_files_were_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    file = tmp_path / "a.py"
    file.write_text("a = 1\n")
    monkeypatch.setattr(module, "__file__", str(file))
    assert provenance()["commit"] is None  # no git checkout
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-q", "-m", "a")
    git(tmp_path, "tag", "-a", "v1", "-m", "v1")
    provenance.cache_clear()
    commit = provenance()["commit"]
    assert len(commit) == 12
    assert int(commit, 16) >= 0
    (tmp_path / "report.md").write_text("new files change nothing\n")
    provenance.cache_clear()
    assert provenance()["commit"] == commit
    file.write_text("a = 2\n")
    assert provenance()["commit"] == commit  # the process began with the former state
    provenance.cache_clear()
    assert provenance()["commit"] == f"{commit}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    provenance.cache_clear()
    assert provenance()["commit"] is None


def test_versions_and_device_are_those_of_the_process():
    assert provenance()["jax"] == jax.__version__
    assert provenance()["device"]


def test_one_line_has_all_states_of_the_code_and_the_sum_of_the_times():
    first = {"provenance": {"commit": "abc", "jax": "0.12.0", "device": "2 cores"}}
    first["seconds"] = {"offline": 100.0, "customise": 15.0}
    second = replace_commit(first, "def")
    about = {"command": "python -m experiments.tencent", "data": "twin"}
    assert describe_origin(about, [first, first | {"seconds": {"offline": 4.4}}, {}]) == (
        "`python -m experiments.tencent`; twin; Python unknown; jax 0.12.0; commit abc; 2 cores; "
        "119 s of wall time"
    )
    assert "commit abc and def; 2 cores; 4 min of wall time" in describe_origin({}, [first, second])
    assert describe_origin({}, [first] * 100).endswith("; 3.2 h of wall time")
    assert describe_origin({}, [{}]) == ""
    assert "commit unknown" in describe_origin({}, [replace_commit(first, None)])


def replace_commit(result, commit):
    return result | {"provenance": result["provenance"] | {"commit": commit}}


def test_a_stated_default_is_left_out():
    assert command_of(replace(tencent.Options(), users=600_000)) == "python -m experiments.tencent"
