"""The examples of campaigns, by stage.

Axes: C campaigns, E examples of a stage, n values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one stage, grouped by campaign.

    Attributes:
      offsets: (C + 1,) int64; campaign c owns examples ``offsets[c]`` to ``offsets[c + 1]``.
      user: (E,) int32, index of the example's user.
      label: (E,) int8, 1 for a seed (converted) and 0 for a non-seed.
      probability: (E,) float32, the true conversion probability; None unless simulated.
      audience: (E,) bool, whether the user was in an audience that this system chose; None if no
        example comes from one.
    """

    offsets: np.ndarray
    user: np.ndarray
    label: np.ndarray
    probability: np.ndarray | None = None
    audience: np.ndarray | None = None

    def of(self, campaign: int) -> slice:
        """The slice of one campaign's examples."""
        return slice(int(self.offsets[campaign]), int(self.offsets[campaign + 1]))

    @property
    def counts(self) -> np.ndarray:
        """(C,) number of examples per campaign."""
        return np.diff(self.offsets)

    @property
    def positives(self) -> np.ndarray:
        """(C,) number of positive examples per campaign."""
        each = (np.count_nonzero(self.label[self.of(c)]) for c in range(len(self.counts)))
        return np.fromiter(each, np.int64)

    @property
    def campaign(self) -> np.ndarray:
        """(E,) index of each example's campaign."""
        return np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)

    @property
    def in_audience(self) -> np.ndarray:
        """(E,) bool, ``audience``, false where that is None."""
        return np.zeros(len(self.user), bool) if self.audience is None else self.audience

    def pick(self, kept: np.ndarray) -> Examples:
        """The examples that an (E,) mask keeps, in the same order."""
        return self._of(np.flatnonzero(kept))

    def shuffled(self) -> Examples:
        """The same examples, shuffled within each campaign; every call gives the same order.

        Files may list the seeds first, but the order of examples must not reveal their labels.
        """
        draw = np.random.Generator(np.random.Philox(0)).random(len(self.user), np.float32)
        return self._of(np.lexsort((draw, self.campaign)))

    def _of(self, places: np.ndarray) -> Examples:
        """The examples at these places, by campaign."""
        chance, audience = self.probability, self.audience
        return group_by_campaign(
            self.campaign[places],
            self.user[places],
            self.label[places],
            num_campaigns=len(self.counts),
            probability=None if chance is None else chance[places],
            audience=None if audience is None else audience[places],
        )


def group_by_campaign(
    campaign: np.ndarray,
    user: np.ndarray,
    label: np.ndarray,
    *,
    num_campaigns: int,
    probability: np.ndarray | None = None,
    audience: np.ndarray | None = None,
) -> Examples:
    """Groups examples by campaign index, and keeps the given order within a campaign."""
    order = np.argsort(campaign, kind="stable")
    counts = np.bincount(campaign, minlength=num_campaigns)
    return Examples(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        user=user[order].astype(np.int32),
        label=label[order].astype(np.int8),
        probability=None if probability is None else probability[order].astype(np.float32),
        audience=audience[order] if audience is not None and np.any(audience) else None,
    )


def is_repeat(values: np.ndarray) -> np.ndarray:
    """(n,) bool, whether each of n values equals an earlier one."""
    again = np.zeros(len(values), bool)
    ordered = np.sort(values)
    if (ordered[1:] == ordered[:-1]).any():  # `sort` is much faster than `argsort`
        order = np.argsort(values, kind="stable")
        again[order[1:]] = values[order[1:]] == values[order[:-1]]
    return again
