"""Campaigns, their examples by stage, and random draws of users.

Axes: U users, C campaigns, N campaign fields, E examples of a stage, n examples of a campaign or
values, F users of audiences.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

#: The column of examples with their times.
TIME = "time"
NO_TIME = np.iinfo(np.int64).min  #: of an example whose time is not known
#: The column of an audience or of examples that tells who was shown a campaign, and its values.
GROUP, SHOWN, CONTROL = "group", "shown", "control"
#: Random non-seeds per seed; the ratio in the real data (paper section 4.1).
NON_SEEDS_PER_SEED = 20
#: What the id of a user must be, by whether the ids of the data are whole numbers.
EXPECTED_ID = {
    True: "a plain whole number, such as 7, as all users have",
    False: "text or a whole number, without zero bytes",
}


@dataclass(frozen=True, eq=False)
class Campaign:
    """A campaign with its seeds and non-seeds; `Dataset.campaign` and `new_campaign` make one.

    Attributes:
      id: its id in the data; None for a new campaign.
      rows: (N,) int32 table rows of its attributes.
      users: (n,) int32, index of each example's user.
      labels: (n,) int8, 1 for a seed and 0 for a non-seed.
      times: (n,) int64, when each user was shown the campaign; None if it is not known.
      found: (F,) index of each user whose example comes from an audience of this system. A model
        found these users, so they do not show how well such a model finds others.
      unknown_attributes: names of attributes whose values the vocabulary lacks.
    """

    id: int | str | None
    rows: np.ndarray
    users: np.ndarray
    labels: np.ndarray
    times: np.ndarray | None = None
    found: np.ndarray | tuple[()] = ()
    unknown_attributes: tuple[str, ...] = ()

    def pick(self, examples: np.ndarray | slice) -> Campaign:
        """Picks some of the campaign's examples, by position or mask."""
        times = None if self.times is None else self.times[examples]
        return replace(self, users=self.users[examples], labels=self.labels[examples], times=times)

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


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one stage, grouped by campaign.

    Attributes:
      offsets: (C + 1,) int64; campaign c owns examples ``offsets[c]`` to ``offsets[c + 1]``.
      user: (E,) int32, index of the example's user.
      label: (E,) int8, 1 for a seed (converted) and 0 for a non-seed.
      audience: (E,) bool, whether the user was in an audience that this system chose; None if no
        example comes from one.
      control: (E,) bool, whether the user was in an audience's control group, which was not shown
        the campaign; None if no example comes from one.
      time: (E,) int64, when the user was shown the campaign; None if it is not known.
    """

    offsets: np.ndarray
    user: np.ndarray
    label: np.ndarray
    audience: np.ndarray | None = None
    control: np.ndarray | None = None
    time: np.ndarray | None = None

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
        return self.optional("audience")

    @property
    def in_control(self) -> np.ndarray:
        """(E,) bool, ``control``, false where that is None."""
        return self.optional("control")

    def optional(self, name: str) -> np.ndarray:
        """(E,) an optional column; where it is None, its default."""
        column = getattr(self, name)
        return np.full(len(self.user), OPTIONAL[name]) if column is None else column

    def pick(self, kept: np.ndarray) -> Examples:
        """The examples that an (E,) mask keeps, in the same order, or those at these places."""
        return group_by_campaign(
            self.campaign[kept],
            self.user[kept],
            self.label[kept],
            num_campaigns=len(self.counts),
            **{name: self.optional(name)[kept] for name in OPTIONAL},
        )

    def with_others(self, others: Examples) -> Examples:
        """The examples, and others after those of their campaigns."""
        both = self, others
        names = "campaign", "user", "label"
        return group_by_campaign(
            *(np.concatenate([getattr(part, name) for part in both]) for name in names),
            num_campaigns=len(self.counts),
            **{name: np.concatenate([array.optional(name) for array in both]) for name in OPTIONAL},
        )

    def shuffled(self) -> Examples:
        """The same examples, shuffled within each campaign; every call gives the same order.

        Files may list the seeds first, but the order of examples must not reveal their labels.
        """
        draw = np.random.Generator(np.random.Philox(0)).random(len(self.user), np.float32)
        return self.pick(np.lexsort((draw, self.campaign)))


#: The columns that examples need not have, and their defaults.
OPTIONAL = {"audience": False, "control": False, "time": NO_TIME}


def group_by_campaign(
    campaign: np.ndarray,
    user: np.ndarray,
    label: np.ndarray,
    *,
    num_campaigns: int,
    **optional: np.ndarray,
) -> Examples:
    """Groups examples by campaign index, and keeps the given order within a campaign.

    Args:
      campaign, user, label: (E,).
      num_campaigns: C.
      **optional: (E,) columns that examples need not have; those of defaults alone are left out.
    """
    order = np.argsort(campaign, kind="stable")
    counts = np.bincount(campaign, minlength=num_campaigns)
    return Examples(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        user=user[order].astype(np.int32),
        label=label[order].astype(np.int8),
        **{name: c[order] for name, c in optional.items() if np.any(c != OPTIONAL[name])},
    )


def plain_id(value: Any) -> int | str:
    """A user or campaign id as a plain int or str."""
    return value.decode() if isinstance(value, bytes) else int(value)


def draw_by_id(user_ids: np.ndarray, purpose: bytes = b"") -> np.ndarray:
    """(n,) numbers in [0, 1), uniform over users; a user's depends on id and purpose alone.

    A whole number has the draw of its text.
    """
    texts = (key if isinstance(key, bytes) else str(key).encode() for key in user_ids.tolist())
    digests = (hashlib.blake2b(text, digest_size=4, person=purpose).digest() for text in texts)
    return np.fromiter((int.from_bytes(digest, "little") for digest in digests), np.int64) / 2**32


def groups_of(
    campaigns: Iterable[int | str | None], users: Iterable[int | str], hold_out: float
) -> list[str]:
    """Tells which users of audiences are shown the campaign, and which are its control group.

    It depends on the ids of both alone, so it is the same in every run and every engine.

    Args:
      campaigns: n ids; None for a campaign without one.
      users: n ids.
      hold_out: probability of the control group.

    Returns:
      `SHOWN` or `CONTROL`, n times.
    """
    texts = (f"{c}\0{u}".encode() for c, u in zip(campaigns, users, strict=True))
    digests = (hashlib.blake2b(text, digest_size=4, person=b"control").digest() for text in texts)
    draws = (int.from_bytes(digest, "little") / 2**32 for digest in digests)
    return [CONTROL if draw < hold_out else SHOWN for draw in draws]


def draw_non_seeds(
    num_users: int,
    seeds: np.ndarray,
    seed: int,
    *,
    taken: np.ndarray | tuple[()] = (),
    pool: np.ndarray | None = None,
) -> np.ndarray:
    """Draws random users who are neither seeds nor taken, by index: `NON_SEEDS_PER_SEED` a seed.

    If there are fewer such users, all are returned. The draw depends on the seeds too, so campaigns
    have independent non-seeds. If more users are taken, others take their places.

    Args:
      num_users: U.
      seeds: distinct indices.
      seed: random seed.
      taken: indices of other users who are not drawn.
      pool: (U,) bool, the users who may be drawn; None for all.
    """
    count = NON_SEEDS_PER_SEED * len(seeds)
    salt = zlib.crc32(np.sort(seeds).astype("<i8").tobytes())
    rng = np.random.Generator(np.random.Philox([seed, salt]))
    size, drawn = min(count + len(seeds), num_users), np.empty(0, np.int64)
    while True:  # those drawn first stay, whoever is taken
        drawn = np.concatenate([drawn, rng.choice(num_users, size, replace=False)])
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
        free = ~(np.isin(drawn, seeds) | np.isin(drawn, taken))
        others = drawn[free if pool is None else free & pool[drawn]]
        if len(others) >= count or size == num_users:
            return others[:count]
        size = min(2 * size, num_users)
