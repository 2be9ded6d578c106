"""The results of a comparison as files, and its table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.comparison import figures
from experiments.comparison.results import Comparison, load, store
from experiments.comparison.tables import build_tables
from metaheac_jax.cli import terminal
from metaheac_jax.files import write_text

RESULTS, REPORT, BY_SEEDS = "results.json.gz", "report.md", "auc_by_seeds.png"
#: All files that `write` leaves in a folder.
OUTPUTS = (RESULTS, REPORT, BY_SEEDS)


def write(directory: Path, comparison: Comparison, notes: Sequence[str] = ()) -> None:
    """Writes `OUTPUTS` into a folder, and prints the table of methods and the notes."""
    store(directory / RESULTS, comparison)
    comparison = load(directory / RESULTS)  # rounded, so that the report agrees with the file
    every = [left for campaigns in comparison.campaigns for left in campaigns["left_out"]]
    unique = sorted({(str(left["campaign"]), left["why"]) for left in every})
    lines = [f"campaign {campaign} could not be judged: {why}" for campaign, why in unique]
    tables, lines = build_tables(comparison), [*lines, *notes]
    figures.figure_by_seeds(comparison, directory / BY_SEEDS, comparison.about["data"])
    text = [f"# Look-alike audiences\n\n{comparison.title}\n"]
    for table in tables:
        text.append(f"## {table.title}\n\n{table.markdown()}")
        text += [f"{table.note}\n"] if table.note else []
    text += [f"- {line}" for line in [*lines, *comparison.about["commands"]]]
    text.append(f"\n![AUC by number of seeds]({BY_SEEDS})\n")
    write_text(directory / REPORT, "\n".join(text))
    terminal.print_lines(comparison.title)
    terminal.screen().print(tables[0].rich())
    terminal.print_lines(*filter(None, (tables[0].note, *lines)))
