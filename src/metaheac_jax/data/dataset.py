"""A Dataset: users, campaigns and their examples.

`storage` writes one to a directory and opens it as memory-mapped columns.

Axes: U users, C campaigns, E examples of a stage, S slots of a user, N campaign fields, n examples
of a campaign, V values and L slots of a sensitive field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from metaheac_jax.data.campaign import Campaign, check_user_ids, draw_non_seeds, plain_id
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.schema import Schema, Vocabulary
from metaheac_jax.table.layout import Layout

#: Non-seeds that a new campaign draws for each seed: the real data's rate (paper section 4.1).
NON_SEEDS_PER_SEED = 20
_BLOCK = 1 << 18  # users checked at a time


@dataclass(frozen=True)
class Examples:
    """The examples of one stage, grouped by campaign.

    Attributes:
      offsets: (C + 1,) int64; campaign c owns examples ``offsets[c]`` to ``offsets[c + 1]``.
      user: (E,) int32, index of the example's user.
      label: (E,) int8, 1 for a seed (converted) and 0 for a non-seed.
      probability: (E,) float32, the true conversion probability; None unless simulated.
    """

    offsets: np.ndarray
    user: np.ndarray
    label: np.ndarray
    probability: np.ndarray | None = None

    def of(self, campaign: int) -> slice:
        """The examples of one campaign."""
        return slice(int(self.offsets[campaign]), int(self.offsets[campaign + 1]))

    @property
    def counts(self) -> np.ndarray:
        """(C,) examples of each campaign."""
        return np.diff(self.offsets)

    @property
    def positives(self) -> np.ndarray:
        """(C,) positive examples of each campaign."""
        total = np.concatenate([[0], np.cumsum(self.label, dtype=np.int64)])
        return total[self.offsets[1:]] - total[self.offsets[:-1]]


def group_by_campaign(
    campaign: np.ndarray,
    user: np.ndarray,
    label: np.ndarray,
    *,
    num_campaigns: int,
    probability: np.ndarray | None = None,
) -> Examples:
    """Groups examples by campaign index; within a campaign the given order is kept."""
    order = np.argsort(campaign, kind="stable")
    counts = np.bincount(campaign, minlength=num_campaigns)
    return Examples(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        user=user[order].astype(np.int32),
        label=label[order].astype(np.int8),
        probability=None if probability is None else probability[order].astype(np.float32),
    )


@dataclass(frozen=True)
class SensitiveField:
    """A field of users that no model sees, and by which audiences are reported.

    Attributes:
      values: (V,) distinct texts, as reports show them.
      codes: (U, L) int32, position of each user's values in ``values``; V where a slot is empty.
    """

    values: np.ndarray
    codes: np.ndarray


class UserRows(Protocol):
    """(U, S) table rows of users: an array, a memory map, or rows that are computed when read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(U, S)."""

    def __len__(self) -> int:
        """U."""

    def __getitem__(self, users: Any, /) -> np.ndarray:
        """The rows of these users, by index array or slice."""


@dataclass(frozen=True)
class Dataset:
    """Everything known about a pool of users and a set of campaigns.

    Attributes:
      name: what the data is, for titles; a simulated world says so here.
      schema: the fields in use.
      vocabulary: their values.
      user_key: (U,) user ids, int64 or UTF-8 bytes; ties in a ranking are broken by them.
      user_rows: (U, S) int32 table rows; the pad id R fills slots that are not used.
      campaign_key: (C,) campaign ids, int64 or UTF-8 bytes, ascending.
      campaign_rows: (C, N) int32 table rows.
      stage1: seeds and non-seeds: training, and customising.
      stage2: the pool on which an expanded audience is judged.
      sensitive: by name, the fields that are in neither schema nor vocabulary.
    """

    name: str
    schema: Schema
    vocabulary: Vocabulary
    user_key: np.ndarray
    user_rows: UserRows
    campaign_key: np.ndarray
    campaign_rows: np.ndarray
    stage1: Examples
    stage2: Examples
    sensitive: Mapping[str, SensitiveField] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """R, the rows of the embedding table; also the pad id."""
        return self.vocabulary.num_rows

    @property
    def layout(self) -> Layout:
        """Where each field lies."""
        return Layout.of(self.schema, self.vocabulary)

    @property
    def num_campaigns(self) -> int:
        """C."""
        return len(self.campaign_key)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_key)

    def check(self) -> None:
        """Refuses columns that do not fit together; reads every one once.

        Raises:
          InputError: a shape, an order, an id or a label is wrong; the column is named.
        """
        fields = self.schema.fields
        if len(self.vocabulary.values) != len(fields):
            raise self._wrong("vocabulary", f"{len(self.vocabulary.values)} fields")
        for own, values in zip(fields, self.vocabulary.values, strict=True):
            if len(values) and not (values[1:] > values[:-1]).all():
                raise self._wrong(f"values of {own.name!r}", "not ascending and distinct")
        slots = [own.slots for own in fields]
        first = np.repeat(self.vocabulary.offsets, slots)
        last = first + np.repeat(self.vocabulary.sizes, slots)
        user, campaign = slice(0, self.schema.num_slots), slice(self.schema.num_slots, None)
        users = len(self.user_rows)
        self._check_rows("user_rows", self.user_rows, users, first[user], last[user])
        self._check_rows(
            "campaign_rows", self.campaign_rows, self.num_campaigns, first[campaign], last[campaign]
        )
        if len(self.user_key) != len(self.user_rows):
            raise self._wrong("user_key", f"{len(self.user_key)} ids, {len(self.user_rows)} users")
        for name, key in (("user_key", self.user_key), ("campaign_key", self.campaign_key)):
            if key.dtype.kind not in "iuS":
                raise self._wrong(name, f"{key.dtype}, expected whole numbers or bytes")
        if not (self.campaign_key[1:] > self.campaign_key[:-1]).all():
            raise self._wrong("campaign_key", "not ascending and distinct")
        for name, stage in (("stage1", self.stage1), ("stage2", self.stage2)):
            self._check_stage(name, stage)
        for name, own in self.sensitive.items():
            self._check_sensitive(name, own)

    def _check_rows(
        self, name: str, rows: UserRows, count: int, first: np.ndarray, last: np.ndarray
    ) -> None:
        if rows.shape != (count, len(first)):
            raise self._wrong(name, f"shape {rows.shape}, expected {(count, len(first))}")
        for start in range(0, count, _BLOCK):
            block = rows[start : start + _BLOCK]
            if block.dtype.kind not in "iu":
                raise self._wrong(name, f"{block.dtype}, expected whole numbers")
            outside = (block < first) | (block >= last)
            wrong = outside & (block != self.num_rows)
            if wrong.any():
                at = int(np.argmax(wrong.any(axis=1)))
                value = block[wrong][0]
                raise self._wrong(
                    name, f"row {start + at} has {value}, which is not a value of its field"
                )

    def _check_stage(self, name: str, stage: Examples) -> None:
        count, offsets = len(stage.user), stage.offsets
        if len(stage.label) != count:
            raise self._wrong(name, f"{count} users and {len(stage.label)} labels")
        steps = np.diff(offsets)
        if len(steps) != self.num_campaigns or offsets[0] or offsets[-1] != count or min(steps) < 0:
            raise self._wrong(f"{name} offsets", "do not divide the examples among the campaigns")
        if count and (stage.user.min() < 0 or stage.user.max() >= self.num_users):
            raise self._wrong(f"{name} users", f"an index is not in 0 to {self.num_users - 1}")
        labels = np.asarray(stage.label)
        if not np.isin(labels, (0, 1)).all():
            bad = labels[~np.isin(labels, (0, 1))][0]
            raise self._wrong(f"{name} labels", f"{bad}, expected 1 for a seed and 0 for others")
        chance = np.zeros(count) if stage.probability is None else stage.probability
        if len(chance) != count or not ((chance >= 0) & (chance <= 1)).all():
            raise self._wrong(f"{name} probability", "not one number from 0 to 1 per example")

    def _check_sensitive(self, name: str, own: SensitiveField) -> None:
        column = f"sensitive field {name!r}"
        if name in [known.name for known in self.schema.fields]:
            raise self._wrong(column, "is a field of the model as well")
        values = np.asarray(own.values)
        if values.dtype.kind != "U" or len(np.unique(values)) < len(values):
            raise self._wrong(column, "values are not distinct texts")
        if own.codes.ndim != 2 or len(own.codes) != self.num_users:
            raise self._wrong(column, f"codes of shape {own.codes.shape}, {self.num_users} users")
        codes = own.codes
        if codes.dtype.kind not in "iu":
            raise self._wrong(column, f"codes are {codes.dtype}, expected whole numbers")
        if codes.size and (codes.min() < 0 or codes.max() > len(values)):
            raise self._wrong(column, f"a code is not in 0 to {len(values)}")

    def _wrong(self, column: str, what: str) -> InputError:
        return InputError(f"{self.name}: {column}: {what}")

    def campaign(self, index: int) -> Campaign:
        """An existing campaign with its stage-1 examples: what it is customised on.

        Raises:
          InputError: there is no such campaign.
        """
        if not 0 <= index < self.num_campaigns:
            raise InputError(
                f"{self.name}: no campaign {index}, expected an index from 0 to "
                f"{self.num_campaigns - 1}"
            )
        of = self.stage1.of(index)
        return Campaign(
            key=plain_id(self.campaign_key[index]),
            rows=self.campaign_rows[index],
            users=self.stage1.user[of],
            labels=self.stage1.label[of],
        )

    def find_users(self, user_ids: Any) -> np.ndarray:
        """(n,) user ids -> (n,) int64 index of each user; -1 where the id is unknown.

        Raises:
          InputError: the ids are not a list of whole numbers.
        """
        return self._positions(self.checked_ids(user_ids))

    def check_one_row_per_user(self) -> None:
        """Refuses data in which a user has several rows.

        Raises:
          InputError: it names the first such user.
        """
        ordered = self._users_by_key[1]
        again = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(again):
            raise self._wrong("user_key", f"user {plain_id(again[0])} has several rows")

    def checked_ids(self, user_ids: Any) -> np.ndarray:
        """User ids in the form of ``user_key``.

        Raises:
          InputError: as `find_users` does.
        """
        return check_user_ids(user_ids, text=self.user_key.dtype.kind == "S")

    def _positions(self, ids: np.ndarray) -> np.ndarray:
        order, ordered = self._users_by_key
        position = np.searchsorted(ordered, ids).clip(max=len(ordered) - 1)
        return np.where(ordered[position] == ids, order[position], -1)

    @cached_property
    def _users_by_key(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.user_key, kind="stable")
        return order, self.user_key[order]

    def new_campaign(
        self,
        seeds: Any,
        attributes: Mapping[str, Any],
        *,
        non_seeds_per_seed: int = NON_SEEDS_PER_SEED,
        seed: int = 0,
    ) -> Campaign:
        """A campaign that the data set does not know, from its seed users.

        Args:
          seeds: user ids. Repeated ones count once; ids that no user has are left out and counted
            in `Campaign.num_unmatched`.
          attributes: a raw value for each campaign field of the schema. A value that training has
            not seen has no embedding.
          non_seeds_per_seed: users drawn at random from the pool as non-seeds; seeds are never
            among them. Where the pool is too small it gives all its users.
          seed: of that draw.

        Raises:
          InputError: no seed is a user of this data set, there is no seed, all users are seeds, an
            id is not a whole number, or an attribute is missing or unknown.
        """
        check_whole("non_seeds_per_seed", non_seeds_per_seed, 1)
        check_whole("seed", seed, 0)
        ids = np.unique(self.checked_ids(seeds))
        if not len(ids):
            raise InputError("new campaign: no seeds; give the ids of at least one user")
        found = self._positions(ids)
        users = found[found >= 0]
        if not len(users):
            raise InputError(
                f"new campaign: none of the {len(ids)} seeds is a user of {self.name!r}; "
                "check that the ids are those of the prepared users"
            )
        others = draw_non_seeds(self.num_users, users, non_seeds_per_seed * len(users), seed)
        rows = self.vocabulary.encode_attributes(self.schema, attributes)
        pairs = zip(rows, self.schema.campaign, strict=True)
        return Campaign(
            key=None,
            rows=rows,
            users=np.concatenate([users, others]).astype(np.int32),
            labels=np.repeat(np.array([1, 0], np.int8), [len(users), len(others)]),
            num_unmatched=len(ids) - len(users),
            unknown_attributes=tuple(f.name for row, f in pairs if row == self.num_rows),
        )
