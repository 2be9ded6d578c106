"""A Dataset: users, campaigns and their examples, as memory-mapped columns in a directory.

The directory holds plain ``.npy`` files and ``manifest.json`` (schema, counts, SHA-256 of each
file). It is written to a temporary directory beside its target, flushed to disk and renamed, so a
crash leaves the target either absent or whole.

Axes: U users, C campaigns, E examples of a stage, S slots of a user, N campaign fields.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import Schema, Vocabulary

FORMAT = "metaheac_jax dataset 1"
MANIFEST = "manifest.json"
_BLOCK = 1 << 24  # bytes read at a time for a checksum


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
    campaigns: int,
    probability: np.ndarray | None = None,
) -> Examples:
    """Groups examples by campaign index; within a campaign the given order is kept."""
    order = np.argsort(campaign, kind="stable")
    counts = np.bincount(campaign, minlength=campaigns)
    return Examples(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        user=user[order].astype(np.int32),
        label=label[order].astype(np.int8),
        probability=None if probability is None else probability[order].astype(np.float32),
    )


@dataclass(frozen=True)
class Dataset:
    """Everything known about a pool of users and a set of campaigns.

    Attributes:
      name: what the data is, for titles; a simulated world says so here.
      user_key: (U,) raw user ids, int64; ties in a ranking are broken by it.
      user_rows: (U, S) int32 table rows; the pad id R fills slots that are not used.
      campaign_key: (C,) raw campaign ids, int64, ascending.
      campaign_rows: (C, N) int32 table rows.
      stage1: seeds and non-seeds: training, and customising.
      stage2: the pool on which an expanded audience is judged.
    """

    name: str
    schema: Schema
    vocabulary: Vocabulary
    user_key: np.ndarray
    user_rows: np.ndarray
    campaign_key: np.ndarray
    campaign_rows: np.ndarray
    stage1: Examples
    stage2: Examples

    @property
    def rows(self) -> int:
        """R, the rows of the embedding table; also the pad id."""
        return self.vocabulary.rows

    @property
    def small_fields(self) -> tuple[int, ...]:
        """Values of each of the first user fields, up to the first field with more than 1024.

        What `fields.user_fields` takes as ``small_fields``; the samplers keep these fields' rows.
        """
        sizes = self.vocabulary.sizes[: len(self.schema.user)]
        return tuple(takewhile(lambda size: size <= 1024, sizes))

    @property
    def campaigns(self) -> int:
        """C."""
        return len(self.campaign_key)

    @property
    def users(self) -> int:
        """U."""
        return len(self.user_key)


@contextmanager
def new_directory(target: Path, *, marker: str = MANIFEST) -> Iterator[Path]:
    """A temporary directory that becomes ``target`` if the block succeeds, and vanishes if not.

    An existing target is replaced only then. Everything is flushed to disk before the rename. A
    process that is killed outright leaves ``.NAME.<digits>`` beside the target; delete it by hand,
    since only you know that no other process is writing it.

    Args:
      target: what to make; its parents are made too.
      marker: a file that everything of this kind has. An existing target without it, unless empty,
        is something else, and stays.

    Raises:
      InputError: the target is something else.
    """
    target = Path(target).resolve()
    taken = target.exists() and not (target / marker).is_file()
    if taken and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(
            f"{target}: exists and has no {marker}, so it is not replaced; choose another target"
        )
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)  # unlike one of tempfile's, as open to others as the umask says
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            _fsync(path)
        if target.exists():
            old = temporary.with_name(temporary.name + ".old")
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
        _fsync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_dataset(dataset: Dataset, target: Path, *, progress: Progress = silent) -> None:
    """Writes a dataset held in memory, whole or not at all.

    Raises:
      InputError: the target exists and is no dataset.
    """
    with new_directory(target) as directory:
        write_columns(dataset, directory, progress=progress)


def write_columns(dataset: Dataset, directory: Path, *, progress: Progress = silent) -> None:
    """Writes columns and manifest into ``directory``.

    A column that is a memory map of its own file there already is left as it stands, so a reader
    may stream a large column straight to its place. ``progress`` is told bytes checksummed.
    """
    columns = _columns(dataset)
    for name, column in columns.items():
        path = directory / f"{name}.npy"
        if not _is_map_of(column, path):
            np.save(path, column, allow_pickle=False)
    paths = [directory / f"{name}.npy" for name in columns]
    digests = _digests(paths, progress)
    manifest = {
        "format": FORMAT,
        "name": dataset.name,
        "schema": dataset.schema.to_json(),
        "users": dataset.users,
        "campaigns": dataset.campaigns,
        "rows": dataset.rows,
        "stage1": len(dataset.stage1.user),
        "stage2": len(dataset.stage2.user),
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": digest}
            for path, digest in zip(paths, digests, strict=True)
        },
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def open_dataset(directory: Path, *, verify: bool = True, progress: Progress = silent) -> Dataset:
    """Opens a dataset; columns are memory-mapped, so this reads little more than the manifest.

    Args:
      directory: as written by `write_dataset`.
      verify: also compare every file's SHA-256 with the manifest, which reads them once.
      progress: told bytes verified.

    Raises:
      InputError: no dataset is there, or a file of it is missing, short or altered; it is named.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory)
    try:
        name, schema = manifest["name"], Schema.from_json(manifest["schema"])
        files = {f: (entry["bytes"], entry["sha256"]) for f, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(
            f"{directory / MANIFEST}: incomplete ({error!r}); prepare the data again"
        ) from error
    for file, (expected, _) in files.items():
        path = directory / file
        if not path.is_file():
            raise InputError(
                f"{path}: missing, though the manifest names it; prepare the data again"
            )
        size = path.stat().st_size
        if size != expected:
            raise InputError(f"{path}: {size} bytes, expected {expected}; prepare the data again")
    if verify:
        digests = _digests([directory / file for file in files], progress)
        for (file, (_, expected)), digest in zip(files.items(), digests, strict=True):
            if digest != expected:
                raise InputError(
                    f"{directory / file}: altered since it was written; prepare the data again"
                )

    def load(column: str) -> np.ndarray:
        file = f"{column}.npy"
        if file not in files:
            raise InputError(f"{directory / MANIFEST}: names no {file}; prepare the data again")
        return np.load(directory / file, mmap_mode="r", allow_pickle=False)

    def examples(stage: str) -> Examples:
        probability = f"{stage}_probability"
        return Examples(
            offsets=load(f"{stage}_offsets"),
            user=load(f"{stage}_user"),
            label=load(f"{stage}_label"),
            probability=load(probability) if f"{probability}.npy" in files else None,
        )

    return Dataset(
        name=name,
        schema=schema,
        vocabulary=Vocabulary(tuple(load(f"values_{field.name}") for field in schema.fields)),
        user_key=load("user_key"),
        user_rows=load("user_rows"),
        campaign_key=load("campaign_key"),
        campaign_rows=load("campaign_rows"),
        stage1=examples("stage1"),
        stage2=examples("stage2"),
    )


def _columns(dataset: Dataset) -> dict[str, np.ndarray]:
    columns = {
        "user_key": dataset.user_key,
        "user_rows": dataset.user_rows,
        "campaign_key": dataset.campaign_key,
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
    return columns


def _is_map_of(column: np.ndarray, path: Path) -> bool:
    # Compared as files, since numpy makes the name of a map absolute; and to save a column over
    # the file it is read from would destroy it.
    if not isinstance(column, np.memmap) or column.filename is None:
        return False
    source = Path(column.filename)
    return path.exists() and source.exists() and path.samefile(source)


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    if not path.is_file():
        raise InputError(f"{directory}: not a dataset (no {MANIFEST}); prepare the data first")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON; prepare the data again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path}: expected format {FORMAT!r}; prepare the data again")
    return manifest


def _digests(paths: Sequence[Path], progress: Progress) -> list[str]:
    """SHA-256 of each file."""
    digests, done, total = [], 0, sum(path.stat().st_size for path in paths)
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                done += len(block)
                progress("checksums", done, total)
        digests.append(digest.hexdigest())
    return digests


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
