"""A Dataset in a directory: plain ``.npy`` columns and ``manifest.json``.

The manifest contains the schema, counts, and the name, size and SHA-256 of each file. The name of a
column's file contains the start of its SHA-256, so a changed column gets a new file, and equal data
have equal manifests. A directory is written under a temporary name, flushed to disk and renamed. A
change of a few columns writes their files beside the old ones and then replaces the manifest. So
after a crash the directory has the old or the new data, whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from metaheac_jax.boundary import COUNT, Column, Columns, check_arrays, check_plain, read_array
from metaheac_jax.data.campaign import OPTIONAL, WEIGHT, Examples
from metaheac_jax.data.dataset import Dataset, SensitiveField
from metaheac_jax.data.views import UserRows, UserView
from metaheac_jax.errors import InputError, about
from metaheac_jax.files import fsync
from metaheac_jax.progress import Progress, silent
from metaheac_jax.removing import NEW, beside, remove_unlisted
from metaheac_jax.schema import Schema, Vocabulary
from metaheac_jax.sealed import (
    entries_of,
    read_manifest,
    read_sealed,
    read_undisturbed,
    write_manifest,
)

FORMAT = "metaheac_jax dataset 6"
MANIFEST = "manifest.json"
#: The schema with which tables were prepared; beside tables, with which they are to be.
TABLE_SCHEMA = "schema.json"
_REMEDY = "prepare the data first, or again"
#: The name of a column's file: the column, and digits of its SHA-256.
_FILE = re.compile(r"(?P<column>.+)-[0-9a-f]{16}\.npy")
#: What a manifest must have; also the number of examples of each stage.
_COUNTS = dict.fromkeys(("users", "campaigns", "rows", "pad"), COUNT)
_CONTENT = {"name": str, "schema": dict, "sensitive": [str], **_COUNTS}


def write_columns(
    dataset: Dataset,
    directory: Path,
    *,
    unchanged: Collection[str] = (),
    progress: Progress = silent,
) -> None:
    """Writes columns into a directory, and then the manifest, with which they become its data.

    A source can stream a large column to ``COLUMN.npy`` in the directory; that file is renamed.

    Args:
      dataset: what to write.
      directory: a new one, which may have a `TABLE_SCHEMA`; or one with a dataset, whose lock is
        held.
      unchanged: columns whose files stay as they are, all with users or none.
      progress: receives the number of bytes checksummed.
    """
    entries, pad = {}, dataset.num_rows
    if (directory / MANIFEST).exists():
        options = {"format": FORMAT, "remedy": _REMEDY, "content": _CONTENT}
        before = read_manifest(directory / MANIFEST, **options)
        every = before["files"].items()
        entries = {name: column for name, column in every if _column_of(name) in unchanged}
        pad = before["pad"] if "user_rows" in unchanged else pad
    entries |= entries_of(directory, directory.glob(TABLE_SCHEMA))
    columns = {
        name: column for name, column in columns_of(dataset).items() if name not in unchanged
    }
    entries |= _write(columns, directory, progress)
    content = {
        "format": FORMAT,
        "name": dataset.name,
        "schema": dataset.schema.to_json(),
        "users": dataset.num_users,
        "campaigns": dataset.num_campaigns,
        "rows": dataset.num_rows,
        "pad": pad,  # in the users' file
        **{name: len(stage.user) for name, stage in dataset.stages.items()},
        "sensitive": list(dataset.sensitive),
        "files": dict(sorted(entries.items())),
    }
    # What cannot be read again replaces no data.
    _open(directory, {**json.loads(json.dumps(content)), "digest": ""}, verify=False)
    fsync(directory)
    write_manifest(directory / MANIFEST, content)
    remove_unlisted(directory)


def _write(
    columns: Mapping[str, UserRows], directory: Path, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Writes columns to files, and returns their entries in the manifest."""
    paths = []
    for name, column in columns.items():
        path = directory / f"{name}.npy"
        if not path.exists():  # it was not streamed
            path = beside(path, NEW)
            with path.open("xb") as file:
                np.save(file, column[:], allow_pickle=False)
        paths.append(path)
    entries, found = {}, entries_of(directory, paths, progress)
    for name, path in zip(columns, paths, strict=True):
        file = f"{name}-{found[path.name]['sha256'][:16]}.npy"
        fsync(path)
        path.replace(directory / file)
        entries[file] = found[path.name]
    return entries


def open_dataset(
    directory: Path | str,
    *,
    verify: bool = True,
    progress: Progress = silent,
) -> Dataset:
    """Opens a dataset with memory-mapped columns.

    Another process may change or replace the directory at any time; an open dataset stays as it
    was. If a mapped file is truncated, the process ends (SIGBUS); no command of this library
    truncates one.

    Args:
      directory: a directory written by `write_columns`.
      verify: also compare the SHA-256 of each file with the manifest, and check that all values are
        in range, which reads all files.
      progress: receives the number of bytes verified.

    Raises:
      InputError: there is no dataset, or a file is missing, truncated, altered or has no such
        column; the message names it.
    """
    directory = Path(directory)
    options: dict[str, Any] = {"format": FORMAT, "remedy": _REMEDY, "content": _CONTENT}
    options |= {"verify": verify, "progress": progress}

    def read() -> Dataset:
        manifest = read_sealed(directory, MANIFEST, **options)
        with about(directory / MANIFEST):
            return _open(directory, manifest, verify)

    return read_undisturbed(directory, MANIFEST, read)


