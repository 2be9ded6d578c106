"""``metaheac simulate``: a simulated world to try the other commands on, and its answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from metaheac_jax.cli import terminal
from metaheac_jax.cli.terminal import option
from metaheac_jax.errors import InputError, check_whole

#: With fewer users, campaigns have too few examples.
MIN_USERS = 110_000
#: Least number of examples of a campaign on which `metaheac evaluate` judges.
MIN_POOL_EXAMPLES = 300
NEW_CAMPAIGNS = 10


@dataclass(frozen=True)
class Options:
    """Makes a simulated world: the three tables, and ten new campaigns with seeds in WORLD/new.

    With --show, shows an audience to users of the world, who convert by their true probability.
    """

    #: Folder to write; a simulated world there is replaced. With --show, the folder to read.
    world: Annotated[Path, Positional, option("WORLD")]
    #: Number of users, at least 110,000.
    users: Annotated[int, option("N")] = 200_000
    #: Audience to show, from expand.
    show: Annotated[Path | None, option("FILE")] = None
    #: With --show, the .csv or .parquet file to write: campaign_id, user_id, label, audience.
    out: Annotated[Path | None, option("FILE")] = None
    #: Random seed of the world, or of the answers.
    seed: Annotated[int, option("N")] = 0


def main(options: Options) -> None:
    """Runs the command."""
    check_whole("--seed", options.seed, 0)
    if options.show is None and options.out is None:
        _simulate(options)
    elif options.show is None or options.out is None:
        raise InputError("--show: needs --out, the file to write the answers to; give both")
    else:
        _show(options, options.show, options.out)


def _simulate(options: Options) -> None:
    from metaheac_jax.data.simulation.truth import MANIFEST
    from metaheac_jax.data.simulation.world import write_world
    from metaheac_jax.files import locked

    world = options.world
    check_whole("--users", options.users, MIN_USERS)
    terminal.check_output("WORLD", world, manifest=MANIFEST)
    with locked(world), terminal.progress_display() as progress:
        write_world(
            world,
            users=options.users,
            min_pool_examples=MIN_POOL_EXAMPLES,
            new_campaigns=NEW_CAMPAIGNS,
            seed=options.seed,
            progress=progress,
        )
    terminal.print_lines(
        f"{world}: a simulated world of {options.users:,} users; "
        f"{NEW_CAMPAIGNS} new campaigns with seeds in {world / 'new'}",
    )


def _show(options: Options, audience: Path, out: Path) -> None:
    from metaheac_jax.data.simulation.truth import show
    from metaheac_jax.data.table_file import FORMATS, write_table

    terminal.check_output("--out", out, options.world, audience, endings=FORMATS)
    answers = show(options.world, audience, seed=options.seed)
    write_table(out, answers)
    told = f"{out}: {answers['label'].sum():,} of {len(answers):,} users converted"
    terminal.print_lines(told)
