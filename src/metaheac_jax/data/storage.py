"""A Dataset in a directory: plain ``.npy`` columns and ``manifest.json``.

The manifest contains the schema, counts, and the name, size and SHA-256 of each file. The name of a
column's file contains the start of its SHA-256, so a changed column gets a new file, and equal data
have equal manifests. A directory is written under a temporary name, flushed to disk and renamed. A
change of a few columns writes their files beside the old ones and then replaces the manifest. So
after a crash the directory has the old or the new data, whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metaheac_jax.data.dataset import Dataset, SensitiveField, UserRows, mapped
from metaheac_jax.data.examples import Examples
from metaheac_jax.errors import InputError
from metaheac_jax.files import fsync, new_array, new_directory, write_json
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import Schema, Vocabulary
from metaheac_jax.sealed import (
    entries_of,
    read_sealed,
    read_undisturbed,
    write_manifest,
)

FORMAT = "metaheac_jax dataset 4"
MANIFEST = "manifest.json"
#: The schema with which tables were prepared, which is a `TableSchema`.
TABLE_SCHEMA = "schema.json"
REMEDY = "prepare the data first, or again"
_BLOCK = 1 << 18  # rows of a column read at a time
#: The name of a column's file: the column, and digits of its SHA-256.
_FILE = re.compile(r"(?P<column>.+)-[0-9a-f]{16}\.npy")
#: A file that is being written; a hidden file is nobody else's.
_PART = ".part-"


def check_target(target: Path | str, source: Path | str) -> Path:
    """Checks a folder that is to be written from a source, and returns its absolute path.

    Raises:
      InputError: the folder is the source or contains it, so writing would delete the source.
    """
    target = Path(target).resolve()
    if Path(source).resolve().is_relative_to(target):
        raise InputError(f"{target}: would replace the source {source}; choose another target")
    return target


def write_dataset(dataset: Dataset, target: Path | str, *, progress: Progress = silent) -> None:
    """Writes a dataset to a directory, completely or not at all.

    Args:
      dataset: what to write.
      target: a directory; an existing dataset is replaced.
      progress: receives the number of bytes checksummed.

    Raises:
      InputError: the dataset is invalid, see `Dataset.check`; or the target exists and is not a
        dataset.
    """
    with new_directory(Path(target), marker=MANIFEST) as directory:
        write_columns(dataset, directory, progress=progress)


def write_columns(
    dataset: Dataset,
    directory: Path,
    *,
    table_schema: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> None:
    """Writes columns and manifest into an existing directory.

    The file of a column that is a memory map of ``COLUMN.npy`` in the directory is renamed, so a
    source can stream a large column to that file.

    Args:
      dataset: what to write.
      directory: where to write.
      table_schema: plain data of `TABLE_SCHEMA`, if there is one.
      progress: receives the number of bytes checksummed.

    Raises:
      InputError: the dataset is invalid, see `Dataset.check`.
    """
    dataset.check()
    entries = {}
    if table_schema is not None:
        write_json(directory / TABLE_SCHEMA, table_schema)
        entries = entries_of(directory, [directory / TABLE_SCHEMA])
    entries |= _write(_columns(dataset), directory, progress)
    _commit(directory, dataset, dataset.num_rows, entries)


def open_to_change(
    directory: Path, *, unread: Collection[str], progress: Progress = silent
) -> Dataset:
    """Opens a dataset whose lock is held, and verifies all columns but those that stay unread.

    Raises:
      InputError: there is no dataset, or a file is missing, truncated or altered.
    """
    return _open(directory, lambda name: _column_of(name) not in unread, progress)


def change_columns(
    directory: Path, dataset: Dataset, *, unchanged: Collection[str], progress: Progress = silent
) -> None:
    """Replaces columns of the dataset in a directory, all at once; its lock must be held.

    Args:
      directory: has a dataset.
      dataset: the new one.
      unchanged: the columns whose files stay as they are, all with users or none.
      progress: receives the number of bytes checksummed.
    """
    before = _read_manifest(directory, False)
    kept = (*unchanged, TABLE_SCHEMA)
    entries = {name: own for name, own in before["files"].items() if _column_of(name) in kept}
    columns = {name: own for name, own in _columns(dataset).items() if name not in unchanged}
    entries |= _write(columns, directory, progress)
    pad = before["pad"] if "user_rows" in unchanged else dataset.num_rows
    _commit(directory, dataset, pad, entries)
    _remove_leftovers(directory, entries)


def _remove_leftovers(directory: Path, known: Collection[str]) -> None:
    """Removes column files that the manifest does not name.

    A killed process leaves such files, and a change of the data leaves those of the earlier one.
    """
    for path in directory.iterdir():
        if path.name not in known and (_FILE.fullmatch(path.name) or path.name.startswith(_PART)):
            path.unlink()


def _write(
    columns: Mapping[str, UserRows], directory: Path, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Writes columns to files, and returns their entries in the manifest."""
    paths = []
    for name, column in columns.items():
        path = directory / f"{name}.npy"
        if not _is_map_of(column, path):
            path = directory / f"{_PART}{name}.npy"
            _save(column, path)
        paths.append(path)
    entries, found = {}, entries_of(directory, paths, progress)
    for name, path in zip(columns, paths, strict=True):
        file = f"{name}-{found[path.name]['sha256'][:16]}.npy"
        fsync(path)
        path.replace(directory / file)
        entries[file] = found[path.name]
    return entries


