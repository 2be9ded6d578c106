"""Tables and figures of a comparison: of one run, or means over several.

``python -m experiments.comparison.report DIR`` draws them again from the stored results.json,
campaigns.jsonl (one judged campaign per line) and tuning.json.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape as escape_html
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich import box
from rich import table as rich
from rich.console import Console
from rich.markup import escape

from experiments.comparison import figures, significance
from experiments.comparison.figures import Results
from experiments.comparison.published import ABLATION, ABLATION_ONLY, COMPETING, PUBLISHED
from metaheac_jax.cli import terminal
from metaheac_jax.errors import InputError
from metaheac_jax.files import write_json, write_text
from metaheac_jax.methods import METHODS

GROUPS = ("small", "large")
MEASURES = {"auc": "AUC", "precision": "P@5%", "recall": "R@5%", "pooled_auc": "pooled AUC"}
POOLED = MEASURES["pooled_auc"]
MARKS = "** p < .005, * p < .05: better than the best other published method, paired t-test"


@dataclass(frozen=True)
class Comparison:
    """The input of a report.

    Attributes:
      title: describes the data.
      seeds: of the runs.
      runs: the results of each run.
      about: describes the first run, for results.json.
      published: key of `PUBLISHED` whose metrics are shown for comparison; None for none.
      tuning: from `tuning.tune` for these runs; None without tuning.
    """

    title: str
    seeds: list[int]
    runs: Sequence[Results]
    about: Mapping[str, Any] = field(default_factory=dict)
    published: str | None = None
    tuning: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Table:
    """A table of text cells; the first column is a name."""

    title: str
    header: list[str]
    rows: list[list[str]]


# Metrics of a comparison ------------------------------------------------------------------------


def method_values(runs: Sequence[Results]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """``{method: {group: {measure: values}}}``, one value per run; NaN for a run without campaigns.

    Values are means over the campaigns of a group, except pooled_auc. ``oracle_share`` is
    (AUC - .5) / (oracle's AUC - .5).
    """
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name in runs[0]:
        values[name] = {}
        for group in GROUPS:
            per_run = [_group_values(run, name, group) for run in runs]
            values[name][group] = {m: [v[m] for v in per_run] for m in per_run[0]}
    return values


def _group_values(run: Results, name: str, group: str) -> dict[str, float]:
    def members(method: str) -> list[Any]:
        return [c for c in run[method]["campaigns"] if c["group"] == group]

    values = {"campaigns": float(len(members(name)))}
    for measure in MEASURES:
        if measure == "pooled_auc":
            values[measure] = run[name]["pooled_auc"].get(group, np.nan)
        else:
            values[measure] = _mean([c[measure] for c in members(name)])
    if "oracle" in run:
        best = _mean([c["auc"] for c in members("oracle")])
        values["oracle_share"] = (values["auc"] - 0.5) / (best - 0.5) if best > 0.5 else np.nan
    return values


def summarise(runs: Sequence[Results]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over the runs of each method's values.

    Returns:
      Per method: ``label``, ``left_out``, and per group ``{measure: {"mean", "std"}}`` (see
      `method_values`) and ``campaigns``, the mean number of campaigns.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name, groups in method_values(runs).items():
        summary[name] = {
            "label": runs[0][name]["label"],
            "left_out": [left for run in runs for left in run[name]["left_out"]],
        }
        for group, measures in groups.items():
            summary[name][group] = {"campaigns": _mean(measures["campaigns"])}
            for measure, values in measures.items():
                v = np.array(values)[~np.isnan(values)]
                if measure != "campaigns" and len(v):
                    spread = {"mean": float(v.mean()), "std": float(v.std(ddof=len(v) > 1))}
                    summary[name][group][measure] = spread
    return summary


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


# Tables -----------------------------------------------------------------------------------------


def build_tables(comparison: Comparison, summary: Mapping[str, Any]) -> list[Table]:
    """All tables of a report, the one of the methods first."""
    runs, values = len(comparison.runs), method_values(comparison.runs)
    tests = significance.compare(values, MEASURES)
    marks = {(c.method, c.group, c.measure): c.mark for c in tests if c.against == "published"}
    labels = {name: entry["label"] for name, entry in summary.items()}
    printed = PUBLISHED.get(comparison.published or "", {})

    def table(title: str, names: Sequence[str]) -> Table:
        header, rows = table_rows({name: summary[name] for name in names}, runs, marks)
        return Table(title, header, rows + paper_rows({n: labels[n] for n in names}, printed))

    names = [name for name in _in_order(comparison.runs[0]) if name not in ABLATION_ONLY]
    tables = [table("Methods", names)] if names else []
    if any(name in summary for name in ABLATION_ONLY):
        tables.append(table("Ablation", [name for name in ABLATION if name in summary]))
    if "oracle" in summary:
        rows = [
            [labels[n], *(_spread(summary[n][g].get("oracle_share"), runs) for g in GROUPS)]
            for n in _in_order(comparison.runs[0])
        ]
        tables.append(
            Table("AUC: fraction of the oracle's gain over .5", ["method", *GROUPS], rows)
        )
    if tests:
        tables.append(_tests_table(tests, labels))
    return tables + _tuning_tables(comparison.tuning or {})


def _tuning_tables(tuning: Mapping[str, Any]) -> list[Table]:
    """AUC on held-out training campaigns of each value tried; one line per setting of a method."""

    def table(title: str, searches: Sequence[Mapping[str, Any]]) -> Table:
        trials = [(s, trial) for s in searches for trial in s["tried"]]
        values = list(dict.fromkeys(trial["fields"][trial["field"]] for _, trial in trials))
        rows: dict[tuple[str, str], list[str]] = {}
        for s, trial in trials:
            key = s["label"], trial["field"]
            if key not in rows:
                rows[key] = [*key, *["-"] * len(values), str(s["chosen"][trial["field"]])]
            cell = "diverged" if "diverged" in trial else f"{trial['auc']:.4f}"
            rows[key][2 + values.index(trial["fields"][trial["field"]])] = cell
        return Table(title, ["method", "field", *map(str, values), "chosen"], list(rows.values()))

    tables = []
    metric = "AUC on held-out training campaigns of the first run"
    if tuning.get("methods"):
        tables.append(table(f"Learning rates: {metric}", list(tuning["methods"].values())))
    if tuning.get("sizes"):
        tables.append(table(f"Experts and critics: {metric}", [tuning["sizes"]]))
    return tables


def _in_order(run: Results) -> list[str]:
    """Published methods in the paper's order, other methods, favoured methods, references."""
    rivals = [name for name in COMPETING if name not in significance.FAVOURED]

    def rank(name: str) -> tuple[int, int]:
        if name in rivals:
            return 0, rivals.index(name)
        if name in significance.FAVOURED:
            return 2, significance.FAVOURED.index(name)
        return (1, 0) if name in METHODS else (3, 0)

    return sorted(run, key=rank)


def _tests_table(tests: Sequence[significance.PairedTest], labels: Mapping[str, str]) -> Table:
    header = ["method", "against the best", "that is", "seed sets", "measure"]
    header += ["mean", "its mean", "improvement", "p"]
    rows = [
        [
            labels[c.method],
            c.against,
            labels[c.rival],
            c.group,
            MEASURES[c.measure],
            f"{c.mean:.4f}{c.mark}",
            f"{c.rival_mean:.4f}",
            "-" if c.improvement is None else f"{100 * c.improvement:+.2f}%",
            "-" if c.p is None else f"{c.p:.4f}",
        ]
        for c in tests
    ]
    return Table("Against the best other method, paired t-test over the runs", header, rows)


def table_rows(
    summary: Mapping[str, Any],
    runs: int,
    marks: Mapping[tuple[str, str, str], str] | None = None,
) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a comparison, as text; marks by (method, group, measure)."""
    header, first_entry = ["method"], next(iter(summary.values()))
    for group in GROUPS:
        first, *others = MEASURES.values()
        header += [f"{first_entry[group]['campaigns']:g} {group}: {first}", *others]
    rows = []
    for name, entry in summary.items():
        cells = [
            _spread(entry[group].get(measure), runs) + (marks or {}).get((name, group, measure), "")
            for group in GROUPS
            for measure in MEASURES
        ]
        rows.append([entry["label"], *cells])
    return header, rows


def paper_rows(
    labels: Mapping[str, str], printed: Mapping[str, Sequence[float | None]]
) -> list[list[str]]:
    """The paper's metrics of the same methods, in the columns of `table_rows`."""
    rows = []
    for name, label in labels.items():
        if name in printed:
            cells = ["-" if v is None else f"{v:.4f}" for v in printed[name]]
            rows.append([f"{label} [paper]", *cells[:3], "-", *cells[3:], "-"])
    return rows


def left_out_lines(summary: Mapping[str, Any]) -> list[str]:
    """One line per campaign that could not be judged."""
    entry = next(iter(summary.values()))
    unique = {(left["campaign"], left["why"]) for left in entry["left_out"]}
    return [f"campaign {campaign} could not be judged: {why}" for campaign, why in sorted(unique)]


def _spread(value: Mapping[str, float] | None, runs: int) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.4f}" + (f" ±{value['std']:.4f}" if runs > 1 else "")


