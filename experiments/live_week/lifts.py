"""Lifts of a treatment arm over a control arm, and their confidence intervals.

Axes: W weeks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.stats

MEASURES = ("exposure", "conversion", "CVR")
CONFIDENCE = 0.95
#: Lifts of `MEASURES` as the paper's Table 3 prints them. The printed lift of CVR does not follow
#: from the other two.
PUBLISHED = {
    "video": (0.0307, 0.1018, 0.0790),
    "advertisements": (0.0065, 0.1550, 0.1540),
    "article": (0.0318, 0.0923, 0.0464),
}


def week_lifts(counts: np.ndarray) -> np.ndarray:
    """(3, W) lifts of `MEASURES` in each week; NaN where a ratio is zero or not finite.

    Args:
      counts: (W, 2, 2) exposures and conversions of control and treatment.
    """
    exposed, converted = np.moveaxis(counts.astype(float), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.stack([exposed, converted, converted / exposed])  # (3, W, 2)
        lifts = values[..., 1] / values[..., 0] - 1
    return np.where(np.isfinite(lifts) & (lifts > -1), lifts, np.nan)


def mean_lifts(lifts: np.ndarray) -> np.ndarray:
    """(3, 3): for each of `MEASURES` the geometric mean of the weeks' lifts, and its 95% interval.

    The columns are mean, lower bound and upper bound. The interval is that of Student's t over the
    logarithms of the weeks' ratios. A row is NaN if a week's lift is.

    Args:
      lifts: (3, W), from `week_lifts`.
    """
    logs, weeks = np.log1p(lifts), lifts.shape[1]
    mean, error = logs.mean(axis=1), logs.std(axis=1, ddof=1) / np.sqrt(weeks)
    half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, weeks - 1) * error
    return np.expm1([mean, mean - half, mean + half]).T


def lift_table(
    found: Mapping[str, Mapping[str, np.ndarray]],
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean lifts with their intervals, and the published ones.

    Args:
      found: (W, 2, 2) counts by application and experiment.
    """
    rows = []
    for application, experiments in found.items():
        for title, counts in experiments.items():
            cells = [
                f"{mean:+.1f}% [{low:+.1f}, {high:+.1f}]"
                for mean, low, high in 100 * mean_lifts(week_lifts(counts))
            ]
            rows.append([application, title, *cells])
        published = [f"{100 * lift:+.2f}%" for lift in PUBLISHED[application]]
        rows.append([application, "MetaHeac [paper]", *published])
    return ["application", "test", *MEASURES], rows
