"""An export of three campaigns, and the audiences that the library finds."""

import os
import re
import shutil
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from engine_world import CAMPAIGNS, SCHEMA, tables
from toy import tiny

import metaheac_jax as mh


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The tables, the data, a model customised to each campaign, and their export."""
    folder = tmp_path_factory.mktemp("engines")
    frames = tables()
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")
    data = mh.prepare(folder, folder / "data", schema=SCHEMA)
    general = mh.fit(data, tiny("solved-head"))
    models = mh.customise(general, data, [data.campaign(c) for c in range(len(CAMPAIGNS))])
    mh.export_scorer(models, folder / "export")

    def audiences(size, **options):
        return mh.expand(general, data, CAMPAIGNS, size=size, **options)

    return SimpleNamespace(
        folder=folder,
        users=frames["users"],
        examples=frames["examples"],
        seeds=frames["examples"].filter(label=1).select("campaign_id", user_id="uid"),
        data=data,
        general=general,
        models=models,
        export=folder / "export",
        audiences=audiences,
    )


@pytest.fixture(scope="session")
def historic(made):
    """The same with histories in time: a model of two campaigns, and the export of the third."""
    tables = made.folder / "tables in time"
    tables.mkdir()
    for name in ("users", "campaigns"):
        shutil.copy(made.folder / f"{name}.parquet", tables)
    days = np.random.default_rng(1).integers(1, 29, made.examples.height)
    times = pl.Series([date(2026, 5, int(day)) for day in days])
    made.examples.with_columns(time=times).write_parquet(tables / "examples.parquet")
    data = mh.prepare(tables, made.folder / "historic", schema=replace(SCHEMA, history=True))
    assert data.stage1.time is not None
    general = mh.fit(data, tiny("solved-head"), campaigns=[0, 1])
    read = general.read(data)
    models = mh.customise(general, read, [read.campaign(2)])
    mh.export_scorer(models, made.folder / "historic-export")

    def audiences(size, **options):
        return mh.expand(general, data, CAMPAIGNS[2], size=size, **options)

    return SimpleNamespace(
        export=made.folder / "historic-export", audiences=audiences, read=read, models=models
    )


@pytest.fixture(scope="session")
def workers():
    """An environment in which the workers of an engine compile the programs of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        yield


@pytest.fixture
def scale_page(made, tmp_path):
    """The code of docs/scale.md for an engine, with the paths of what it reads and writes."""
    (tmp_path / "world" / "new").mkdir(parents=True)
    made.users.write_parquet(tmp_path / "world" / "users.parquet")
    made.examples.rename({"uid": "user_id"}).write_csv(tmp_path / "world" / "new" / "examples.csv")
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    page = re.sub(r'"(?=world/|audiences-)', f'"{tmp_path}/', page)
    codes = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    codes = [code.replace('"scorer"', f'"{made.export}"') for code in codes]
    return lambda engine: next(code for code in codes if f"engines.{engine}" in code)
