"""Rates of converts: intervals, and what a control group can show."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

_CONFIDENCE = 0.95  # level of all intervals
_POWER = 0.8  # chance that a control group shows an effect that is there
_MOST = 10**9  # users of a control group
_BOUND = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)


@dataclass(frozen=True)
class Estimate:
    """An estimate and the bounds of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Lift:
    """How many more users converted than would have without the campaign.

    Attributes:
      converts, users: numbers of converts and of users: who were shown it, and in control groups.
    """

    converts: tuple[float, float]
    users: tuple[int, int]

    @property
    def rates(self) -> tuple[Estimate, Estimate]:
        """Rates of converts: of the users who were shown it, and of the control groups."""
        shown, control = map(wilson_estimate, self.converts, self.users)
        return shown, control

    @property
    def difference(self) -> Estimate:
        """Difference of the rates (Newcombe 1998, "Interval estimation for the difference between
        independent proportions", method 10).
        """
        one, other = self.rates
        value = one.value - other.value
        down = math.hypot(one.value - one.low, other.high - other.value)
        up = math.hypot(one.high - one.value, other.value - other.low)
        return Estimate(value, value - down, value + up)

    @property
    def summary(self) -> str:
        """The difference in one sentence, and whether the control group is large enough."""
        (shown, control), change = self.rates, self.difference
        told = (
            f"{shown.value:.2%} of {self.users[0]:,} shown users converted, and "
            f"{control.value:.2%} of {self.users[1]:,} control users: a difference of "
            f"{100 * change.value:+.2f} percentage points ({100 * change.low:+.2f} to "
            f"{100 * change.high:+.2f})"
        )
        if change.low <= 0 <= change.high:
            needed = control_needed(shown.value, control.value, self.users[0])
            size = "a larger audience" if needed is None else f"{needed:,} control users"
            told += f"; to show a difference of this size takes {size}"
        return told


def wilson_estimate(hits: float, count: float) -> Estimate:
    """The fraction of ``hits`` in independent trials, with its 95% interval (Wilson, 1927)."""
    fraction = hits / count
    centre = fraction + _BOUND**2 / (2 * count)
    half = _BOUND * math.sqrt(fraction * (1 - fraction) / count + _BOUND**2 / (4 * count**2))
    scale = 1 + _BOUND**2 / count
    low = 0.0 if fraction == 0 else (centre - half) / scale  # these bounds are exact
    return Estimate(fraction, low, 1.0 if fraction == 1 else (centre + half) / scale)


def control_needed(shown: float, control: float, num_shown: int) -> int | None:
    """The size of a control group that shows a difference of two rates 4 times of 5.

    Args:
      shown, control: rates of converts of the users who are shown a campaign, and of others.
      num_shown: number of users who are shown it.

    Returns:
      The size; None if no control group can be large enough.
    """
    sizes = range(1, _MOST)
    place = bisect_left(sizes, True, key=lambda size: _shows((shown, control), (num_shown, size)))
    return sizes[place] if place < len(sizes) else None


def least_effect(rate: float, num_shown: int, num_control: int) -> float:
    """The fraction of conversions that a campaign must cause, for a control group to show it.

    It is shown 4 times of 5.

    Args:
      rate: rate of converts of the users who are shown it.
      num_shown, num_control: numbers of these users, and of the control group.
    """
    steps, users = 1000, (num_shown, num_control)
    shown = partial(_shows, users=users)
    place = bisect_left(range(steps), True, key=lambda n: shown((rate, rate * (1 - n / steps))))
    return place / steps


def _shows(rates: tuple[float, float], users: tuple[int, int]) -> bool:
    """Whether the interval of the difference of two rates is without zero 4 times of 5."""
    converts = [rate * count for rate, count in zip(rates, users, strict=True)]
    error = math.sqrt(sum(p * (1 - p) / n for p, n in zip(rates, users, strict=True)))
    found = Lift((converts[0], converts[1]), users).difference
    return max(found.low, -found.high) > NormalDist().inv_cdf(_POWER) * error
