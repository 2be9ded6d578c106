"""A campaign with its users by id, and the feedback on its audiences.

Neither depends on a data set: users are given by id, since their positions differ between sets.

Axes: n examples of a campaign, F users with feedback.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metaheac_jax.data.campaign import UserIds, check_user_ids, draw_by_id, plain_id
from metaheac_jax.errors import InputError


def check_same_kind(own: np.ndarray, others: np.ndarray) -> None:
    """Refuses user ids of a different kind from a campaign's, since none of them could match.

    Raises:
      InputError: one array has whole numbers, and the other has text.
    """
    text, other = (ids.dtype.kind == "S" for ids in (own, others))
    if text != other and len(others):
        kinds = ("text in UTF-8 bytes", "whole numbers")
        expected, got = kinds if text else kinds[::-1]
        raise InputError(
            f"user ids: expected {expected}, as the campaign has, got {got}; give ids of the same "
            "kind"
        )


def is_among(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) bool, whether each of a campaign's user ids is among ``others``.

    Raises:
      InputError: as `check_same_kind` does.
    """
    check_same_kind(own, others)
    return np.isin(own, others)


@dataclass(frozen=True)
class Feedback:
    """The users who were shown a campaign, and whether they converted; each user occurs once.

    Attributes:
      user_ids: (F,) int64 or UTF-8 bytes, ascending and distinct.
      converted: (F,) bool.
    """

    user_ids: np.ndarray
    converted: np.ndarray

    @staticmethod
    def of(user_ids: UserIds, converted: Sequence[bool] | np.ndarray) -> Feedback:
        """Feedback from records in any order; a user may have several.

        A user has converted if at least one of their records says so.

        Args:
          user_ids: user id of each record: whole numbers, or text.
          converted: whether the user converted according to the record.

        Raises:
          InputError: an id is none, or the two differ in length.
        """
        given = np.asarray(user_ids)
        if given.dtype.kind != "S":
            given = check_user_ids(user_ids, text=given.dtype.kind in "UO")
        if len(given) != len(converted):
            raise InputError(f"feedback: got {len(given)} user ids and {len(converted)} outcomes")
        users, position = np.unique(given, return_inverse=True)
        return Feedback(users, np.bincount(position, converted, len(users)) > 0)

    def __len__(self) -> int:
        """F."""
        return len(self.user_ids)

    def sample(self, share: float, purpose: bytes) -> Feedback:
        """All converts, and the others with this probability.

        Whether a user is kept depends on id and purpose alone, so that users stay when others or a
        larger share come.

        Args:
          share: the probability.
          purpose: at most 16 bytes; samples for different purposes are independent.
        """
        if share >= 1:
            return self
        kept = self.converted | (draw_by_id(self.user_ids, purpose) < share)
        return Feedback(self.user_ids[kept], self.converted[kept])

    def merge(self, other: Feedback) -> Feedback:
        """Combines the records of both. Neither order nor repetition matters.

        Raises:
          InputError: the user ids are of different kinds.
        """
        check_same_kind(self.user_ids, other.user_ids)
        return Feedback.of(
            np.concatenate([self.user_ids, other.user_ids]),
            np.concatenate([self.converted, other.converted]),
        )


@dataclass(frozen=True)
class CampaignRecord:
    """A campaign with its seeds and non-seeds, by user id.

    Attributes:
      name: its id among training campaigns.
      attributes: a raw value per campaign field.
      user_ids: (n,) int64 or UTF-8 bytes, the user of each example; each user occurs once.
      labels: (n,) int8, 1 for a seed and 0 for a non-seed.
    """

    name: str
    attributes: Mapping[str, Any]
    user_ids: np.ndarray
    labels: np.ndarray

    @property
    def seeds_digest(self) -> bytes:
        """Eight bytes that depend on the seeds alone, and not on the form of their ids."""
        seeds = sorted(str(plain_id(user_id)) for user_id in self.user_ids[self.labels == 1])
        return b"%08x" % zlib.crc32("\n".join(seeds).encode())

    def without(self, user_ids: np.ndarray) -> CampaignRecord:
        """The campaign without these users.

        Raises:
          InputError: the user ids are of a different kind.
        """
        kept = ~is_among(self.user_ids, user_ids)
        return replace(self, user_ids=self.user_ids[kept], labels=self.labels[kept])

    def with_feedback(self, feedback: Feedback) -> CampaignRecord:
        """Adds the users of the feedback to the examples; each user still occurs once.

        Users who converted become seeds, and seeds remain seeds. All other users who were shown the
        campaign are non-seeds.

        Raises:
          InputError: the user ids are of a different kind.
        """
        converts = feedback.user_ids[feedback.converted]
        labels = (self.labels == 1) | is_among(self.user_ids, converts)
        new = ~np.isin(feedback.user_ids, self.user_ids)
        return replace(
            self,
            user_ids=np.concatenate([self.user_ids, feedback.user_ids[new]]),
            labels=np.concatenate([labels, feedback.converted[new]]).astype(np.int8),
        )
