"""Results of a comparison: their values by method, and the one file that keeps them.

Axes: J runs, G judged campaigns of a run.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metaheac_jax.files import whole_file
from metaheac_jax.methods.held_out_campaigns import num_held_out

GROUPS = ("small", "large")
MEASURES = {"auc": "AUC", "precision": "P@5%", "recall": "R@5%"}
#: AUC of the general model, before it is customised.
BEFORE = "auc_before"
ORACLE = "oracle"  # the true probability of a simulated world
DIGITS = 6  # decimals of written numbers


@dataclass(frozen=True)
class Comparison:
    """Methods that were judged on the same campaigns, in J runs.

    Attributes:
      title: describes the data.
      seeds: (J,) seed of each run.
      independent_runs: whether every run has its own world; otherwise, all divide the same
        campaigns.
      about: counts of the first run, the preset, and the commands that made the results.
      campaigns: (J,) columns of the judged campaigns: ``campaign`` (ids), ``seeds`` and ``group``
        ("s" or "l" for each), and ``left_out``, those that cannot be judged, with the reason.
      methods: per method its ``label``, its ``settings`` if it has some, and ``runs``: (J,) its
        columns `MEASURES` and `BEFORE`, and ``seconds`` and ``provenance`` as in `run.run_method`;
        None for a run without the method.
      published: name of the paper's data whose published numbers are shown too; None for none.
    """

    title: str
    seeds: Sequence[int]
    independent_runs: bool
    about: Mapping[str, Any]
    campaigns: Sequence[Mapping[str, Any]]
    methods: Mapping[str, Mapping[str, Any]]
    published: str | None = None

    @property
    def overlap(self) -> float:
        """Test campaigns per campaign trained on if runs divide the same campaigns; otherwise 0."""
        if self.independent_runs:
            return 0.0
        num_trained = self.about["train_campaigns"]
        if self.about["preset"] == "paper":  # it holds out campaigns
            num_trained -= num_held_out(num_trained)
        return self.about["test_campaigns"] / num_trained

    def label(self, method: str) -> str:
        """A method's label."""
        return self.methods[method]["label"]

    def num_campaigns(self, group: str) -> int:
        """The number of judged campaigns of a group, over all runs."""
        return sum(of["group"].count(group[0]) for of in self.campaigns)

    def values(self, method: str, group: str, measure: str) -> Measured:
        """A method's values in a measure on a group of campaigns."""
        found: list[dict[Any, float]] = []
        for campaigns, result in zip(self.campaigns, self.methods[method]["runs"], strict=True):
            column = (result or {}).get(measure, [None] * len(campaigns["campaign"]))
            rows = zip(campaigns["campaign"], campaigns["group"], column, strict=True)
            found.append(
                {own: value for own, g, value in rows if g == group[0] and value is not None}
            )
        return Measured(tuple(found))

    def seconds(self, method: str, stage: str) -> float | None:
        """Mean seconds of a stage over the runs; None if no run has it."""
        runs = [result or {} for result in self.methods[method]["runs"]]
        found = [of["seconds"][stage] for of in runs if stage in of.get("seconds", {})]
        return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class Measured:
    """One measure of a method on the campaigns of a group.

    Attributes:
      campaigns: (J,) values by campaign of each run; empty for a run without values.
    """

    campaigns: tuple[Mapping[Any, float], ...]

    @property
    def runs(self) -> np.ndarray:
        """(J,) mean over the campaigns of each run; NaN for a run without values."""
        means = [np.mean([*of.values()]) if of else np.nan for of in self.campaigns]
        return np.array(means)

    @property
    def mean(self) -> float:
        """Mean over the runs that have a value; NaN if none has one."""
        known = [value for value in self.runs if not np.isnan(value)]
        return float(np.mean(known)) if known else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation over the runs that have a value; NaN for fewer than two."""
        known = self.runs[~np.isnan(self.runs)]
        return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


def in_columns(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> tuple[list[Any], dict[str, Any]]:
    """`Comparison.campaigns` and `Comparison.methods` of results by method, one mapping per run."""
    campaigns = []
    for run in runs:
        first = next(iter(run.values()))
        campaigns.append(
            {
                "campaign": [c["campaign"] for c in first["campaigns"]],
                "seeds": [c["seeds"] for c in first["campaigns"]],
                "group": "".join(c["group"][0] for c in first["campaigns"]),
                "left_out": first["left_out"],
            }
        )
    methods: dict[str, Any] = {}
    for name, result in runs[0].items():
        kept = {key: result[key] for key in ("label", "settings") if key in result}
        methods[name] = kept | {"runs": [_columns(run[name]) for run in runs]}
    return campaigns, methods


def _columns(result: Mapping[str, Any]) -> dict[str, Any]:
    names = [
        name
        for name in (*MEASURES, BEFORE)
        if any(c.get(name) is not None for c in result["campaigns"])
    ]
    columns: dict[str, Any] = {name: [c[name] for c in result["campaigns"]] for name in names}
    kept = {key: result[key] for key in ("seconds", "provenance") if key in result}
    return columns | kept


def store(path: Path, comparison: Comparison) -> None:
    """Writes a comparison as compressed JSON, with `DIGITS` decimals; the same bytes every time."""
    content = {**asdict(comparison), "methods": _rounded(comparison.methods)}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    with whole_file(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _rounded(value: Any) -> Any:
    """Plain data with floats rounded to `DIGITS` decimals, and None for those not finite."""
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        # Settings are what was computed with, so they are not rounded.
        return {key: v if key == "settings" else _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def load(path: Path) -> Comparison:
    """Reads the comparison that `store` wrote."""
    return Comparison(**json.loads(gzip.decompress(path.read_bytes())))
