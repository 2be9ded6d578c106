"""Results of a comparison: their values by method, and the files that keep them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metaheac_jax.errors import InputError
from metaheac_jax.files import write_json, write_text
from metaheac_jax.methods.held_out_campaigns import num_held_out

GROUPS = ("small", "large")
MEASURES = {"auc": "AUC", "precision": "P@5%", "recall": "R@5%", "pooled_auc": "pooled AUC"}
#: AUC of the general model, before it is customised.
BEFORE = "auc_before"
#: Measures of a single campaign; the pooled AUC is one of all campaigns of a group together.
PER_CAMPAIGN = ("auc", "precision", "recall", BEFORE)
ORACLE = "oracle"  # the true probability of a simulated world
DIGITS = 6  # decimals of written numbers; settings are not rounded

#: One run: ``{method: result}``, with results from `run.run_methods`.
Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """The input of a report.

    Attributes:
      title: describes the data.
      seeds: seed of each run.
      runs: the results of each run.
      about: describes the first run and the command.
      published: key of `published.PUBLISHED` whose metrics are shown too; None to show none.
      tuning: from `tuning.tune` for these runs; None without tuning.
      independent_runs: see `run.Data`.
    """

    title: str
    seeds: list[int]
    runs: Sequence[Results]
    about: Mapping[str, Any] = field(default_factory=dict)
    published: str | None = None
    tuning: Mapping[str, Any] | None = None
    independent_runs: bool = True

    @property
    def overlap(self) -> float:
        """Test campaigns per campaign trained on if runs divide the same campaigns; otherwise 0."""
        if self.independent_runs:
            return 0.0
        num_trained = self.about["train_campaigns"]
        if self.about["preset"] == "paper":  # by default, it holds out campaigns
            num_trained -= num_held_out(num_trained)
        return self.about["test_campaigns"] / num_trained


@dataclass(frozen=True)
class Measured:
    """One measure of a method on the campaigns of a group.

    Attributes:
      runs: one value per run; NaN for a run without campaigns.
      campaigns: per run, the campaigns' values by id; empty for measures of whole groups.
    """

    runs: tuple[float, ...]
    campaigns: tuple[Mapping[Any, float], ...] = ()

    @property
    def mean(self) -> float:
        """Mean over the runs that have a value; NaN if none has one."""
        return _mean([value for value in self.runs if not np.isnan(value)])


#: ``{method: {group: {measure: measured}}}``.
Values = Mapping[str, Mapping[str, Mapping[str, Measured]]]


def method_values(runs: Sequence[Results]) -> Values:
    """Values of every method.

    A run's value is the mean over the campaigns of a group, except for pooled_auc. Besides
    `MEASURES` and `BEFORE` there are ``campaigns``, their number, and, with an oracle,
    ``oracle_share``: (AUC - .5) / (oracle's AUC - .5).
    """
    values = {
        name: {group: _group_values([run[name] for run in runs], group) for group in GROUPS}
        for name in runs[0]
    }
    for group in GROUPS if ORACLE in values else ():
        best = np.array(values[ORACLE][group]["auc"].runs) - 0.5
        for of in values.values():
            own = np.array(of[group]["auc"].runs) - 0.5
            shares = np.divide(own, best, out=np.full(len(runs), np.nan), where=best > 0)
            of[group]["oracle_share"] = Measured(tuple(shares.tolist()))
    return values


def _group_values(results: Sequence[Mapping[str, Any]], group: str) -> dict[str, Measured]:
    members = [[c for c in result["campaigns"] if c["group"] == group] for result in results]
    values = {
        "campaigns": Measured(tuple(float(len(of)) for of in members)),
        "pooled_auc": Measured(tuple(r["pooled_auc"].get(group, np.nan) for r in results)),
    }
    for measure in PER_CAMPAIGN:
        campaigns = tuple(
            {c["campaign"]: c[measure] for c in of if c.get(measure) is not None} for of in members
        )
        means = tuple(_mean(list(of.values())) for of in campaigns)
        values[measure] = Measured(means, campaigns)
    return values


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def summarise(runs: Sequence[Results]) -> dict[str, dict[str, Any]]:
    """Each method's values per run, with their mean and standard deviation.

    Returns:
      Per method: ``label``, ``left_out``, and per group ``campaigns``, the mean number of
      campaigns, and ``{measure: {"mean", "std", "runs"}}`` (see `method_values`). A run without
      campaigns has None; a measure without any value is absent.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name, groups in method_values(runs).items():
        summary[name] = {
            "label": runs[0][name]["label"],
            "left_out": [left for run in runs for left in run[name]["left_out"]],
        }
        for group, measures in groups.items():
            summary[name][group] = {"campaigns": measures["campaigns"].mean}
            for measure, measured in measures.items():
                values = [v for v in measured.runs if not np.isnan(v)]
                if measure != "campaigns" and values:
                    summary[name][group][measure] = {
                        "mean": measured.mean,
                        "std": float(np.std(values, ddof=len(values) > 1)),
                        "runs": [None if np.isnan(v) else v for v in measured.runs],
                    }
    return summary


# Files ------------------------------------------------------------------------------------------


def store(directory: Path, comparison: Comparison, more: Mapping[str, Any]) -> None:
    """Writes the files that `load` reads.

    They are results.json (the facts of the comparison and ``more``), methods.jsonl (one line per
    run and method), campaigns.jsonl (one line per judged campaign of each), and, after a tuning,
    tuning.json.
    """
    methods, campaigns = [], []
    for seed, run in zip(comparison.seeds, comparison.runs, strict=True):
        for name, result in run.items():
            own = {"run": seed, "method": name}
            rest = {k: v for k, v in result.items() if k not in ("campaigns", "settings")}
            settings = {"settings": result["settings"]} if "settings" in result else {}
            methods.append({**own, **_rounded(rest), **settings})
            campaigns += [{**own, **_rounded(campaign)} for campaign in result["campaigns"]]
    facts = {
        name: getattr(comparison, name)
        for name in ("title", "seeds", "about", "published", "independent_runs")
    }
    _write_lines(directory / "methods.jsonl", methods)
    _write_lines(directory / "campaigns.jsonl", campaigns)
    if comparison.tuning is not None:
        write_json(directory / "tuning.json", comparison.tuning)
    else:
        (directory / "tuning.json").unlink(missing_ok=True)
    write_json(directory / "results.json", {**facts, **_rounded(more)})


def _write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def _rounded(value: Any) -> Any:
    """Plain data with floats rounded to `DIGITS` decimals, and None for those not finite."""
    if isinstance(value, float):
        return round(value, DIGITS) if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value


def load(directory: Path) -> Comparison:
    """Reads the comparison that `store` wrote.

    Raises:
      InputError: the files are missing or damaged.
    """
    files = [directory / name for name in ("results.json", "methods.jsonl", "campaigns.jsonl")]
    for path in files:
        if not path.is_file():
            raise InputError(f"{directory}: no {path.name}; train something first")
    try:
        facts, methods, campaigns = (_read(path) for path in files)
        runs: dict[int, dict[str, Any]] = {seed: {} for seed in facts["seeds"]}
        for line in methods:
            run, method = runs[line.pop("run")], line.pop("method")
            run[method] = {**line, "campaigns": []}
        for line in campaigns:
            runs[line.pop("run")][line.pop("method")]["campaigns"].append(line)
        tuning = directory / "tuning.json"
        return Comparison(
            title=facts["title"],
            seeds=facts["seeds"],
            runs=list(runs.values()),
            about=facts["about"],
            published=facts["published"],
            tuning=_read(tuning) if tuning.is_file() else None,
            independent_runs=facts["independent_runs"],
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{directory}: its results are damaged") from error


def _read(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return json.loads(path.read_text())
