"""``metaheac overlap``: how many users several audiences share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Annotated

import tyro

from metaheac_jax.audience.overlap import Overlap, audience_overlap
from metaheac_jax.audience.tables import overlap_tables
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import read_audience
from metaheac_jax.errors import InputError
from metaheac_jax.files import write_csv


@dataclass(frozen=True, kw_only=True)
class Options:
    """Shows how many users each pair of audiences shares.

    Prints three tables with a row and a column for each audience: the number of users in both; the
    share of the row's users who are in the column's audience; and the Jaccard index (users in
    both, divided by users in either).
    """

    audiences: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="AUDIENCE AUDIENCE ...")
    ]
    """CSV or Parquet files of two or more audiences, from `metaheac expand`."""
    out: Path | None = None
    """CSV file to write, with a line for each ordered pair of audiences."""


def main(options: Options) -> None:
    """Runs the command."""
    if len(options.audiences) < 2:
        raise InputError("overlap: give the files of two audiences or more")
    if options.out is not None:
        terminal.check_output("--out", options.out, *options.audiences, endings=(".csv",))
    names = [str(path) for path in options.audiences]
    overlap = audience_overlap(names, [read_audience(p, text=True) for p in options.audiences])
    if options.out is not None:
        header = ("first", "second", "first_users", "second_users", "both", "share", "jaccard")
        write_csv(options.out, header, _pairs(overlap))
    screen = terminal.screen()
    for table in overlap_tables(overlap):
        terminal.print_table(screen, table)


def _pairs(overlap: Overlap) -> Iterator[tuple[str | float, ...]]:
    """A line for each ordered pair of different audiences."""
    sizes, count, share, jaccard = overlap.sizes, overlap.count, overlap.share, overlap.jaccard
    for i, j in permutations(range(len(sizes)), 2):
        names = overlap.names[i], overlap.names[j]
        yield *names, sizes[i], sizes[j], count[i, j], share[i, j], jaccard[i, j]