def title(about: Mapping[str, Any], preset: str, runs: int, *, campaigns: str = "campaigns") -> str:
    """Describes a comparison in one line; the counts are those of the first run."""
    return (
        f"{about['data']}: {about['train_campaigns']} training and {about['test_campaigns']} test "
        f"{campaigns}, {about['stage1']:,} + {about['stage2']:,} examples, {about['rows']:,} table "
        f"rows; small: at most {about['threshold']:,} seeds; preset {preset}"
        + (f", {runs} runs" if runs > 1 else "")
    )


# Output -----------------------------------------------------------------------------------------


def rich_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> rich.Table:
    """A table for the terminal, without the pooled AUC, so that it fits 80 columns."""
    shown = [i for i, cell in enumerate(header) if cell != POOLED]
    table = rich.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i in shown:
        table.add_column(header[i], justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(escape(row[i]) for i in shown))
    return table


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in HTML."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape_html(c)}</{tag}>" for c in cells) + "</tr>\n"

    return f"<table>\n{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>\n"


def write(directory: Path, comparison: Comparison, screen: Console) -> dict[str, dict[str, Any]]:
    """Prints the tables of methods, and writes the report.

    The files are results.json, campaigns.jsonl, tuning.json, report.md, report.html (which includes
    the figures) and the figures.

    Returns:
      The summary (see `summarise`).
    """
    summary = summarise(comparison.runs)
    tables = build_tables(comparison, summary)
    lines = left_out_lines(summary)
    if len(comparison.runs) > 1:
        lines.insert(0, MARKS)
    if comparison.published is not None:
        lines.insert(0, "[paper]: the paper's own figures, on the paper's data.")
    data = comparison.about.get("data", comparison.title)
    ordered = {name: summary[name] for name in _in_order(comparison.runs[0])}
    drawn = figures.draw(comparison.runs, ordered, directory, data, comparison.seeds[0])
    store(directory, comparison, summary)
    write_text(directory / "report.md", markdown(comparison.title, tables, lines, drawn))
    write_text(directory / "report.html", html(comparison.title, tables, lines, drawn))
    screen.print(comparison.title, highlight=False, markup=False)
    for table in tables:
        if table.title in ("Methods", "Ablation"):
            screen.print(rich_table(table.header, table.rows))
    for line in lines:
        screen.print(line, highlight=False, markup=False)
    location = f"report.md, report.html, figures, results and the runs are in {directory}"
    screen.print(location, markup=False, soft_wrap=True)
    return summary


