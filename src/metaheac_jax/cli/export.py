"""``metaheac export``: the scorer of campaigns, for Spark, Ray and programs of your own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from metaheac_jax.cli import terminal
from metaheac_jax.cli.expand import notes_on
from metaheac_jax.cli.terminal import counted, option
from metaheac_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Writes the scorer of campaigns as files, with which Spark and Ray find their audiences."""

    #: Folder of a general model, from fit.
    model: Annotated[Path, Positional, option("MODEL")]
    #: Folder of the data that has the campaigns.
    data: Annotated[Path, Positional, option("DATA")]
    #: Ids of the campaigns, as for expand.
    campaign: Annotated[tuple[str, ...], option("ID...")] = ()
    #: All campaigns of the data that have seeds and that the model has not seen.
    all_new: bool = False
    #: Folder to write; an export there is replaced.
    out: Annotated[Path, option("FOLDER")]


def main(options: Options) -> None:
    """Runs the command."""
    from metaheac_jax.audience.expanding import find_campaigns
    from metaheac_jax.data.storage import open_dataset
    from metaheac_jax.engines.export_files import MANIFEST
    from metaheac_jax.engines.exporting import PLATFORMS, export_scorer
    from metaheac_jax.files import locked
    from metaheac_jax.methods.fitting import customise
    from metaheac_jax.model import load

    if bool(options.campaign) == options.all_new:
        raise InputError("--campaign: give one of --campaign and --all-new")
    inputs = (options.model, options.data)
    terminal.check_output("--out", options.out, *inputs, manifest=MANIFEST)
    with locked(options.out), terminal.progress_display() as progress:
        general = load(options.model, progress=progress)
        data = open_dataset(options.data, progress=progress)
        wanted = [*dict.fromkeys(options.campaign)] or None  # all new ones
        data, chosen = find_campaigns(general, data, wanted)
        models = customise(general, data, chosen, progress=progress)
        export_scorer(models, options.out, progress=progress)
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 2**20
    terminal.print_lines(
        *notes_on(general, chosen),
        f"{options.out}: {counted(len(models), 'campaign')}, {size:,.1f} MiB, for "
        f"{', '.join(PLATFORMS)}",
        "note: seeds are scored, too; exclude them from the audiences",
    )
