"""A method of another package: one file, one entry point, and this test of it."""

import json
import shutil
import sys
from itertools import combinations
from pathlib import Path

import factorisation_machine
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from commands import refuses, succeeds
from factorisation_machine import FactorisationMachine
from method_contract import MethodContract
from tables_world import SCHEMA, world, write

import metaheac_jax as mh
from metaheac_jax.cli.main import main
from metaheac_jax.methods import METHODS

SMALL = ("width=3", "batch_size=16", "campaigns_per_step=2", "offline_epochs=1")
SETTINGS = (*SMALL, "offline_patience=none", "online_epochs=2")


def install(folder, entry_points):
    """Lays a package with these entry points into a folder of packages."""
    about = folder / "fm_package-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fm-package\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (about / "entry_points.txt").write_text("\n".join(["[metaheac_jax.methods]", *lines]))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The factorisation machine in a package that is installed during a test."""
    install(tmp_path / "packages", {"fm": "fm_package:FactorisationMachine"})
    source = Path(factorisation_machine.__file__)
    shutil.copy(source, tmp_path / "packages" / "fm_package.py")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    yield
    METHODS.pop("fm", None)
    sys.modules.pop("fm_package", None)


@pytest.mark.usefixtures("package")
def test_a_method_of_a_package_works_wherever_its_models_do(tmp_path):
    tables, data, model = (
        write(tmp_path / "tables", *world()),
        tmp_path / "data",
        tmp_path / "model",
    )
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA.to_json()))
    succeeds(main, "prepare", tables, data, "--schema", tmp_path / "schema.json")
    succeeds(main, "fit", data, model, "--method", "fm", "--leave-out", "k3", "--set", *SETTINGS)
    METHODS.pop("fm")  # as in another process
    audience = tmp_path / "audience.csv"
    options = ("--campaign", "k3", "--size", 20, "--out", audience)
    succeeds(main, "expand", model, data, *options)
    assert METHODS["fm"].__module__ == "fm_package"
    prepared = mh.open_dataset(data)
    expected = mh.expand(mh.load(model), prepared, "k3", size=20)
    assert pl.read_csv(audience)["user_id"].equals(expected["user_id"])


def test_a_method_that_is_not_there_is_refused_with_those_that_are(tmp_path, capsys, monkeypatch):
    install(tmp_path / "packages", {"gone": "no_such_module:Gone", "other": "toy:SCHEMA"})
    monkeypatch.syspath_prepend(tmp_path / "packages")
    fit = ("fit", tmp_path / "data", tmp_path / "model", "--method")
    refuses(capsys, main, *fit, "fm", words=["'fm'", "metaheac", "gone, other"])
    refuses(capsys, main, *fit, "gone", words=["'gone'", "no_such_module:Gone", "package"])
    refuses(capsys, main, *fit, "other", words=["'other'", "toy:SCHEMA", "package"])


@pytest.mark.slow  # like those of the library's networks
class TestContract(MethodContract):
    """It does what every method does."""

    @pytest.fixture(scope="class")
    @classmethod
    def name(cls):
        METHODS["fm"] = FactorisationMachine
        yield "fm"
        METHODS.pop("fm")


def test_its_log_odds_are_the_sum_over_pairs_of_fields():
    rng = np.random.default_rng(0)
    user, campaign = rng.normal(size=(5, 3, 4)), rng.normal(size=(2, 4))
    output = FactorisationMachine.network.apply(
        {"bias": jnp.asarray(0.5)}, jnp.asarray(user), jnp.asarray(campaign)
    )
    for own, found in zip(user, output.log_odds, strict=True):
        fields = np.concatenate([own, campaign])
        products = sum(a[1:] @ b[1:] for a, b in combinations(fields, 2))
        assert found == pytest.approx(0.5 + fields[:, 0].sum() + products, rel=1e-4)
