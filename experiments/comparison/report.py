"""The report of a comparison.

``python -m experiments.comparison.report DIR`` draws it again from the stored results. With
``--keep``, it makes a copy of the results for a repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from experiments.comparison import figures, pages, significance
from experiments.comparison.provenance import describe_origin
from experiments.comparison.results import (
    MEASURES,
    Comparison,
    load,
    method_values,
    store,
    summarise,
)
from experiments.comparison.tables import (
    ABLATION_TITLE,
    METHODS_TITLE,
    build_tables,
    in_order,
    left_out_lines,
)
from metaheac_jax.cli import terminal
from metaheac_jax.errors import InputError
from metaheac_jax.files import new_directory, write_text

#: Files that `write` may leave in a folder.
OUTPUTS = ("results.json", "methods.jsonl", "campaigns.jsonl", "tuning.json")
OUTPUTS += ("report.md", "report.html", *figures.FILES)


def write(directory: Path, comparison: Comparison, screen: Console) -> dict[str, dict[str, Any]]:
    """Writes the results and the report, and prints the tables of methods.

    The files are those of `results.store`, report.md, report.html (which includes the figures) and
    the figures.

    Returns:
      The summary (see `results.summarise`) of the results as they were written.
    """
    summary = write_files(directory, comparison, page=True, screen=screen)
    location = f"report.md, report.html, figures, results and the runs are in {directory}"
    terminal.print_lines(screen, location)
    return summary


def write_files(
    directory: Path, comparison: Comparison, *, page: bool, screen: Console
) -> dict[str, dict[str, Any]]:
    """As `write`, but report.html is written only with ``page``."""
    store(directory, comparison, _derived(comparison))
    comparison = load(directory)  # rounded, so that the report agrees with the files
    summary = summarise(comparison.runs)
    tables, lines = build_tables(comparison, summary), left_out_lines(summary)
    if comparison.published is not None:
        lines.insert(0, "[paper]: the paper's own figures, on the paper's data.")
    about = {**comparison.about}
    settings = [about.pop("tuned")] if "tuned" in about else []  # long, so only once
    origin = describe_origin(about, _results(comparison))
    ordered = {name: summary[name] for name in in_order(comparison.runs[0])}
    data = comparison.about.get("data", comparison.title)
    drawn = figures.draw(comparison.runs, ordered, directory, data, comparison.seeds[0])
    parts = (comparison.title, tables, [*lines, *settings], drawn, origin)
    write_text(directory / "report.md", pages.markdown(*parts))
    if page:
        write_text(directory / "report.html", pages.html(*parts))
    screen.print(comparison.title, highlight=False, markup=False)
    for table in tables:
        if table.title in (METHODS_TITLE, ABLATION_TITLE):
            # Without the pooled AUC, so that it fits 80 columns.
            screen.print(pages.rich_table(table.header, table.rows, MEASURES["pooled_auc"]))
            lines = [table.note, *lines] if table.note and table.note not in lines else lines
    for line in lines:
        screen.print(line, highlight=False, markup=False)
    return summary


def _results(comparison: Comparison) -> list[Mapping[str, Any]]:
    return [result for run in comparison.runs for result in run.values()]


def _derived(comparison: Comparison) -> dict[str, Any]:
    """What results.json has besides the facts, for readers of the file alone."""
    values, overlap = method_values(comparison.runs), comparison.overlap
    claims = significance.primary_claims(values, overlap)
    return {
        "origin": describe_origin(comparison.about, _results(comparison)),
        "test": significance.describe_test(len(comparison.runs), overlap),
        "summary": summarise(comparison.runs),
        "primary_claims": [asdict(claim) for claim in claims],
        "pairs": [asdict(pair) for pair in significance.every_pair(values, overlap)],
    }


def keep(target: Path, comparison: Comparison, screen: Console) -> None:
    """Writes the files that a repository keeps into a folder; an earlier report is replaced.

    Raises:
      InputError: the folder has other files, which may be those of a run.
    """
    foreign = sorted({path.name for path in target.glob("*")} - {*OUTPUTS})
    if foreign:
        raise InputError(f"{target / foreign[0]} would be removed; give another folder to keep in")
    with new_directory(target, marker="report.md") as directory:
        write_files(directory, comparison, page=False, screen=screen)
    where = f"report.md, figures and results are in {target}; all of it may be committed"
    terminal.print_lines(screen, where)


@dataclass(frozen=True)
class Options:
    """Draws a comparison's tables and figures again, without training."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIRECTORY")]
    """The --out of a finished command, or a folder from --keep."""
    keep: Path | None = None
    """Folder for a copy of results and report to keep in a repository, such as
    experiments/results/NAME; one that is there, with nothing else in it, is replaced. The copy has
    no report.html and no checkpoints, and DIRECTORY stays as it is."""


def main(options: Options) -> None:
    """Runs the command."""
    comparison, screen = load(options.directory), terminal.screen()
    if options.keep is None:
        write(options.directory, comparison, screen)
        return
    kept, place = options.keep.resolve(), options.directory.resolve()
    if kept in (place, *place.parents):
        raise InputError(f"--keep: {options.keep} would replace {options.directory}; give another")
    keep(options.keep, comparison, screen)


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.comparison.report")
