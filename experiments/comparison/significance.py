"""Paired t-tests over runs against the best other method (paper section 4.1).

A value is a run's mean over the campaigns of a group; NaN if the run has no such campaign.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

from experiments.comparison.published import COMPETING

#: Methods that the paper and this project propose.
FAVOURED = ("metaheac", "seed-aware")
#: Rivals of a favoured method: published methods; and controls for the effect of meta-learning (the
#: same batches at alpha = 0, plain training, MetaHeac).
RIVALS = {"published": COMPETING, "control": ("alpha-0", "without-meta", "metaheac")}

#: ``{method: {group: {measure: values}}}``, one value per run.
Values = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]


@dataclass(frozen=True)
class PairedTest:
    """A favoured method against the best of its rivals, in one measure of one group.

    Attributes:
      method, group, measure: identify the value.
      against: key of `RIVALS`.
      mean: over the runs.
      rival: the rival with the highest mean.
      rival_mean: its mean.
      p: p-value of the two-sided paired t-test over the runs; see `paired_t`.
    """

    method: str
    group: str
    measure: str
    against: str
    mean: float
    rival: str
    rival_mean: float
    p: float | None

    @property
    def improvement(self) -> float | None:
        """Relative to the rival's mean; None if that is zero."""
        return self.mean / self.rival_mean - 1 if self.rival_mean else None

    @property
    def mark(self) -> str:
        """The paper's mark if the method is better: ** for p < .005, * for p < .05."""
        if self.p is None or self.mean <= self.rival_mean:
            return ""
        return "**" if self.p < 0.005 else "*" if self.p < 0.05 else ""


def paired_t(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The two-sided p-value of a paired t-test, without pairs that contain a NaN.

    None if there are fewer than two pairs, or if all differences are equal up to rounding and the
    variance is zero.
    """
    pairs = np.array([first, second])
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if pairs.shape[1] < 2 or np.ptp(pairs[0] - pairs[1]) < 1e-12:
        return None
    return float(ttest_rel(*pairs).pvalue)


def compare(values: Values, measures: Iterable[str]) -> list[PairedTest]:
    """Compares each favoured method with the best of each kind of rivals."""
    tests = []
    names = [(name, kind) for name in FAVOURED if name in values for kind in RIVALS]
    for name, kind in names:
        rivals = [r for r in RIVALS[kind] if r in values and r != name]
        for group in values[name]:
            for measure in measures:
                own = values[name][group][measure]
                theirs = {r: values[r][group][measure] for r in rivals}
                means = {r: float(np.nanmean(v)) for r, v in theirs.items() if _any_number(v)}
                if not means or not _any_number(own):
                    continue
                best = max(means, key=lambda r: means[r])
                tests.append(
                    PairedTest(
                        method=name,
                        group=group,
                        measure=measure,
                        against=kind,
                        mean=float(np.nanmean(own)),
                        rival=best,
                        rival_mean=means[best],
                        p=paired_t(own, theirs[best]),
                    )
                )
    return tests


def _any_number(values: Sequence[float]) -> bool:
    return not np.isnan(values).all()
