"""How an audience has done: which of its users converted once they were shown the campaign.

Axes: K users of an audience.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats.contingency import relative_risk

from metaheac_jax.audience.calibration import CalibrationBin, calibration_table
from metaheac_jax.audience.curve import CONFIDENCE, Estimate, wilson_interval
from metaheac_jax.audience.gains import Gain, gains_of
from metaheac_jax.data.campaign import UserIds, check_user_ids
from metaheac_jax.data.campaign_record import Feedback
from metaheac_jax.errors import InputError


@dataclass(frozen=True)
class Shown:
    """Users who were shown a campaign.

    Attributes:
      users: number of users.
      converts: number of these users who converted.
    """

    users: int
    converts: int

    @property
    def rate(self) -> Estimate:
        """Fraction of the users who converted, with Wilson's interval; there are users."""
        fraction = self.converts / self.users
        return Estimate(fraction, *wilson_interval(fraction, self.users))


@dataclass(frozen=True)
class Outcome:
    """How an audience has done.

    Attributes:
      size: K.
      inside: the users of the audience who were shown the campaign.
      outside: the other users who were shown it.
      gains: the converts by tenth of ``inside``; empty if there are none.
      calibration: predicted and observed rates of ``inside``; empty without probabilities.
    """

    size: int
    inside: Shown
    outside: Shown
    gains: Sequence[Gain]
    calibration: Sequence[CalibrationBin]

    @property
    def lift(self) -> Estimate | None:
        """The rate of ``inside`` divided by that of ``outside``; None unless both have converts.

        The interval is that of the logarithm of the ratio (Katz et al., 1978).
        """
        one, other = self.inside, self.outside
        if not one.converts or not other.converts:
            return None
        ratio = relative_risk(one.converts, one.users, other.converts, other.users)
        low, high = ratio.confidence_interval(CONFIDENCE)
        return Estimate(float(ratio.relative_risk), float(low), float(high))


def audience_outcome(
    audience: UserIds, feedback: Feedback, *, probabilities: np.ndarray | None = None
) -> Outcome:
    """Compares an audience with the feedback on its campaign.

    Args:
      audience: (K,) user ids, best user first.
      feedback: the users who were shown the campaign, in the audience or not.
      probabilities: (K,) probabilities of converting, if there are any.

    Raises:
      InputError: no user of the audience is in the feedback, or an id is invalid or occurs twice.
    """
    ids = check_user_ids(audience, text=feedback.user_ids.dtype.kind == "S")
    if len(np.unique(ids)) < len(ids):
        raise InputError("a user of the audience occurs twice; give each user once")
    shown = np.isin(ids, feedback.user_ids)
    if not shown.any():
        raise InputError(
            "no user of the audience is in the feedback; check that both are of one campaign"
        )
    converted = np.isin(ids[shown], feedback.user_ids[feedback.converted])
    inside = Shown(len(converted), int(converted.sum()))
    outside = Shown(len(feedback) - inside.users, int(feedback.converted.sum()) - inside.converts)
    return Outcome(
        size=len(ids),
        inside=inside,
        outside=outside,
        gains=gains_of([converted]) if inside.converts else [],
        calibration=[]
        if probabilities is None
        else calibration_table(probabilities[shown], converted),
    )
