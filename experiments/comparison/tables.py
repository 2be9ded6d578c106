"""Tables of a comparison: of one run, or means over several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from experiments.comparison import significance
from experiments.comparison.adapting import method_names
from experiments.comparison.adapting_table import adapting_table
from experiments.comparison.pages import Table
from experiments.comparison.published import ABLATION, ABLATION_ONLY, COMPETING, PUBLISHED
from experiments.comparison.results import (
    BEFORE,
    GROUPS,
    MEASURES,
    ORACLE,
    Comparison,
    Results,
    Values,
    method_values,
)
from experiments.comparison.significance import Claim

METHODS_TITLE, ABLATION_TITLE = "Methods", "Ablation"
OFFLINE = ("steps", "best_step", "ceiling")  # keys of a result's ``offline``
#: The meaning of ± in tables of means.
DEVIATION = "±: standard deviation over the runs."
STAGES = ("offline", "customise", "score")  # keys of a result's ``seconds``


_MARKS = (
    "** p < .005, * p < .05, after Holm's correction over the table: better than every other row "
    "but the oracle and the paper's, by the largest p over these rows."
)
_HOLM = "Holm's correction is over the table."
_PRIOR = "prior"  # the method that learns the same scores for all campaigns


def title(about: Mapping[str, Any], preset: str, runs: int, *, campaigns: str = "campaigns") -> str:
    """Describes a comparison in one line; the counts are those of the first run."""
    return (
        f"{about['data']}: {about['train_campaigns']} training and {about['test_campaigns']} test "
        f"{campaigns}, {about['stage1']:,} + {about['stage2']:,} examples, {about['rows']:,} table "
        f"rows; small: at most {about['threshold']:,} seeds; preset {preset}"
        + (f", {runs} runs" if runs > 1 else "")
    )


def build_tables(comparison: Comparison, summary: Mapping[str, Any]) -> list[Table]:
    """All tables of a report, those of the methods first.

    Args:
      comparison: the results.
      summary: their summary, from `results.summarise`.
    """
    values, names = method_values(comparison.runs), in_order(comparison.runs[0])
    runs, overlap = len(comparison.runs), comparison.overlap
    labels = {name: summary[name]["label"] for name in names}
    describe = partial(significance.describe_test, runs, overlap)
    printed = PUBLISHED.get(comparison.published or "", {})

    def of_methods(title: str, rows: Sequence[str]) -> tuple[Table, list[Claim]]:
        claims = significance.table_claims(values, rows, overlap)
        header, cells = table_rows({name: summary[name] for name in rows}, runs, claims)
        cells += paper_rows({name: labels[name] for name in rows}, printed)
        notes = [describe(_MARKS)] if claims else []
        notes += [DEVIATION] if runs > 1 else []
        return Table(title, header, cells, " ".join(notes)), claims

    tables, claims = [], []
    methods = [name for name in names if name not in ABLATION_ONLY]
    if methods:
        table, claims = of_methods(METHODS_TITLE, methods)
        tables.append(table)
    if any(name in summary for name in ABLATION_ONLY):
        ablation = [name for name in ABLATION if name in summary]
        tables.append(of_methods(ABLATION_TITLE, ablation)[0])
    tables += _claim_tables(values, claims, overlap, labels, describe)
    pairs = significance.every_pair(values, overlap)
    tables += _pairs_table("Every pair of the networks", pairs, "AUC", labels, describe)
    tables += _reference_tables(values, names, overlap, labels, describe)
    tables += _gain_table(values, overlap, labels, describe)
    step_ms = {
        name: ms
        for name in names
        if (ms := _mean_entry([run[name] for run in comparison.runs], "offline", "step_ms"))
    }
    settings = {name: comparison.runs[0][name].get("settings", {}) for name in names}
    tables += adapting_table(values, labels, settings, step_ms, overlap)
    if ORACLE in summary:
        shares = [
            [labels[n], *(_spread(summary[n][g].get("oracle_share"), runs) for g in GROUPS)]
            for n in names
        ]
        heading = "AUC: fraction of the oracle's gain over .5"
        note = DEVIATION if runs > 1 else ""
        tables.append(Table(heading, ["method", *GROUPS], shares, note))
    tables += _training_table(comparison.runs, labels)
    return tables + _tuning_tables(comparison.tuning or {})


def in_order(run: Results) -> list[str]:
    """Published methods in the paper's order, other methods, favoured methods, references."""
    rivals = [name for name in COMPETING if name not in significance.FAVOURED]
    known = method_names()

    def rank(name: str) -> tuple[int, int]:
        if name in rivals:
            return 0, rivals.index(name)
        if name in significance.FAVOURED:
            return 2, significance.FAVOURED.index(name)
        return (1, 0) if name in known else (3, 0)

    return sorted(run, key=rank)


