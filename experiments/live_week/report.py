"""The report of a test: results.json, report.md, a figure, and a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from experiments.comparison.pages import markdown_table, rich_table, save_figure
from experiments.live_week.lifts import MEASURES, Experiment, lifts, mean_lifts
from experiments.live_week.worlds import APPLICATIONS
from metaheac_jax.cli import terminal
from metaheac_jax.files import write_json, write_text

#: Lifts of `MEASURES` as the paper's Table 3 prints them. The printed lift of CVR does not follow
#: from the other two.
PUBLISHED = {
    "video": (0.0307, 0.1018, 0.0790),
    "advertisements": (0.0065, 0.1550, 0.1540),
    "article": (0.0318, 0.0923, 0.0464),
}
OUTPUTS = ("results.json", "report.md", "lifts.png")
NOTES = (
    "Mean of the weeks' lifts (geometric) and its 95% interval, Student's t over the weeks. "
    "Experiments of an application share the treatment arm.",
    "[paper]: the paper's own figures, of a production system, not of this simulation.",
)

#: An experiment as in results.json, from `summarise`.
Result = Mapping[str, Any]
#: A header and rows.
Table = tuple[list[str], list[list[str]]]


def write_report(
    experiments: Sequence[Experiment],
    directory: Path,
    *,
    title: str,
    options: Mapping[str, Any],
    origin: str,
    screen: Console,
) -> None:
    """Prints the lifts, and writes results.json, report.md and the figure.

    Args:
      experiments: the experiments of all applications.
      directory: folder for the files.
      title: title of the report.
      options: options of the command, as plain data.
      origin: where the results come from, see `provenance.describe_origin`.
      screen: where to print.
    """
    results = [summarise(experiment) for experiment in experiments]
    table, notes = lift_table(results), [*NOTES, verdict(results)]
    draw(results, directory / "lifts.png", title)
    write_json(directory / "results.json", {"options": options, "origin": origin, "tests": results})
    text = [f"# A/B tests\n\n{title}\n\n{markdown_table(*table)}\n{origin}\n"]
    text += [f"- {note}" for note in notes]
    text += [f"\n## Totals\n\n{markdown_table(*totals_table(results))}\n{origin}\n"]
    text += ["![lifts](lifts.png)\n"]
    write_text(directory / "report.md", "\n".join(text))
    screen.print(title, highlight=False)
    screen.print(rich_table(*table))
    for note in notes:
        screen.print(note, highlight=False, markup=False)
    where = f"report.md, results.json and the figure are in {directory}"
    terminal.print_lines(screen, where)


def summarise(experiment: Experiment) -> dict[str, Any]:
    """An experiment as plain data. A lift that is not finite is None."""
    mean, low, high = mean_lifts(experiment.counts).tolist()
    weeks = lifts(experiment.counts)
    control, treatment = (
        dict(zip(("exposed", "converted"), map(int, arm), strict=True))
        for arm in experiment.counts.sum(axis=0)
    )
    return {
        "application": experiment.application,
        "test": experiment.title,
        "control": control,
        "treatment": treatment,
        "lifts": {
            measure: {
                "lift": _finite(mean[number]),
                "low": _finite(low[number]),
                "high": _finite(high[number]),
                "weeks": [_finite(lift) for lift in weeks[:, number].tolist()],
            }
            for number, measure in enumerate(MEASURES)
        },
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def lift_table(results: Sequence[Result]) -> Table:
    """Mean lifts with their intervals, and the published ones, by application."""
    rows = []
    for application in APPLICATIONS:
        for result in results:
            if result["application"] == application:
                cells = [_lift_cell(result["lifts"][measure]) for measure in MEASURES]
                rows.append([application, result["test"], *cells])
        published = [f"{100 * lift:+.2f}%" for lift in PUBLISHED[application]]
        rows.append([application, "MetaHeac [paper]", *published])
    return ["application", "test", *MEASURES], rows


def _lift_cell(lift: Mapping[str, Any]) -> str:
    mean, low, high = (
        "-" if lift[key] is None else f"{100 * lift[key]:+.1f}" for key in ("lift", "low", "high")
    )
    return mean if mean == "-" else f"{mean}% [{low}, {high}]"


def totals_table(results: Sequence[Result]) -> Table:
    """Exposures, conversions and CVR of every arm, over all weeks."""
    rows = []
    for result in results:
        for arm in ("control", "treatment"):
            exposed, converted = result[arm]["exposed"], result[arm]["converted"]
            rate = f"{converted / exposed:.4f}" if exposed else "-"
            counts = [f"{exposed:,}", f"{converted:,}", rate]
            rows.append([result["application"], result["test"], arm, *counts])
    return ["application", "test", "arm", "exposures", "conversions", "CVR"], rows


def verdict(results: Sequence[Result]) -> str:
    """How many intervals of the A/A tests contain 0, and which do not."""
    aa_lifts = [
        (f"{result['application']}, {measure}", result["lifts"][measure])
        for result in results
        if result["test"].startswith("A/A")
        for measure in MEASURES
    ]
    known = [(name, lift) for name, lift in aa_lifts if None not in (lift["low"], lift["high"])]
    missed = [name for name, lift in known if not lift["low"] <= 0 <= lift["high"]]
    text = f"A/A: {len(known) - len(missed)} of {len(known)} intervals contain 0"
    if missed:
        text += f"; not those of {'; '.join(missed)}"
    chance = "One in twenty misses by chance, those of an application mostly together."
    return f"{text}. {chance}"


def draw(results: Sequence[Result], path: Path, title: str) -> None:
    """Draws mean lifts with their intervals, single weeks and published lifts by measure."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for number, panel in enumerate(panels):
        _draw_measure(panel, results, number)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def _draw_measure(panel: Axes, results: Sequence[Result], number: int) -> None:
    """Draws the lifts of one of `MEASURES`; those that are not finite are left out."""
    measure, places = MEASURES[number], {name: i for i, name in enumerate(APPLICATIONS)}
    for shift, title in enumerate(dict.fromkeys(result["test"] for result in results)):
        finite = [
            (places[result["application"]] + 0.2 * shift, lift)
            for result in results
            if result["test"] == title and None not in (lift := result["lifts"][measure]).values()
        ]
        heights = np.array([height for height, _ in finite])
        mean, low, high = (
            100 * np.array([lift[key] for _, lift in finite]) for key in ("lift", "low", "high")
        )
        panel.errorbar(
            mean, heights, xerr=[mean - low, high - mean], fmt="o", capsize=3, label=title
        )
        for height, lift in finite:
            weeks = 100 * np.array(lift["weeks"])
            panel.plot(weeks, np.full(len(weeks), height), "|", color="0.4", zorder=3)
    published = [100 * PUBLISHED[application][number] for application in APPLICATIONS]
    panel.plot(published, np.arange(len(published)) - 0.2, "x", color="0.5", label="paper")
    panel.plot([], [], "|", color="0.4", label="a week")
    panel.axvline(0, color="0.8", linewidth=1, zorder=0)
    panel.set(xlabel=f"lift of {measure}, %", yticks=range(len(APPLICATIONS)))
    panel.set_yticklabels(list(APPLICATIONS))