def _save(column: UserRows, path: Path) -> None:
    """Writes a column; one that is computed when it is read is never in memory as a whole."""
    if isinstance(column, np.ndarray):
        return np.save(path, column, allow_pickle=False)
    array = new_array(path, np.int32, column.shape)
    for start in range(0, len(column), _BLOCK):
        array[start : start + _BLOCK] = column[start : start + _BLOCK]
    return array.flush()


def _commit(directory: Path, dataset: Dataset, pad: int, entries: Mapping[str, Any]) -> None:
    """Writes the manifest, with which the files of the entries become the data.

    ``pad`` is the pad id in the users' file.
    """
    content = {
        "format": FORMAT,
        "name": dataset.name,
        "schema": dataset.schema.to_json(),
        "users": dataset.num_users,
        "campaigns": dataset.num_campaigns,
        "rows": dataset.num_rows,
        "pad": pad,
        **{name: len(stage.user) for name, stage in dataset.stages.items()},
        "sensitive": list(dataset.sensitive),
        "files": dict(sorted(entries.items())),
    }
    fsync(directory)
    write_manifest(directory / MANIFEST, content)


def open_dataset(
    directory: Path | str, *, verify: bool = True, progress: Progress = silent
) -> Dataset:
    """Opens a dataset with memory-mapped columns.

    Another process may change or replace the directory at any time; an open dataset stays as it
    was. If a mapped file is truncated, the process ends (SIGBUS); no command of this library
    truncates one.

    Args:
      directory: a directory written by `write_dataset`.
      verify: also compare the SHA-256 of each file with the manifest, which reads all files.
      progress: receives the number of bytes verified.

    Raises:
      InputError: there is no dataset, or a file is missing, truncated or altered; the message names
        it.
    """
    directory = Path(directory)
    return read_undisturbed(directory, MANIFEST, lambda: _open(directory, verify, progress))


def _read_manifest(
    directory: Path, verify: bool | Callable[[str], bool], progress: Progress = silent
) -> dict[str, Any]:
    return read_sealed(
        directory, MANIFEST, format=FORMAT, remedy=REMEDY, verify=verify, progress=progress
    )


def _column_of(name: str) -> str:
    """The column in a file, by the file's name; the name itself if it is that of no column."""
    match = _FILE.fullmatch(name)
    return match["column"] if match else name


