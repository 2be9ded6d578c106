"""Lifts of a treatment arm over a control arm, and their confidence intervals.

Axes: W weeks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats

MEASURES = ("exposure", "conversion", "CVR")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Experiment:
    """A treatment arm against a control arm in one application.

    Attributes:
      application: name of the application.
      title: the two methods, or A/A and the method of both arms.
      counts: (W, 2, 2) exposures and conversions of all campaigns in a week, control first.
    """

    application: str
    title: str
    counts: np.ndarray


def lifts(totals: np.ndarray) -> np.ndarray:
    """(..., 2, 2) exposures and conversions of control and treatment -> (..., 3) `MEASURES`.

    A lift is not finite if the control arm's measure is zero.
    """
    exposed, converted = np.moveaxis(totals.astype(float), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.stack([exposed, converted, converted / exposed])
        return np.moveaxis(values[..., 1] / values[..., 0] - 1, 0, -1)


def mean_lifts(counts: np.ndarray) -> np.ndarray:
    """(3, 3): for each of `MEASURES` the geometric mean of the weeks' lifts, and its 95% interval.

    The rows are mean, lower bound and upper bound. The interval is that of Student's t over the
    logarithms of the weeks' ratios. A column is NaN if its ratio is zero or not finite in a week.

    Args:
      counts: (W, 2, 2) exposures and conversions of control and treatment.
    """
    num_weeks = len(counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log1p(lifts(counts))
    logs[~np.isfinite(logs)] = np.nan
    mean, error = logs.mean(axis=0), logs.std(axis=0, ddof=1) / np.sqrt(num_weeks)
    half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, num_weeks - 1) * error
    return np.expm1([mean, mean - half, mean + half])
