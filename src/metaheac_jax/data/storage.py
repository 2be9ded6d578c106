"""A Dataset in a directory: plain ``.npy`` columns and ``manifest.json``.

The manifest contains the schema, counts and the SHA-256 of each file. The directory is written
under a temporary name, flushed to disk and renamed, so a crash never leaves a partial dataset.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from metaheac_jax.data.dataset import Dataset, SensitiveField, UserRows
from metaheac_jax.data.examples import Examples
from metaheac_jax.errors import InputError
from metaheac_jax.files import new_directory
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import Schema, Vocabulary
from metaheac_jax.sealed import read_sealed, read_undisturbed, seal

FORMAT = "metaheac_jax dataset 3"
MANIFEST = "manifest.json"
REMEDY = "prepare the data first, or again"
_BLOCK = 1 << 18  # rows of a column read at a time


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
        dataset, or has a foreign file in it.
    """
    with new_directory(Path(target), marker=MANIFEST) as directory:
        write_columns(dataset, directory, progress=progress)


def write_columns(dataset: Dataset, directory: Path, *, progress: Progress = silent) -> None:
    """Writes columns and manifest into an existing directory.

    A column that is a memory map of its own file in the directory is not written again, so a source
    can stream a large column to that file.

    Args:
      dataset: what to write.
      directory: where to write.
      progress: receives the number of bytes checksummed.

    Raises:
      InputError: the dataset is invalid, see `Dataset.check`.
    """
    dataset.check()
    columns = _columns(dataset)
    for name, column in columns.items():
        path = directory / f"{name}.npy"
        if not _is_map_of(column, path):
            np.save(path, np.asarray(column[:]), allow_pickle=False)
    content = {
        "format": FORMAT,
        "name": dataset.name,
        "schema": dataset.schema.to_json(),
        "users": dataset.num_users,
        "campaigns": dataset.num_campaigns,
        "rows": dataset.num_rows,
        "stage1": len(dataset.stage1.user),
        "stage2": len(dataset.stage2.user),
        "sensitive": list(dataset.sensitive),
        "one_row_per_user": dataset.one_row_per_user,
    }
    files = [directory / f"{name}.npy" for name in columns]
    seal(directory, MANIFEST, content, files, progress=progress)


def open_dataset(
    directory: Path | str, *, verify: bool = True, progress: Progress = silent
) -> Dataset:
    """Opens a dataset with memory-mapped columns.

    Another process may replace the directory at any time; an open dataset stays as it was. If a
    mapped file is truncated, the process ends (SIGBUS); no command of this library truncates one.

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


def _open(directory: Path, verify: bool, progress: Progress) -> Dataset:
    manifest = read_sealed(
        directory, MANIFEST, format=FORMAT, remedy=REMEDY, verify=verify, progress=progress
    )
    schema, files = Schema.from_json(manifest["schema"]), manifest["files"]

    def load(column: str) -> np.ndarray:
        file = f"{column}.npy"
        try:
            return np.lib.format.open_memmap(directory / file, mode="r")
        except (ValueError, EOFError, OverflowError) as error:
            raise InputError(f"{directory / file}: not a .npy file ({error}); {REMEDY}") from error

    def examples(stage: str) -> Examples:
        probability = f"{stage}_probability"
        return Examples(
            offsets=load(f"{stage}_offsets"),
            user=load(f"{stage}_user"),
            label=load(f"{stage}_label"),
            probability=load(probability) if f"{probability}.npy" in files else None,
        )

    return Dataset(
        name=manifest["name"],
        schema=schema,
        vocabulary=Vocabulary(tuple(load(f"values_{field.name}") for field in schema.fields)),
        user_ids=load("user_key"),
        user_rows=load("user_rows"),
        campaign_ids=load("campaign_key"),
        campaign_rows=load("campaign_rows"),
        stage1=examples("stage1"),
        stage2=examples("stage2"),
        sensitive={
            name: SensitiveField(load(f"sensitive_values_{name}"), load(f"sensitive_codes_{name}"))
            for name in manifest.get("sensitive", [])
        },
        one_row_per_user=manifest.get("one_row_per_user", True),
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
    """Columns by file name without suffix, in the order of the digest."""
    columns: dict[str, UserRows] = {
        "user_key": dataset.user_ids,
        "user_rows": dataset.user_rows,
        "campaign_key": dataset.campaign_ids,
        "campaign_rows": dataset.campaign_rows,
    }
    for field, values in zip(dataset.schema.fields, dataset.vocabulary.values, strict=True):
        columns[f"values_{field.name}"] = values
    for stage, examples in (("stage1", dataset.stage1), ("stage2", dataset.stage2)):
        columns[f"{stage}_offsets"] = examples.offsets
        columns[f"{stage}_user"] = examples.user
        columns[f"{stage}_label"] = examples.label
        if examples.probability is not None:
            columns[f"{stage}_probability"] = examples.probability
    for name, own in dataset.sensitive.items():
        columns[f"sensitive_values_{name}"] = own.values
        columns[f"sensitive_codes_{name}"] = own.codes
    return columns


def _is_map_of(column: UserRows, path: Path) -> bool:
    # Paths are compared as files, since numpy makes the file name of a map absolute. Saving a
    # column over the file from which it is mapped would destroy it.
    if not isinstance(column, np.memmap) or column.filename is None:
        return False
    source = Path(column.filename)
    return path.exists() and source.exists() and path.samefile(source)
