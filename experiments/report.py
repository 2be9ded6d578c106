"""Tables and figures of a comparison, for one run or the mean of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

mpl.use("Agg")
import matplotlib.pyplot as plt

GROUPS = ("small", "large")
FIGURES = ("auc", "precision", "recall")
POOLED = "pooled AUC"
#: One run: ``{method: result}``, a result being what `job.judge_all` gives.
Run = Mapping[str, Mapping[str, Any]]

#: Table 2 of the paper (Tencent data): AUC, P@5%, R@5% on small, then on large seed sets; the
#: ablation's w/o Meta has no R@5%.
PAPER = {
    "lr": (0.5942, 0.1015, 0.1044, 0.6824, 0.1910, 0.2006),
    "mlp-one-stage": (0.5928, 0.1048, 0.1081, 0.6910, 0.1797, 0.1888),
    "mlp-pretraining": (0.7117, 0.2325, 0.2384, 0.7082, 0.2136, 0.2242),
    "without-meta": (0.7173, 0.2431, None, 0.7107, 0.2180, None),
    "metaheac": (0.7239, 0.2489, 0.2554, 0.7142, 0.2244, 0.2356),
}


def summarise(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Means over the campaigns of a group, then mean and standard deviation over the runs.

    Returns:
      For each method: ``label``, ``left_out``, and for each group ``{figure: {"mean", "std"}}``
      where figures are auc, precision, recall and pooled_auc; ``campaigns`` is their mean number.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name, first in runs[0].items():
        entry: dict[str, Any] = {
            "label": first["label"],
            "left_out": [left for run in runs for left in run[name]["left_out"]],
        }
        for group in GROUPS:
            values: dict[str, list[float]] = {figure: [] for figure in (*FIGURES, "pooled_auc")}
            counts = []
            for run in runs:
                members = [c for c in run[name]["campaigns"] if c["group"] == group]
                counts.append(len(members))
                if not members:
                    continue
                for figure in FIGURES:
                    values[figure].append(float(np.mean([c[figure] for c in members])))
                values["pooled_auc"].append(run[name]["pooled_auc"][group])
            entry[group] = {
                figure: {"mean": float(np.mean(v)), "std": float(np.std(v, ddof=len(v) > 1))}
                for figure, v in values.items()
                if v
            }
            entry[group]["campaigns"] = float(np.mean(counts))
        summary[name] = entry
    return summary


def table_rows(summary: Mapping[str, Any], runs: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the comparison, as text."""
    header = ["method"]
    some = next(iter(summary.values()))
    for group in GROUPS:
        count = some[group]["campaigns"]
        header += [f"{count:g} {group}: AUC", "P@5%", "R@5%", POOLED]
    rows = []
    for entry in summary.values():
        row = [entry["label"]]
        for group in GROUPS:
            for figure in (*FIGURES, "pooled_auc"):
                value = entry[group].get(figure)
                row.append("-" if value is None else _number(value, runs))
        rows.append(row)
    return header, rows


def paper_rows(labels: Mapping[str, str]) -> list[list[str]]:
    """The paper's figures of the same methods, in the columns of `table_rows`."""
    rows = []
    for name, label in labels.items():
        if name in PAPER:
            cells = ["-" if v is None else f"{v:.4f}" for v in PAPER[name]]
            rows.append([f"{label} [paper]", *cells[:3], "-", *cells[3:], "-"])
    return rows


def rich_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for the terminal, without the pooled AUCs, which would not fit 80 columns."""
    shown = [i for i, cell in enumerate(header) if cell != POOLED]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i in shown:
        table.add_column(header[i], justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(escape(row[i]) for i in shown))
    return table


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a report."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def left_out_lines(summary: Mapping[str, Any]) -> list[str]:
    """A line for each campaign that could not be judged."""
    some = next(iter(summary.values()))
    unique = {(left["campaign"], left["why"]) for left in some["left_out"]}
    return [f"campaign {campaign} could not be judged: {why}" for campaign, why in sorted(unique)]


def write(
    directory: Path,
    runs: Sequence[Run],
    *,
    title: str,
    figures: Mapping[str, Path],
    screen: Console,
    paper: bool = False,
) -> dict[str, dict[str, Any]]:
    """Prints the table, and writes it as report.md with its figures.

    Args:
      directory: gets report.md.
      runs: what to compare.
      title: what the data is.
      figures: pictures in the directory, by caption.
      screen: gets the table.
      paper: also show the paper's own figures, labelled as such.

    Returns:
      The summary (see `summarise`).
    """
    summary = summarise(runs)
    header, rows = table_rows(summary, len(runs))
    lines = left_out_lines(summary)
    if paper:
        rows += paper_rows({name: entry["label"] for name, entry in summary.items()})
        lines.insert(0, "[paper]: the paper's own figures, on the competition's data, not this.")
    text = [f"# Look-alike audiences\n\n{title}\n", markdown_table(header, rows)]
    text += [f"- {line}" for line in lines]
    text += [f"\n![{caption}]({path.name})" for caption, path in figures.items()]
    (directory / "report.md").write_text("\n".join(text) + "\n")
    screen.print(title, highlight=False, markup=False)
    screen.print(rich_table(header, rows))
    for line in lines:
        screen.print(line, highlight=False, markup=False)
    where = f"report.md, figures, results.json and checkpoints are in {directory}"
    screen.print(where, markup=False, soft_wrap=True)
    return summary


def figure_by_seeds(run: Run, path: Path, title: str) -> None:
    """AUC of each test campaign by its number of seeds, a colour a method."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, result in run.items():
        points = np.array([(c["seeds"], c["auc"]) for c in result["campaigns"]]).reshape(-1, 2)
        color = "0.7" if name == "oracle" else None
        axes.scatter(points[:, 0], points[:, 1], s=16, color=color, label=result["label"])
    axes.set(xscale="log", xlabel="seeds of the campaign", ylabel="AUC on its pool", title=title)
    axes.axhline(0.5, color="0.8", linewidth=1, zorder=0)
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def figure_of_curves(run: Run, path: Path, title: str) -> None:
    """Loss and AUC of one test campaign over its fine-tuning steps (Figure 3 a, b of the paper)."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    curves = {r["label"]: r["curve"] for r in run.values() if "curve" in r}
    for label, curve in curves.items():
        panels[0].plot(curve["steps"], curve["loss"], label=label)
        panels[1].plot(curve["steps"], curve["auc"], label=label)
        title = f"{title}, campaign {curve['campaign']}" if "campaign" not in title else title
    panels[0].set(xlabel="fine-tuning steps", ylabel="loss on the pool (nats)")
    panels[1].set(xlabel="fine-tuning steps", ylabel="AUC on the pool")
    if curves:
        panels[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _number(value: Mapping[str, float], runs: int) -> str:
    return f"{value['mean']:.4f}" + (f" ±{value['std']:.4f}" if runs > 1 else "")
