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
class ShownUsers:
    """Users who were shown a campaign.

    Attributes:
      users: number of users.
      converts: number of these users who converted.
    """

    users: int
    converts: int

    @property
    def rate(self) -> Estimate | None:
        """Fraction of the users who converted, with Wilson's interval; None without users."""
        if not self.users:
            return None
        fraction = self.converts / self.users
        return Estimate(fraction, *wilson_interval(fraction, self.users))


@dataclass(frozen=True)
class Outcome:
    """How an audience has done.

    Attributes:
      size: K.
      shown: the users of the audience who were shown the campaign.
      others: the other users who were shown it.
      gains: the converts by tenth of ``shown``, best first; empty if there are none.
      calibration: predicted and observed rates of ``shown``; empty without probabilities.
    """

    size: int
    shown: ShownUsers
    others: ShownUsers
    gains: Sequence[Gain]
    calibration: Sequence[CalibrationBin]

    @property
    def rate_ratio(self) -> Estimate | None:
        """The rate of ``shown`` divided by that of ``others``.

        The interval is that of the logarithm of the ratio (Katz et al., 1978), which needs users
        who converted and users who did not: None if none or all of either converted.
        """
        groups = self.shown, self.others
        if not all(0 < group.converts < group.users for group in groups):
            return None
        counts = [count for group in groups for count in (group.converts, group.users)]
        ratio = relative_risk(*counts)
        low, high = ratio.confidence_interval(CONFIDENCE)
        return Estimate(float(ratio.relative_risk), float(low), float(high))


def audience_outcome(
    audience: UserIds,
    feedback: Feedback,
    *,
    probabilities: Sequence[float] | np.ndarray | None = None,
) -> Outcome:
    """Compares an audience with the feedback on its campaign.

    Args:
      audience: (K,) user ids, best user first.
      feedback: the users who were shown the campaign, in the audience or not.
      probabilities: (K,) probabilities of converting, if there are any.

    Raises:
      InputError: no user of the audience is in the feedback, an id is invalid or occurs twice, or
        the probabilities are not K numbers from 0 to 1.
    """
    ids = check_user_ids(audience, text=feedback.user_ids.dtype.kind == "S")
    if len(np.unique(ids)) < len(ids):
        raise InputError("a user of the audience occurs twice; give each user once")
    predicted = None if probabilities is None else np.asarray(probabilities, float)
    if predicted is not None and not (
        predicted.shape == ids.shape and ((predicted >= 0) & (predicted <= 1)).all()
    ):
        raise InputError("probabilities: expected a number from 0 to 1 for each user")
    shown = np.isin(ids, feedback.user_ids)
    if not shown.any():
        raise InputError(
            "no user of the audience is in the feedback; check that both are of one campaign, and "
            "that user ids are written in the same way"
        )
    converted = np.isin(ids[shown], feedback.user_ids[feedback.converted])
    own, all_converts = ShownUsers(len(converted), int(converted.sum())), feedback.converted.sum()
    return Outcome(
        size=len(ids),
        shown=own,
        others=ShownUsers(len(feedback) - own.users, int(all_converts) - own.converts),
        gains=gains_of([converted]) if own.converts else [],
        calibration=[] if predicted is None else calibration_table(predicted[shown], converted),
    )
