"""Which differences between methods are more than chance (paper section 4.1).

Methods are compared on the same campaigns, so all tests are paired and two-sided. They are over
runs. With too few runs for a test, a difference has its standard error over campaigns and no p,
since this error does not include the variation between trainings (see `difference`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from experiments.comparison.results import GROUPS, Comparison, Measured

_WITH_LENGTHS = (
    "metaheac-lengths",
    "alpha-0-lengths",
    "without-meta-lengths",
    "mlp-pretraining-lengths",
)
#: The question of the comparison, fixed before any result: does a method that the paper or this
#: project proposes have a higher mean AUC on small seed sets than the best of these rivals? They
#: are mainly what is left without an inner step: the same batches at alpha = 0, plain training of
#: the same network, and plain training of an MLP. The solved head and the ensemble have list
#: lengths, so their rivals have them too: a feature that only one method gets is no merit of the
#: method. The ensemble's rivals include both of its trained members; its claim was fixed after
#: their results and before its own.
PRIMARY: dict[str, tuple[str, ...]] = {
    "metaheac": ("alpha-0", "without-meta", "mlp-pretraining"),
    "solved-head": _WITH_LENGTHS,
    "ensemble": (*_WITH_LENGTHS, "solved-head"),
}
PRIMARY_GROUP = "small"
#: Holm's correction is over all claims that were fixed; one was about a method that is not here.
NUM_CLAIMS = len(PRIMARY) + 1
#: The methods of the primary claims. A report compares every pair of them; it leaves out methods
#: that none of them is meant to explain, such as LR.
PAIRED = tuple(
    dict.fromkeys([*reversed(PRIMARY), *(own for rivals in PRIMARY.values() for own in rivals)])
)
#: With two runs Student's t has one degree of freedom, and p < .05 needs a difference of 13
#: standard errors.
MIN_RUNS = 3


@dataclass(frozen=True)
class Difference:
    """A mean difference between two methods.

    Attributes:
      mean: the mean difference; NaN if they have no unit in common.
      error: its standard error, over runs or over campaigns; None with fewer than two of them.
      p: two-sided p-value over runs; None without a standard error over runs, or if that is zero.
    """

    mean: float
    error: float | None = None
    p: float | None = None

    def text(self) -> str:
        """The mean with its error."""
        if np.isnan(self.mean):
            return "-"
        error = "" if self.error is None else f" ±{self.error:.4f}"
        return f"{self.mean:+.4f}{error}"


def over_runs(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, overlap: float = 0.0
) -> Difference:
    """Paired t-test over J runs; runs in which either value is NaN are left out.

    The variance of the mean is (1 / J + overlap) times that of the differences. Runs that divide
    the same campaigns at random share campaigns, so their differences are correlated. The corrected
    resampled t-test of Nadeau and Bengio (Inference for the generalization error, Machine Learning
    52, 2003) then has the overlap n_test / n_train.

    Args:
      first, second: one value per run.
      overlap: 0 for independent runs, which gives Student's paired t-test.
    """
    differences = np.subtract(first, second)
    differences = differences[~np.isnan(differences)]
    count = len(differences)
    if count < 2:
        return Difference(float(differences[0]) if count else np.nan)
    mean = float(differences.mean())
    error = float(np.sqrt((1 / count + overlap) * differences.var(ddof=1)))
    if error < 1e-12:  # all differences are equal, up to rounding
        return Difference(mean, error)
    return Difference(mean, error, float(2 * stats.t.sf(abs(mean) / error, count - 1)))


def over_campaigns(
    first: Sequence[Mapping[Any, float]], second: Sequence[Mapping[Any, float]]
) -> Difference:
    """The mean of the runs' means, with its standard error over their campaigns.

    The error does not include the variation between trainings, so there is no p.

    Args:
      first, second: per run, the values of campaigns by id.
    """
    paired = [
        np.array([mine[c] - other[c] for c in mine if c in other])
        for mine, other in zip(first, second, strict=True)
    ]
    paired = [values for values in paired if len(values)]
    mean = float(np.mean([values.mean() for values in paired])) if paired else np.nan
    if not paired or min(map(len, paired)) < 2:
        return Difference(mean)
    variance = sum(values.var(ddof=1) / len(values) for values in paired) / len(paired) ** 2
    return Difference(mean, float(np.sqrt(variance)))


def by_campaign(num_runs: int, overlap: float) -> bool:
    """Whether errors are over campaigns, since there are too few runs for a test over runs.

    Runs that divide the same campaigns test some of them twice, so their errors are over campaigns
    only if there is a single run. Independent runs need at least `MIN_RUNS`.
    """
    return num_runs < _min_runs(overlap)


def _min_runs(overlap: float) -> int:
    """The least number of runs for a test over runs."""
    return 2 if overlap else MIN_RUNS


def difference(first: Measured, second: Measured, overlap: float) -> Difference:
    """The first method's mean minus the second's, over runs or over campaigns."""
    if by_campaign(_num_paired(first, second), overlap):
        return over_campaigns(first.campaigns, second.campaigns)
    return over_runs(first.runs, second.runs, overlap)


def _num_paired(first: Measured, second: Measured) -> int:
    """The number of runs in which both have a value."""
    return int((~np.isnan(first.runs) & ~np.isnan(second.runs)).sum())


def describe_test(num_runs: int, overlap: float) -> str:
    """The test of `difference` in a sentence, for a report."""
    if by_campaign(num_runs, overlap):
        unit = "split" if overlap else "world"
        which = f"one {unit}" if num_runs == 1 else f"{num_runs} {unit}s"
        return (
            f"Errors are over the campaigns of {which}. They do not include the variation between "
            f"trainings, so there are no tests; these need {_min_runs(overlap)} {unit}s."
        )
    if overlap:
        return (
            "Corrected resampled t-test (Nadeau and Bengio 2003) over the runs, which divide the "
            "same campaigns at random."
        )
    return "Paired t-test over the runs, each in a world of its own."


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values after Holm's step-down correction for their number; None stays and does not count.

    Scand. J. Statist. 6, 1979. The probability of any false rejection is at most the level.
    """
    known = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    adjusted, largest = list(p_values), 0.0
    for rank, (p, position) in enumerate(known):
        largest = max(largest, (len(known) - rank) * p)
        adjusted[position] = min(1.0, largest)
    return adjusted


