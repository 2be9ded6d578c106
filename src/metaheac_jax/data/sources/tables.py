"""Reads users, campaigns and examples from Parquet or CSV files (CSV may be gzipped).

    users      a row per user: its id, and a column per field
    campaigns  a row per campaign: its id, and a column per field
    examples   a row per example: campaign id, user id, label 1 or 0, and optionally stage 1 or 2

A campaign without an example of label 0 gets random users as non-seeds, at most
`NON_SEEDS_PER_SEED` per seed, as a new campaign does; a warning tells how many.

Ids are whole numbers or text of up to 64 bytes. A schema file names the columns, see `TableSchema`;
`infer_schema` makes a first one. Instead of files of campaigns and examples, the schema may name
columns of users that make campaigns, see `columns_to_campaigns`.

Users are read as a stream: once per field for its values, and once to turn cells into table rows.
Memory holds the user ids, some bytes per example, one column of numbers at a time to find buckets,
and the values of a column that makes campaigns.

Axes: n rows of a block, U users, S slots of a user, C campaigns, N campaign fields, E examples.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from metaheac_jax.data.campaign import draw_non_seeds, plain_id
from metaheac_jax.data.dataset import NON_SEEDS_PER_SEED, Dataset, SensitiveField
from metaheac_jax.data.examples import Examples, group_by_campaign, is_repeat
from metaheac_jax.data.sources.column_campaigns import columns_to_campaigns, stages_of
from metaheac_jax.data.sources.table_fields import (
    Encoder,
    LearnedField,
    as_text,
    learn,
    spells_whole,
)
from metaheac_jax.data.sources.table_file import ENDINGS, TableFile, is_table
from metaheac_jax.data.sources.table_schema import Column, TableSchema
from metaheac_jax.data.storage import MANIFEST, check_target, open_dataset, write_columns
from metaheac_jax.errors import InputError
from metaheac_jax.files import new_array, new_directory
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import Field, Schema, Vocabulary

FILES = ("users", "campaigns", "examples")


def find_tables(source: Path) -> dict[str, Path]:
    """The tables of users, campaigns and examples in a folder, by name, as far as they exist.

    A source that is a table itself is that of users.
    """
    if source.is_file():
        return {"users": source} if is_table(source) else {}
    found = {}
    for name in FILES:
        paths = [source / f"{name}{ending}" for ending in ENDINGS]
        present = [path for path in paths if is_table(path)]
        if len(present) > 1:
            raise InputError(f"{source}: has both {present[0].name} and {present[1].name}")
        if present:
            found[name] = present[0]
    return found or ({"users": source} if is_table(source) else {})


def prepare(
    source: Path,
    target: Path,
    *,
    schema: TableSchema,
    hash_rows: int = 0,
    extends: tuple[Schema, Vocabulary] | None = None,
    new_values: bool = True,
    skip_unknown_users: bool = False,
    progress: Progress = silent,
) -> Dataset:
    """Turns tables into a dataset on disk.

    Args:
      source: folder with ``users``, ``campaigns`` and ``examples``, each ``.parquet``, ``.csv`` or
        ``.csv.gz``; or the file of users, if the schema makes campaigns from columns. Without new
        values, users alone suffice; the dataset has no campaigns then.
      target: directory of the dataset; an existing dataset is replaced on success only.
      schema: the columns to use.
      hash_rows: categories with more values than this are hashed to this many rows, if not 0.
      extends: fields and values of earlier data; the dataset keeps their buckets and values.
      new_values: whether values that these lack are added, or unknown, see `Vocabulary.encode`.
      skip_unknown_users: leave out examples of users who are not in the file of users, and warn.
        Their ids must still be of the form of the users' ids.
      progress: receives the number of users read, then the bytes of the checksums.

    Raises:
      InputError: a file or a column is missing; or a row is wrong: a repeated id, a label other
        than 0 or 1, text in a column of numbers, an example of an unknown user or campaign, or a
        repeated one (the message names the file and row); or all examples are of unknown users; or
        the fields differ from those of the earlier data.
    """
    source, target = Path(source), check_target(target, source)
    paths, scored = find_tables(source), extends is not None and not new_values
    _check_files(source, paths, schema, users_suffice=scored)
    id_columns = [schema.user_id] if schema.user_id else []
    wanted = [*id_columns, *(column.name for column in schema.user)]
    users = TableFile(paths["users"], wanted, schema.missing, id_column=schema.user_id)
    of_campaigns = [column.name for column in schema.campaigns_from]
    has_campaigns = bool(of_campaigns) and {*of_campaigns} <= {*users.names}
    alone = scored and len(paths) == 1 and not has_campaigns
    if not alone:
        users.check_columns(of_campaigns)
    num_users = users.count()
    if not num_users:
        raise InputError(f"{users.path}: has no users; add a row per user")
    options = _Options(source, hash_rows, extends, new_values)
    model = options.learn(users, [c for c in schema.user if not c.sensitive], schema.min_count)
    sensitive = [learn(users, column) for column in schema.user if column.sensitive]
    campaigns = options.no_campaigns() if alone else _read_campaigns(paths, users, schema, options)
    plain, vocabulary = options.extended(model, campaigns.fields)
    with new_directory(target, marker=MANIFEST) as directory:
        columns = {"user_rows": Encoder(model, vocabulary)}
        for own in sensitive:
            name = f"sensitive_codes_{own.field.name}"
            columns[name] = Encoder([own], Vocabulary((own.values,)))
        user_ids = _write_users(directory, users, num_users, schema.user_id, columns, progress)
        maps = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in columns}
        examples = _all_examples(paths, schema, user_ids, campaigns, skip_unknown_users)
        stage1, stage2 = (_of_stage(examples, stage, len(campaigns.ids)) for stage in (1, 2))
        dataset = Dataset(
            name=source.resolve().name.partition(".")[0],
            schema=plain,
            vocabulary=vocabulary,
            user_ids=user_ids,
            user_rows=maps["user_rows"],
            campaign_ids=campaigns.ids,
            campaign_rows=Encoder(campaigns.fields, vocabulary, len(model)).rows(campaigns.frame),
            stage1=stage1,
            stage2=stage2,
            sensitive={
                own.field.name: SensitiveField(
                    np.array([own.field.text(value) for value in own.values]),
                    maps[f"sensitive_codes_{own.field.name}"],
                )
                for own in sensitive
            },
        )
        write_columns(dataset, directory, progress=progress)
    return open_dataset(target, verify=False)  # the checksums were just computed


def count_cut_lists(source: Path, schema: TableSchema) -> dict[str, int]:
    """For each field of lists, the number of users who have more values than it has slots.

    The tables are those that `prepare` has read, which keeps the first values.
    """
    lists = [column for column in schema.user if column.slots > 1]
    users = TableFile(find_tables(source)["users"], [own.name for own in lists], schema.missing)
    texts = {own: as_text(own, whole=spells_whole(users, own)) for own in lists}
    longer = [(text.list.len() > own.slots).sum().alias(own.name) for own, text in texts.items()]
    return users.collect(users.scan().select(longer)).row(0, named=True) if longer else {}


@dataclass(frozen=True)
class _Options:
    """How fields are learned; see `prepare`."""

    source: Path
    hash_rows: int
    extends: tuple[Schema, Vocabulary] | None
    new_values: bool

    def learn(
        self, file: TableFile, columns: Sequence[Column], min_count: int = 1
    ) -> list[LearnedField]:
        """Learns the fields of columns."""
        earlier = {field.name: field for field in self.extends[0].fields} if self.extends else {}
        options = {"min_count": min_count, "hash_rows": self.hash_rows}
        return [
            learn(file, c, **options, earlier=earlier.get(c.name), known=self.known(c.name))
            for c in columns
        ]

    def known(self, name: str) -> np.ndarray | tuple[()]:
        """The values of a field in earlier data if they are text, else empty."""
        if self.extends is None:
            return ()
        schema, vocabulary = self.extends
        pairs = zip(schema.fields, vocabulary.values, strict=True)
        of = {field.name: values for field, values in pairs if values.dtype.kind == "U"}
        return of.get(name, ())

    def no_campaigns(self) -> _Campaigns:
        """No campaigns; their fields have the values of earlier data."""
        assert self.extends is not None, "only earlier data tell the fields"
        schema, vocabulary = self.extends
        pairs = zip(schema.campaign, vocabulary.values[len(schema.user) :], strict=True)
        fields = [LearnedField(Column(field.name), field, values) for field, values in pairs]
        frame = pl.DataFrame(schema={field.name: pl.String for field in schema.campaign})
        return _Campaigns(np.empty(0, "S1"), fields, frame, np.empty((3, 0), np.int32))

    def extended(
        self, user: Sequence[LearnedField], campaign: Sequence[LearnedField]
    ) -> tuple[Schema, Vocabulary]:
        """The schema and vocabulary of these fields, including the values of earlier data."""
        schema = Schema(tuple(own.field for own in user), tuple(own.field for own in campaign))
        vocabulary = Vocabulary(tuple(own.values for own in (*user, *campaign)))
        if self.extends is not None:
            vocabulary = vocabulary.extending(schema, *self.extends)
            if not self.new_values:
                vocabulary.warn_of_unknown(schema, self.extends[1], self.source)
                vocabulary = self.extends[1]
        return schema, vocabulary


class _Campaigns(NamedTuple):
    """Campaigns in ascending order of their ids (C,), and their fields, each a column of the frame.

    The pairs are (3, E) campaign, user and label of examples without their stage; None if the
    examples are in a file.
    """

    ids: np.ndarray
    fields: list[LearnedField]
    frame: pl.DataFrame
    pairs: np.ndarray | None


def _read_campaigns(
    paths: Mapping[str, Path], users: TableFile, schema: TableSchema, options: _Options
) -> _Campaigns:
    """The campaigns from the file of campaigns or from columns of users."""
    if schema.campaigns_from:
        ids, frame, examples = columns_to_campaigns(users, schema, options.known("value"))
        return _Campaigns(ids, list(map(_of_values, frame.iter_columns())), frame, examples)
    names = [column.name for column in schema.campaign]
    columns, own = [schema.campaign_id, *names], schema.campaign_id
    file = TableFile(paths["campaigns"], columns, schema.missing, id_column=own)
    frame = file.collect(file.scan().select(file.columns))
    ids = file.ids(frame[schema.campaign_id], 0, whole=file.has_whole_ids(schema.campaign_id))
    if not len(ids):
        raise InputError(f"{file.path}: has no campaigns")
    file.check_once(ids, schema.campaign_id)
    order = np.argsort(ids)
    return _Campaigns(ids[order], options.learn(file, schema.campaign), frame[order], None)


def _of_values(column: pl.Series) -> LearnedField:
    """A category with the values of a column of text."""
    values = np.array(sorted(set(column.to_list())))
    return LearnedField(Column(column.name), Field(column.name), values)


def _check_files(
    source: Path, paths: Mapping[str, Path], schema: TableSchema, *, users_suffice: bool
) -> None:
    """Refuses files that do not fit the schema."""
    needed = ("users",) if schema.campaigns_from else FILES
    missing = [name for name in needed if name not in paths]
    if missing and not (users_suffice and list(paths) == ["users"]):
        hint = ""
        if missing[0] != "users":
            hint = '; or let the schema name columns in "campaigns_from"'
            if users_suffice:
                hint += "; or leave users alone there"
            elif len(paths) == 1:
                hint += "; or, to score users with a model, give --extends MODEL --no-new-values"
        raise InputError(f"{source}: has no {missing[0]}.parquet, .csv or .csv.gz{hint}")
    others = [paths[name].name for name in paths if name not in needed]
    if others:
        raise InputError(
            f'{source}: has {others[0]}, but the schema makes campaigns with "campaigns_from"; '
            "remove one of them"
        )
    if not schema.user_id and not schema.campaigns_from:
        raise InputError("schema: has no 'user_id'; examples need it to refer to users")


def _write_users(
    directory: Path,
    file: TableFile,
    count: int,
    user_id: str,
    columns: Mapping[str, Encoder],
    progress: Progress,
) -> np.ndarray:
    """Streams users to one ``.npy`` file per column and returns their ids (U,)."""
    maps = {
        name: new_array(directory / f"{name}.npy", np.int32, (count, encoder.num_slots))
        for name, encoder in columns.items()
    }
    whole, blocks = bool(user_id) and file.has_whole_ids(user_id), []
    for start, frame in file.blocks():
        if user_id:
            blocks.append(file.ids(frame[user_id], start, whole=whole))
        for name, encoder in columns.items():
            maps[name][start : start + len(frame)] = encoder.rows(frame)
        progress(f"users: {file.path.name}", start + len(frame), count)
    for column in maps.values():
        column.flush()
    if not user_id:
        return np.arange(1, count + 1)
    user_ids = np.concatenate(blocks)
    file.check_once(user_ids, user_id)
    return user_ids


@dataclass(frozen=True)
class _Known:
    """Ids that examples may name, in ascending order, and the original position of each."""

    ordered: np.ndarray
    order: np.ndarray

    @staticmethod
    def of(ids: np.ndarray) -> _Known:
        order = np.argsort(ids)
        return _Known(ids[order], order)

    def positions(
        self, file: TableFile, column: pl.Series, start: int, *, skip_unknown: bool = False
    ) -> np.ndarray:
        """Original positions of a block's ids.

        An unknown id is refused or, with ``skip_unknown``, has position -1.
        """
        ids = file.ids(column, start, whole=self.ordered.dtype.kind != "S")
        position = np.searchsorted(self.ordered, ids).clip(max=len(self.ordered) - 1)
        unknown = self.ordered[position] != ids
        if unknown.any() and not skip_unknown:
            at = int(np.argmax(unknown))
            raise file.fault(start + at, f"unknown {column.name} {plain_id(ids[at])}")
        found = self.order[position]
        return np.where(unknown, -1, found) if unknown.any() else found


def _all_examples(
    paths: Mapping[str, Path],
    schema: TableSchema,
    user_ids: np.ndarray,
    campaigns: _Campaigns,
    skip_unknown_users: bool,
) -> np.ndarray:
    """(4, E) int32 campaign, user, label and stage."""
    pairs = campaigns.pairs
    if pairs is None:
        path = paths["examples"]
        examples = _read_examples(path, schema, user_ids, campaigns.ids, skip_unknown_users)
        return _with_non_seeds(path, examples, len(user_ids), len(campaigns.ids))
    stages = stages_of(user_ids) if pairs.size else np.empty(0, np.int32)
    return np.vstack([pairs, stages[pairs[1]]])


def _read_examples(
    path: Path,
    schema: TableSchema,
    user_ids: np.ndarray,
    campaign_ids: np.ndarray,
    skip_unknown_users: bool,
) -> np.ndarray:
    """(4, E) int32 campaign, user, label and stage; the stage is 1 without such a column."""
    file = TableFile(path, [schema.campaign_id, schema.user_id, "label"])
    if "stage" in file.names:
        file.columns.append("stage")
    users, campaigns = _Known.of(user_ids), _Known.of(campaign_ids)
    parts: list[np.ndarray] = []
    for start, frame in file.blocks():
        user = users.positions(file, frame[schema.user_id], start, skip_unknown=skip_unknown_users)
        campaign = campaigns.positions(file, frame[schema.campaign_id], start)
        label = file.one_of(frame["label"], start, (0, 1))
        stage = np.ones(len(frame), int)
        if "stage" in frame.columns:
            stage = file.one_of(frame["stage"], start, (1, 2))
        parts.append(np.stack([campaign, user, label, stage]).astype(np.int32))
    if not parts:
        raise InputError(f"{path}: has no examples")
    examples = np.concatenate(parts, axis=1)
    known = examples[1] >= 0
    if not known.all():
        what = f"{(~known).sum():,} of {len(known):,} examples are of users who are not in the file"
        if not known.any():
            raise InputError(f"{path}: {what} of users; check that both have the same ids")
        warnings.warn(f"{path}: {what} of users; they are left out", stacklevel=3)
        examples = examples[:, known]
    _check_pairs(file, known, examples, len(user_ids))
    return examples


def _with_non_seeds(
    path: Path, examples: np.ndarray, num_users: int, num_campaigns: int
) -> np.ndarray:
    """Adds random users to campaigns of seeds alone, as non-seeds of the same stages, and warns.

    They are as many per seed as those of a new campaign.
    """
    campaign, user, label, stage = examples
    has_non_seeds = np.bincount(campaign[label == 0], minlength=num_campaigns) > 0
    alone = np.setdiff1d(campaign, np.flatnonzero(has_non_seeds))
    if not len(alone):
        return examples
    order = np.argsort(campaign, kind="stable")
    ends = np.cumsum(np.bincount(campaign, minlength=num_campaigns))
    parts, num_drawn = [examples], 0
    for c in alone:
        own = order[ends[c - 1] if c else 0 : ends[c]]
        taken = user[own]
        for which in np.unique(stage[own]):
            seeds = user[own][stage[own] == which]
            count = NON_SEEDS_PER_SEED * len(seeds)
            drawn = draw_non_seeds(num_users, seeds, np.setdiff1d(taken, seeds), count, seed=0)
            drawn = drawn.astype(np.int32)
            taken = np.concatenate([taken, drawn])
            own_campaign, own_stage = (np.full_like(drawn, value) for value in (c, which))
            parts.append(np.stack([own_campaign, drawn, np.zeros_like(drawn), own_stage]))
            num_drawn += len(drawn)
    warnings.warn(
        f"{path}: {len(alone):,} campaigns have seeds alone; {num_drawn:,} random users, at most "
        f"{NON_SEEDS_PER_SEED} per seed, are their non-seeds",
        stacklevel=4,
    )
    return np.concatenate(parts, axis=1)


def _of_stage(examples: np.ndarray, stage: int, num_campaigns: int) -> Examples:
    """(4, E) examples of both stages -> the examples of one stage."""
    campaign, user, label, _ = examples[:, examples[3] == stage]
    return group_by_campaign(campaign, user, label, num_campaigns=num_campaigns).shuffled()


def _check_pairs(file: TableFile, kept: np.ndarray, examples: np.ndarray, num_users: int) -> None:
    """Refuses a user who is twice an example of a campaign, whatever the stages and labels.

    ``kept`` tells which rows of the file are the examples.
    """
    campaign, user, _, _ = examples
    again = is_repeat(campaign.astype(np.int64) * num_users + user)
    if again.any():
        row = int(np.flatnonzero(kept)[again.argmax()])
        raise file.fault(row, "the user is already an example of this campaign")