# Methods ----------------------------------------------------------------------------------------


def table_rows(
    summary: Mapping[str, Any], runs: int, claims: Sequence[Claim] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of methods, as text, with the marks of the claims."""
    marks = {(c.method, c.group, c.measure): c.mark for c in claims}
    header, first_entry = ["method"], next(iter(summary.values()))
    for group in GROUPS:
        first, *others = MEASURES.values()
        header += [f"{round(first_entry[group]['campaigns'], 1):g} {group}: {first}", *others]
    rows = []
    for name, entry in summary.items():
        cells = [
            _spread(entry[group].get(measure), runs) + marks.get((name, group, measure), "")
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


def _spread(value: Mapping[str, Any] | None, runs: int) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.4f}" + (f" ±{value['std']:.4f}" if runs > 1 else "")


# Tests ------------------------------------------------------------------------------------------


def _claim_tables(
    values: Values,
    claims: Sequence[Claim],
    overlap: float,
    labels: Mapping[str, str],
    describe: Callable[[str], str],
) -> list[Table]:
    """The primary claims, and all claims that the table of methods marks."""
    primary = significance.primary_claims(values, overlap)
    tables = []
    for heading, of in (
        ("Primary claims: better than the best of these", primary),
        ("Against the best other row", claims),
    ):
        header = ["method", "seed sets", "measure", "mean", "best rival", "its mean"]
        header += ["improvement", "difference", "largest p", "p (Holm)"]
        header += ["rivals"] if of is primary else []
        rows = [
            [
                labels[c.method],
                c.group,
                MEASURES[c.measure],
                f"{c.mean:.4f}{c.mark}",
                labels[c.best],
                f"{c.best_mean:.4f}",
                "-" if c.improvement is None else f"{100 * c.improvement:+.2f}%",
                c.difference.text(),
                _p(c.p),
                _p(c.p_holm),
                *([", ".join(labels[rival] for rival in c.rivals)] if of is primary else []),
            ]
            for c in of
        ]
        note = "± standard error. " + describe(
            "Largest p: over all rivals, so it may be another's than the best one's; 1 if one "
            "is as good."
        )
        tables += [Table(heading, header, rows, note)] if rows else []
    return tables


def _reference_tables(
    values: Values,
    names: Sequence[str],
    overlap: float,
    labels: Mapping[str, str],
    describe: Callable[[str], str],
) -> list[Table]:
    """Methods against each score that is the same for all campaigns."""
    methods = [name for name in names if name in method_names()]
    references = [name for name in names if name not in (*methods, ORACLE)]
    references += [_PRIOR] if _PRIOR in methods else []
    tables = []
    for reference in references:
        others = [name for name in methods if name != reference]
        for measure in ("auc", "precision"):
            pairs = significance.against(values, others, reference, measure, overlap)
            what = MEASURES[measure]
            tables += _pairs_table(
                f"Against {labels[reference]}: {what}", pairs, what, labels, describe
            )
    return tables


def _pairs_table(
    title: str,
    pairs: Sequence[significance.Pair],
    measure: str,
    labels: Mapping[str, str],
    describe: Callable[[str], str],
) -> list[Table]:
    header, rows = ["method", "minus"], {}
    for group in GROUPS:
        header += [f"{group}: difference in {measure}", "p", "p (Holm)"]
    for pair in pairs:  # one line has both groups
        row = rows.setdefault((pair.first, pair.second), [labels[pair.first], labels[pair.second]])
        row += [pair.difference.text(), _p(pair.difference.p), _p(pair.p_holm)]
    note = f"± standard error. {describe(_HOLM)}"
    return [Table(title, header, list(rows.values()), note)] if rows else []


def _gain_table(
    values: Values, overlap: float, labels: Mapping[str, str], describe: Callable[[str], str]
) -> list[Table]:
    """AUC before and after customising, for methods whose general model can score."""
    found = [
        (name, group, significance.difference(of[group]["auc"], of[group][BEFORE], overlap))
        for name, of in values.items()
        for group in GROUPS
        if any(not math.isnan(of[g][BEFORE].mean) for g in GROUPS)
    ]
    adjusted = significance.holm([gain.p for *_, gain in found])
    header, rows = ["method"], {}
    for group in GROUPS:
        header += [f"{group}: before", "after", "difference", "p (Holm)"]
    for (name, group, gain), p in zip(found, adjusted, strict=True):
        before, after = values[name][group][BEFORE].mean, values[name][group]["auc"].mean
        row = rows.setdefault(name, [labels[name]])
        row += [_number(before), _number(after), gain.text(), _p(p)]
    note = (
        "Before: AUC of the general model, without the campaign's own training. ± standard error. "
        + describe(_HOLM)
    )
    ordered = [rows[name] for name in labels if name in rows]
    return [Table("AUC before and after customising", header, ordered, note)] if rows else []


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.4f}" if p >= 0.0001 else "<.0001"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


# Training ---------------------------------------------------------------------------------------


def _training_table(runs: Sequence[Results], labels: Mapping[str, str]) -> list[Table]:
    """Length of the offline stage and seconds of all stages; means over the runs."""
    rows = []
    for name, label in labels.items():
        results = [run[name] for run in runs]
        if not any("seconds" in result for result in results):
            continue
        # An ensemble has no steps of its own; its best step would be a sum over its members.
        trained = [result for result in results if "steps" in result.get("offline", {})]
        steps = {key: _mean_entry(trained, "offline", key) for key in OFFLINE}
        seconds = {key: _mean_entry(results, "seconds", key) for key in STAGES}
        ms = _mean_entry(results, "offline", "step_ms")
        step = "-" if ms is None else f"{ms:.1f}"
        counts = ["-" if n is None else f"{n:,.0f}" for n in steps.values()]
        times = ["-" if s is None else f"{s:,.1f}" for s in seconds.values()]
        rows.append([label, *counts, step, *times])
    header = ["method", "offline steps", "best step", "ceiling", "ms per step"]
    header += [f"{stage} s" for stage in STAGES]
    note = (
        "Means over the runs. Offline training stops at the ceiling, or earlier if held-out "
        "training campaigns improve no more, and keeps the best step. Time per step: median. "
        "Offline seconds include compilation and the judging of held-out campaigns, but no "
        "training of an ensemble's member whose trained state is that of another row. Of a run "
        "that was interrupted, seconds of customising count its last part alone."
    )
    return [Table("Training", header, rows, note)] if rows else []


def _mean_entry(results: Sequence[Mapping[str, Any]], part: str, key: str) -> float | None:
    found = [result[part][key] for result in results if key in result.get(part, {})]
    return sum(found) / len(found) if found else None


def _tuning_tables(tuning: Mapping[str, Any]) -> list[Table]:
    """What was chosen and what it gained, one line per search; tuning.json has every trial."""
    rows = []
    for of in tuning.get("methods", {}).values():
        if "origin" in of:  # from an earlier tuning, which has its trials
            continue
        tried, chosen = of["tried"], of["chosen"]
        # With --tune-only, the fields of a trial are only a part of the chosen ones.
        equal = [t for t in tried if t["fields"].items() <= chosen.items()]
        best = max(equal, key=lambda trial: trial["auc"])
        shown = ", ".join(f"{field} {value}" for field, value in chosen.items())
        diverged = sum("diverged" in trial for trial in tried)
        aucs = [f"{trial['auc']:.4f}" for trial in (tried[0], best)]
        rows.append([of["label"], str(len(tried)), str(diverged), *aucs, shown])
    header = ["method", "trials", "diverged", "AUC of the first", "AUC of the chosen", "chosen"]
    note = "AUC on held-out training campaigns of the first run, weighted as in early stopping. "
    note += "tuning.json has every trial."
    return [Table("Tuning", header, rows, note)] if rows else []
