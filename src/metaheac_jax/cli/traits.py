"""``metaheac traits``: what characterises an audience."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import polars as pl
import tyro
from rich.table import Table

from metaheac_jax.audience.traits import MIN_CELL, audience_traits
from metaheac_jax.cli import terminal
from metaheac_jax.cli.expand import read_user_ids
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import write_whole

SHOWN = 15  # values at either end of the table


@dataclass(frozen=True, kw_only=True)
class Options:
    """Shows which values of users are more common in an audience than among all users.

    Prints the values with the highest and the lowest lift: the fraction of the audience that has
    the value, divided by that of all users. Seeds stand beside them.
    """

    audience: Annotated[Path, tyro.conf.Positional]
    """CSV file of an audience, from `metaheac expand`."""
    data: Path
    """Folder of the data set, from `metaheac prepare`."""
    seeds: Path
    """File with one seed's user id per line, as for `metaheac expand`."""
    out: Path | None = None
    """CSV file for all values."""
    min_cell: int = MIN_CELL
    """Leave out values that fewer users of the audience have."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--min-cell", options.min_cell, 1)
    if options.out is not None:
        terminal.check_output("--out", options.out)
    screen = terminal.screen()
    with terminal.progress_display(screen) as progress:
        data = open_dataset(options.data, progress=progress)
        text = data.user_key.dtype.kind == "S"
        audience = read_audience(options.audience, text=text)
        seeds = read_user_ids(options.seeds, text=text)
        traits = audience_traits(data, audience, seeds, min_cell=options.min_cell)
    names = ("field", "value", "audience", "seeds", "pool", "lift")
    rows = [(t.field, t.value, t.audience, t.seeds, t.pool, t.lift) for t in traits]
    if options.out is not None:
        with write_whole(options.out) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([names, *rows])
    table = Table(title=f"{len(audience):,} users: the most and the least common values")
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number < 2 else "right")
    ends = rows if len(rows) <= 2 * SHOWN else [*rows[:SHOWN], *rows[-SHOWN:]]
    for field, value, *fractions, lift in ends:
        table.add_row(field, value, *(f"{x:.3f}" for x in fractions), f"{lift:.2f}")
    screen.print(table)


def read_audience(path: Path, *, text: bool = False) -> list[int] | list[str]:
    """The user ids of an audience's CSV file.

    Args:
      path: of the file.
      text: whether ids are text.

    Raises:
      InputError: the file cannot be read, or has no column ``user_id`` with ids.
    """
    try:
        ids = pl.read_csv(path, columns=["user_id"], infer_schema=False)["user_id"]
        return ids.to_list() if text else ids.cast(pl.Int64).to_list()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not the file of an audience, with a column user_id") from error
