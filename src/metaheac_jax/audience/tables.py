"""Results about an audience as tables of text, for the screen and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaheac_jax.audience.calibration import CalibrationBin
from metaheac_jax.audience.curve import SizePoint
from metaheac_jax.audience.gains import Gain
from metaheac_jax.audience.importance import Importances
from metaheac_jax.audience.overlap import Overlap
from metaheac_jax.audience.traits import SensitiveShare, Trait

#: A table of traits shows this many of the first values, and as many of the last.
SHOWN = 15
#: Heading and number format of each field of a `SizePoint` that has an interval.
MEASURES = {
    "edge": ("score at the edge", ".3f"),
    "recall": ("recall", ".1%"),
    "lift": ("lift", ".2f"),
    "conversions": ("expected conversions", ",.0f"),
}


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
      title: title of the table.
      header: names of the columns.
      rows: cells of each row.
      num_names: number of leading columns that hold names; the others hold numbers.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int = 1


def base_rate_note(base_rate: float) -> str:
    """A note on the assumption behind expected conversions."""
    return (
        f"Expected conversions assume that {base_rate:.3%} of the pool would convert if all of it "
        "were reached."
    )


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


def traits_table(traits: Sequence[Trait]) -> TextTable:
    """The values that are most and least over-represented."""
    ends = list(traits)
    if len(ends) > 2 * SHOWN:
        ends = [*ends[:SHOWN], *ends[-SHOWN:]]
    rows = [
        [t.field, t.value, *map(_fraction, (t.audience, t.seeds, t.pool)), f"{t.lift:.2f}"]
        for t in ends
    ]
    title = "The most and the least common values, against the pool"
    return TextTable(title, ["field", "value", "audience", "seeds", "pool", "lift"], rows, 2)


def importance_table(used: Importances) -> TextTable:
    """How much the model loses without each field."""
    rows = [[f.field, f"{f.drop:.4f}", f"{f.error:.4f}"] for f in used.fields]
    title = f"Drop of the AUC of held-out seeds ({used.auc:.4f}) if a field is shuffled"
    return TextTable(title, ["field", "drop of AUC", "standard error"], rows)


def sensitive_table(shares: Sequence[SensitiveShare]) -> TextTable:
    """How the audience selects users by sensitive fields."""
    rows = []
    for s in shares:
        bounds = (s.ratio, s.audience is None), (s.impact, s.bounded)
        ratios = [f"{'at most ' if bounded else ''}{ratio:.2f}" for ratio, bounded in bounds]
        shown = [_fraction(s.audience), _fraction(s.pool), *ratios, s.flag]
        rows.append([s.field, s.value, *shown])
    header = ["field", "value", "audience", "pool", "ratio", "adverse impact", "flag"]
    return TextTable("Sensitive fields, which the model does not see", header, rows, 2)


def overlap_tables(overlap: Overlap) -> list[TextTable]:
    """Matrices of counts, shares and Jaccard indices, with a row and a column per audience."""
    matrices: dict[str, tuple[np.ndarray, str]] = {
        "Users in both": (overlap.count, ",d"),
        "Share of the row's users who are in the column's audience": (overlap.share, ".1%"),
        "Jaccard index: users in both of those in either": (overlap.jaccard, ".3f"),
    }
    tables = []
    for title, (matrix, form) in matrices.items():
        rows = [
            [name, *(f"{cell:{form}}" for cell in line)]
            for name, line in zip(overlap.names, matrix.tolist(), strict=True)
        ]
        tables.append(TextTable(title, ["audience", *overlap.names], rows))
    return tables


def others_table(overlap: Overlap) -> TextTable:
    """The overlap of the first audience with each of the others."""
    shared = (overlap.sizes, overlap.count[0], overlap.share[0], overlap.jaccard[0])
    rows = [
        [name, f"{size:,}", f"{count:,}", f"{share:.1%}", f"{jaccard:.3f}"]
        for name, size, count, share, jaccard in zip(overlap.names, *shared, strict=True)
    ]
    header = ["other audience", "its users", "in both", "share of this audience", "Jaccard index"]
    return TextTable("Users of this audience who are in another one", header, rows[1:])


def gains_table(gains: Sequence[Gain]) -> TextTable:
    """Who converts, by tenth of the users."""
    rows = []
    for own in gains:
        counts = (str(own.decile), f"{own.users:,}", f"{own.converts:,}")
        rows.append([*counts, f"{own.rate:.4f}", f"{own.lift:.2f}", f"{own.share:.3f}"])
    header = ["tenth", "users", "converts", "rate", "lift", "share of all"]
    return TextTable("", header, rows, 0)


def rates_table(bins: Sequence[CalibrationBin]) -> TextTable:
    """Predicted and observed rates of converts."""
    rows = [[f"{own.users:,}", f"{own.predicted:.4f}", f"{own.observed:.4f}"] for own in bins]
    return TextTable("", ["users", "predicted", "observed"], rows, 0)


def _fraction(fraction: float | None) -> str:
    return "few" if fraction is None else f"{fraction:.1%}"
