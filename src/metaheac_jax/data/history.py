"""Histories: numbers of what a user converted in, and of what she was shown in vain.

    examples by user -> counts, and sums of campaigns' coordinates -> a vector of the user

The vector is computed when users are read, so an example that is added counts at once. If examples
have times, that of an example has only what was before it. An example's own campaign is not in it,
nor is one that the model was not trained on. So labels of an example, of held-out and of new
campaigns are in no input.

Axes: U users, C campaigns, N campaign fields, E examples by user, n users that are read, H numbers
of a history, k coordinates of a campaign.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from metaheac_jax.data.campaign import Examples
from metaheac_jax.data.coordinates import campaign_coordinates
from metaheac_jax.summary import Summary, raw_numbers

NAME = "history"  # of the field
_COORDINATES = 58  # maximum of k
_USERS = 600_000  # maximum number of users who give coordinates


class ExamplesByUser:
    """The examples of all stages, by user.

    They are sorted when they are first read.
    """

    def __init__(self, stages: Iterable[Examples], num_users: int) -> None:
        self._stages, self._num_users = [*stages], num_users

    @cached_property
    def offsets(self) -> np.ndarray:
        """(U + 1,) where the examples of each user begin."""
        counts = np.bincount(self._all("user"), minlength=self._num_users)
        return np.append(0, np.cumsum(counts))

    @cached_property
    def campaign(self) -> np.ndarray:
        """(E,) index of the campaign of each example."""
        return self._all("campaign")[self._order]

    @cached_property
    def label(self) -> np.ndarray:
        """(E,) 1 or 0."""
        return self._all("label")[self._order]

    @property
    def counts(self) -> np.ndarray:
        """(U,) number of examples of each user."""
        return np.diff(self.offsets)

    def places(
        self, users: np.ndarray, times: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the examples of users are, (n,) indices, and, if times are given, were by then.

        Returns:
          Places of their examples, user by user, and (n + 1,) where those of each user begin.
        """
        first, end = self.offsets[users], self.offsets[users + 1]
        if times is not None:
            moments, keys = self._keys
            key = users.astype(np.int64) * (len(moments) + 1) + np.searchsorted(moments, times)
            end = np.searchsorted(keys, key)
        starts = np.append(0, np.cumsum(end - first))
        return np.repeat(first - starts[:-1], end - first) + np.arange(starts[-1]), starts

    def _all(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(stage, name) for stage in self._stages])

    @cached_property
    def _times(self) -> np.ndarray:
        return np.concatenate([stage.optional("time") for stage in self._stages])

    @cached_property
    def _order(self) -> np.ndarray:
        return np.lexsort((self._times, self._all("user")))

    @cached_property
    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct times, and (E,) whole numbers that ascend by user, then by time."""
        moments, place = np.unique(self._times[self._order], return_inverse=True)
        users = self._all("user")[self._order].astype(np.int64)
        return moments, users * (len(moments) + 1) + place


@dataclass(frozen=True, eq=False)
class History:
    """Users' histories, computed for those that are read.

    Attributes:
      examples: of all users.
      summary: how they are read.
      weights: (2 C, H) what an example adds, by its label, then its campaign.
    """

    examples: ExamplesByUser
    summary: Summary
    weights: np.ndarray

    def __call__(
        self, users: np.ndarray, without: int | np.ndarray, times: np.ndarray | None
    ) -> np.ndarray:
        """(n,) user indices -> (n, H) float32; the other arguments are `UserView.of_examples`'."""
        every = self.examples
        place, starts = every.places(users, times)
        campaign, left_out = every.campaign[place], np.broadcast_to(without, len(users))
        counts = campaign != np.repeat(left_out, np.diff(starts))
        column = campaign + (every.label[place] == 1) * (len(self.weights) // 2)
        shape = len(users), len(self.weights)
        examples = csr_matrix((counts.astype(float), column, starts), shape)
        return self.summary.numbers(examples, self.weights)

    @staticmethod
    def of(examples: ExamplesByUser, summary: Summary, campaign_ids: np.ndarray) -> History:
        """Makes the histories of data with these campaigns, (C,) ids as text."""
        places = {name: number for number, name in enumerate(summary.campaigns.tolist())}
        place = np.array([places.get(name, -1) for name in campaign_ids.tolist()])
        weights = summary.weights.reshape(2, len(places), -1)
        weights = np.where(place[:, None] >= 0, weights[:, place], 0)
        return History(examples, summary, weights.reshape(-1, weights.shape[-1]))


def learn_summary(
    examples: ExamplesByUser, campaign_ids: np.ndarray, rows: np.ndarray, counted: np.ndarray
) -> Summary:
    """Learns how to read histories; see `coordinates.campaign_coordinates`.

    Args:
      examples: of all users.
      campaign_ids: (C,) ids as text.
      rows: (C, N) table rows of the campaigns' attributes.
      counted: (C,) bool, the campaigns that count.
    """
    users = np.flatnonzero(examples.counts)
    users = users[:: max(1, -(-len(users) // _USERS))]
    place, starts = examples.places(users)
    who = np.repeat(np.arange(len(users)), np.diff(starts))
    kept = counted[examples.campaign[place]]
    who, place = who[kept], place[kept]
    campaign, label = (np.cumsum(counted) - 1)[examples.campaign[place]], examples.label[place]
    shape, ones = (len(users), int(counted.sum())), np.ones(len(place), np.float32)
    others, converts = (
        csr_matrix((ones[label == kind], (who[label == kind], campaign[label == kind])), shape)
        for kind in (0, 1)
    )
    attributes = (rows[counted][..., None] == np.unique(rows[counted])).any(axis=1)
    found = campaign_coordinates(converts, others, attributes, min(_COORDINATES, shape[1]))
    sums = [np.asarray(of.sum(axis=1)) for of in (others, converts)]
    raw = raw_numbers(np.hstack([*sums, others @ found[1] + converts @ found[0]]))
    spread = raw.std(axis=0, dtype=float)
    spread[2:] = spread[2:].max(initial=0)
    scale = np.where(spread > 0, 1 / np.maximum(spread, 1e-12), 0)
    return Summary(campaign_ids[counted], found[::-1].copy(), raw.mean(axis=0, dtype=float), scale)
