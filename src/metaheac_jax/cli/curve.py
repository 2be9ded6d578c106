"""``metaheac curve``: how large an audience should be."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from metaheac_jax.audience.curve import SizePoint, size_curve
from metaheac_jax.cli import terminal
from metaheac_jax.cli.expand import read_attributes, read_user_ids
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.files import write_whole
from metaheac_jax.methods import method_of
from metaheac_jax.model import load


@dataclass(frozen=True, kw_only=True)
class Options:
    """Shows how many seeds an audience of each size finds, to choose its size.

    Holds out a fifth of the seeds, customises the model to the rest, and prints for audiences of
    0.5% to 50% of the users which fraction of the held-out seeds they have, with its 95% interval,
    and how many times as many as a random audience (lift).
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Folder of a general model, from `metaheac fit`."""
    data: Path
    """Folder of the data set whose users are the pool, from `metaheac prepare`."""
    seeds: Path
    """File with one seed's user id per line, as for `metaheac expand`."""
    attributes: Path
    """JSON file with the campaign's attributes, as for `metaheac expand`."""
    out: Path | None = None
    """CSV file to write."""
    seed: int = 0
    """Seed of the held-out seeds, the random non-seeds and fine-tuning."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--seed", options.seed, 0)
    if options.out is not None:
        terminal.check_output("--out", options.out)
    screen = terminal.screen()
    terminal.keep_compiled()
    attributes = read_attributes(options.attributes)
    with terminal.progress_display(screen) as progress:
        general = load(options.model, progress=progress)
        data = open_dataset(options.data, progress=progress)
        general.check_data(data)
        seeds = read_user_ids(options.seeds, text=data.user_key.dtype.kind == "S")
        campaign = data.new_campaign(seeds, attributes, seed=options.seed)
        method = method_of(general)
        points = size_curve(method, general, data, campaign, seed=options.seed, progress=progress)
    if options.out is not None:
        _write(options.out, points)
    table = Table(title="held-out seeds in audiences of several sizes")
    for name in ("% of users", "users", "recall", "95% interval", "lift"):
        table.add_column(name, justify="right")
    for point in points:
        interval = f"{point.low:.3f} - {point.high:.3f}"
        cells = (f"{point.percent:g}", f"{point.size:,}", f"{point.recall:.3f}", interval)
        table.add_row(*cells, f"{point.lift:.2f}")
    screen.print(table)


def _write(path: Path, points: list[SizePoint]) -> None:
    with write_whole(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("percent", "size", "edge", "recall", "low", "high", "lift"))
        for p in points:
            writer.writerow((p.percent, p.size, p.edge, p.recall, p.low, p.high, p.lift))