def _column_of(name: str) -> str:
    """The column in a file, by the file's name; the name itself if it is that of no column."""
    match = _FILE.fullmatch(name)
    return match["column"] if match else name


def _columns(
    manifest: Mapping[str, Any], schema: Schema, stages: Collection[str], found: Collection[str]
) -> Columns:
    """What each column must be; optional ones are those that are ``found``."""
    users, campaigns, rows, pad = (manifest[name] for name in _COUNTS)
    columns = {
        "user_key": Column("i8 S", (users,)),
        "user_rows": Column("i4", (users, schema.num_slots - schema.num_numbers), 0, pad + 1),
        "campaign_key": Column("i8 S", (campaigns,), order=np.less),
        "campaign_rows": Column("i4", (campaigns, len(schema.campaign)), 0, rows + 1),
        **schema.value_columns("values_"),
    }
    if schema.num_numbers:
        columns["user_numbers"] = Column("f4", (users, schema.num_numbers))
    for name in stages:
        count = manifest[name]
        columns |= {
            f"{name}_offsets": Column("i8", (campaigns + 1,), 0, count + 1, np.less_equal),
            f"{name}_user": Column("i4", (count,), 0, users),
            f"{name}_label": Column("i1", (count,), 0, 2),
        }
        for column, default in OPTIONAL.items():
            if f"{name}_{column}" in found:
                low = np.nextafter(0, 1) if column == WEIGHT else -np.inf
                columns[f"{name}_{column}"] = Column(
                    np.asarray(default).dtype.str[1:], (count,), low
                )
    for name in manifest["sensitive"]:
        columns[f"sensitive_values_{name}"] = Column("U", (f"values of {name}",))
        codes = Column("i4", (users, f"slots of {name}"), 0, f"values of {name} + 1")
        columns[f"sensitive_codes_{name}"] = codes
    return columns


def _open(directory: Path, manifest: Mapping[str, Any], verify: bool) -> Dataset:
    schema = Schema.from_json(manifest["schema"])
    stages = ["stage1", "stage2", *(["left_out"] if "left_out" in manifest else [])]
    check_plain(manifest, dict.fromkeys(stages, COUNT), MANIFEST, _REMEDY)
    files = {_column_of(name): name for name in manifest["files"]}
    columns = _columns(manifest, schema, stages, files)
    known = columns.keys() & files
    found = {name: read_array(directory / files[name], _REMEDY) for name in known}
    check_arrays(found, columns, str(directory), _REMEDY, values=verify)

    def examples(stage: str) -> Examples:
        names = [column.name for column in fields(Examples) if f"{stage}_{column.name}" in found]
        own = Examples(**{name: found[f"{stage}_{name}"] for name in names})
        if own.counts.sum() != len(own.user):
            raise InputError(f"{stage}_offsets: are not those of all examples; {_REMEDY}")
        return own

    vocabulary = Vocabulary(tuple(found[f"values_{field.name}"] for field in schema.fields))
    if vocabulary.num_rows != manifest["rows"] or manifest["pad"] > manifest["rows"]:
        raise InputError(f"rows: are not those of the {vocabulary.num_rows} values; {_REMEDY}")
    user_rows = UserView(found["user_rows"], found.get("user_numbers"))
    if manifest["pad"] != vocabulary.num_rows:
        lookup = np.arange(manifest["pad"] + 1, dtype=np.int32)
        lookup[-1] = vocabulary.num_rows
        user_rows = user_rows.mapped(lookup)
    return Dataset(
        name=manifest["name"],
        schema=schema,
        vocabulary=vocabulary,
        user_ids=found["user_key"],
        user_rows=user_rows,
        campaign_ids=found["campaign_key"],
        campaign_rows=found["campaign_rows"],
        stage1=examples("stage1"),
        stage2=examples("stage2"),
        left_out=examples("left_out") if "left_out" in manifest else None,
        sensitive={
            name: SensitiveField(
                *(found[f"sensitive_{part}_{name}"] for part in ("values", "codes"))
            )
            for name in manifest["sensitive"]
        },
        digest=manifest["digest"],
        folder=directory,
    )


def columns_of(dataset: Dataset) -> dict[str, UserRows]:
    """Columns by name."""
    columns: dict[str, UserRows] = {
        "user_key": dataset.user_ids,
        "user_rows": dataset.user_rows.without_numbers,
        "campaign_key": dataset.campaign_ids,
        "campaign_rows": dataset.campaign_rows,
    }
    if dataset.user_rows.numbers is not None:
        columns["user_numbers"] = dataset.user_rows.numbers
    for field, values in zip(dataset.schema.fields, dataset.vocabulary.values, strict=True):
        columns[f"values_{field.name}"] = values
    for stage, examples in dataset.stages.items():
        of_stage = {f"{stage}_{name}": column for name, column in vars(examples).items()}
        columns |= {name: column for name, column in of_stage.items() if column is not None}
    for name, field in dataset.sensitive.items():
        columns[f"sensitive_values_{name}"] = field.values
        columns[f"sensitive_codes_{name}"] = field.codes
    return columns
