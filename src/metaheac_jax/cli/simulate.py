"""``metaheac simulate``: a simulated world in the Tencent competition's file format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import tyro

from metaheac_jax.cli import terminal
from metaheac_jax.data.simulation import (
    FORMAT,
    MANIFEST,
    TENCENT_WORLD,
    WECHAT_WORLD,
    write_table_world,
    write_world,
)
from metaheac_jax.files import list_files, locked, write_json, write_text
from metaheac_jax.schema import TENCENT

#: Minimum number of users in a campaign's pool; the other examples are seeds and non-seeds.
POOL_EXAMPLES = 300
MIN_USERS = {"tencent": 110_000, "wechat": 60_000}  # with fewer users, there are too few examples
_EXAMPLE = ("example_seeds.csv", "example_attributes.json")
WORLDS = {"tencent": TENCENT_WORLD, "wechat": WECHAT_WORLD}


@dataclass(frozen=True)
class Options:
    """Makes a simulated world of users, campaigns and conversions, for trying things out.

    Writes userFeature.data, adFeature.csv, train.csv and test1_truth.csv in the format of the
    Tencent Ads competition 2018, which `metaheac prepare` reads. For `metaheac expand` it writes
    the seeds and attributes of one campaign: example_seeds.csv and example_attributes.json.

    With --tables it writes Parquet tables with text ids instead, as a company would have them, and
    ten new campaigns.
    """

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write; a simulated world there is replaced."""
    users: int = 200_000
    """Number of users, at least 110,000 (wechat: 60,000); with fewer, campaigns have too few
    examples. There are four examples for every five users."""
    world: Literal["tencent", "wechat"] = "tencent"
    """Shape of the world: tencent has 173 campaigns as in the Tencent data, wechat 90 as in the
    paper's WeChat data."""
    tables: bool = False
    """Write users.parquet, campaigns.parquet, examples.parquet and schema.json for `metaheac
    prepare`, and for each new campaign a folder new/CAMPAIGN with seeds.csv, attributes.json and
    truth.parquet, which has every user's true probability of converting, to judge audiences by."""
    seed: int = 0
    """Random seed; the same options give the same files, byte for byte."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--users", options.users, MIN_USERS[options.world])
    terminal.check_minimum("--seed", options.seed, 0)
    terminal.check_output_folder("OUT", options.out, MANIFEST, "a simulated world")
    screen = terminal.screen()
    write, schema = write_world, ""
    if options.tables:
        write = write_table_world
        schema = f" --schema {terminal.quoted(options.out / 'schema.json')}"
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
        f"next: metaheac prepare {terminal.quoted(options.out)} DATA{schema}",
    )


def _write_example(world: Path) -> None:
    """Writes the seeds and attributes of the campaign with the most seeds."""
    list_files(world, MANIFEST, FORMAT, more=_EXAMPLE)
    examples = pl.read_csv(world / "train.csv").filter(pl.col("label") == 1)
    aid = examples["aid"].value_counts(sort=True)["aid"][0]
    seeds = examples.filter(pl.col("aid") == aid)["uid"].to_list()
    write_text(world / _EXAMPLE[0], "\n".join(["user_id", *map(str, seeds)]) + "\n")
    campaign = pl.read_csv(world / "adFeature.csv").filter(pl.col("aid") == aid)
    names = [field.name for field in TENCENT.campaign]
    write_json(world / _EXAMPLE[1], campaign.select(names).to_dicts()[0])
