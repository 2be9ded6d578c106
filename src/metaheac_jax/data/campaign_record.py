"""A campaign by the ids of its users, and the feedback on its audiences.

Both hold apart from any data set: users have other positions in every one.

Axes: n examples of a campaign, F users with feedback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metaheac_jax.errors import InputError


def check_same_kind(own: np.ndarray, others: np.ndarray) -> None:
    """Refuses user ids of another kind than those of a campaign: none would be found among them.

    Raises:
      InputError: one are whole numbers, and the others text.
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
    """(n,) bool, which of a campaign's user ids are among others.

    Raises:
      InputError: as `check_same_kind` does.
    """
    check_same_kind(own, others)
    return np.isin(own, others)


@dataclass(frozen=True)
class Feedback:
    """Who was shown a campaign, and who of them converted; each user once.

    Attributes:
      user_ids: (F,) int64 or UTF-8 bytes, ascending and distinct.
      converted: (F,) bool.
    """

    user_ids: np.ndarray
    converted: np.ndarray

    @staticmethod
    def of(user_ids: np.ndarray, converted: np.ndarray) -> Feedback:
        """Feedback from records, of which a user may have several, in any order.

        A user has converted if one of the records says so.

        Args:
          user_ids: int64 or UTF-8 bytes of each record.
          converted: whether the user converted, by that record.
        """
        users, position = np.unique(user_ids, return_inverse=True)
        return Feedback(users, np.bincount(position, converted, len(users)) > 0)

    def __len__(self) -> int:
        """F."""
        return len(self.user_ids)

    def merge(self, other: Feedback) -> Feedback:
        """The records of both. Neither order nor repetition matters.

        Raises:
          InputError: the user ids are of another kind.
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
      attributes: a raw value for each campaign field.
      user_ids: (n,) int64 or UTF-8 bytes of its examples, each user once.
      labels: (n,) int8, 1 for a seed and 0 for a non-seed.
    """

    name: str
    attributes: Mapping[str, Any]
    user_ids: np.ndarray
    labels: np.ndarray

    def without(self, user_ids: np.ndarray) -> CampaignRecord:
        """The campaign without these users.

        Raises:
          InputError: the user ids are of another kind.
        """
        kept = ~is_among(self.user_ids, user_ids)
        return replace(self, user_ids=self.user_ids[kept], labels=self.labels[kept])

    def with_feedback(self, feedback: Feedback) -> CampaignRecord:
        """The campaign with users with feedback among its examples, each user still once.

        Who converted is a seed, and a seed stays one. Other users who were shown the campaign are
        non-seeds.

        Raises:
          InputError: the user ids are of another kind.
        """
        converts = feedback.user_ids[feedback.converted]
        labels = (self.labels == 1) | is_among(self.user_ids, converts)
        new = ~np.isin(feedback.user_ids, self.user_ids)
        return replace(
            self,
            user_ids=np.concatenate([self.user_ids, feedback.user_ids[new]]),
            labels=np.concatenate([labels, feedback.converted[new]]).astype(np.int8),
        )
