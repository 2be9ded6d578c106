"""``metaheac export``: a campaign's scorer, for programs without this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from metaheac_jax.cli import terminal
from metaheac_jax.cli.terminal import option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Writes a campaign's scorer as a program that needs jax, numpy and flatbuffers alone."""

    #: Folder of a general model, from fit.
    model: Annotated[Path, Positional, option("MODEL")]
    #: Folder of the data that has the campaign.
    data: Annotated[Path, Positional, option("DATA")]
    #: Id of the campaign.
    campaign: Annotated[str, option("ID")]
    #: Folder to write; an export there is replaced. `open_export` of
    #: metaheac_jax.customising.exported reads it, and scores users by their raw values.
    out: Annotated[Path, option("FOLDER")]


def main(options: Options) -> None:
    """Runs the command."""
    from metaheac_jax.customising.exported import MANIFEST, PLATFORMS, export_scorer
    from metaheac_jax.data.storage import open_dataset
    from metaheac_jax.files import locked
    from metaheac_jax.methods.general_models import customise
    from metaheac_jax.model import load

    inputs = (options.model, options.data)
    terminal.check_output_folder("--out", options.out, MANIFEST, "an export", *inputs)
    screen = terminal.screen()
    with locked(options.out), terminal.progress_display(screen) as progress:
        general = load(options.model, progress=progress)
        data = open_dataset(options.data, progress=progress)
        campaign = data.campaign(data.index_of(options.campaign))
        model = customise(general, data, campaign)
        export_scorer(model, options.out, progress=progress)
    size = sum(path.stat().st_size for path in options.out.iterdir())
    terminal.print_lines(
        screen,
        f"{options.out}: {size / 2**20:,.1f} MiB, for {', '.join(PLATFORMS)}",
        "note: the program scores the campaign's seeds, too; leave them out of its audiences",
    )
