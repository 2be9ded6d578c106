"""A small world, its data and a model, made once by the commands."""

import json
import shutil
from types import SimpleNamespace

import polars as pl
import pytest
from commands import small_simulation, succeeds, tiny_settings, write_few_fields

from metaheac_jax.cli.main import main

USERS = 4000


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A simulated world of 4,000 users, 6 campaigns and 10 new ones."""
    folder = tmp_path_factory.mktemp("world") / "world"
    with small_simulation(users=USERS):
        succeeds(main, "simulate", folder, "--users", USERS)
    return folder


@pytest.fixture(scope="session")
def few_fields(world):
    """A schema of few fields, since programs with many take long to compile."""
    whole = json.loads((world / "schema.json").read_text())
    return write_few_fields(world.parent / "schema.json", whole)


@pytest.fixture(scope="session")
def made(world, few_fields, tmp_path_factory):
    """Data with the new campaigns, and a model of the earlier ones."""
    folder = tmp_path_factory.mktemp("made")
    data, model, new = folder / "data", folder / "model", world / "new"
    succeeds(main, "prepare", world, data, "--schema", few_fields)
    with tiny_settings():
        succeeds(main, "fit", data, model, "--method", "mlp-pretraining")
    tables = ("--campaigns", new / "campaigns.csv", "--examples", new / "examples.csv")
    succeeds(main, "add", data, *tables)
    names = sorted(pl.read_csv(new / "campaigns.csv")["campaign_id"])
    old = sorted(pl.read_parquet(world / "campaigns.parquet")["campaign_id"])
    return SimpleNamespace(folder=folder, world=world, data=data, model=model, names=names, old=old)


@pytest.fixture
def own_data(made, tmp_path):
    """A copy of the data that a test may change."""
    return shutil.copytree(made.data, tmp_path / "data")
