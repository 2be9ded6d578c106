"""How many of the seeds given for a campaign can be learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaheac_jax.data.campaign import Campaign

#: Fewer seeds than this are refused by default.
LEAST_SEEDS = 100
#: With fewer seeds than this, an audience is less reliable.
MANY_SEEDS = 1000


@dataclass(frozen=True)
class SeedCheck:
    """The seeds check of a campaign.

    Attributes:
      given: number of user ids given.
      distinct: number of distinct ids among them.
      found: number of these that are users of the data.
      excluded: number of these that may not be learned from, for example opt-outs.
      from_feedback: number of users of the data who are seeds because they converted when they were
        shown the campaign.
    """

    given: int
    distinct: int
    found: int
    excluded: int
    from_feedback: int = 0

    @staticmethod
    def of(campaign: Campaign, user_ids: Sequence[int] | Sequence[str] | np.ndarray) -> SeedCheck:
        """The check of a campaign for which these seeds were given, as ids of one type."""
        found = len(campaign.seeds) + campaign.num_excluded
        return SeedCheck(len(user_ids), len(np.unique(user_ids)), found, campaign.num_excluded)

    @staticmethod
    def of_folder(campaign: Campaign, num_seeds: int) -> SeedCheck:
        """The check of a campaign folder's campaign.

        Args:
          campaign: the campaign, as found in the data.
          num_seeds: number of seeds that the folder began with, without those left out.
        """
        found = campaign.num_given_seeds
        from_feedback = len(campaign.seeds) - found
        return SeedCheck(num_seeds, num_seeds, found, 0, from_feedback)

    def line(self) -> str:
        """The check as a line for the screen."""
        excluded = f", {self.excluded:,} of these excluded" if self.excluded else ""
        more = f"; {self.from_feedback:,} more from feedback" if self.from_feedback else ""
        return (
            f"seeds: {self.given:,} given, {self.distinct:,} distinct, {self.found:,} of them "
            f"users of the data ({self.match_percent}){excluded}{more}"
        )

    @property
    def used(self) -> int:
        """Number of seeds that are learned from."""
        return self.found - self.excluded + self.from_feedback

    @property
    def match_percent(self) -> str:
        """The fraction of the distinct ids that are users of the data.

        Whole percent, rounded down: 100% says that no id is unknown.
        """
        return f"{100 * self.found // self.distinct}%" if self.distinct else "-"
