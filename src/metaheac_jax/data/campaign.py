"""A campaign and its examples, on which a general model is customised.

Axes: U users, N campaign fields, n examples of a campaign, F users of audiences.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from metaheac_jax.errors import InputError
from metaheac_jax.schema import whole_number

#: User ids as a caller gives them: a list, an array or a column of whole numbers or of text. (The
#: type admits more; `as_ids` refuses the rest.)
UserIds: TypeAlias = ArrayLike
#: Maximum length of a user or campaign id, in UTF-8 bytes.
MAX_ID_BYTES = 64


@dataclass(frozen=True, eq=False)
class Campaign:
    """A campaign with its seeds and non-seeds; `Dataset.campaign` and `new_campaign` make one.

    Attributes:
      id: its id in the data; None for a new campaign.
      rows: (N,) int32 table rows of its attributes.
      users: (n,) int32, index of each example's user.
      labels: (n,) int8, 1 for a seed and 0 for a non-seed.
      found: (F,) index of each user whose example comes from an audience of this system. A model
        found these users, so they do not show how well such a model finds others.
      unknown_attributes: names of attributes whose values the vocabulary lacks.
      num_unmatched: number of given seeds that are no users of the data.
    """

    id: int | str | None
    rows: np.ndarray
    users: np.ndarray
    labels: np.ndarray
    found: np.ndarray | tuple[()] = ()
    unknown_attributes: tuple[str, ...] = ()
    num_unmatched: int = 0

    def check(self, num_users: int, num_fields: int) -> None:
        """Refuses a campaign that does not belong to data with this many users and campaign fields.

        Raises:
          InputError: it has no examples, a user without a label, a label that is not 0 or 1, an
            unknown user, or another number of campaign fields.
        """
        users, labels = np.asarray(self.users), np.asarray(self.labels)
        wrong = ""
        if not len(users):
            wrong = "no examples; give it seeds and non-seeds"
        elif len(users) != len(labels) or not np.isin(labels, (0, 1)).all():
            wrong = "expected a label for each user, 1 (a seed) or 0 (a non-seed)"
        elif users.min() < 0 or users.max() >= num_users:
            wrong = f"a user's index is not in 0 to {num_users - 1}; it is of other data"
        elif np.shape(self.rows) != (num_fields,):
            wrong = f"attributes of shape {np.shape(self.rows)}, expected ({num_fields},)"
        if wrong:
            raise InputError(f"{self.name}: {wrong}")

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
        """Number of seeds without those from audiences."""
        return int((self.labels[~self.is_found] == 1).sum())

    @property
    def name(self) -> str:
        """The campaign's name in messages."""
        return "new campaign" if self.id is None else f"campaign {self.id}"


def plain_id(value: Any) -> int | str:
    """A user or campaign id as a plain int or str."""
    return value.decode() if isinstance(value, bytes) else int(value)


def as_ids(user_ids: UserIds, *, text: bool) -> np.ndarray:
    """User ids in the form of the data: (n,) int64, or UTF-8 bytes if ``text``.

    A whole number and its text are the same id.

    Raises:
      InputError: they are not a list of whole numbers that fit into 64 bits; or, if ``text``, of
        texts of 1 to `MAX_ID_BYTES` bytes.
    """
    expected = f"text of 1 to {MAX_ID_BYTES} bytes" if text else "whole numbers"
    given = np.asarray(user_ids, None if hasattr(user_ids, "dtype") else object)
    if given.ndim != 1:
        raise InputError(f"user ids: expected a list, got an array of shape {given.shape}")
    if text and given.dtype.kind == "S":
        return given
    if not text and given.dtype.kind in "iu" and given.dtype != np.uint64:
        return given.astype(np.int64)
    ids: list[bytes | int | None] = []
    for own in given.tolist():
        plain = own.decode(errors="replace") if isinstance(own, bytes) else own
        is_id = isinstance(plain, str | Integral) and not isinstance(plain, bool)
        spelled = str(plain) if is_id else ""
        number, content = whole_number(spelled), spelled.encode(errors="replace")
        if not (1 <= len(content) <= MAX_ID_BYTES if text else number is not None):
            raise InputError(f"user ids: expected {expected}, got {plain!r}")
        ids.append(content if text else number)
    return np.array(ids, "S" if ids else "S1") if text else np.array(ids, np.int64)


def draw_by_id(user_ids: np.ndarray, purpose: bytes = b"") -> np.ndarray:
    """(n,) numbers in [0, 1), uniform over users; a user's depends on id and purpose alone.

    A whole number has the draw of its text.
    """
    texts = (own if isinstance(own, bytes) else str(own).encode() for own in user_ids.tolist())
    digests = (hashlib.blake2b(text, digest_size=4, person=purpose).digest() for text in texts)
    return np.fromiter((int.from_bytes(own, "little") for own in digests), np.int64) / 2**32


def draw_non_seeds(
    num_users: int,
    seeds: np.ndarray,
    count: int,
    seed: int,
    *,
    taken: np.ndarray | tuple[()] = (),
    pool: np.ndarray | None = None,
) -> np.ndarray:
    """Draws the indices of ``count`` random users who are neither seeds nor taken.

    If there are fewer such users, all are returned. The draw depends on the seeds too, so campaigns
    have independent non-seeds. If more users are taken, others take their places.

    Args:
      num_users: U.
      seeds: distinct indices.
      count: number of users to draw.
      seed: random seed.
      taken: indices of other users who are not drawn.
      pool: (U,) bool, the users who may be drawn; None for all.
    """
    own = zlib.crc32(np.sort(seeds).astype("<i8").tobytes())
    rng = np.random.Generator(np.random.Philox([seed, own]))
    size, drawn = min(count + len(seeds), num_users), np.empty(0, np.int64)
    while True:  # those drawn first stay, whoever is taken
        drawn = np.concatenate([drawn, rng.choice(num_users, size, replace=False)])
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
        free = ~(np.isin(drawn, seeds) | np.isin(drawn, taken))
        others = drawn[free if pool is None else free & pool[drawn]]
        if len(others) >= count or size == num_users:
            return others[:count]
        size = min(2 * size, num_users)
