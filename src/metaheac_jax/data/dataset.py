"""A Dataset: users, campaigns and their examples.

`storage` writes one to a directory and opens it as memory-mapped columns.

Axes: U users, C campaigns, S slots of a user, N campaign fields, n examples of a campaign, V values
and L slots of a sensitive field.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metaheac_jax.data.campaign import (
    Campaign,
    CampaignBrief,
    UserIds,
    check_user_ids,
    draw_non_seeds,
    plain_id,
    whole_number,
)
from metaheac_jax.data.campaign_record import CampaignRecord
from metaheac_jax.data.examples import Examples, group_by_campaign, is_repeat
from metaheac_jax.errors import InputError, Refusals, about, check_whole
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import Schema, Vocabulary
from metaheac_jax.table.layout import Layout

#: Non-seeds drawn per seed of a new campaign; the ratio in the real data (paper section 4.1).
NON_SEEDS_PER_SEED = 20
#: Names of the fields of campaigns that are made from columns of users.
COLUMN_FIELDS = ("column", "value")
_BLOCK = 1 << 18  # users read at a time


@dataclass(frozen=True, eq=False)
class SensitiveField:
    """A user field that no model sees; reports describe audiences by its values.

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


@dataclass(frozen=True, eq=False)
class Dataset:
    """Everything known about a pool of users and a set of campaigns.

    Attributes:
      name: title of the data; that of a simulated world says that it is simulated.
      schema: the fields in use.
      vocabulary: the values of these fields.
      user_ids: (U,) int64 or UTF-8 bytes; they break ties in a ranking.
      user_rows: (U, S) int32 table rows; unused slots have the pad id R.
      campaign_ids: (C,) int64 or UTF-8 bytes, ascending.
      campaign_rows: (C, N) int32 table rows.
      stage1: seeds and non-seeds for training and customising.
      stage2: the pool on which an expanded audience is evaluated.
      sensitive: sensitive fields by name; they are in neither the schema nor the vocabulary.
      one_row_per_user: whether each user has one row and a unique id. Otherwise no audience can be
        drawn from the data.
      digest: digest of the manifest from which it was opened; None if it was made in memory.
      folder: folder from which it was opened; None likewise.
      remembered: (M,) ids in ascending order, and (M,) int64, the index of each one's user or -1;
        see `remember`. None if there are none. They are those of ``user_ids``.
    """

    name: str
    schema: Schema
    vocabulary: Vocabulary
    user_ids: np.ndarray
    user_rows: UserRows
    campaign_ids: np.ndarray
    campaign_rows: np.ndarray
    stage1: Examples
    stage2: Examples
    sensitive: Mapping[str, SensitiveField] = field(default_factory=dict)
    one_row_per_user: bool = True
    digest: str | None = None
    folder: Path | None = None
    remembered: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def where(self) -> str:
        """The folder from which it was opened, or its name; for messages."""
        return self.name if self.folder is None else str(self.folder)

    @property
    def num_rows(self) -> int:
        """R, the number of rows of the embedding table; also the pad id."""
        return self.vocabulary.num_rows

    @property
    def layout(self) -> Layout:
        """Where each field lies."""
        return Layout.of(self.schema, self.vocabulary)

    @property
    def num_campaigns(self) -> int:
        """C."""
        return len(self.campaign_ids)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    def check(self) -> None:
        """Refuses inconsistent columns; reads every column once, and sorts the user ids.

        Raises:
          InputError: a shape, an order, an id or a label is wrong; the message names the column.
        """
        fields = self.schema.fields
        if len(self.vocabulary.values) != len(fields):
            raise self._wrong(
                "vocabulary", f"{len(self.vocabulary.values)} fields, expected {len(fields)}"
            )
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
        if len(self.user_ids) != len(self.user_rows):
            raise self._wrong("user_ids", f"{len(self.user_ids)} ids, {len(self.user_rows)} users")
        for name, ids in (("user_ids", self.user_ids), ("campaign_ids", self.campaign_ids)):
            if ids.dtype.kind not in "iuS":
                raise self._wrong(name, f"{ids.dtype}, expected whole numbers or bytes")
        if not (self.campaign_ids[1:] > self.campaign_ids[:-1]).all():
            raise self._wrong("campaign_ids", "not ascending and distinct")
        if self.one_row_per_user:
            again = self.user_ids[is_repeat(self.user_ids)]
            if len(again):
                raise self._wrong("user_ids", f"user {plain_id(min(again))} has several rows")
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
        ends = offsets[0] == 0 and offsets[-1] == count
        if len(steps) != self.num_campaigns or not ends or (steps < 0).any():
            raise self._wrong(f"{name} offsets", "do not divide the examples among the campaigns")
        if count and (stage.user.min() < 0 or stage.user.max() >= self.num_users):
            raise self._wrong(f"{name} users", f"an index is not in 0 to {self.num_users - 1}")
        labels = np.asarray(stage.label)
        if not np.isin(labels, (0, 1)).all():
            bad = labels[~np.isin(labels, (0, 1))][0]
            raise self._wrong(f"{name} labels", f"{bad}, expected 1 for a seed or 0 for a non-seed")
        chance = stage.probability
        if chance is None:
            return
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
            raise self._wrong(
                column,
                f"codes of shape {own.codes.shape}, expected one row for each of "
                f"{self.num_users} users",
            )
        codes = own.codes
        if codes.dtype.kind not in "iu":
            raise self._wrong(column, f"codes are {codes.dtype}, expected whole numbers")
        if codes.size and (codes.min() < 0 or codes.max() > len(values)):
            raise self._wrong(column, f"a code is not in 0 to {len(values)}")

    def _wrong(self, column: str, what: str) -> InputError:
        return InputError(f"{self.where}: {column}: {what}")

    def campaign(self, index: int) -> Campaign:
        """An existing campaign with its stage-1 examples, on which a model is customised.

        Raises:
          InputError: there is no such campaign.
        """
        if not 0 <= index < self.num_campaigns:
            raise InputError(
                f"{self.where}: no campaign {index}, expected an index from 0 to "
                f"{self.num_campaigns - 1}"
            )
        of = self.stage1.of(index)
        return Campaign(
            id=plain_id(self.campaign_ids[index]),
            rows=self.campaign_rows[index],
            users=self.stage1.user[of],
            labels=self.stage1.label[of],
        )

    def campaigns_among(self, ids: Collection[int | str]) -> np.ndarray:
        """(C,) bool, whether the id of each campaign is one of these.

        They are compared as text, since all ids become text when one of them is not a number.
        """
        names = {str(own) for own in ids}
        return np.array([str(plain_id(own)) in names for own in self.campaign_ids], bool)

    def find_users(
        self, user_ids: UserIds, *, part: tuple[int, int] = (0, 1), progress: Progress = silent
    ) -> np.ndarray:
        """(n,) user ids -> (n,) int64 index of each user; -1 where the id is unknown.

        Memory grows with the length of ``user_ids``, not with U.

        Args:
          user_ids: a list; an id may occur several times.
          part: (i, k) reads only part i of k of the users; users in other parts count as unknown.
          progress: receives the number of users read.

        Raises:
          InputError: the ids are not a list of whole numbers, or of text if the data has text ids.
        """
        wanted, place = np.unique(self.checked_ids(user_ids), return_inverse=True)
        if not len(wanted):
            return np.empty(0, np.int64)
        known = self._recall(wanted)
        if known is not None:
            in_part = known // _BLOCK % part[1] == part[0]
            return np.where(in_part, known, -1)[place]
        found = np.full(len(wanted), -1, np.int64)
        for users, position in self._rows_of(wanted, part, progress):
            found[position] = users
        return found[place]

    def remember(self, user_ids: UserIds, *, progress: Progress = silent) -> Dataset:
        """The data set whose `find_users` finds these users without reading the user ids again.

        Args:
          user_ids: a list; ids that match no user are remembered as such. Those remembered before
            are forgotten.
          progress: receives the number of users read.

        Raises:
          InputError: as `find_users` does.
        """
        wanted = np.unique(self.checked_ids(user_ids))
        return replace(self, remembered=(wanted, self.find_users(wanted, progress=progress)))

    def _recall(self, wanted: np.ndarray) -> np.ndarray | None:
        """The users of ids, -1 where there is none; None unless all these ids are remembered."""
        if self.remembered is None or not len(self.remembered[0]):
            return None
        ids, users = self.remembered
        position = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
        return users[position] if (ids[position] == wanted).all() else None

    def _rows_of(
        self, wanted: np.ndarray, part: tuple[int, int], progress: Progress
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the indices of the users with these ids, and the position of each one's id.

        Args:
          wanted: ids in ascending order, at least one.
          part: as for `find_users`.
          progress: as for `find_users`.
        """
        for start in range(0, self.num_users, _BLOCK)[part[0] :: part[1]]:
            ids = self.user_ids[start : start + _BLOCK]
            position = np.searchsorted(wanted, ids).clip(max=len(wanted) - 1)
            users = np.flatnonzero(wanted[position] == ids)
            yield start + users, position[users]
            progress("find users", start + len(ids), self.num_users)

    def check_one_row_per_user(self) -> None:
        """Refuses data from which no audience can be drawn.

        Raises:
          InputError: a user may have several rows.
        """
        if not self.one_row_per_user:
            what = "a user may have several rows, so no audience can be drawn from this data"
            raise self._wrong("user_ids", what)

    def checked_ids(self, user_ids: UserIds) -> np.ndarray:
        """User ids in the form that the data has.

        Raises:
          InputError: as `find_users` does.
        """
        return check_user_ids(user_ids, text=self.user_ids.dtype.kind == "S")

    def new_campaign(
        self,
        seeds: UserIds,
        attributes: Mapping[str, Any],
        *,
        non_seeds_per_seed: int = NON_SEEDS_PER_SEED,
        exclude: UserIds = (),
        seed: int = 0,
    ) -> Campaign:
        """A campaign that is not in the data set, from its seed users.

        Args:
          seeds: user ids. Repeated ones count once; ids that match no user and are not excluded are
            in `Campaign.unmatched`.
          attributes: a raw value per campaign field. A value that training has not seen has no
            embedding.
          non_seeds_per_seed: number of users drawn at random from the pool as non-seeds, per seed.
            Seeds are never drawn. If the pool is too small, all its other users are taken.
          exclude: ids of users who are excluded from learning and from audiences, such as opt-outs.
            They are neither seeds (those are counted in `Campaign.num_excluded`) nor non-seeds, and
            they are in `Campaign.excluded_ids`, with those that match no user.
          seed: random seed of the draw of non-seeds.

        Raises:
          InputError: there are no seeds, none of them is a user of this data set, all of them are
            excluded, all users are seeds or excluded, an id is invalid (see `find_users`), an
            attribute is missing, unknown or invalid, or ``non_seeds_per_seed`` or ``seed`` is out
            of range.
        """
        [campaign] = self.new_campaigns(
            [CampaignBrief(seeds, attributes)],
            non_seeds_per_seed=non_seeds_per_seed,
            exclude=exclude,
            seed=seed,
        )
        return campaign

    def new_campaigns(
        self,
        briefs: Sequence[CampaignBrief],
        *,
        non_seeds_per_seed: int = NON_SEEDS_PER_SEED,
        exclude: UserIds = (),
        seed: int = 0,
        refusals: Refusals | None = None,
        progress: Progress = silent,
    ) -> list[Campaign]:
        """Several campaigns as in `new_campaign`; the user ids are read once for all.

        Args:
          briefs: seeds and attributes per campaign.
          non_seeds_per_seed, exclude, seed: as in `new_campaign`, for all campaigns.
          refusals: collects the errors of campaigns, by name; these campaigns are left out. By
            default they are raised.
          progress: receives the number of users read.

        Raises:
          InputError: as in `new_campaign`; the message names the campaigns that have a name.
        """
        check_whole("non_seeds_per_seed", non_seeds_per_seed, 1)
        check_whole("seed", seed, 0)
        errors = Refusals() if refusals is None else refusals
        able, given = [], [self.checked_ids(exclude)]
        for brief in briefs:
            name = None if brief.name is None else f"campaign {brief.name}"
            with errors.collected(brief.name), about(name):
                ids = np.unique(self.checked_ids(brief.seeds))
                rows = self.vocabulary.encode_attributes(self.schema, brief.attributes)
                able.append((brief, rows))
                given.append(ids)
        if refusals is None:
            errors.check()
        found = self.find_users(np.concatenate(given), progress=progress)
        excluded, *seeds = np.split(found, np.cumsum([len(ids) for ids in given])[:-1])
        excluded, excluded_ids = np.unique(excluded[excluded >= 0]), np.unique(given[0])
        new = []
        for (brief, rows), ids, found in zip(able, given[1:], seeds, strict=True):
            with errors.collected(brief.name):
                campaign = self._new_campaign(
                    brief.name, rows, found, excluded, non_seeds_per_seed, seed
                )
                campaign = replace(
                    campaign,
                    attributes=dict(brief.attributes),
                    unmatched=np.setdiff1d(ids[found < 0], excluded_ids),
                    excluded_ids=excluded_ids,
                )
                new.append(campaign)
        if refusals is None:
            errors.check()
        return new

    def _new_campaign(
        self,
        name: str | None,
        rows: np.ndarray,
        found: np.ndarray,
        excluded: np.ndarray,
        non_seeds_per_seed: int,
        seed: int,
    ) -> Campaign:
        """A campaign from ``found``, the index of each distinct given seed, or -1 if unknown."""
        label = "new campaign" if name is None else f"campaign {name}"
        if not len(found):
            raise InputError(f"{label}: no seeds; give the ids of at least one user")
        known = found[found >= 0]
        if not len(known):
            raise InputError(
                f"{label}: none of the {len(found)} seeds is a user of {self.where}; "
                "check that the ids are those of the prepared users"
            )
        users = known[~np.isin(known, excluded)]
        if not len(users):
            raise InputError(f"{label}: all {len(known)} seeds in the data are excluded")
        free = self.num_users - len(users) - len(excluded)
        if not free:
            who = "seeds or excluded" if len(excluded) else "seeds"
            raise InputError(
                f"{label}: all {self.num_users} users are {who}, so no non-seeds can be drawn; "
                "use a larger pool"
            )
        count = min(non_seeds_per_seed * len(users), free)
        others = draw_non_seeds(self.num_users, users, excluded, count, seed)
        return Campaign(
            id=name,
            rows=rows,
            users=np.concatenate([users, others]).astype(np.int32),
            labels=np.repeat(np.array([1, 0], np.int8), [len(users), len(others)]),
            num_excluded=len(known) - len(users),
            unknown_attributes=self.unknown_attributes(rows),
        )

    def unknown_attributes(self, rows: np.ndarray) -> tuple[str, ...]:
        """The campaign fields whose values the vocabulary lacks, from (N,) rows of a campaign."""
        fields = zip(rows.tolist(), self.schema.campaign, strict=True)
        return tuple(field.name for row, field in fields if row == self.num_rows)

    def recorded_campaign(self, record: CampaignRecord, *, needs_seeds: bool = True) -> Campaign:
        """A campaign that is not in the data set, from its record.

        Users who are not in the data are left out; seeds among them are in `Campaign.unmatched`.

        Args:
          record: the campaign.
          needs_seeds: refuse a campaign none of whose seeds is in the data.

        Raises:
          InputError: no seed is a user of this data set although they are needed, the user ids are
            of a different kind, or an attribute is missing, unknown or invalid.
        """
        users, is_seed = self.find_users(record.user_ids), record.labels == 1
        found = users >= 0
        if needs_seeds and not (found & is_seed).any():
            raise InputError(
                f"campaign {record.name}: none of its {is_seed.sum()} seeds is a user of "
                f"{self.where}; check that the ids are those of the prepared users"
            )
        rows = self.vocabulary.encode_attributes(self.schema, record.attributes)
        return Campaign(
            id=record.name,
            rows=rows,
            users=users[found].astype(np.int32),
            labels=record.labels[found],
            unknown_attributes=self.unknown_attributes(rows),
            attributes=record.attributes,
            unmatched=self.checked_ids(record.user_ids[is_seed & ~found]),
        )

    def ids_of_seeds(self, campaign: Campaign) -> np.ndarray:
        """User ids of a campaign's seeds, including those who are not in the data.

        Raises:
          InputError: the ids of `Campaign.unmatched` are of another kind than the data's.
        """
        own, others = self.user_ids[campaign.seeds], self.checked_ids(campaign.unmatched)
        return np.concatenate([own, others])

    def with_campaigns(self, records: Sequence[CampaignRecord]) -> Dataset:
        """The data set with added campaigns, whose examples are in stage 1.

        Users who are not in the data are left out.

        Args:
          records: one per campaign, whose id is the name in the record.

        Raises:
          InputError: a campaign id is already in use, a name is not a whole number although the
            campaign ids in the data are, or as `recorded_campaign`.
        """
        users = []
        for record in records:
            with about(f"campaign {record.name}"):
                users.append(self.checked_ids(record.user_ids))
        known = self.remember(np.concatenate(users)) if users else self
        new = [known.recorded_campaign(record) for record in records]
        own_ids = [np.array([self._as_campaign_id(record.name)]) for record in records]
        ids = np.concatenate([self.campaign_ids, *own_ids])
        ordered, position, times = np.unique(ids, return_inverse=True, return_counts=True)
        if (times > 1).any():
            raise self._wrong(
                "campaign_ids", f"campaign {plain_id(ordered[times > 1][0])} already exists"
            )
        rows = np.empty((len(ids), len(self.schema.campaign)), np.int32)
        rows[position] = np.stack([*self.campaign_rows, *(c.rows for c in new)])
        stage1, stage2 = self.stage1, self.stage2
        return replace(
            self,
            campaign_ids=ordered,
            campaign_rows=rows,
            stage1=group_by_campaign(
                np.repeat(position, [*stage1.counts, *(len(c.users) for c in new)]),
                np.concatenate([stage1.user, *(c.users for c in new)]),
                np.concatenate([stage1.label, *(c.labels for c in new)]),
                num_campaigns=len(ids),
            ),
            stage2=group_by_campaign(
                np.repeat(position[: self.num_campaigns], stage2.counts),
                stage2.user,
                stage2.label,
                num_campaigns=len(ids),
                probability=stage2.probability,
            ),
        )

    def without_examples_of(self, user_ids: UserIds, *, progress: Progress = silent) -> Dataset:
        """The data set without the examples of these users, who stay in the pool.

        Args:
          user_ids: the users, as for `find_users`.
          progress: receives the number of users read.

        Raises:
          InputError: as `find_users` does.
        """
        wanted, kept = np.unique(self.checked_ids(user_ids)), np.ones(self.num_users, bool)
        if not len(wanted):
            return self
        for users, _ in self._rows_of(wanted, (0, 1), progress):
            kept[users] = False  # a user may have several rows
        stage1, stage2 = (own.pick(kept[own.user]) for own in (self.stage1, self.stage2))
        return replace(self, stage1=stage1, stage2=stage2)

    def _as_campaign_id(self, name: str) -> int | bytes:
        """A campaign name in the form of ``campaign_ids``."""
        if self.campaign_ids.dtype.kind == "S":
            return name.encode()
        number = whole_number(name)
        if number is None:
            raise InputError(
                f"campaign {name}: the campaign ids of {self.where} are whole numbers; rename the "
                "campaign folder to one in its usual spelling, such as 12"
            )
        return number