def markdown(
    title: str, tables: Sequence[Table], lines: Sequence[str], drawn: Mapping[str, Path]
) -> str:
    """The report in Markdown; it refers to the figures by file name."""
    text = [f"# Look-alike audiences\n\n{title}\n"]
    text += [f"## {t.title}\n\n{markdown_table(t.header, t.rows)}" for t in tables]
    text += [f"- {line}" for line in lines]
    text += [f"\n![{caption}]({path.name})" for caption, path in drawn.items()]
    return "\n".join(text) + "\n"


def html(
    title: str, tables: Sequence[Table], lines: Sequence[str], drawn: Mapping[str, Path]
) -> str:
    """The report as one HTML file that includes the figures."""
    style = (
        "body{font:15px sans-serif;margin:2em auto;max-width:75em}table{border-collapse:collapse}"
        "td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:right}"
        "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
    )
    body = [f"<h1>Look-alike audiences</h1>\n<p>{escape_html(title)}</p>\n"]
    for table in tables:
        body.append(f"<h2>{escape_html(table.title)}</h2>\n{html_table(table.header, table.rows)}")
    body.append("<ul>\n" + "".join(f"<li>{escape_html(line)}</li>\n" for line in lines) + "</ul>\n")
    for caption, path in drawn.items():
        data, text = base64.b64encode(path.read_bytes()).decode(), escape_html(caption)
        body.append(f'<h2>{text}</h2>\n<img alt="{text}" src="data:image/png;base64,{data}">\n')
    head = f'<meta charset="utf-8"><title>Look-alike audiences</title><style>{style}</style>'
    return f"<!doctype html>\n<html><head>{head}</head><body>\n{''.join(body)}</body></html>\n"


