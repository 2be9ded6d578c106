"""Reads the files of the Tencent Ads competition 2018 (look-alike, preliminary round).

They become the three tables of users, campaigns and examples, which the library prepares.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from experiments.sources.simulated import prepare as prepare_tables
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import TENCENT, Schema

NAME = "Tencent look-alike"
_LINE = r"^\w+( \d+)+(\|\w+( \d+)+)*$"  # of userFeature.data


def prepare(
    source: Path, target: Path, *, schema: Schema = TENCENT, progress: Progress = silent
) -> Dataset:
    """Turns the competition's files into a dataset on disk (paper section 4.1).

    Reads ``userFeature.data``, ``adFeature.csv``, ``train.csv`` (stage 1) and ``test1_truth.csv``
    (stage 2; no header). Every user is kept, in file order. A missing one-valued feature has its
    own table row; a missing many-valued one is empty. In the files, the label of a seed is 1 and
    that of a non-seed -1 or 0.

    An example line is left out, with a warning, if an earlier line of either file has the same
    campaign and user. So a user counts once per campaign, and no model is judged on an example that
    it learned from.

    Args:
      source: directory with the files.
      target: directory of the dataset; an existing dataset is replaced on success only.
      schema: the features to use.
      progress: receives what is being done.

    Raises:
      InputError: a file cannot be read, or has a faulty line, which the message names; or the
        schema has a field that the files lack.
    """
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder) / NAME
        tables.mkdir()
        progress("reading the competition's files", 0, 1)
        write_tables(source, tables, schema)
        return prepare_tables(tables, target, schema=schema, progress=progress)


def write_tables(source: Path, folder: Path, schema: Schema) -> None:
    """Writes users, campaigns and examples as Parquet; see `prepare`."""
    users, campaigns = source / "userFeature.data", source / "adFeature.csv"
    with reading(users):
        uid = _write_users(users, folder / "users.parquet", schema)
    table = _read_numbers(campaigns, ["aid", *(field.name for field in schema.campaign)])
    _check(campaigns, table["aid"].is_first_distinct(), 2, "the aid is on an earlier line, too")
    table.rename({"aid": "campaign_id"}).write_parquet(folder / "campaigns.parquet")

    train, truth = source / "train.csv", source / "test1_truth.csv"
    stages = []
    for stage, path, first in ((1, train, 2), (2, truth, 1)):
        rows = _read_numbers(path, ["aid", "uid", "label"], header=path == train)
        _check(path, rows["label"].is_in([1, 0, -1]), first, "expected label 1 or -1")
        _check(
            path, rows["uid"].is_in(uid.implode()), first, f"the uid has no line in {users.name}"
        )
        known = rows["aid"].is_in(table["aid"].implode())
        _check(path, known, first, f"the aid has no line in {campaigns.name}")
        label = (rows["label"] == 1).cast(pl.Int8)
        stages.append(rows.with_columns(label=label, stage=pl.lit(stage, pl.Int8)))
    rows = pl.concat(stages)
    kept = rows.unique(["aid", "uid"], keep="first", maintain_order=True)
    if len(kept) < len(rows):
        warnings.warn(
            f"{source}: lines left out: {len(rows) - len(kept):,}; an earlier line of {train.name} "
            f"or {truth.name} has the same aid and uid",
            stacklevel=3,
        )
    ids = {"aid": "campaign_id", "uid": "user_id"}
    kept.rename(ids).write_parquet(folder / "examples.parquet")


def _write_users(path: Path, target: Path, schema: Schema) -> pl.Series:
    """Writes the table of users, and returns their ids in file order."""
    lines, line = pl.scan_lines(path, glob=False), pl.col("line")
    uid = line.str.extract(r"(?:^|\|)uid (\d{1,18})(?:\||$)").cast(pl.Int64)
    columns = {"user_id": uid}
    for field in schema.user:
        values = line.str.extract(rf"(?:^|\|){field.name} ([^|]*)").str.split(" ")
        numbers = values.list.head(field.slots).cast(pl.List(pl.Int64))
        columns[field.name] = numbers.list.first() if field.slots == 1 else numbers
    formed = line.str.contains(_LINE) & uid.is_not_null()
    faulty = lines.with_row_index(offset=1).filter(~formed).head(1).collect()
    if len(faulty):
        number, text = faulty.row(0)
        raise InputError(
            f"{path}: line {number}: expected 'uid number' and 'field number number ...' between "
            f"bars, got {text[:100]!r}; fix the line or get the file again"
        )
    lines.select(**columns).sink_parquet(target)
    ids = pl.read_parquet(target, columns=["user_id"])["user_id"]
    if not len(ids):
        raise InputError(f"{path}: has no line; get the file again")
    _check(path, ids.is_first_distinct(), 1, "the uid is on an earlier line, too")
    return ids


def _read_numbers(path: Path, names: Sequence[str], *, header: bool = True) -> pl.DataFrame:
    """The columns of a CSV file with these names, or all without a header, as Int64."""
    with reading(path):
        table = pl.read_csv(
            path,
            has_header=header,
            new_columns=None if header else names,
            infer_schema=False,
            glob=False,
        ).select(names)
    numbers = table.cast(pl.Int64, strict=False)
    for name in names:
        known = numbers[name].is_not_null()
        _check(path, known, 1 + header, f"expected a whole number as {name}")
    return numbers


def _check(path: Path, valid: pl.Series, first: int, what: str) -> None:
    """Refuses a file with an invalid line; the first row is on line ``first``."""
    if not valid.all():
        number = first + int((~valid).arg_max() or 0)
        raise InputError(f"{path}: line {number}: {what}; fix the line or get the file again")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Names a file in errors of reading it."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read ({reason}); get the file again") from error
