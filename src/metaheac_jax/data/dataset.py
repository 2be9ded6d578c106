"""A Dataset: users, campaigns and their examples.

`storage` writes one to a directory and opens it as memory-mapped columns.

Axes: U users, C campaigns, S slots of a user, N campaign fields, n examples of a campaign, V values
and L slots of a sensitive field, R table rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from metaheac_jax.data.campaign import (
    TIME,
    Campaign,
    Examples,
    draw_non_seeds,
    group_by_campaign,
    plain_id,
)
from metaheac_jax.data.history import NAME, ExamplesByUser, History, learn_summary
from metaheac_jax.data.list_lengths import Lengths
from metaheac_jax.data.user_ids import UserIds, as_ids, find, find_named
from metaheac_jax.data.views import UserView
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.schema import Field, Schema, Vocabulary
from metaheac_jax.summary import Summary
from metaheac_jax.table.layout import Layout


@dataclass(frozen=True, eq=False)
class SensitiveField:
    """A user field that no model sees; reports describe audiences by its values.

    Attributes:
      values: (V,) distinct texts, as reports show them.
      codes: (U, L) int32, position of each user's values in ``values``; V where a slot is empty.
    """

    values: np.ndarray
    codes: np.ndarray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Everything known about a pool of users and a set of campaigns.

    Attributes:
      name: title of the data; that of a simulated world says that it is simulated.
      schema: the fields in use.
      vocabulary: the values of these fields.
      user_ids: (U,) int64 or UTF-8 bytes; they break ties in a ranking.
      user_rows: (U, S) int32 table rows; unused slots have the pad id R. An array becomes a view.
      campaign_ids: (C,) int64 or UTF-8 bytes, ascending.
      campaign_rows: (C, N) int32 table rows.
      stage1: seeds and non-seeds for training and customising.
      stage2: the pool on which an expanded audience is evaluated.
      left_out: users of audiences who did not convert and are in no stage; see `data.shown`.
      sensitive: sensitive fields by name; they are in neither the schema nor the vocabulary.
      digest: digest of the manifest from which it was opened; None if it was made in memory.
      folder: folder from which it was opened; None likewise.
      end: time before which its examples are; None for no limit.
      by_user: its examples by user; None if users have no histories.
    """

    name: str
    schema: Schema
    vocabulary: Vocabulary
    user_ids: np.ndarray
    user_rows: UserView
    campaign_ids: np.ndarray
    campaign_rows: np.ndarray
    stage1: Examples
    stage2: Examples
    left_out: Examples | None = None
    sensitive: Mapping[str, SensitiveField] = field(default_factory=dict)
    digest: str | None = None
    folder: Path | None = None
    end: int | None = None
    by_user: ExamplesByUser | None = None

    def __post_init__(self) -> None:
        if self.schema.history and self.by_user is None:
            by_user = ExamplesByUser(self.stages.values(), len(self.user_ids))
            object.__setattr__(self, "by_user", by_user)
        if not isinstance(self.user_rows, UserView):
            object.__setattr__(self, "user_rows", UserView(self.user_rows))

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

    def campaign(self, index: int, *, seed: int = 0, pool: np.ndarray | None = None) -> Campaign:
        """Makes a campaign with its stage-1 examples, on which a model is customised.

        If all its non-seeds come from audiences, random users are added, see `draw_non_seeds`. They
        depend on the seeds that come from none and on ``seed`` alone, except that no example of the
        campaign is drawn.

        Args:
          index: position in ``campaign_ids``.
          seed: random seed of the draw.
          pool: (U,) bool, the users who may be drawn; None for all.

        Raises:
          InputError: nobody is left to draw.
        """
        return self._campaign(self.stage1, index, seed, pool)

    def _campaign(
        self, stage: Examples, index: int, seed: int, pool: np.ndarray | None = None
    ) -> Campaign:
        of, rows = stage.of(index), self.campaign_rows[index]
        users = stage.user[of]
        campaign = Campaign(
            id=plain_id(self.campaign_ids[index]),
            rows=rows,
            users=users,
            labels=stage.label[of],
            times=None if stage.time is None else stage.time[of],
            weights=None if stage.weight is None else stage.weight[of],
            found=users[stage.in_audience[of]],
            unknown_attributes=self.unknown_attributes(rows),
        )
        taken = np.concatenate([every.user[every.of(index)] for every in self.stages.values()])
        return self._with_non_seeds(campaign, taken, seed, pool)

    def _with_non_seeds(
        self, campaign: Campaign, taken: np.ndarray, seed: int, pool: np.ndarray | None
    ) -> Campaign:
        """A campaign with random users, not taken, if it has seeds and no non-seeds.

        Raises:
          InputError: nobody is left to draw.
        """
        given = campaign.pick(~campaign.is_found)
        if not len(given.users) or not given.labels.all():
            return campaign
        others = self._draw(given.users, seed, taken, pool, known=int(campaign.id is not None))
        if not len(others):
            raise InputError(
                f"{self.where}: all {self.num_users} users are examples of the campaign or outside "
                "the pool, so no non-seeds can be drawn; use a larger pool"
            )
        users = np.concatenate([campaign.users, others]).astype(np.int32)
        labels = np.concatenate([campaign.labels, np.zeros(len(others), np.int8)])
        times, weights = campaign.times, campaign.weights
        if times is not None and given.times is not None:  # as if shown with the seeds
            times = np.concatenate([times, np.resize(given.times, len(others))])
        if weights is not None:
            weights = np.concatenate([weights, np.ones(len(others))])
        return replace(campaign, users=users, labels=labels, times=times, weights=weights)

    def _draw(
        self,
        seeds: np.ndarray,
        seed: int,
        taken: np.ndarray,
        pool: np.ndarray | None,
        *,
        known: int,
    ) -> np.ndarray:
        """Random non-seeds, by index; of them and of the seeds, the same fraction has a history.

        Otherwise whether a user was ever shown a campaign would tell the seeds. Of the seeds'
        examples, ``known`` is of the campaign itself.
        """
        if self.by_user is None:
            return draw_non_seeds(self.num_users, seeds, seed, taken=taken, pool=pool)
        counts = self.by_user.counts
        has, able = counts > 0, np.ones(self.num_users, bool) if pool is None else pool
        fraction = np.mean(counts[seeds] > known)
        parts = [
            (share, draw_non_seeds(self.num_users, seeds, seed, taken=taken, pool=able & some))
            for share, some in ((fraction, has), (1 - fraction, ~has))
            if share
        ]
        total = min(len(users) / share for share, users in parts)
        return np.concatenate([users[: round(share * total)] for share, users in parts])

    def completed(self, seed: int = 0) -> Dataset:
        """Draws non-seeds for campaigns without any, in both stages; see `campaign`.

        Returns:
          The data; the same object if nothing is missing.
        """
        data = self
        for name in ("stage1", "stage2"):
            stage, drawn = self.stages[name], dict[int, Campaign]()
            for c, count in enumerate(stage.counts):
                with suppress(InputError):  # nobody is left
                    added = data._campaign(stage, c, seed).pick(slice(count, None))
                    drawn |= {c: added} if len(added.users) else {}
            if drawn:
                users = np.concatenate([campaign.users for campaign in drawn.values()])
                campaigns = np.repeat(
                    [*drawn], [len(campaign.users) for campaign in drawn.values()]
                )
                times = [
                    campaign.times for campaign in drawn.values() if campaign.times is not None
                ]
                others = group_by_campaign(
                    campaigns,
                    users,
                    np.zeros_like(users),
                    num_campaigns=self.num_campaigns,
                    **({"time": np.concatenate(times)} if times else {}),
                )
                data = replace(data, **{name: stage.with_others(others)})
        return data

    def until(self, time: int) -> Dataset:
        """Keeps the examples before a time, in all stages.

        Raises:
          InputError: examples have no times.
        """
        kept = {
            name: stage.pick(self._is_before(stage, time)) for name, stage in self.stages.items()
        }
        return replace(self, **kept, end=time, by_user=None)

    def divided(self, time: int) -> Dataset:
        """Makes the examples before a time stage 1, and those from then on stage 2.

        Raises:
          InputError: examples have no times.
        """
        before = [stage.pick(self._is_before(stage, time)) for stage in (self.stage1, self.stage2)]
        after = [stage.pick(~self._is_before(stage, time)) for stage in (self.stage1, self.stage2)]
        stages = [one.with_others(other) for one, other in (before, after)]
        return replace(self, stage1=stages[0], stage2=stages[1])

    def _is_before(self, stage: Examples, time: int) -> np.ndarray:
        if stage.time is None and len(stage.user):
            raise InputError(f"{self.where}: examples have no times; add the column {TIME!r}")
        return stage.optional("time") < time

    def index_of(self, campaign_id: int | str) -> int:
        """Finds the index of a campaign; its id may be given as text, too.

        Raises:
          InputError: there is no such campaign.
        """
        names = [str(plain_id(key)) for key in self.campaign_ids]
        if str(campaign_id) in names:
            return names.index(str(campaign_id))
        close = get_close_matches(str(campaign_id), names) or names[:3]
        raise InputError(
            f"{self.where}: has no campaign {str(campaign_id)!r}; it has {len(names):,}, such as "
            f"{', '.join(close)}"
        )

    def audience_of(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the users of a campaign's audiences, by index, their labels and control groups.

        They include those that are left out of the stages.

        Returns:
          (F,) users; int8 labels; and bool, whether they are in a control group.
        """
        parts = []
        for stage in self.stages.values():
            of = stage.of(index)
            shown = stage.in_audience[of]
            columns = stage.user, stage.label, stage.in_control
            parts.append([column[of][shown] for column in columns])
        users, labels, control = map(np.concatenate, zip(*parts, strict=True))
        return users, labels, control

    def encoded_for(
        self, schema: Schema, vocabulary: Vocabulary, summary: Summary | None = None
    ) -> Dataset:
        """Encodes the data with the table rows of another vocabulary, such as a model's.

        Values that it lacks are unknown, see `Vocabulary.encode`.

        Args:
          summary: how histories are read, which then are a user field, too; None for none.

        Returns:
          The data; the same object if nothing changes.

        Raises:
          InputError: the schemas differ.
        """
        history = self.user_rows.history
        if history is not None and history.summary is summary:
            return self
        self.schema.check_same(schema, self.where)
        pairs = zip(self.vocabulary.values, vocabulary.values, strict=True)
        data = self
        if not all(known is other or np.array_equal(known, other) for known, other in pairs):
            lookup = vocabulary.rows_of(self.vocabulary)
            data = replace(
                self,
                vocabulary=vocabulary,
                user_rows=self.user_rows.mapped(lookup),
                campaign_rows=lookup[self.campaign_rows],
            )
        return data if summary is None else data._with_histories(summary)

    def rows_of(self, campaign: Campaign, data: Dataset) -> np.ndarray:
        """Returns the table rows (N,) here of a campaign of data from which this was encoded."""
        added = len(self.schema.user) - len(data.schema.user)  # the history, which comes first
        lookup = Vocabulary(self.vocabulary.values[added:]).rows_of(data.vocabulary)
        return lookup[campaign.rows] + sum(self.vocabulary.sizes[:added])

    def learned_summary(self, counted: np.ndarray) -> Summary | None:
        """Learns how to read histories of some campaigns, (C,) bool; None if there are none."""
        if self.by_user is None:
            return None
        return learn_summary(self.by_user, self._id_texts, self.campaign_rows, counted)

    def without_history_of(self, campaigns: Collection[int | str]) -> Dataset:
        """Leaves campaigns, given by id, out of histories; the same object without histories."""
        history, gone = self.user_rows.history, self.campaigns_among(campaigns)
        if history is None or not gone.any():
            return self
        weights = history.weights.copy().reshape(2, self.num_campaigns, -1)
        weights[:, gone] = 0
        history = replace(history, weights=weights.reshape(history.weights.shape))
        return replace(self, user_rows=replace(self.user_rows, history=history))

    def _with_histories(self, summary: Summary) -> Dataset:
        """Adds histories as the first user field."""
        by_user = self.by_user or ExamplesByUser(self.stages.values(), self.num_users)
        count, used = len(summary.center), {field.name for field in self.schema.fields}
        name = NAME
        while name in used:
            name += "_"
        lookup = np.arange(count, count + self.num_rows + 1, dtype=np.int32)
        history = History.of(by_user, summary, self._id_texts)
        user = Field(name, vector=count), *self.schema.user
        return replace(
            self,
            schema=replace(self.schema, user=user),
            vocabulary=Vocabulary((np.arange(count), *self.vocabulary.values)),
            user_rows=replace(self.user_rows.mapped(lookup), history=history),
            campaign_rows=lookup[self.campaign_rows],
            by_user=by_user,
        )

    @property
    def _id_texts(self) -> np.ndarray:
        """(C,) ids of campaigns as text."""
        ids = self.campaign_ids
        return np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids.astype(str)

    def lengthened(self) -> tuple[Dataset, Lengths]:
        """Adds the length of each list as a user field.

        Returns:
          The data, and what adds lengths to other users; see `list_lengths`.
        """
        schema, sizes, values = self.schema, self.vocabulary.sizes, self.vocabulary.values
        fields = len(schema.user)
        lengths = Lengths(schema, self.num_rows, sum(sizes[:fields]))
        names = [field.name for field in schema.fields]
        for _, listed in lengths.many:
            names.append(f"{listed.name}_length")
            while names[-1] in names[:-1]:
                names[-1] += "_"
        added = tuple(map(Field, names[len(schema.fields) :]))
        longer = replace(
            self,
            schema=replace(schema, user=schema.user + added),
            vocabulary=Vocabulary((*values[:fields], *lengths.vocabularies, *values[fields:])),
            user_rows=replace(self.user_rows, lengths=lengths),
            campaign_rows=lengths.campaigns(self.campaign_rows),
        )
        return longer, lengths

    def campaigns_among(self, ids: Collection[int | str]) -> np.ndarray:
        """Tells, as (C,) bool, whether the id of each campaign is one of these.

        They are compared as text, since all ids become text when one of them is not a number.
        """
        names = {str(name) for name in ids}
        return np.array([str(plain_id(key)) in names for key in self.campaign_ids], bool)

    def find_users(self, user_ids: ArrayLike) -> np.ndarray:
        """Finds users: (n,) ids -> (n,) int64 indices, -1 where the id is unknown.

        Memory grows with the number of ids, not with U.

        Raises:
          InputError: the ids are no list of ids, see `as_ids`.
        """
        ids = as_ids(user_ids, text=self.user_ids.dtype.kind == "S")
        wanted, place = np.unique(ids, return_inverse=True)
        return find(self.user_ids, wanted)[place]

    def mask_of(self, named: UserIds, what: str = "user ids") -> np.ndarray:
        """Tells, as (U,) bool, who is named by ids or files of them; see `user_ids.find_named`.

        A mask (U,) bool is returned as it is.
        """
        if isinstance(named, np.ndarray) and named.dtype == bool and len(named) == self.num_users:
            return named
        return find_named(named, self.user_ids, what, self.schema.user_id)[1]

    def pool_mask(self, pool: UserIds | None) -> np.ndarray:
        """Tells, as `mask_of` does, who may be in an audience; None means all users.

        Raises:
          InputError: nobody is named, or as `user_ids.find_named`.
        """
        mask = np.ones(self.num_users, bool) if pool is None else self.mask_of(pool, "pool")
        if not mask.any():
            raise InputError("pool: nobody is in it; give ids of users")
        return mask

    def new_campaign(
        self,
        seeds: UserIds,
        attributes: Mapping[str, Any],
        *,
        seed: int = 0,
        pool: np.ndarray | None = None,
    ) -> Campaign:
        """Makes a campaign that is not in the data, from its seed users.

        Args:
          seeds: user ids, or a file of them. Repeated ones count once.
          attributes: a raw value per campaign field. A value that training has not seen has no
            embedding.
          seed, pool: as `campaign` takes.

        Raises:
          InputError: none of the seeds is a user of this data, nobody is left to draw, an id is
            invalid (see `user_ids.find_named`), or an attribute is missing, unknown or invalid.
        """
        check_whole("seed", seed, 0)
        users = np.flatnonzero(self.mask_of(seeds, "seeds")).astype(np.int32)
        users = users[np.argsort(self.user_ids[users])]
        if not len(users):
            raise InputError("seeds: there are none; give ids of users")
        rows = self.vocabulary.encode_attributes(self.schema, attributes)
        campaign = Campaign(
            id=None,
            rows=rows,
            users=users,
            labels=np.ones(len(users), np.int8),
            unknown_attributes=self.unknown_attributes(rows),
        )
        return self._with_non_seeds(campaign, users, seed, pool)

    def unknown_attributes(self, rows: np.ndarray) -> tuple[str, ...]:
        """Names the campaign fields whose values the vocabulary lacks, from (N,) rows."""
        fields = zip(rows.tolist(), self.schema.campaign, strict=True)
        return tuple(field.name for row, field in fields if row == self.num_rows)


@dataclass(frozen=True)
class Split:
    """A division of the campaigns.

    Attributes:
      train: indices of the training campaigns, ascending, int64.
      test: indices of the test campaigns, ascending, int64.
      small: (C,) bool, whether the seed set is small.
      threshold: T, the largest number of seeds of a small seed set.
    """

    train: np.ndarray
    test: np.ndarray
    small: np.ndarray
    threshold: int


def small_campaigns(seeds: np.ndarray) -> tuple[np.ndarray, int]:
    """(C,) bool, whether each seed set is small, and T (paper section 4.1).

    T is the smallest number of seeds that at least 80% of the campaigns do not exceed.

    Args:
      seeds: (C,) number of seeds of each campaign, its positives of stage 1.
    """
    # ceil(0.8 C) in integers, since 0.8 C is not exact in floating point.
    threshold = int(np.sort(seeds)[-(-4 * len(seeds) // 5) - 1])
    return seeds <= threshold, threshold
