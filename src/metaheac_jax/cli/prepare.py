"""``metaheac prepare``: files of users, campaigns and examples to a data set on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metaheac_jax.cli import terminal
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.sources import official, tables, tencent
from metaheac_jax.errors import InputError
from metaheac_jax.files import locked, write_json
from metaheac_jax.progress import Progress
from metaheac_jax.schema import TENCENT, Schema


@dataclass(frozen=True)
class Options:
    """Turns source files into a data set that the other commands read.

    The source is a folder with one of these:

    - Tables of your own: users, campaigns and examples, each as .parquet, .csv or .csv.gz, and a
      --schema. `metaheac prepare SOURCE --infer schema.json` writes a first one to edit.
    - adFeature.csv, userFeature.data, train.csv and test1_truth.csv in the format of the Tencent
      Ads competition 2018, as `metaheac simulate` makes them.
    - The paper's authors' processed files {train,test_hot,test_cold}_stage{1,2}.pkl.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Folder with the source files."""
    out: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder to write; a data set there is replaced."""
    schema: Path | None = None
    """JSON file that names the fields to use. For tables it is required. For the other sources:
    {"user": [{"name": "age"}, {"name": "likes", "slots": 10}], "campaign": [{"name": "topic"}]},
    by default the paper's 14 user and 6 campaign fields. A field with several slots is a list. In
    tables, a user field with "sensitive": true is no input of any model; audiences are reported
    by it."""
    infer: Path | None = None
    """JSON file for a first schema of the tables; nothing else is done."""


def main(options: Options) -> None:
    """Runs the command."""
    if not options.source.is_dir():
        raise InputError(f"{options.source}: no such folder; give the one with the source files")
    if (options.out is None) == (options.infer is None):
        raise InputError("prepare: give the folder to write, or --infer")
    screen = terminal.screen()
    if options.infer is not None:
        write_json(options.infer, tables.infer_schema(options.source).to_json())
        screen.print(
            f"{options.infer}: edit it, then metaheac prepare with --schema", soft_wrap=True
        )
    if options.out is None:
        return
    with locked(options.out), terminal.progress_display(screen) as progress:
        data = _read(options.source, options.out, options.schema, progress)
    screen.print(
        f"{options.out}: {data.num_users:,} users, {data.num_campaigns} campaigns, "
        f"{len(data.stage1.user):,} examples to learn from, {len(data.stage2.user):,} to judge on",
        soft_wrap=True,
        highlight=False,
    )
    if data.sensitive:
        names = ", ".join(data.sensitive)
        screen.print(f"sensitive, left out of the model: {names}", soft_wrap=True, highlight=False)
    screen.print(f"next: metaheac fit {options.out} MODEL", soft_wrap=True)


def _read(source: Path, out: Path, schema: Path | None, progress: Progress) -> Dataset:
    """Reads whatever kind of source it is."""
    if tables.find_tables(source):
        if schema is None:
            raise InputError(
                f"{source}: tables need a --schema; metaheac prepare {source} --infer schema.json "
                "writes a first one"
            )
        return tables.prepare(
            source, out, schema=tables.TableSchema.read(schema), progress=progress
        )
    if official.is_source(source):
        return official.prepare(source, out, schema=read_schema(schema), progress=progress)[0]
    return tencent.prepare(source, out, schema=read_schema(schema), progress=progress)


def read_schema(path: Path | None) -> Schema:
    """The schema in a JSON file; the paper's if there is none.

    Raises:
      InputError: the file is no schema.
    """
    if path is None:
        return TENCENT
    try:
        return Schema.from_json(json.loads(path.read_text()))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
