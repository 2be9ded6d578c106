"""``metaheac export``: a campaign's scorer, for programs without this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metaheac_jax.audience.campaign_folder import read_campaign
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import feedback_notes
from metaheac_jax.customise.export import (
    EXCLUDED,
    MANIFEST,
    PLATFORMS,
    check_flatbuffers,
    export_scorer,
)
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.files import locked
from metaheac_jax.sealed import Parent


@dataclass(frozen=True, kw_only=True)
class Options:
    """Writes a campaign's model as a program and arrays that score users without this package.

    For batch engines: the program takes any number of users and needs jax, numpy and flatbuffers.
    In the repository, experiments/examples/exported_scorer.py shows how to turn raw values into
    scores, and ray_expand.py beside it shows how to find an audience with many Ray Data workers.
    The program also scores users whom `metaheac expand` leaves out of the campaign's audiences: its
    seeds, including users who converted, and excluded users. excluded.csv has their ids.
    """

    campaign: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CAMPAIGN")]
    """Folder of a campaign, from `metaheac customise`."""
    data: Path
    """Folder of the data set that the campaign was customised on."""
    out: Path
    """Folder to write; an export there is replaced."""


def main(options: Options) -> None:
    """Runs the command."""
    inputs = (options.campaign, options.data)
    terminal.check_output_folder("--out", options.out, MANIFEST, "an export", *inputs)
    check_flatbuffers()
    screen = terminal.screen()
    with locked(options.out), terminal.progress_display(screen) as progress:
        saved = read_campaign(options.campaign, progress=progress)
        general = saved.load_general(progress)
        data = open_dataset(options.data, progress=progress)
        model = saved.customised(general, data)
        made_from = [Parent.of(options.campaign, saved.digest)]
        export_scorer(model, options.out, made_from=made_from, progress=progress)
    notes = feedback_notes(options.campaign, saved, general)
    notes.append(
        f"the program also scores the campaign's {len(model.seed_ids):,} seeds and "
        f"{len(model.excluded_ids):,} excluded users; leave out the ids in {options.out / EXCLUDED}"
    )
    size = sum(path.stat().st_size for path in options.out.iterdir())
    terminal.print_lines(
        screen,
        *(f"note: {note}" for note in notes),
        f"{options.out}: {size / 2**20:,.1f} MiB, for {', '.join(PLATFORMS)}",
    )
