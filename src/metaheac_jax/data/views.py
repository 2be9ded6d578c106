"""Table rows of users, computed for those that are read.

    stored rows -> rows in the table of a model -> with histories -> with list lengths

Axes: U users, S slots of a user, C campaigns, H slots of a list, F fields of a list, E examples by
user, n users that are read, R table rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from metaheac_jax.data.list_lengths import Lengths


@dataclass(frozen=True, eq=False)
class History:
    """Lists of the campaigns of each user's examples; see `data.history`.

    Attributes:
      pad: R.
      counted: (C,) bool, the campaigns that are in lists.
      slots: H.
      offsets: (U + 1,) where the examples of each user begin.
      campaign, label: (E,) of the examples, by user.
      moments: distinct times of the examples, ascending; None if they are not known.
      keys: (E,) of each example, its user's index and place of its time, ascending; see `key`.
      values: per list that is computed, its label, and (C, F) table rows of each campaign.
      given: per list that stored rows have, its slots, and (C,) the table row of each campaign.
    """

    pad: int
    counted: np.ndarray
    slots: int
    offsets: np.ndarray
    campaign: np.ndarray
    label: np.ndarray
    values: Sequence[tuple[int, np.ndarray]]
    given: Sequence[tuple[slice, np.ndarray]]
    moments: np.ndarray | None = None
    keys: np.ndarray | None = None

    @property
    def num_campaigns(self) -> np.ndarray:
        """(U,) number of campaigns that each user is an example of."""
        return np.diff(self.offsets)

    @property
    def num_slots(self) -> int:
        """Number of slots that are computed."""
        return sum(self.slots * of.shape[1] for _, of in self.values)

    def mapped(self, lookup: np.ndarray) -> History:
        """The same in another table, to whose rows (R + 1,) maps R rows and their pad id."""
        values = [(label, lookup[of]) for label, of in self.values]
        given = [(slots, lookup[of]) for slots, of in self.given]
        return replace(self, pad=int(lookup[-1]), values=values, given=given)

    @staticmethod
    def key(users: np.ndarray, times: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """(n,) users and times -> (n,) keys that are ordered by the user, then by the time."""
        return users * (len(moments) + 1) + np.searchsorted(moments, times)

    def _places(self, users: np.ndarray, times: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(n, H) which of the examples are in users' lists, and bool, whether there are so many."""
        first, end = self.offsets[users], self.offsets[users + 1]
        if self.keys is not None and self.moments is not None:
            if times is not None:
                end = np.searchsorted(self.keys, self.key(users, times, self.moments))
            first = np.maximum(first, end - self.slots)  # the last ones
        place = first[:, None] + np.arange(self.slots)
        there = place < end[:, None]
        place[~there] = 0
        return place, there

    def add(
        self,
        rows: np.ndarray,
        users: np.ndarray,
        without: int | np.ndarray,
        times: np.ndarray | None = None,
    ) -> np.ndarray:
        """(n, S') rows of users -> (n, S) rows, with their lists.

        Args:
          rows: are changed.
          users: (n,) indices.
          without: index of a campaign that is left out, or (n,) one for each; -1 for none.
          times: (n,) what is later, or at the same time, is left out; None for all that is known.
        """
        left_out = np.asarray(without)[..., None]  # of all users, or of each
        for slots, of in self.given:
            uncounted = np.append(of[~self.counted], self.pad)
            masked = np.where(left_out < 0, self.pad, of[left_out])
            gone = np.isin(rows[:, slots], uncounted) | (rows[:, slots] == masked)
            rows[:, slots][gone] = self.pad
        if not self.values:
            return rows
        place, there = self._places(users, times)
        campaign, label = self.campaign[place], self.label[place]
        there &= self.counted[campaign] & (campaign != left_out)
        parts = [rows]
        for kind, of in self.values:
            found = np.where((there & (label == kind))[..., None], of[campaign], self.pad)
            parts.append(found.transpose(0, 2, 1).reshape(len(rows), -1))
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True, eq=False)
class UserView:
    """(U, S) table rows of users, of which those that are read are computed.

    Attributes:
      stored: (U, S') table rows, an array or a memory map.
      lookup: (R' + 1,) int32 maps R' stored rows and their pad id; None if they are as stored.
      history: adds lists of campaigns; None if there are none.
      lengths: adds the lengths of lists; None if no method has asked for them.
    """

    stored: np.ndarray
    lookup: np.ndarray | None = None
    history: History | None = None
    lengths: Lengths | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(U, S)."""
        added = 0 if self.history is None else self.history.num_slots
        added += 0 if self.lengths is None else len(self.lengths.many)
        return len(self.stored), self.stored.shape[1] + added

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, users: Any) -> np.ndarray:
        """(n, S) rows of users, by index array or slice."""
        return self.of_examples(users, -1)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The rows of all users."""
        return np.array(self[:], dtype, copy=copy)

    def of_examples(
        self, users: Any, campaign: int | np.ndarray | None, times: np.ndarray | None = None
    ) -> np.ndarray:
        """Reads users who are examples of a campaign, by index; their histories lack it.

        Args:
          users: (n,) indices, or a slice.
          campaign: index of the campaign, or (n,) one for each; None is not in the data.
          times: (n,) when they were shown it; histories have what was before. None for now.

        Returns:
          (n, S).
        """
        rows = self.stored[users]
        if self.lookup is not None:
            rows = self.lookup[rows]
        if self.history is not None:
            indices = isinstance(users, np.ndarray) and users.dtype != bool
            numbers = users if indices else np.arange(len(self))[users]
            without = -1 if campaign is None else campaign
            rows = self.history.add(np.array(rows), numbers, without, times)
        return np.asarray(rows) if self.lengths is None else self.lengths(np.asarray(rows))

    def mapped(self, lookup: np.ndarray) -> UserView:
        """The same in another table, to whose rows (R + 1,) int32 maps R rows and their pad id."""
        assert self.lengths is None
        history = None if self.history is None else self.history.mapped(lookup)
        first = lookup if self.lookup is None else lookup[self.lookup]
        return replace(self, lookup=first, history=history)


#: (P, S) table rows of users: an array, or a view of users.
UserRows: TypeAlias = np.ndarray | UserView
