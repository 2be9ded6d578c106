"""The table of what adapting is worth: each method minus the one that it differs from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.comparison import significance
from experiments.comparison.adapting import VARIANTS
from experiments.comparison.pages import Table
from experiments.comparison.results import BEFORE, GROUPS, Values
from experiments.comparison.significance import Difference

#: Settings that a row names if they differ besides the intended difference.
_ALIKE = (
    *("outer_learning_rate", "online_learning_rate", "table_scale", "value_dropout"),
    *("weight_decay", "num_experts", "num_critics", "reduction"),
)


def adapting_table(
    values: Values,
    labels: Mapping[str, str],
    settings: Mapping[str, Mapping[str, Any]],
    step_ms: Mapping[str, float],
    overlap: float,
) -> list[Table]:
    """A table of what each method of `VARIANTS` gains over its base; no table without such a pair.

    Args:
      values: from `results.method_values`.
      labels: label per method.
      settings: settings per method.
      step_ms: milliseconds per training step, by method.
      overlap: see `Comparison.overlap`.
    """
    shown = [variant for variant in VARIANTS if variant.name in values]
    if not any(variant.base in values for variant in shown):
        return []
    cells = [(group, measure) for group in GROUPS for measure in (BEFORE, "auc")]
    gains: dict[tuple[str, str, str], Difference] = {}
    for variant in shown:
        for group, measure in cells:
            if variant.base in values:
                own, other = (values[of][group][measure] for of in (variant.name, variant.base))
                gains[variant.name, group, measure] = significance.difference(own, other, overlap)
    adjusted = significance.holm([gain.p for gain in gains.values()])
    p_holm = dict(zip(gains, adjusted, strict=True))
    lines = []
    for variant in shown:
        what = [variant.what, *_also(settings[variant.name], settings.get(variant.base or "", {}))]
        line = [labels[variant.name], "; ".join(what), labels.get(variant.base or "", "-")]
        for group, measure in cells:
            key = variant.name, group, measure
            mean = values[variant.name][group][measure].mean
            line.append("-" if np.isnan(mean) else f"{mean:.4f}")
            line.append("-" if key not in gains else gains[key].text(p_holm[key]))
        ms = step_ms.get(variant.name)
        lines.append([*line, "-" if ms is None else f"{ms:.1f}"])
    header = ["method", "differs in", "minus"]
    for group, measure in cells:
        header += [f"{group}, {'before' if measure == BEFORE else 'after'}", "difference"]
    runs = len(next(iter(values.values()))["small"]["auc"].runs)
    note = "AUC before and after customising. ± standard error of the difference. "
    note += significance.describe_test(
        runs, overlap, "* p < .05, after Holm's correction over the table."
    )
    return [Table("What adapting is worth", [*header, "ms per step"], lines, note)]


def _also(own: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Settings in which a method differs from another besides the intended difference."""
    pairs = [(name, own.get(name), other.get(name)) for name in _ALIKE if other]
    return [f"{name} {mine} for {theirs}" for name, mine, theirs in pairs if mine != theirs]
