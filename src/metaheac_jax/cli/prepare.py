"""``metaheac prepare``: turns the three tables into a data set on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from metaheac_jax.cli import terminal
from metaheac_jax.cli.terminal import counted, option
from metaheac_jax.errors import InputError


@dataclass(frozen=True)
class Options:
    """Turns tables of users, campaigns and examples into data that the other commands read."""

    #: Folder or URL with three tables, each a .parquet, .csv or .csv.gz file or Parquet files.
    #: users has user_id and a column per field, such as city, age or likes. campaigns has
    #: campaign_id and a column per field, such as topic. examples has campaign_id, user_id and
    #: label: 1 for a user who converted (a seed), 0 for one who was shown the campaign and did not;
    #: campaigns of seeds alone will do. Rows of examples whose column stage is 2 are for evaluate.
    source: Annotated[str, Positional, option("SOURCE")]
    #: Folder to write; data there is replaced.
    data: Annotated[Path, Positional, option("DATA")]
    #: JSON file that says how columns are read: lists, numbers in buckets, sensitive fields; see
    #: docs/own-data.md. By default, SOURCE/schema.json if it is there; otherwise it is inferred.
    #: DATA/schema.json has the result, with which later tables can be prepared alike.
    schema: Annotated[Path | None, option("FILE")] = None
    #: Files with ids of users who opted out: .txt with one per line, or a table with a column
    #: user_id. Nothing of theirs is written. A file without any of the users is an error.
    exclude: Annotated[tuple[Path, ...], option("FILE...")] = ()


def main(options: Options) -> None:
    """Runs the command."""
    from metaheac_jax.data.preparing import find_tables, prepare
    from metaheac_jax.data.storage import MANIFEST
    from metaheac_jax.data.table_file import is_url
    from metaheac_jax.files import locked
    from metaheac_jax.schema import Schema

    folder = Path(options.source)
    if not is_url(options.source) and not folder.is_dir():
        raise InputError(f"{options.source}: no such folder; give the one with the three tables")
    found = options.schema or folder / "schema.json"
    path = found if options.schema or found.exists() else None
    tables = {} if is_url(options.source) else find_tables(folder)
    inputs = (*map(Path, tables.values()), path, *options.exclude)
    terminal.check_output("DATA", options.data, *inputs, manifest=MANIFEST)
    with locked(options.data), terminal.progress_display() as progress:
        schema = None if path is None else Schema.read(path)
        data = prepare(
            options.source,
            options.data,
            schema=schema,
            exclude=options.exclude,
            progress=progress,
        )
    terminal.print_lines(
        f"{options.data}: {counted(data.num_users, 'user')}, "
        f"{counted(data.num_campaigns, 'campaign')}, "
        f"{counted(len(data.stage1.user), 'example')} to learn from, "
        f"{len(data.stage2.user):,} to judge on",
    )
    if path is None:
        written = options.data / "schema.json"
        lines = (f"  {line}" for line in Schema.read(written).describe())
        terminal.print_lines(f"note: the schema was inferred; check {written}:", *lines)
