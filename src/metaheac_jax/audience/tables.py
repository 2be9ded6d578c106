"""What is known of an audience as tables of text, for the screen and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metaheac_jax.audience.curve import SizePoint

#: What a point of a curve tells with an interval: the heading, and the format of its numbers.
MEASURES = {
    "edge": ("score at the edge", ".3f"),
    "recall": ("recall", ".3f"),
    "lift": ("lift", ".2f"),
    "conversions": ("expected conversions", ",.0f"),
}


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
      title: of the table.
      header: names of the columns.
      rows: cells of each line.
      num_names: number of first columns that are names; the others are numbers.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int = 1


def curve_table(points: Sequence[SizePoint]) -> TextTable:
    """Audiences of several sizes, with 95% intervals."""
    rows = []
    for point in points:
        row = [f"{point.percent:g}%", f"{point.size:,}"]
        for name, (_, form) in MEASURES.items():
            value, low, high = (f"{bound:{form}}" for bound in getattr(point, name))
            row.append(f"{value} ({low} to {high})")
        rows.append(row)
    header = ["of the pool", "users", *(heading for heading, _ in MEASURES.values())]
    return TextTable("Audiences by size, with 95% intervals", header, rows)
