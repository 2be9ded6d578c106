"""A campaign and its examples, on which a general model is customised.

Axes: U users of a pool, N campaign fields, n examples of a campaign, F users that feedback added,
M seeds who are not in the data, X excluded users.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from metaheac_jax.errors import InputError

#: User ids as a caller gives them: a list, an array or a column of whole numbers or of text. (The
#: type admits more; `check_user_ids` refuses the rest.)
UserIds: TypeAlias = ArrayLike
#: Maximum length of a user or campaign id, in UTF-8 bytes.
MAX_ID_BYTES = 64


@dataclass(frozen=True)
class CampaignBrief:
    """The description of a campaign that is not in the data; see `Dataset.new_campaigns`.

    Attributes:
      seeds: user ids.
      attributes: a raw value per campaign field of the schema.
      name: name in messages and files; None for a single new campaign.
    """

    seeds: UserIds
    attributes: Mapping[str, Any]
    name: str | None = None


@dataclass(frozen=True, eq=False)
class Campaign:
    """A campaign with its seeds and non-seeds; `Dataset.new_campaign` makes one from user ids.

    Attributes:
      id: its id in the data, or its name in the brief or record; None if it has no name.
      rows: (N,) int32 table rows of its attributes.
      users: (n,) int32, index of each example's user.
      labels: (n,) int8, 1 for a seed and 0 for a non-seed.
      num_excluded: number of given seeds that are in the data but excluded from learning.
      unknown_attributes: names of attributes whose values training has not seen.
      attributes: the raw value of each campaign field, as given; None for a campaign of the data.
      found: (F,) index of each user whose label comes from feedback. The campaign's own model found
        these users, so they do not show how well such a model finds others.
      unmatched: (M,) user ids of given seeds that are neither in the data nor excluded, in the form
        of the data's ids.
      excluded_ids: (X,) user ids, ascending and distinct, of users who are excluded from learning
        and from the audiences of the campaign's models.
    """

    id: int | str | None
    rows: np.ndarray
    users: np.ndarray
    labels: np.ndarray
    num_excluded: int = 0
    unknown_attributes: tuple[str, ...] = ()
    attributes: Mapping[str, Any] | None = None
    found: np.ndarray | tuple[()] = ()
    unmatched: np.ndarray | tuple[()] = ()
    excluded_ids: np.ndarray | tuple[()] = ()

    def check(self, num_users: int, num_fields: int) -> None:
        """Refuses a campaign that does not belong to data with this many users and campaign fields.

        Raises:
          InputError: it has no examples, a user without a label, a label that is not 0 or 1, an
            unknown user, or another number of campaign fields.
        """
        if not len(self.users):
            raise InputError(f"{self.name}: no examples; give it seeds and non-seeds")
        if len(self.users) != len(self.labels):
            raise InputError(
                f"{self.name}: {len(self.users)} users and {len(self.labels)} labels; expected "
                "equal numbers"
            )
        if self.users.min() < 0 or self.users.max() >= num_users:
            raise InputError(f"{self.name}: a user's index is not in 0 to {num_users - 1}")
        if np.shape(self.rows) != (num_fields,):
            raise InputError(
                f"{self.name}: attributes of shape {np.shape(self.rows)}, expected ({num_fields},)"
            )
        if not np.isin(self.labels, (0, 1)).all():
            raise InputError(f"{self.name}: a label is neither 1 (a seed) nor 0 (a non-seed)")

    def pick(self, examples: np.ndarray) -> Campaign:
        """The campaign with some of its examples, by position or mask."""
        return replace(self, users=self.users[examples], labels=self.labels[examples])

    @property
    def seeds(self) -> np.ndarray:
        """Index of each seed user."""
        return self.users[self.labels == 1]

    @property
    def is_found(self) -> np.ndarray:
        """(n,) bool, whether each example's user is in ``found``."""
        return np.isin(self.users, self.found)

    @property
    def num_given_seeds(self) -> int:
        """Number of seeds without those from feedback."""
        return int((self.labels[~self.is_found] == 1).sum())

    @property
    def name(self) -> str:
        """The campaign's name in messages."""
        return "new campaign" if self.id is None else f"campaign {self.id}"


def plain_id(value: Any) -> int | str:
    """A user or campaign id as a plain int or str."""
    return value.decode() if isinstance(value, bytes) else int(value)


def check_user_ids(user_ids: UserIds, *, text: bool = False) -> np.ndarray:
    """Checks user ids, and returns them as (n,) int64 or UTF-8 bytes.

    Args:
      user_ids: a list.
      text: whether the ids in the data are text. Whole numbers are then accepted as well, and an
        array of bytes is returned as it is. If they are not, bytes that spell whole numbers are
        accepted: the ids of a campaign become text if one id of its users is not a number.

    Raises:
      InputError: they are not a list of whole numbers that fit into 64 bits, or of texts of 1 to
        `MAX_ID_BYTES` bytes.
    """
    if text:
        return _text_ids(user_ids)
    try:
        ids = np.asarray(user_ids)
    except ValueError as error:
        raise InputError("user ids: expected a list, got lists of different lengths") from error
    if ids.ndim != 1:
        raise InputError(f"user ids: expected a list, got an array of shape {ids.shape}")
    if not len(ids):
        return np.empty(0, np.int64)
    if ids.dtype.kind == "S":
        spelled = [whole_number(user_id) for user_id in ids.tolist()]
        wrong = np.array([number is None for number in spelled])
        if not wrong.any():
            return np.array(spelled, np.int64)
    elif ids.dtype.kind == "f":
        # From 2**53 on, a float may stand for another whole number. NaN fails every comparison.
        wrong = ~((ids == np.floor(ids)) & (np.abs(ids) < 2**53))
    else:
        wrong = np.full(len(ids), ids.dtype.kind not in "iu")
        if ids.dtype == np.uint64:
            wrong |= ids > 2**63 - 1
    if wrong.any():
        first = ids[wrong][:1].tolist()[0]
        shown = first.decode(errors="replace") if isinstance(first, bytes) else first
        raise InputError(f"user ids: expected whole numbers, got {shown!r}")
    return ids.astype(np.int64)


def whole_number(text: str | bytes) -> int | None:
    """The 64-bit whole number that a text spells plainly, as 7 and not 007; None for other text."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if not re.fullmatch("-?[0-9]{1,19}", text):
        return None
    number = int(text)
    return number if str(number) == text and -(2**63) <= number < 2**63 else None


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


def draw_by_id(user_ids: np.ndarray, purpose: bytes = b"") -> np.ndarray:
    """(n,) numbers in [0, 1), uniform over users; a user's depends on id and purpose alone.

    A whole number has the draw of its text.
    """
    texts = (own if isinstance(own, bytes) else str(own).encode() for own in user_ids.tolist())
    digests = (hashlib.blake2b(text, digest_size=4, person=purpose).digest() for text in texts)
    return np.fromiter((int.from_bytes(own, "little") for own in digests), np.int64) / 2**32


def draw_non_seeds(
    num_users: int, seeds: np.ndarray, excluded: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """Draws the indices of ``count`` random users who are neither seeds nor excluded.

    If there are fewer such users, all are returned. ``seeds`` and ``excluded`` are distinct
    indices. The draw depends on the seed users too, so campaigns have independent non-seeds.
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
