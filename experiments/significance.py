"""Whether a method is better than the best other one: paired t-tests over runs (paper section 4.1).

A value is one run's mean over the campaigns of a group; NaN where a run has none there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

from experiments.published import COMPETING

#: Whom the paper, and this project, claim to be best.
FAVOURED = ("metaheac", "ours")
#: Against whom: the best other published method; and the best of what tells whether
#: meta-learning is the reason (the same batches at alpha = 0, plain training, MetaHeac itself).
RIVALS = {"published": COMPETING, "control": ("alpha-0", "without-meta", "metaheac")}

#: ``{method: {group: {measure: values, one a run}}}``
Values = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]


@dataclass(frozen=True)
class Comparison:
    """A favoured method beside the best of its rivals, in one measure of one group.

    Attributes:
      method, group, measure: whose and which.
      against: of `RIVALS`.
      mean: over the runs.
      rival: the one of highest mean.
      rival_mean: its mean.
      p: of the paired t-test over the runs, two-sided; None where there are fewer than two.
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
        """Relative to the rival's mean; None where that is zero."""
        return self.mean / self.rival_mean - 1 if self.rival_mean else None

    @property
    def mark(self) -> str:
        """The paper's marks of a method that is better: ** p < .005, * p < .05."""
        if self.p is None or self.mean <= self.rival_mean:
            return ""
        return "**" if self.p < 0.005 else "*" if self.p < 0.05 else ""


def paired_t(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The two-sided p of a paired t-test; pairs with a NaN do not count.

    None where there are fewer than two pairs, or all differences are equal up to rounding, which
    leaves no variance to test against.
    """
    pairs = np.array([first, second])
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if pairs.shape[1] < 2 or np.ptp(pairs[0] - pairs[1]) < 1e-12:
        return None
    return float(ttest_rel(*pairs).pvalue)


def compare(values: Values, measures: Iterable[str]) -> list[Comparison]:
    """Every favoured method against the best of each kind of rivals; the rest do not compete."""
    found = []
    names = [(name, kind) for name in FAVOURED if name in values for kind in RIVALS]
    for name, kind in names:
        rivals = [r for r in RIVALS[kind] if r in values and r != name]
        for group in values[name]:
            for measure in measures:
                own = values[name][group][measure]
                theirs = {r: values[r][group][measure] for r in rivals}
                means = {r: float(np.nanmean(v)) for r, v in theirs.items() if _any(v)}
                if not means or not _any(own):
                    continue
                best = max(means, key=lambda r: means[r])
                found.append(
                    Comparison(
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
    return found


def _any(values: Sequence[float]) -> bool:
    return not np.isnan(values).all()