def store(directory: Path, comparison: Comparison, summary: Mapping[str, Any]) -> None:
    """Writes results.json, campaigns.jsonl (one line per judged campaign) and any tuning.json."""
    lines = [
        json.dumps({"run": seed, "method": name, **campaign}) + "\n"
        for seed, run in zip(comparison.seeds, comparison.runs, strict=True)
        for name, result in run.items()
        for campaign in result["campaigns"]
    ]
    write_text(directory / "campaigns.jsonl", "".join(lines))

    def without_campaigns(result: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in result.items() if key != "campaigns"}

    runs = [
        {name: without_campaigns(result) for name, result in run.items()} for run in comparison.runs
    ]
    tests = significance.compare(method_values(comparison.runs), MEASURES)
    derived = {"summary": summary, "comparisons": [asdict(test) for test in tests]}
    data = asdict(comparison) | {"runs": runs} | derived
    tuning = data.pop("tuning")
    if tuning is not None:
        write_json(directory / "tuning.json", tuning)
    write_json(directory / "results.json", data)


def load(directory: Path) -> Comparison:
    """Reads the comparison that `store` wrote.

    Raises:
      InputError: the files are missing or damaged.
    """
    stored, lines = directory / "results.json", directory / "campaigns.jsonl"
    if not (stored.is_file() and lines.is_file()):
        raise InputError(f"{directory}: no results.json and campaigns.jsonl; train something first")
    try:
        data = json.loads(stored.read_text()) | {"tuning": None}
        if (directory / "tuning.json").is_file():
            data["tuning"] = json.loads((directory / "tuning.json").read_text())
        data = {name: data[name] for name in Comparison.__dataclass_fields__}
        runs = dict(zip(data["seeds"], data["runs"], strict=True))
        for run in runs.values():
            for result in run.values():
                result["campaigns"] = []
        for line in lines.read_text().splitlines():
            campaign = json.loads(line)
            runs[campaign.pop("run")][campaign.pop("method")]["campaigns"].append(campaign)
        return Comparison(**data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{directory}: its results are damaged") from error


@dataclass(frozen=True)
class Options:
    """Draws a comparison's tables and figures again, without training."""

    directory: Annotated[Path, tyro.conf.Positional]
    """The --out of a finished command."""


def main(options: Options) -> None:
    """Runs the command."""
    write(options.directory, load(options.directory), terminal.screen())


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.comparison.report")
