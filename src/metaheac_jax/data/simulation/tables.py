"""A simulated world as Parquet tables with text ids, and new campaigns whose truth is known.

    users.parquet, campaigns.parquet, examples.parquet, schema.json
                          the input of `metaheac prepare`, with the old campaigns
    SIMULATED             the world's name
    world.json            lists the files
    new/CAMPAIGN/         a campaign that is not in the tables:
      seeds.csv           its seeds
      attributes.json     its attributes
      truth.parquet       user_id, probability: the true probability that each user converts

Axes: U users, S slots of a field, C campaigns.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.simulation.conversions import read_truth
from metaheac_jax.data.simulation.shapes import TENCENT_WORLD, Shape
from metaheac_jax.data.simulation.world import FORMAT, MANIFEST, stream, write_world
from metaheac_jax.data.sources import tencent
from metaheac_jax.data.sources.tables import Column, TableSchema
from metaheac_jax.files import list_files, new_directory, write_json
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import Field

#: Number of new campaigns, which are in no table.
_NUM_NEW = 10
#: Maximum number of seeds of a new campaign: users are tried in a random order until so many have
#: converted.
_NUM_SEEDS = 300


def write_table_world(
    target: Path,
    *,
    users: int,
    min_pool_examples: int = 1500,
    seed: int = 0,
    shape: Shape = TENCENT_WORLD,
    progress: Progress = silent,
) -> None:
    """Writes a simulated world as tables, completely or not at all.

    Args:
      target: a directory; an existing one is replaced if it is a simulated world.
      users, min_pool_examples, seed, shape, progress: as in `write_world`.

    Raises:
      InputError: as `write_world`.
    """
    with new_directory(target, marker=MANIFEST) as directory:
        world, columns = directory / "world", directory / "columns"
        write_world(
            world,
            users=users,
            min_pool_examples=min_pool_examples,
            seed=seed,
            shape=shape,
            progress=progress,
        )
        data = tencent.prepare(world, columns, progress=progress)
        chosen = stream(seed, "new campaigns").choice(data.num_campaigns, _NUM_NEW, replace=False)
        _write_tables(data, directory, np.setdiff1d(np.arange(data.num_campaigns), chosen))
        truth = read_truth(world)
        position = np.searchsorted(truth.key, data.user_ids)
        for campaign in np.sort(chosen):
            folder = directory / "new" / str(_campaign_ids(data)[campaign])
            chance = truth.probability(position, np.full(data.num_users, campaign))
            rng = stream(seed, "seeds", int(campaign))
            _write_new_campaign(data, folder, int(campaign), chance, rng)
        (world / "SIMULATED").rename(directory / "SIMULATED")
        shutil.rmtree(world)
        shutil.rmtree(columns)
        list_files(directory, MANIFEST, FORMAT)


def _user_ids(data: Dataset) -> pl.Series:
    return pl.select(pl.format("u{}", pl.Series(data.user_ids))).to_series().alias("user_id")


def _campaign_ids(data: Dataset) -> np.ndarray:
    return np.array([f"c{campaign_id}" for campaign_id in data.campaign_ids])


def _write_tables(data: Dataset, directory: Path, campaigns: np.ndarray) -> None:
    """Writes the three tables with these campaigns, and their schema."""
    fields = data.schema.user
    starts = zip(data.schema.user_starts, fields, strict=True)
    columns = [
        _values(data, number, data.user_rows[:, start : start + field.slots])
        for number, (start, field) in enumerate(starts)
    ]
    pl.DataFrame([_user_ids(data), *columns]).write_parquet(directory / "users.parquet")

    ids, rows = _campaign_ids(data), data.campaign_rows[campaigns]
    columns = [
        _values(data, len(fields) + number, rows[:, [number]])
        for number in range(len(data.schema.campaign))
    ]
    frame = pl.DataFrame([pl.Series("campaign_id", ids[campaigns].tolist()), *columns])
    frame.write_parquet(directory / "campaigns.parquet")

    parts, user_ids = [], _user_ids(data)
    for stage, examples in ((1, data.stage1), (2, data.stage2)):
        for campaign in campaigns:
            of = examples.of(campaign)
            columns = {
                "campaign_id": pl.repeat(ids[campaign], of.stop - of.start, eager=True),
                "user_id": user_ids.gather(examples.user[of]),
                "label": examples.label[of],
                "stage": pl.repeat(stage, of.stop - of.start, dtype=pl.Int8, eager=True),
            }
            parts.append(pl.DataFrame(columns))
    pl.concat(parts).write_parquet(directory / "examples.parquet")
    schema = TableSchema(_columns(data.schema.user), _columns(data.schema.campaign))
    write_json(directory / "schema.json", schema.to_json())


def _columns(fields: Sequence[Field]) -> tuple[Column, ...]:
    return tuple(Column(field.name, slots=field.slots) for field in fields)


def _values(data: Dataset, number: int, rows: np.ndarray) -> pl.Series:
    """The raw values of a field: (n, S) table rows -> n numbers, or lists if S > 1.

    A missing value is null.
    """
    field, values = data.schema.fields[number], data.vocabulary.values[number]
    offset = data.vocabulary.offsets[number]
    raw = np.append(values, -1)[np.minimum(rows - offset, len(values))]
    frame = pl.DataFrame(raw).select(pl.when(pl.all() >= 0).then(pl.all()))
    if field.slots == 1:
        return frame.to_series().alias(field.name)
    return frame.select(pl.concat_list(pl.all()).list.drop_nulls().alias(field.name)).to_series()


def _write_new_campaign(
    data: Dataset, folder: Path, campaign: int, chance: np.ndarray, rng: np.random.Generator
) -> None:
    """Writes the seeds, attributes and true probabilities (U,) of a campaign."""
    folder.mkdir(parents=True)
    user_ids = _user_ids(data)
    pl.DataFrame([user_ids, pl.Series("probability", chance)]).write_parquet(
        folder / "truth.parquet"
    )
    order = rng.permutation(len(chance))
    converted = order[rng.random(len(chance)) < chance[order]]
    seeds = user_ids.gather(converted[:_NUM_SEEDS])
    pl.DataFrame([seeds]).write_csv(folder / "seeds.csv")
    attributes: dict[str, Any] = {}
    for number, field in enumerate(data.schema.campaign):
        rows = data.campaign_rows[[campaign]][:, [number]]
        attributes[field.name] = _values(data, len(data.schema.user) + number, rows).item()
    write_json(folder / "attributes.json", attributes)
