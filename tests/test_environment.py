"""What work was begun with: what changed is named, and only what may change is allowed."""

import json
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import jaxlib
import pytest

from metaheac_jax import environment as module
from metaheac_jax.environment import environment, keep_config
from metaheac_jax.errors import InputError

CONFIG = {"seed": 0, "data": {"name": "toy", "sha256": "aa"}, "jax": "0.10.1", "sizes": (1, 2)}


def keep(path, config, *allowed):
    keep_config(path, config, allow_changes=allowed, restart="start afresh")


def test_what_was_noted_is_compared(tmp_path):
    path = tmp_path / "deep" / "config.json"
    keep(path, CONFIG)
    before = path.read_bytes()
    keep(path, CONFIG)
    keep(path, CONFIG, "jax")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 1}, "another seed (0, now 1); use the same, or start afresh"),
        ({"sizes": (2, 1)}, "another sizes; use the same, or start afresh"),
        (
            {"jax": "0.11.1"},
            "another jax (0.10.1, now 0.11.1); use the same, allow it with --allow-change jax, or "
            "start afresh",
        ),
        (
            {"data": {"name": "toy", "sha256": "bb"}, "flax": "1"},
            "another data, flax (none, now 1); use the same, allow it with --allow-change data "
            "flax, or start afresh",
        ),
        ({"jax": "1", "seed": 1}, "jax (0.10.1, now 1), seed (0, now 1); use the same, or start"),
    ],
)
def test_what_changed_is_named(tmp_path, changes, line):
    path = tmp_path / "config.json"
    keep(path, CONFIG)
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        keep(path, CONFIG | changes)
    assert str(caught.value).startswith(f"{path}: started with ")
    assert line in str(caught.value)
    assert path.read_bytes() == before


def test_what_is_no_longer_there_has_changed(tmp_path):
    keep(tmp_path / "config.json", CONFIG)
    with pytest.raises(InputError, match=r"another seed \(0, now none\)"):
        keep(tmp_path / "config.json", {k: v for k, v in CONFIG.items() if k != "seed"})


def test_a_change_that_is_allowed_is_said_and_noted(tmp_path):
    path = tmp_path / "config.json"
    keep(path, CONFIG)
    changed = CONFIG | {"jax": "0.11.1", "data": {"name": "toy", "sha256": "bb"}}
    with pytest.raises(InputError, match=r"started with another data; use the same, allow it with"):
        keep(path, changed, "jax")
    line = r"started with another data, jax \(0.10.1, now 0.11.1\), which was allowed"
    with pytest.warns(UserWarning, match=line):
        keep(path, changed, "jax", "data")
    keep(path, changed)


@pytest.mark.parametrize("name", ["seed", "settings", "JAX", ""])
def test_other_changes_cannot_be_allowed(tmp_path, name):
    with pytest.raises(
        InputError, match=f"'{name}' cannot be allowed to change; only these can: data, "
    ):
        keep(tmp_path / "config.json", CONFIG, name)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", "[" * 100_000])
def test_a_damaged_configuration_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json: damaged; start afresh"):
        keep(tmp_path / "config.json", CONFIG)


def test_the_environment_has_the_code_digest_and_library_versions(tmp_path, monkeypatch):
    found = environment()
    optional = {"lightgbm"} if find_spec("lightgbm") else set()
    assert {*found, "data", "lightgbm"} == set(module.get_args(module.MayChange))
    assert found["jaxlib"] == jaxlib.version.__version__
    with monkeypatch.context() as patch:  # it may be missing
        patch.setattr(module, "find_spec", lambda name: None)
        assert found.items() - environment().items() == {(name, version(name)) for name in optional}
    assert environment() == found
    json.dumps(found)
    copy = tmp_path / "package"
    shutil.copytree(Path(module.__file__).parent, copy)
    monkeypatch.setattr(module, "__file__", str(copy / "environment.py"))
    assert environment() == found  # wherever it is installed
    with (copy / "methods" / "trees.py").open("a") as file:
        file.write("\n")
    assert environment()["code"] != found["code"]
    assert environment() | {"code": found["code"]} == found
