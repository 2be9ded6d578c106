"""A campaign and its examples: what a general model is customised on.

Axes: U users of a pool, N campaign fields, n examples of a campaign, F users that feedback added.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from metaheac_jax.errors import InputError

#: User ids as a caller has them: a list, an array or a column of whole numbers, or of text. (The
#: type admits more, which `check_user_ids` refuses.)
UserIds: TypeAlias = ArrayLike
#: The longest id of a user or a campaign, in UTF-8.
MAX_ID_BYTES = 64


@dataclass(frozen=True)
class CampaignBrief:
    """What a campaign brings that the data does not know; see `Dataset.new_campaigns`.

    Attributes:
      seeds: user ids.
      attributes: a raw value for each campaign field of the schema.
      name: for messages and files; None for a single new campaign.
    """

    seeds: UserIds
    attributes: Mapping[str, Any]
    name: str | None = None


@dataclass(frozen=True, eq=False)
class Campaign:
    """A campaign with its seeds and non-seeds; `Dataset.new_campaign` makes one from user ids.

    Attributes:
      id: as the data has it, or the name of its brief; None for a new campaign without one.
      rows: (N,) int32 table rows of its attributes.
      users: (n,) int32, index of each example's user.
      labels: (n,) int8, 1 for a seed and 0 for a non-seed.
      num_unmatched: number of given seed ids that are not in the data.
      num_excluded: number of given seeds in the data that are not learned from.
      unknown_attributes: names of attributes whose values training has not seen.
      attributes: the raw value of each campaign field, as given; None for a campaign of the data.
      found: (F,) index of the users whose label is from feedback. An audience of the campaign's
        own model found them, so they do not tell how well such a model finds others.
    """

    id: int | str | None
    rows: np.ndarray
    users: np.ndarray
    labels: np.ndarray
    num_unmatched: int = 0
    num_excluded: int = 0
    unknown_attributes: tuple[str, ...] = ()
    attributes: Mapping[str, Any] | None = None
    found: np.ndarray | tuple[()] = ()

    def check(self, num_users: int, num_fields: int) -> None:
        """Refuses a campaign that does not belong to data with this many users and campaign fields.

        Raises:
          InputError: it has no examples, users without a label, labels that are not 0 or 1, unknown
            users, or other fields.
        """
        if not len(self.users):
            raise InputError(f"{self.name}: no examples; give it seeds and non-seeds")
        if len(self.users) != len(self.labels):
            raise InputError(
                f"{self.name}: {len(self.users)} users and {len(self.labels)} labels; expected as "
                "many of each"
            )
        if self.users.min() < 0 or self.users.max() >= num_users:
            raise InputError(f"{self.name}: a user's index is not in 0 to {num_users - 1}")
        if np.shape(self.rows) != (num_fields,):
            raise InputError(f"{self.name}: {len(self.rows)} attributes, expected {num_fields}")
        if not np.isin(self.labels, (0, 1)).all():
            raise InputError(f"{self.name}: a label is not 1 for a seed or 0 for a non-seed")

    @property
    def seeds(self) -> np.ndarray:
        """Index of each seed user."""
        return self.users[self.labels == 1]

    @property
    def is_found(self) -> np.ndarray:
        """(n,) bool, which examples are users in ``found``."""
        return np.isin(self.users, self.found)

    @property
    def name(self) -> str:
        """For messages."""
        return "new campaign" if self.id is None else f"campaign {self.id}"


def plain_id(value: Any) -> int | str:
    """An id of a user or a campaign as plain data."""
    return value.decode() if isinstance(value, bytes) else int(value)


def check_user_ids(user_ids: UserIds, *, text: bool = False) -> np.ndarray:
    """(n,) int64 user ids, or UTF-8 bytes.

    Args:
      user_ids: a list.
      text: whether the ids of the data are text. Whole numbers will then do as well, and an array
        of bytes is returned as it is.

    Raises:
      InputError: they are not a list of whole numbers that fit into 64 bits, or of text of 1 to
        `MAX_ID_BYTES` bytes.
    """
    if text:
        return _text_ids(user_ids)
    try:
        ids = np.asarray(user_ids)
    except ValueError as error:
        raise InputError("user ids: expected a list, got lists of several lengths") from error
    if ids.ndim != 1:
        raise InputError(f"user ids: expected a list, got an array of shape {ids.shape}")
    if not len(ids):
        return np.empty(0, np.int64)
    if ids.dtype.kind == "f":
        # From 2**53 on a float may be another whole number, rounded. NaN fails every comparison.
        wrong = ~((ids == np.floor(ids)) & (np.abs(ids) < 2**53))
    else:
        wrong = np.full(len(ids), ids.dtype.kind not in "iu")
        if ids.dtype == np.uint64:
            wrong |= ids > 2**63 - 1
    if wrong.any():
        raise InputError(f"user ids: expected whole numbers, got {ids[wrong][:1].tolist()[0]!r}")
    return ids.astype(np.int64)


def _text_ids(user_ids: UserIds) -> np.ndarray:
    given = user_ids if isinstance(user_ids, np.ndarray) else np.asarray(user_ids, object)
    if given.ndim != 1:
        kind = type(user_ids).__name__
        raise InputError(f"user ids: expected a list, got {kind} of shape {given.shape}")
    if given.dtype.kind == "S":
        return given
    ids = []
    for user_id in given.tolist():
        whole = isinstance(user_id, int | np.integer) and not isinstance(user_id, bool)
        encoded = str(user_id).encode() if whole or isinstance(user_id, str) else b""
        if not 1 <= len(encoded) <= MAX_ID_BYTES:
            raise InputError(
                f"user ids: expected text of 1 to {MAX_ID_BYTES} bytes, got {user_id!r}"
            )
        ids.append(encoded)
    return np.array(ids, "S") if ids else np.empty(0, "S1")


def draw_non_seeds(
    num_users: int, seeds: np.ndarray, excluded: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """Index of ``count`` users at random, none of them a seed or excluded.

    All others are returned if they are fewer. ``seeds`` and ``excluded`` are distinct indices.
    Other seeds get other non-seeds, so campaigns do not share the chance of one draw.
    """
    own = zlib.crc32(np.sort(seeds).astype("<i8").tobytes())
    rng = np.random.Generator(np.random.Philox([seed, own]))
    size = min(count + len(seeds), num_users)
    while True:
        drawn = rng.choice(num_users, size, replace=False)
        others = drawn[~(np.isin(drawn, seeds) | np.isin(drawn, excluded))]
        if len(others) >= count or size == num_users:
            return others[:count]
        size = min(2 * size, num_users)
