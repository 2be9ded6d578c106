"""``metaheac customise``: from seed users to a campaign's model on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from metaheac_jax.audience.campaign_folder import (
    MANIFEST,
    read_campaign,
    save_customised,
)
from metaheac_jax.audience.seed_check import LEAST_SEEDS
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import (
    check_readable,
    find_campaign,
    model_notes,
    read_attributes,
    read_excluded,
    require_seeds,
    seed_notes,
)
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import locked
from metaheac_jax.methods import method_of
from metaheac_jax.model import load


@dataclass(frozen=True, kw_only=True)
class Options:
    """Customises a general model to a campaign and saves it, to learn from feedback later.

    Afterwards, `metaheac expand` takes the campaign's folder instead of a model, seeds and
    attributes. Use `metaheac feedback` to add feedback to it, and `metaheac update` to learn from
    the feedback.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a general model, from `metaheac fit`. Keep it where it is: the campaign needs it
    later."""
    data: Path
    """Folder of the data set with the seeds, from `metaheac prepare`."""
    seeds: Path
    """File with the seeds' user ids: one per line, or a .csv, .csv.gz or .parquet file with a
    column user_id."""
    attributes: Path
    """JSON file with the campaign's attributes, one per campaign field of the data:
    {"advertiserId": 42, "productType": 3, ...}."""
    out: Path
    """Folder to write; its name becomes the campaign's name. A campaign there is replaced."""
    overwrite: bool = False
    """Replace a campaign even if its feedback, or its list of users to leave out, is then lost."""
    exclude: tuple[Path, ...] = ()
    """Files with ids of users to leave out, as for --seeds, for example users who opted out:
    nothing is learned from them, now or in an update, and they are in no audience of the
    campaign, unless `metaheac update --readmit` takes this back. A file may have only a header."""
    least_seeds: int = LEAST_SEEDS
    """Stop with an error if fewer seeds than this are users of the data."""
    seed: int = 0
    """Random seed for the random non-seeds and for customising."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--seed", options.seed, 0)
    terminal.check_minimum("--least-seeds", options.least_seeds, 0)
    inputs = (options.model, options.data, options.seeds, options.attributes, *options.exclude)
    terminal.check_output_folder("--out", options.out, MANIFEST, "a campaign", *inputs)
    screen = terminal.screen()
    terminal.keep_compiled()
    read_attributes(options.attributes)
    for path in (options.seeds, *options.exclude):
        check_readable(path)  # a file that cannot be read is reported before the work begins
    with locked(options.out), terminal.progress_display(screen) as progress:
        general = load(options.model, progress=progress)
        method = method_of(general)
        if method.restore is None:
            raise InputError(
                f"{options.model}: {method.label} adapts no network, so there is nothing to keep; "
                "metaheac expand makes audiences with it"
            )
        data = open_dataset(options.data, progress=progress)
        general.check_data(data)
        excluded, excluded_notes = read_excluded(options.exclude, data)
        if (options.out / MANIFEST).exists() and not options.overwrite:
            _check_replaceable(options.out, data, excluded)
        campaign, check = find_campaign(
            data, options.seeds, options.attributes, exclude=excluded, seed=options.seed
        )
        require_seeds(check, options.least_seeds, options.seeds)
        [model] = method.customise(general, data, [campaign], seed=options.seed, progress=progress)
        save_customised(model, data, options.out, seed=options.seed, progress=progress)
    notes = [*seed_notes(campaign.labels), *model_notes(model), *excluded_notes]
    terminal.print_lines(
        screen,
        check.line(),
        *(f"note: {note}" for note in notes),
        f"{options.out}: {general.method} customised to {check.used:,} seeds",
        f"next: metaheac expand {terminal.quoted(options.out)} --data "
        f"{terminal.quoted(options.data)} --size N --out audience.csv",
    )


def _check_replaceable(folder: Path, data: Dataset, excluded: np.ndarray) -> None:
    """Refuses to replace a campaign if feedback or excluded users would be lost."""
    try:
        saved = read_campaign(folder).with_ids_of(data)
    except InputError as error:
        raise InputError(f"--out: {error}, or --overwrite to replace the folder") from error
    forgotten = len(np.setdiff1d(saved.excluded, excluded))
    if len(saved.feedback) or forgotten:
        raise InputError(
            f"--out: {folder}: has feedback on {len(saved.feedback):,} users, and leaves out "
            f"{forgotten:,} whom --exclude does not name; continue with metaheac update, choose "
            "another folder, or give --overwrite to forget them"
        )
