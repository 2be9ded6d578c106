"""Tables of a comparison, as Markdown and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich import table as rich
from rich.markup import escape

from experiments.comparison import significance
from experiments.comparison.results import GROUPS, MEASURES, Comparison
from experiments.comparison.significance import Pair

#: The paper's metrics on the Tencent data (Tables 2 and 4): AUC, P@5% and R@5% on small seed sets,
#: then on large ones. Table 4 has no R@5%.
PUBLISHED: dict[str, tuple[float | None, ...]] = {
    "lr": (0.5942, 0.1015, 0.1044, 0.6824, 0.1910, 0.2006),
    "mlp-one-stage": (0.5928, 0.1048, 0.1081, 0.6910, 0.1797, 0.1888),
    "mlp-embeddings": (0.6624, 0.1881, 0.1930, 0.7060, 0.2118, 0.2224),
    "mlp-pretraining": (0.7117, 0.2325, 0.2384, 0.7082, 0.2136, 0.2242),
    "shared-bottom": (0.6936, 0.2198, 0.2258, 0.7089, 0.2144, 0.2250),
    "mmoe": (0.6977, 0.2224, 0.2280, 0.7088, 0.2150, 0.2257),
    "metaheac": (0.7239, 0.2489, 0.2554, 0.7142, 0.2244, 0.2356),
    "without-hc": (0.7199, 0.2472, None, 0.7115, 0.2220, None),
    "without-he": (0.7181, 0.2419, None, 0.7112, 0.2193, None),
    "without-meta": (0.7173, 0.2431, None, 0.7107, 0.2180, None),
}


@dataclass(frozen=True)
class Table:
    """A table of text cells; the first column is a name. The note is printed under the table."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown, without title and note."""
        lines = [self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def rich(self) -> rich.Table:
        """The table for the terminal, without title and note."""
        made = rich.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i, cell in enumerate(self.header):
            made.add_column(cell, justify="left" if i == 0 else "right")
        for row in self.rows:
            made.add_row(*map(escape, row))
        return made


def methods_table(of: Comparison) -> Table:
    """Every method's measures on small and large seed sets, and the paper's own, if known."""
    header, rows = ["method"], []
    for group in GROUPS:
        first, *others = MEASURES.values()
        header += [f"{of.num_campaigns(group)} {group}: {first}", *others]
    for name in of.methods:
        values = [of.values(name, group, measure) for group in GROUPS for measure in MEASURES]
        cells = [
            _number(own.mean) + ("" if math.isnan(own.deviation) else f" ±{own.deviation:.4f}")
            for own in values
        ]
        rows.append([of.label(name), *cells])
    printed = PUBLISHED if of.published else {}
    for name in of.methods:
        if name in printed:
            cells = ["-" if value is None else f"{value:.4f}" for value in printed[name]]
            rows.append([f"{of.label(name)} [paper]", *cells])
    notes = ["±: standard deviation over the runs."] if len(of.seeds) > 1 else []
    notes += ["[paper]: the paper's own figures, on the paper's data."] if printed else []
    return Table("Methods", header, rows, " ".join(notes))


def build_tables(of: Comparison) -> list[Table]:
    """All tables of a report, that of the methods first."""
    tables = [methods_table(of)]
    if claims := significance.primary_claims(of):
        header = ["method", "best rival", "difference", "largest p", "p (Holm)"]
        rows = [
            [of.label(c.method), of.label(c.best), c.difference.text(), _p(c.p), _p(c.p_holm)]
            for c in claims
        ]
        note = (
            "AUC on small seed sets. Largest p: over all rivals, which are those of PRIMARY in "
            f"comparison/significance.py. Holm's correction is over its claims. {_test(of)}"
        )
        tables.append(Table("Primary claims", header, rows, note))
    if pairs := significance.every_pair(of):
        tables.append(_pairs_table(of, pairs))
    return tables


def _pairs_table(of: Comparison, found: Sequence[Pair]) -> Table:
    """Differences in AUC with their p."""
    header, rows = ["method", "minus"], dict[tuple[str, str], list[str]]()
    for group in GROUPS:
        header += [f"{group}: difference in AUC", "p", "p (Holm)"]
    for pair in found:  # one line has both groups
        key = pair.first, pair.second
        row = rows.setdefault(key, [of.label(name) for name in key])
        row += [pair.difference.text(), _p(pair.difference.p), _p(pair.p_holm)]
    note = f"± standard error. {_test(of)}"
    return Table("Every pair of the networks", header, [*rows.values()], note)


def _test(of: Comparison) -> str:
    return significance.describe_test(len(of.seeds), of.overlap)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.4f}" if p >= 0.0001 else "<.0001"
