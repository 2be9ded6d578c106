"""``metaheac prepare``: files of users, campaigns and examples to a data set on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metaheac_jax.cli import terminal
from metaheac_jax.data.sources import official, tencent
from metaheac_jax.errors import InputError
from metaheac_jax.schema import TENCENT, Schema


@dataclass(frozen=True)
class Options:
    """Turns source files into a data set that the other commands read.

    The source is a folder with adFeature.csv, userFeature.data, train.csv and test1_truth.csv in
    the format of the Tencent Ads competition 2018 (`metaheac simulate` makes such a folder), or
    with the paper's authors' processed files {train,test_hot,test_cold}_stage{1,2}.pkl.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Folder with the source files."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write; a data set there is replaced."""
    schema: Path | None = None
    """JSON file that names the fields to use:
    {"user": [{"name": "age"}, {"name": "likes", "slots": 10}], "campaign": [{"name": "topic"}]}.
    A field with several slots is a list. Default: the paper's 14 user and 6 campaign fields."""


def main(options: Options) -> None:
    """Runs the command."""
    if not options.source.is_dir():
        raise InputError(f"{options.source}: no such folder; give the one with the source files")
    screen, schema = terminal.screen(), read_schema(options.schema)
    with terminal.progress_display(screen) as progress:
        if official.is_source(options.source):
            data, _ = official.prepare(
                options.source, options.out, schema=schema, progress=progress
            )
        else:
            data = tencent.prepare(options.source, options.out, schema=schema, progress=progress)
    screen.print(
        f"{options.out}: {data.num_users:,} users, {data.num_campaigns} campaigns, "
        f"{len(data.stage1.user):,} examples to learn from, {len(data.stage2.user):,} to judge on",
        soft_wrap=True,
        highlight=False,
    )
    screen.print(f"next: metaheac fit {options.out} MODEL", soft_wrap=True)


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