@dataclass(frozen=True)
class Claim:
    """The claim that a method is better than each of its rivals, in AUC on small seed sets.

    Attributes:
      method: name of the method.
      best: the rival with the highest mean.
      difference: the method's difference from the best rival.
      p: the largest p-value over the rivals, which tests all of them at once; 1 if a rival is as
        good; None if there are too few runs for tests.
      p_holm: p after Holm's correction over all of `PRIMARY`, whether their methods have results
        or not.
    """

    method: str
    best: str
    difference: Difference
    p: float | None
    p_holm: float | None = None


def primary_claims(of: Comparison) -> list[Claim]:
    """The claims of `PRIMARY` whose method and rivals all have values."""
    made = [
        _claim(of, name, rivals)
        for name, rivals in PRIMARY.items()
        if all(own in of.methods for own in (name, *rivals)) and of.num_campaigns(PRIMARY_GROUP)
    ]
    # Of all claims, so that a claim does not depend on which other methods were run.
    untested = [1.0] * (NUM_CLAIMS - sum(claim.p is not None for claim in made))
    adjusted = holm([*(claim.p for claim in made), *untested])[: len(made)]
    return [replace(claim, p_holm=p) for claim, p in zip(made, adjusted, strict=True)]


def _claim(of: Comparison, name: str, rivals: Sequence[str]) -> Claim:
    own = of.values(name, PRIMARY_GROUP, "auc")
    theirs = {rival: of.values(rival, PRIMARY_GROUP, "auc") for rival in rivals}
    best = max(theirs, key=lambda rival: theirs[rival].mean)
    tests = {rival: difference(own, other, of.overlap) for rival, other in theirs.items()}
    known = [test.p for test in tests.values() if test.p is not None]
    if by_campaign(len(of.seeds), of.overlap):
        p: float | None = None  # whoever is ahead, so that Holm's number does not depend on it
    elif any(test.mean <= 0 for test in tests.values()):
        p = 1.0
    else:
        p = max(known) if len(known) == len(tests) else None
    return Claim(name, best, tests[best], p)


@dataclass(frozen=True)
class Pair:
    """The comparison of two methods in AUC on a group of campaigns.

    Attributes:
      first, second, group: identify the pair.
      difference: the first method's mean minus the second's.
      p_holm: its p-value after Holm's correction over all pairs and groups of the table.
    """

    first: str
    second: str
    group: str
    difference: Difference
    p_holm: float | None = None


def every_pair(of: Comparison) -> list[Pair]:
    """Every pair of `PAIRED` in AUC on every group."""
    names, made = [name for name in PAIRED if name in of.methods], list[Pair]()
    for first, second in combinations(names, 2):
        for group in GROUPS:
            one, other = (of.values(name, group, "auc") for name in (first, second))
            made.append(Pair(first, second, group, difference(one, other, of.overlap)))
    adjusted = holm([pair.difference.p for pair in made])
    return [replace(pair, p_holm=p) for pair, p in zip(made, adjusted, strict=True)]
