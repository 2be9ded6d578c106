"""``metaheac simulate``: a simulated world in the Tencent competition's file format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import tyro

from metaheac_jax.cli import terminal
from metaheac_jax.data.simulation import (
    TENCENT_WORLD,
    WECHAT_WORLD,
    write_table_world,
    write_world,
)
from metaheac_jax.files import locked, write_json, write_text
from metaheac_jax.schema import TENCENT

#: Users of a campaign's pool, at least; the other examples are seeds and non-seeds.
POOL_EXAMPLES = 300
MIN_USERS = {"tencent": 110_000, "wechat": 60_000}  # or there are too few examples
WORLDS = {"tencent": TENCENT_WORLD, "wechat": WECHAT_WORLD}


@dataclass(frozen=True)
class Options:
    """Makes a simulated world of users, campaigns and conversions, for trying things out.

    Writes userFeature.data, adFeature.csv, train.csv and test1_truth.csv in the format of the
    Tencent Ads competition 2018, which `metaheac prepare` reads, and for `metaheac expand` the
    seeds and attributes of one campaign: example_seeds.csv and example_attributes.json.

    With --tables it writes Parquet tables with text ids instead, as a company would have them, and
    ten campaigns that are new: see --tables.
    """

    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write; a simulated world there is replaced."""
    users: int = 200_000
    """Number of users. There are four examples for every five users."""
    world: Literal["tencent", "wechat"] = "tencent"
    """Shape of the world: 173 campaigns as in the Tencent data, or 90 as in the paper's WeChat
    data."""
    tables: bool = False
    """Write users.parquet, campaigns.parquet, examples.parquet and schema.json for `metaheac
    prepare`, and new/CAMPAIGN/ with seeds.csv, attributes.json and truth.parquet: the true
    probability that each user converts, to see what an audience is worth."""
    seed: int = 0
    """Seed of everything; the same options give the same bytes."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--users", options.users, MIN_USERS[options.world])
    terminal.check_minimum("--seed", options.seed, 0)
    terminal.check_not_inside("OUT", options.out)
    screen = terminal.screen()
    write, schema = write_world, ""
    if options.tables:
        write, schema = write_table_world, f" --schema {options.out / 'schema.json'}"
    with locked(options.out), terminal.progress_display(screen) as progress:
        write(
            options.out,
            users=options.users,
            seed=options.seed,
            shape=WORLDS[options.world],
            min_pool_examples=POOL_EXAMPLES,
            progress=progress,
        )
        if not options.tables:
            _write_example(options.out)
    terminal.print_lines(
        screen,
        f"{options.out}: a simulated world of {options.users:,} users",
        f"next: metaheac prepare {options.out} DATA{schema}",
    )


def _write_example(world: Path) -> None:
    """The seeds and attributes of the campaign with the most seeds."""
    examples = pl.read_csv(world / "train.csv").filter(pl.col("label") == 1)
    aid = examples["aid"].value_counts(sort=True)["aid"][0]
    seeds = examples.filter(pl.col("aid") == aid)["uid"].to_list()
    write_text(world / "example_seeds.csv", "\n".join(["user_id", *map(str, seeds)]) + "\n")
    campaign = pl.read_csv(world / "adFeature.csv").filter(pl.col("aid") == aid)
    names = [field.name for field in TENCENT.campaign]
    write_json(world / "example_attributes.json", campaign.select(names).to_dicts()[0])
