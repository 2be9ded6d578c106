"""A Dataset: users, campaigns and their examples.

`storage` writes one to a directory and opens it as memory-mapped columns.

Axes: U users, C campaigns, S slots of a user, N campaign fields, n examples of a campaign, V values
and L slots of a sensitive field, R table rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from metaheac_jax.data.campaign import (
    Campaign,
    UserIds,
    as_ids,
    draw_non_seeds,
    plain_id,
)
from metaheac_jax.data.examples import Examples, group_by_campaign, is_repeat
from metaheac_jax.errors import InputError, about, check_whole
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import Schema, Vocabulary
from metaheac_jax.table.layout import Layout

if TYPE_CHECKING:
    from polars import DataFrame

#: Random non-seeds per seed; the ratio in the real data (paper section 4.1).
NON_SEEDS_PER_SEED = 20
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
class MappedRows:
    """User rows in the table of another vocabulary, computed for the users that are read.

    Attributes:
      rows: (U, S) rows of the vocabulary that the users were prepared with.
      lookup: (R + 1,) int32, where each of its R rows and its pad id lie in the other table.
    """

    rows: UserRows
    lookup: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(U, S)."""
        return self.rows.shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, users: Any) -> np.ndarray:
        return self.lookup[self.rows[users]]


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
      left_out: users of audiences who did not convert and are in no stage; see `data.feedback`.
      sensitive: sensitive fields by name; they are in neither the schema nor the vocabulary.
      digest: digest of the manifest from which it was opened; None if it was made in memory.
      folder: folder from which it was opened; None likewise.
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
    left_out: Examples | None = None
    sensitive: Mapping[str, SensitiveField] = field(default_factory=dict)
    digest: str | None = None
    folder: Path | None = None

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

    @property
    def stages(self) -> dict[str, Examples]:
        """All examples: those of each stage, and those that are left out."""
        stages = {"stage1": self.stage1, "stage2": self.stage2}
        return stages if self.left_out is None else {**stages, "left_out": self.left_out}

    def check(self) -> None:
        """Refuses inconsistent columns; reads every column once, and sorts the user ids.

        Raises:
          InputError: a shape, an order, an id or a label is wrong; the message names the column.
        """
        fields, users, campaigns = self.schema.fields, self.num_users, self.num_campaigns
        values, slots = self.vocabulary.values, self.schema.num_slots
        self._expect(len(values) == len(fields), f"vocabulary: not {len(fields)} fields")
        for own, known in zip(fields, values, strict=True):
            ascends = (known[1:] > known[:-1]).all()
            self._expect(ascends, f"values of {own.name!r}: not ascending and distinct")
        for name, ids in (("user_ids", self.user_ids), ("campaign_ids", self.campaign_ids)):
            self._expect(ids.dtype.kind in "iuS", f"{name}: {ids.dtype}, expected int64 or bytes")
            self._expect(not is_repeat(ids).any(), f"{name}: an id occurs twice")
        ascends = (self.campaign_ids[1:] > self.campaign_ids[:-1]).all()
        self._expect(ascends, "campaign_ids: not ascending")
        counts = [own.slots for own in fields]
        first = np.repeat(self.vocabulary.offsets, counts)
        last = first + np.repeat(self.vocabulary.sizes, counts)
        self._check_rows("user_rows", self.user_rows, users, first[:slots], last[:slots])
        rows = self.campaign_rows
        self._check_rows("campaign_rows", rows, campaigns, first[slots:], last[slots:])
        for name, stage in self.stages.items():
            self._check_stage(name, stage)
        for name, own in self.sensitive.items():
            fits = own.codes.ndim == 2 and len(own.codes) == users
            what = f"sensitive field {name!r}: is not a row of codes per user"
            self._expect(fits and _are_in(own.codes, 0, len(own.values) + 1), what)

    def _check_rows(
        self, name: str, rows: UserRows, count: int, first: np.ndarray, last: np.ndarray
    ) -> None:
        expected = (count, len(first))
        self._expect(rows.shape == expected, f"{name}: shape {rows.shape}, expected {expected}")
        for start in range(0, count, _BLOCK):
            block = rows[start : start + _BLOCK]
            inside = (block >= first) & (block < last) | (block == self.num_rows)
            at = start + int(np.argmin(inside.all(axis=1)))
            self._expect(inside.all(), f"{name}: row {at} has a value that is not of its field")

    def _check_stage(self, name: str, stage: Examples) -> None:
        count, steps = len(stage.user), np.diff(stage.offsets)
        chance = stage.label if stage.probability is None else stage.probability
        columns = (stage.label, stage.in_audience, chance)
        self._expect(all(np.shape(own) == (count,) for own in columns), f"{name}: lengths differ")
        divides = len(steps) == self.num_campaigns and stage.offsets[0] == 0 and (steps >= 0).all()
        divides &= stage.offsets[-1] == count
        self._expect(divides, f"{name} offsets: do not divide the examples among the campaigns")
        known = _are_in(stage.user, 0, self.num_users)
        self._expect(known, f"{name} users: an index is not in 0 to {self.num_users - 1}")
        self._expect(_are_in(stage.label, 0, 2), f"{name} labels: expected 1 (a seed) or 0")

    def _expect(self, right: bool | np.bool_, what: str) -> None:
        if not right:
            raise InputError(f"{self.where}: {what}")

    def campaign(self, index: int, *, seed: int = 0, pool: np.ndarray | None = None) -> Campaign:
        """A campaign with its stage-1 examples, on which a model is customised.

        If all its non-seeds come from audiences, random users are added, `NON_SEEDS_PER_SEED` for
        each seed that does not. They depend on these seeds and ``seed`` alone, except that no
        example of the campaign is drawn.

        Args:
          index: position in ``campaign_ids``.
          seed: random seed of the draw.
          pool: (U,) bool, the users who may be drawn; None for all.

        Raises:
          InputError: there is no such campaign, or nobody is left to draw.
        """
        if not 0 <= index < self.num_campaigns:
            raise InputError(
                f"{self.where}: no campaign {index}, expected an index from 0 to "
                f"{self.num_campaigns - 1}"
            )
        of = self.stage1.of(index)
        users, labels = self.stage1.user[of], self.stage1.label[of]
        found = users[self.stage1.in_audience[of]]
        given = users[(labels == 1) & ~np.isin(users, found)]
        if len(given) and not ((labels == 0) & ~np.isin(users, found)).any():
            examples = (stage.user[stage.of(index)] for stage in self.stages.values())
            others = self._draw(given, seed, pool, np.concatenate([*examples]))
            users, labels = self._with_non_seeds(users, labels, others)
        return Campaign(
            id=plain_id(self.campaign_ids[index]),
            rows=self.campaign_rows[index],
            users=users,
            labels=labels,
            found=found,
            unknown_attributes=self.unknown_attributes(self.campaign_rows[index]),
        )

    def _draw(
        self, seeds: np.ndarray, seed: int, pool: np.ndarray | None, taken: np.ndarray
    ) -> np.ndarray:
        """Random non-seeds of distinct seeds, none of whom is taken, by index."""
        count = NON_SEEDS_PER_SEED * len(seeds)
        return draw_non_seeds(self.num_users, seeds, count, seed, taken=taken, pool=pool)

    def _with_non_seeds(
        self, users: np.ndarray, labels: np.ndarray, others: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Examples and further users as non-seeds: users and labels.

        Raises:
          InputError: there are no further users.
        """
        if not len(others):
            raise InputError(
                f"{self.where}: all {self.num_users} users are examples of the campaign or outside "
                "the pool, so no non-seeds can be drawn; use a larger pool"
            )
        both = np.concatenate([users, others]), np.concatenate([labels, np.zeros_like(others)])
        return both[0].astype(np.int32), both[1].astype(np.int8)

    def completed(self, seed: int = 0) -> Dataset:
        """The data in which every campaign has non-seeds, in both stages; see `campaign`.

        Returns:
          The data; the same object if nothing is missing.
        """
        changed, earlier = {}, dict[int, np.ndarray]()
        for name in ("stage1", "stage2"):
            stage, drawn = self.stages[name], dict[int, np.ndarray]()
            kinds = [~stage.in_audience & (stage.label == label) for label in (1, 0)]
            given, others = (
                np.bincount(stage.campaign[own], minlength=self.num_campaigns) for own in kinds
            )
            for c in np.flatnonzero((given > 0) & (others == 0)).tolist():
                of, taken = stage.of(c), [own.user[own.of(c)] for own in self.stages.values()]
                taken += [earlier[c]] if c in earlier else []
                seeds = stage.user[of][kinds[0][of]]
                users = self._draw(seeds, seed, None, np.concatenate(taken))
                drawn |= {c: users} if len(users) else {}
            if drawn:
                changed[name], earlier = _with_drawn(stage, drawn), drawn
        return replace(self, **changed) if changed else self

    def index_of(self, campaign_id: int | str) -> int:
        """The index of a campaign; its id may be given as text, too.

        Raises:
          InputError: there is no such campaign; the message names similar ids.
        """
        names = [str(plain_id(own)) for own in self.campaign_ids]
        if str(campaign_id) in names:
            return names.index(str(campaign_id))
        similar = get_close_matches(str(campaign_id), names) or names[:3]
        raise InputError(
            f"{self.where}: has no campaign {str(campaign_id)!r}; it has {len(names):,}, such as "
            f"{', '.join(similar)}"
        )

    def audience_of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The users of a campaign's audiences, by index, and their labels: (F,) and (F,) int8.

        They include those that are left out of the stages.
        """
        stages = [(own, own.of(index), own.in_audience) for own in self.stages.values()]
        users = [own.user[of][shown[of]] for own, of, shown in stages]
        labels = [own.label[of][shown[of]] for own, of, shown in stages]
        return np.concatenate(users), np.concatenate(labels)

    def encoded_for(self, schema: Schema, vocabulary: Vocabulary) -> Dataset:
        """The data with the table rows of another vocabulary, such as a model's.

        Values that it lacks are unknown, see `Vocabulary.encode`.

        Returns:
          The data; the same object if the vocabularies are equal.

        Raises:
          InputError: the schemas differ.
        """
        with about(self.where):
            self.schema.check_same(schema, "the model")
        pairs = zip(self.vocabulary.values, vocabulary.values, strict=True)
        if all(own is other or np.array_equal(own, other) for own, other in pairs):
            return self
        lookup = vocabulary.rows_of(self.vocabulary)
        return replace(
            self,
            vocabulary=vocabulary,
            user_rows=mapped(self.user_rows, lookup),
            campaign_rows=lookup[self.campaign_rows],
        )

    def campaigns_among(self, ids: Collection[int | str]) -> np.ndarray:
        """(C,) bool, whether the id of each campaign is one of these.

        They are compared as text, since all ids become text when one of them is not a number.
        """
        names = {str(own) for own in ids}
        return np.array([str(plain_id(own)) in names for own in self.campaign_ids], bool)

    def find_users(self, user_ids: UserIds) -> np.ndarray:
        """(n,) user ids -> (n,) int64 index of each user; -1 where the id is unknown.

        Memory grows with the length of ``user_ids``, not with U.

        Raises:
          InputError: the ids are no list of ids, see `as_ids`.
        """
        wanted, place = np.unique(self._as_ids(user_ids), return_inverse=True)
        found = np.full(len(wanted), -1, np.int64)
        for start in range(0, self.num_users if len(wanted) else 0, _BLOCK):
            ids = self.user_ids[start : start + _BLOCK]
            position = np.searchsorted(wanted, ids).clip(max=len(wanted) - 1)
            users = np.flatnonzero(wanted[position] == ids)
            found[position[users]] = start + users
        return found[place]

    def _as_ids(self, user_ids: UserIds) -> np.ndarray:
        return as_ids(user_ids, text=self.user_ids.dtype.kind == "S")

    def mask_of(self, user_ids: UserIds) -> np.ndarray:
        """(U,) bool, whether each user has one of these ids; see `find_users`."""
        mask, found = np.zeros(self.num_users, bool), self.find_users(user_ids)
        mask[found[found >= 0]] = True
        return mask

    def new_campaign(
        self,
        seeds: UserIds,
        attributes: Mapping[str, Any],
        *,
        seed: int = 0,
        pool: np.ndarray | None = None,
    ) -> Campaign:
        """A campaign that is not in the data, from its seed users.

        Args:
          seeds: user ids. Repeated ones count once, and those of no user only in
            `Campaign.num_unmatched`.
          attributes: a raw value per campaign field. A value that training has not seen has no
            embedding.
          seed, pool: as `campaign` takes.

        Raises:
          InputError: none of the seeds is a user of this data, nobody is left to draw, an id is
            invalid (see `find_users`), or an attribute is missing, unknown or invalid.
        """
        check_whole("seed", seed, 0)
        rows = self.vocabulary.encode_attributes(self.schema, attributes)
        found = self.find_users(np.unique(self._as_ids(seeds)))
        users = found[found >= 0].astype(np.int32)
        if not len(users):
            raise InputError(
                f"new campaign: none of the {len(found)} seeds is a user of {self.where}; check "
                "that the ids are those of the prepared users"
            )
        others = self._draw(users, seed, pool, users)
        users, labels = self._with_non_seeds(users, np.ones(len(users), np.int8), others)
        return Campaign(
            id=None,
            rows=rows,
            users=users,
            labels=labels,
            unknown_attributes=self.unknown_attributes(rows),
            num_unmatched=int((found < 0).sum()),
        )

    def add(
        self,
        campaigns: Path | str | DataFrame | None = None,
        examples: Path | str | DataFrame | None = None,
        *,
        exclude: Sequence[Path] | UserIds = (),
        progress: Progress = silent,
    ) -> Dataset:
        """Adds rows of campaigns and of examples to the folder of the data, all or none.

        The rows are as for `from_tables.prepare`. A row given again replaces the earlier one: that
        of a campaign its attributes, that of a campaign and a user the label, stage and audience.
        So the same rows twice are the same data. Users are neither read nor written again, unless
        some are to be forgotten.

        Args:
          campaigns, examples: tables, or the paths of their files.
          exclude: ids of users of whom nothing is kept, or paths of files of them.
          progress: receives the number of bytes checksummed.

        Returns:
          The new data. This object stays as it was.

        Raises:
          InputError: the data is in no folder, or as `from_tables.prepare`.
        """
        from metaheac_jax.data.additions import add  # it imports polars, which would slow a start

        return add(self, campaigns, examples, exclude=exclude, progress=progress)

    def unknown_attributes(self, rows: np.ndarray) -> tuple[str, ...]:
        """The campaign fields whose values the vocabulary lacks, from (N,) rows of a campaign."""
        fields = zip(rows.tolist(), self.schema.campaign, strict=True)
        return tuple(field.name for row, field in fields if row == self.num_rows)


def _are_in(values: np.ndarray, first: int, end: int) -> bool:
    """Whether all values are whole numbers from ``first`` to below ``end``."""
    values = np.asarray(values)
    whole = values.dtype.kind in "iu"
    return whole and (not values.size or first <= values.min() <= values.max() < end)


def mapped(rows: UserRows, lookup: np.ndarray) -> MappedRows:
    """User rows in another table; see `MappedRows`."""
    if isinstance(rows, MappedRows):
        return MappedRows(rows.rows, lookup[rows.lookup])
    return MappedRows(rows, lookup)


def _with_drawn(stage: Examples, drawn: Mapping[int, np.ndarray]) -> Examples:
    """A stage with further users of some campaigns as non-seeds, without true probabilities."""
    campaigns = np.repeat([*drawn], [len(users) for users in drawn.values()])
    users = np.concatenate([*drawn.values()])
    return group_by_campaign(
        np.concatenate([stage.campaign, campaigns]),
        np.concatenate([stage.user, users]),
        np.concatenate([stage.label, np.zeros_like(users)]),
        num_campaigns=len(stage.counts),
        audience=np.concatenate([stage.in_audience, np.zeros(len(users), bool)]),
    )
