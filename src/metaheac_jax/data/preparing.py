"""Prepares a dataset from tables of users, campaigns and examples.

    users      a row per user: its id, and a column per field
    campaigns  a row per campaign: its id, and a column per field
    examples   a row per example: campaign id, user id, label (1 converted, 0 did not), and
               optionally stage (1 to learn from, 2 to judge on), audience (1 if the user was in
               an audience that this system chose), group (of such a user, shown or control),
               time (when the user was shown the campaign) and weight (how much the row counts)

Ids are whole numbers or text of up to 64 bytes. If a campaign and a user occur together on several
rows, the last one counts. Users are read as a stream: once per field for its values, and once to
turn cells into table rows.

Axes: U users, C campaigns, E examples.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from metaheac_jax.data.campaign import (
    CONTROL,
    GROUP,
    NO_TIME,
    SHOWN,
    TIME,
    WEIGHT,
    Examples,
    group_by_campaign,
)
from metaheac_jax.data.columns import encode, infer_schema, learn
from metaheac_jax.data.dataset import Dataset, SensitiveField
from metaheac_jax.data.shown import leave_out_shown
from metaheac_jax.data.storage import MANIFEST, TABLE_SCHEMA, open_dataset, write_columns
from metaheac_jax.data.table_file import FORMATS, Table, id_array, is_table
from metaheac_jax.data.times import time_cells
from metaheac_jax.data.user_ids import UserIds, find_named
from metaheac_jax.data.views import UserView
from metaheac_jax.errors import InputError, printable
from metaheac_jax.files import new_directory, read_text, write_json
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import Field, Schema, Vocabulary

TABLES = ("users", "campaigns", "examples")
#: An inferred schema has histories if users with examples have so many of them on average.
EXAMPLES_PER_USER = 2
TITLE = "SIMULATED"  # a file whose first line is the name of a simulated world


def find_tables(source: Path | str) -> dict[str, Path | str]:
    """The files or folders of users, campaigns and examples in a folder, by name.

    Raises:
      InputError: one is missing, or there are several.
    """
    found: dict[str, Path | str] = {}
    for name in TABLES:
        paths = [f"{source}/{name}{ending}" for ending in ("", *FORMATS)]
        present = [path for path in paths if is_table(path)]
        if not present:
            raise InputError(
                f"{source}: has no {name} with the ending {' or '.join(FORMATS)}, and no folder "
                f"{name} of Parquet files; put the table there"
            )
        if len(present) > 1:
            names = " and ".join(Path(path).name for path in present)
            raise InputError(f"{source}: has both {names}; remove one")
        found[name] = present[0]
    return found


def prepare(
    source: Path | str,
    target: Path | str,
    *,
    schema: Schema | None = None,
    exclude: UserIds = (),
    progress: Progress = silent,
) -> Dataset:
    """Turns tables into a dataset on disk.

    Examples of users who are not in the table of users are left out, with a warning.

    Args:
      source: folder, or its URL, with ``users``, ``campaigns`` and ``examples``, each ``.parquet``,
        ``.csv`` or ``.csv.gz``, or a folder of Parquet files.
      target: directory of the dataset; an existing dataset is replaced on success only. Its
        ``schema.json`` is the schema with the edges of buckets, with which other tables can be
        prepared alike.
      schema: the columns to use; by default those of ``schema.json`` in the folder, if it is there,
        or inferred ones.
      exclude: ids of users of whom nothing is kept, or paths of files of them.
      progress: receives the number of users read, then the bytes of the checksums.

    Raises:
      InputError: a file or a column is missing or empty; or a row is wrong: a repeated id, a wrong
        label, stage, audience, group, time, weight or vector, text in a column of numbers, or an
        example of an unknown campaign (the message names the file and row); or ``exclude`` is
        wrong, see `find_named`; or most examples are of unknown users.
    """
    target, paths = Path(target).resolve(), find_tables(source)
    folder = Path(source).resolve()  # of a URL, one that does not exist
    world, beside = folder / TITLE, folder / TABLE_SCHEMA
    title = (read_text(world).splitlines() if world.is_file() else [])[:1] or [folder.name]
    infers = schema is None and not beside.exists()
    if schema is None:
        schema = Schema.read(beside) if beside.exists() else infer_schema(paths)
    users = Table(paths["users"], [schema.user_id, *(field.name for field in schema.user)])
    ids = users.ids(schema.user_id)
    user_ids = id_array(ids)
    excluded, gone = find_named(exclude, user_ids, "exclude", schema.user_id)
    if gone.all():
        raise InputError(f"{users.path}: has no rows but excluded ones; add some")
    users.leave_out(schema.user_id, excluded)
    ids, user_ids = ids.filter(~gone), user_ids[~gone]
    of_users = []
    for number, field in enumerate(schema.user):
        progress("values of fields", number, len(schema.user))
        of_users.append(learn(users, field, schema.missing))
    table = Table(
        paths["campaigns"], [schema.campaign_id, *(field.name for field in schema.campaign)]
    )
    campaign_ids, cells, of_campaigns = read_campaigns(table, schema)
    sides = [tuple(field for field, _ in learned) for learned in (of_users, of_campaigns)]
    schema = replace(schema, user=sides[0], campaign=sides[1])  # with the edges that were found
    every = (*of_users, *of_campaigns)
    vocabulary = Vocabulary(tuple(values for field, values in every if not field.sensitive))
    sensitive = {field.name: (field, values) for field, values in of_users if field.sensitive}
    user, num_vectors = schema.of_models.user, sum(field.vector > 0 for field in schema.user)
    parts = {"user_rows": (user[num_vectors:], vocabulary, num_vectors)}
    if num_vectors:
        parts["user_numbers"] = user[:num_vectors], vocabulary, 0
    for name, (field, values) in sensitive.items():
        parts[f"sensitive_codes_{name}"] = (field,), Vocabulary((values,)), 0
    table = Table(paths["examples"], [schema.campaign_id, schema.user_id, "label"])
    table.leave_out(schema.user_id, excluded)
    examples = read_examples(table, schema, indices(ids), campaign_ids)
    counts = examples["user"].value_counts()["count"].to_numpy()
    if infers and len(counts) and counts.mean() >= EXAMPLES_PER_USER:
        schema = replace(schema, history=True)
    stages = [
        as_examples(examples.filter(stage=stage), len(campaign_ids)).shuffled() for stage in (1, 2)
    ]
    first = len(schema.of_models.user)
    with new_directory(target, marker=MANIFEST) as directory:
        rows = _write_users(directory, users, schema.missing, len(ids), parts, progress)
        dataset = Dataset(
            name=printable(title[0]),
            schema=schema.of_models,
            vocabulary=vocabulary,
            user_ids=user_ids,
            user_rows=UserView(rows["user_rows"], rows.get("user_numbers")),
            campaign_ids=campaign_ids,
            campaign_rows=encode(cells, schema.campaign, vocabulary, first, schema.missing),
            stage1=stages[0],
            stage2=stages[1],
            sensitive={
                name: SensitiveField(
                    np.array([field.text(value) for value in values]),
                    rows[f"sensitive_codes_{name}"],
                )
                for name, (field, values) in sensitive.items()
            },
        )
        dataset = leave_out_shown(dataset, range(len(campaign_ids)))
        write_json(directory / TABLE_SCHEMA, schema.to_json())
        write_columns(dataset, directory, progress=progress)
    return open_dataset(target, verify=False)  # the checksums were just computed


def _write_users(
    directory: Path,
    table: Table,
    missing: Sequence[str],
    count: int,
    parts: Mapping[str, tuple[Sequence[Field], Vocabulary, int]],
    progress: Progress,
) -> dict[str, np.memmap]:
    """Streams users to a ``.npy`` file for each part of their fields, and maps the files."""
    paths = {name: directory / f"{name}.npy" for name in parts}
    with ExitStack() as stack:
        files = {name: stack.enter_context(path.open("wb")) for name, path in paths.items()}
        for name, (fields, *_) in parts.items():
            shape = count, sum(field.slots for field in fields)
            kind = "<f4" if name == "user_numbers" else "<i4"
            header = {"descr": kind, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(files[name], header)
        columns = [field.name for fields, *_ in parts.values() for field in fields]
        for start, block in table.blocks(columns):
            for name, part in parts.items():
                files[name].write(encode(block, *part, missing=missing).tobytes())
            progress(f"users: {Path(table.path).name}", start + len(block), count)
    return {name: np.lib.format.open_memmap(path, mode="r") for name, path in paths.items()}


def read_campaigns(
    table: Table, schema: Schema
) -> tuple[np.ndarray, pl.DataFrame, list[tuple[Field, np.ndarray]]]:
    """The ids (C,) of campaigns, ascending, their cells in this order, and `learn` of each field.

    Raises:
      InputError: as `prepare`.
    """
    ids = table.ids(schema.campaign_id)
    cells = table.collect(table.scan().select(field.name for field in schema.campaign))
    learned = [learn(table, field, schema.missing) for field in schema.campaign]
    array = id_array(ids)
    order = np.argsort(array)
    return array[order], cells[order], learned


def read_examples(
    table: Table,
    schema: Schema,
    users: pl.DataFrame,
    campaign_ids: np.ndarray,
) -> pl.DataFrame:
    """Examples in the order of the table: campaign, user, label, stage, audience, control,
    time and weight.

    Campaign and user are indices. Of a campaign and user on several rows, the last one counts, at
    the place of the first. Rows of users who are not among ``users`` (see `indices`) are left out,
    with a warning.

    Raises:
      InputError: as `prepare`.
    """
    numbers = {}
    for name, allowed in (("label", (0, 1)), ("stage", (1, 2)), ("audience", (0, 1))):
        if name not in table.names:
            numbers[name] = pl.lit(allowed[0], pl.Int8)
            continue
        cell = pl.col(name) if table.kind(name) == pl.Boolean else pl.col(name).cast(pl.String)
        number = cell.cast(pl.Float64, strict=False)
        table.check(name, number.is_in([*map(float, allowed)]), f"{allowed[0]} or {allowed[1]}")
        numbers[name] = number.cast(pl.Int8)
    numbers["control"] = pl.lit(False)
    if GROUP in table.names:
        group = pl.col(GROUP).cast(pl.String).fill_null("")
        table.check(GROUP, group.is_in(["", SHOWN, CONTROL]), f"{SHOWN}, {CONTROL} or nothing")
        numbers["control"] = group == CONTROL
        numbers["audience"] = pl.max_horizontal(numbers["audience"], (group != "").cast(pl.Int8))
    numbers[TIME] = time_cells(table, TIME) if TIME in table.names else pl.lit(NO_TIME)
    numbers[WEIGHT] = pl.lit(1.0)
    if WEIGHT in table.names:
        weight = pl.col(WEIGHT).cast(pl.String).cast(pl.Float64, strict=False)
        table.check(WEIGHT, (weight > 0) & weight.is_finite(), "a number above 0")
        numbers[WEIGHT] = weight
    known, cells = {"campaign": indices(campaign_ids), "user": users}, {}
    for name, column in (("campaign", schema.campaign_id), ("user", schema.user_id)):
        whole = known[name]["id"].dtype == pl.Int64
        table.check_ids(column, whole=whole and name == "user")
        cells[f"{name}_id"] = table.id_cells(column, whole=whole)
    is_known = cells["campaign_id"].is_in(known["campaign"]["id"].to_list())
    table.check(schema.campaign_id, is_known, "the id of a campaign")
    rows = table.scan().select(**cells, **numbers)
    for name, ids in known.items():
        own = ids.rename({"id": f"{name}_id", "index": name}).lazy()
        rows = rows.join(own, on=f"{name}_id", how="left", maintain_order="left")
    frame = table.collect(rows.select("campaign", "user", *numbers))
    unknown = frame["user"].null_count()
    if unknown:
        what = f"{table.path}: {unknown:,} of {len(frame):,} examples are of unknown users"
        if 2 * unknown > len(frame):
            raise InputError(f"{what}; check that the ids are those of the table of users")
        warnings.warn(f"{what}; they are left out", stacklevel=3)
        frame = frame.drop_nulls("user")
    if not len(frame):
        raise InputError(f"{table.path}: has no examples; add rows")
    if frame.select("campaign", "user").is_duplicated().any():
        frame = frame.group_by("campaign", "user", maintain_order=True).last()
    return frame


def indices(ids: pl.Series | np.ndarray, positions: np.ndarray | None = None) -> pl.DataFrame:
    """Ids in a column ``id``, Int64 or text, and a column ``index``: positions, or 0, 1, ..."""
    if isinstance(ids, np.ndarray):
        plain = pl.Series(ids.tolist())
        ids = plain.cast(pl.String if ids.dtype.kind == "S" else pl.Int64)
    index = np.arange(len(ids)) if positions is None else positions
    return pl.DataFrame({"id": ids, "index": index.astype(np.int32)})


def as_examples(frame: pl.DataFrame, num_campaigns: int) -> Examples:
    """Rows of `read_examples` by campaign."""
    columns = {name: frame[name].to_numpy() for name in ("campaign", "user", "label")}
    flags = {name: frame[name].to_numpy() == 1 for name in ("audience", "control")}
    others = {name: frame[name].to_numpy() for name in (TIME, WEIGHT)}
    return group_by_campaign(**columns, num_campaigns=num_campaigns, **flags, **others)
