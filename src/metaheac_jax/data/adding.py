"""Adds campaigns and examples to a dataset on disk, and forgets users.

Axes: U users, S slots of a user, C campaigns, N campaign fields.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from metaheac_jax.data.campaign import TIME, draw_by_id
from metaheac_jax.data.columns import encode
from metaheac_jax.data.dataset import Dataset, SensitiveField
from metaheac_jax.data.preparing import as_examples, indices, read_campaigns, read_examples
from metaheac_jax.data.shown import leave_out_shown
from metaheac_jax.data.storage import open_dataset, write_columns
from metaheac_jax.data.table_file import Table, id_array
from metaheac_jax.data.user_ids import UserIds, find_named
from metaheac_jax.data.views import UserView
from metaheac_jax.errors import InputError
from metaheac_jax.files import locked
from metaheac_jax.progress import Progress, silent
from metaheac_jax.removing import remove_unlisted
from metaheac_jax.schema import Vocabulary, as_texts, as_values, union_of_values


def add(
    data: Dataset,
    campaigns: Path | str | pl.DataFrame | None = None,
    examples: Path | str | pl.DataFrame | None = None,
    *,
    exclude: UserIds = (),
    progress: Progress = silent,
) -> Dataset:
    """Adds rows of campaigns and of examples to the folder of the data, all or none.

    The rows are as for `preparing.prepare`. A row given again replaces the earlier one: that of a
    campaign its attributes, that of a campaign and a user the label, stage and audience. So the
    same rows twice are the same data. Users are not written again, unless some are to be forgotten.

    Args:
      data: is in a folder; the object stays as it was.
      campaigns, examples: tables, or the paths of their files.
      exclude: ids of users of whom nothing is kept, or paths of files of them.
      progress: receives the number of bytes checksummed.

    Returns:
      The new data.

    Raises:
      InputError: the data is in no folder, or as `preparing.prepare`.
    """
    if data.folder is None:
        raise InputError(f"{data.name}: is in no folder; prepare it from tables first")
    folder, of_users = (
        data.folder,
        ["user_rows", "user_numbers", *map("sensitive_codes_{}".format, data.sensitive)],
    )
    with locked(folder):
        data = open_dataset(folder, progress=progress)
        remove_unlisted(folder)
        schema = data.schema
        excluded, gone = find_named(exclude, data.user_ids, "exclude", schema.user_id)
        rows = _rows_of(data)
        if campaigns is not None:
            names = [schema.campaign_id, *(field.name for field in schema.campaign)]
            table = Table(campaigns, names, name="campaigns")
            data, position = _with_campaigns(data, table)
            rows = rows.with_columns(campaign=position[rows["campaign"].to_numpy()])
        touched = np.zeros(data.num_campaigns, bool)
        if examples is not None:
            names = [schema.campaign_id, schema.user_id, "label"]
            table = Table(examples, names, name="examples")
            table.leave_out(schema.user_id, excluded)
            known = _known_users(data, table)
            has, known_times = TIME in table.names, data.stage1.time is not None
            if has != known_times and len(rows):
                raise InputError(
                    f"{table.path}: has {'a' if has else 'no'} column {TIME!r}, and the examples "
                    f"of {data.where} {'have none' if has else 'have one'}; give it in both or none"
                )
            new = read_examples(table, schema, known, data.campaign_ids)
            rows = _replaced(rows, new, touched)
        if gone.any():
            data, rows = _without(data, rows, gone)
            # Their users have other indices, on which shares and random non-seeds depend.
            touched[rows.filter(pl.col("audience") == 1)["campaign"].unique().to_numpy()] = True
        data = leave_out_shown(_with_rows(data, rows, touched), np.flatnonzero(touched))
        unchanged = () if gone.any() else ("user_key", *of_users)
        write_columns(data, folder, unchanged=unchanged, progress=progress)
    return open_dataset(folder, verify=False)  # the checksums were just computed


def _with_campaigns(data: Dataset, table: Table) -> tuple[Dataset, np.ndarray]:
    """The data with the campaigns of a table, without their examples.

    A campaign of the data that the table has, too, gets the attributes of the table.

    Returns:
      The data, and (C,) int32, where each of its C campaigns is among the new ones.
    """
    schema, values = data.schema, data.vocabulary.values
    first, (ids, cells, learned) = len(schema.user), read_campaigns(table, schema)
    pairs = zip(values[first:], learned, strict=True)
    grown = [union_of_values(known, new) for known, (_, new) in pairs]
    vocabulary = Vocabulary((*values[:first], *grown))
    lookup = vocabulary.rows_of(data.vocabulary)
    own, both = data.campaign_ids, [data.campaign_ids, ids]
    if own.dtype.kind != ids.dtype.kind:
        both = [part if part.dtype.kind == "S" else part.astype("S") for part in both]
    every = np.unique(np.concatenate(both))
    position, new = (np.searchsorted(every, part).astype(np.int32) for part in both)
    rows = np.empty((len(every), len(schema.campaign)), np.int32)
    rows[position] = lookup[data.campaign_rows]
    rows[new] = encode(cells, schema.campaign, vocabulary, first, schema.missing)
    changed = replace(
        data,
        vocabulary=vocabulary,
        user_rows=data.user_rows.mapped(lookup),
        campaign_ids=every,
        campaign_rows=rows,
    )
    return changed, position


def _rows_of(data: Dataset) -> pl.DataFrame:
    """All examples: the columns of `read_examples`, and ``out``, whether they are left out."""
    frames = []
    for name, stage in data.stages.items():
        frame = pl.DataFrame(
            {
                "campaign": stage.campaign,
                "user": np.array(stage.user),
                "label": np.array(stage.label),
                "stage": np.full(len(stage.user), 2 if name == "stage2" else 1, np.int8),
                "audience": stage.in_audience.astype(np.int8),
                "control": stage.in_control,
                "time": stage.optional("time"),
                "weight": stage.optional("weight"),
                "out": np.full(len(stage.user), name == "left_out"),
            }
        )
        frames.append(frame)
    return pl.concat(frames)


def _known_users(data: Dataset, table: Table) -> pl.DataFrame:
    """The ids in a table that are users of the data, and their indices; see `indices`."""
    whole = data.user_ids.dtype.kind != "S"
    table.check_ids(data.schema.user_id, whole=whole)
    cells = table.id_cells(data.schema.user_id, whole=whole)
    ids = table.collect(table.scan().select(cells).unique()).to_series()
    users = data.find_users(id_array(ids))
    return indices(ids.filter(users >= 0), users[users >= 0])


def _replaced(rows: pl.DataFrame, new: pl.DataFrame, touched: np.ndarray) -> pl.DataFrame:
    """The rows with those of a table, which replace rows of the same campaign and user.

    ``touched`` (C,) becomes true for the campaigns whose rows change.
    """
    pair = ["campaign", "user"]
    changed = new.join(rows, on=new.columns, how="anti")
    touched[changed["campaign"].unique().to_numpy()] = True
    every = pl.concat([rows, changed], how="diagonal")
    return every.unique(pair, keep="last", maintain_order=True)


def _without(data: Dataset, rows: pl.DataFrame, gone: np.ndarray) -> tuple[Dataset, pl.DataFrame]:
    """The data without some users, (U,) bool, and the rows of the others.

    Values that nobody has any more are not in it either, except for buckets of numbers.
    """
    kept = np.flatnonzero(~gone)
    if not len(kept):
        raise InputError(f"{data.where}: all {len(gone)} users are to be excluded; keep some")
    rows = rows.filter(~gone[rows["user"].to_numpy()])
    index = (np.cumsum(~gone) - 1).astype(np.int32)
    user_rows, used = data.user_rows.without_numbers[kept], np.zeros(data.num_rows + 1, bool)
    numbers = None if data.user_rows.numbers is None else data.user_rows.numbers[kept]
    used[user_rows] = used[data.campaign_rows] = True
    parts = zip(data.schema.fields, data.vocabulary.values, data.vocabulary.offsets, strict=True)
    values = (
        values
        if field.is_number or field.vector
        else as_values(as_texts(values[used[start : start + len(values)]]))
        for field, values, start in parts
    )
    vocabulary = Vocabulary(tuple(values))
    lookup = vocabulary.rows_of(data.vocabulary)
    smaller = replace(
        data,
        vocabulary=vocabulary,
        user_ids=data.user_ids[kept],
        user_rows=UserView(lookup[user_rows], numbers),
        campaign_rows=lookup[data.campaign_rows],
        sensitive={name: _used(field, field.codes[kept]) for name, field in data.sensitive.items()},
    )
    return smaller, rows.with_columns(user=index[rows["user"].to_numpy()])


def _used(field: SensitiveField, codes: np.ndarray) -> SensitiveField:
    """A field with other codes of its values, and without values that none of them means."""
    used = np.isin(np.arange(len(field.values)), codes)
    lookup = np.append(np.cumsum(used) - 1, used.sum()).astype(np.int32)
    return SensitiveField(np.array(field.values[used].tolist(), str), lookup[codes])


def _with_rows(data: Dataset, rows: pl.DataFrame, touched: np.ndarray) -> Dataset:
    """The data with other examples; none of the touched campaigns (C,) are left out.

    Those of a touched campaign are ordered by draws from their users' ids, so that their order
    depends neither on labels nor on the number of additions.
    """
    is_touched = touched[rows["campaign"].to_numpy()]
    draw = np.zeros(len(rows))
    draw[is_touched] = draw_by_id(data.user_ids[rows["user"].to_numpy()[is_touched]], b"order")
    rows = rows.with_columns(out=pl.col("out") & ~pl.lit(pl.Series(is_touched)))
    rows = rows[np.lexsort((draw, rows["campaign"].to_numpy()))]

    out, second = pl.col("out"), pl.col("stage") == 2
    conditions = ~out & ~second, second, out
    stages = [as_examples(rows.filter(condition), data.num_campaigns) for condition in conditions]
    left_out = stages[2] if len(stages[2].user) else None
    return replace(data, stage1=stages[0], stage2=stages[1], left_out=left_out, by_user=None)