def _open(directory: Path, verify: bool | Callable[[str], bool], progress: Progress) -> Dataset:
    manifest = _read_manifest(directory, verify, progress)
    schema = Schema.from_json(manifest["schema"])
    files = {_column_of(name): name for name in manifest["files"]}

    def load(column: str) -> np.ndarray:
        path = directory / files.get(column, f"{column}.npy")
        try:
            return np.lib.format.open_memmap(path, mode="r")
        except (ValueError, EOFError, OverflowError) as error:
            raise InputError(f"{path}: not a .npy file ({error}); {REMEDY}") from error

    def examples(stage: str) -> Examples:
        names = ["offsets", "user", "label"]
        names += [name for name in ("probability", "audience") if f"{stage}_{name}" in files]
        return Examples(**{name: load(f"{stage}_{name}") for name in names})

    vocabulary = Vocabulary(tuple(load(f"values_{field.name}") for field in schema.fields))
    user_rows: UserRows = load("user_rows")
    if manifest["pad"] != vocabulary.num_rows:
        lookup = np.arange(manifest["pad"] + 1, dtype=np.int32)
        lookup[-1] = vocabulary.num_rows
        user_rows = mapped(user_rows, lookup)
    return Dataset(
        name=manifest["name"],
        schema=schema,
        vocabulary=vocabulary,
        user_ids=load("user_key"),
        user_rows=user_rows,
        campaign_ids=load("campaign_key"),
        campaign_rows=load("campaign_rows"),
        stage1=examples("stage1"),
        stage2=examples("stage2"),
        left_out=examples("left_out") if "left_out" in manifest else None,
        sensitive={
            name: SensitiveField(load(f"sensitive_values_{name}"), load(f"sensitive_codes_{name}"))
            for name in manifest["sensitive"]
        },
        digest=manifest["digest"],
        folder=directory,
    )


def content_digest(dataset: Dataset, *, progress: Progress = silent) -> str:
    """SHA-256 of the schema and columns of a dataset, wherever the columns are stored.

    Args:
      dataset: the dataset, which is read once.
      progress: receives the number of columns done.
    """
    digest, columns = hashlib.sha256(), _columns(dataset)
    digest.update(json.dumps(dataset.schema.to_json()).encode())
    for number, (name, column) in enumerate(columns.items()):
        progress("data's digest", number, len(columns))
        for start in range(0, max(len(column), 1), _BLOCK):
            block = np.ascontiguousarray(column[start : start + _BLOCK])
            digest.update(f"{name} {block.dtype.str} {block.shape} ".encode())
            digest.update(block.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _columns(dataset: Dataset) -> dict[str, UserRows]:
    """Columns by name, in the order of the digest."""
    columns: dict[str, UserRows] = {
        "user_key": dataset.user_ids,
        "user_rows": dataset.user_rows,
        "campaign_key": dataset.campaign_ids,
        "campaign_rows": dataset.campaign_rows,
    }
    for field, values in zip(dataset.schema.fields, dataset.vocabulary.values, strict=True):
        columns[f"values_{field.name}"] = values
    for stage, examples in dataset.stages.items():
        columns[f"{stage}_offsets"] = examples.offsets
        columns[f"{stage}_user"] = examples.user
        columns[f"{stage}_label"] = examples.label
        for name in ("probability", "audience"):
            column = getattr(examples, name)
            if column is not None:
                columns[f"{stage}_{name}"] = column
    for name, own in dataset.sensitive.items():
        columns[f"sensitive_values_{name}"] = own.values
        columns[f"sensitive_codes_{name}"] = own.codes
    return columns


def _is_map_of(column: UserRows, path: Path) -> bool:
    # As files, since numpy makes the name of a map's file absolute.
    source = column.filename if isinstance(column, np.memmap) else None
    there = source is not None and path.exists() and Path(source).exists()
    return there and path.samefile(source)
