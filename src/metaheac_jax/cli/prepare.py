"""``metaheac prepare``: turns files of users, campaigns and examples into a data set on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from metaheac_jax import model
from metaheac_jax.audience.campaign_folder import is_campaign
from metaheac_jax.cli import terminal
from metaheac_jax.data.batches import is_usable, list_campaigns
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.sources import official, tables, tencent
from metaheac_jax.data.sources.table_inference import infer_schema
from metaheac_jax.data.sources.table_schema import TableSchema
from metaheac_jax.data.sources.tencent import MAX_IDS
from metaheac_jax.data.storage import MANIFEST, open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import locked, read_json, write_json
from metaheac_jax.methods.held_out_campaigns import MIN_CAMPAIGNS
from metaheac_jax.progress import Progress
from metaheac_jax.schema import TENCENT, UNSEEN, Schema, Vocabulary
from metaheac_jax.settings import PAPER

#: Options that say how data is read, which --infer does not do.
_OF_DATA = (
    *("schema", "hash_rows", "skip_unknown_users", "extends", "no_new_values"),
    *("max_ids", "max_memory"),
)
_BLOCK = 1 << 18  # users read at a time


@dataclass(frozen=True)
class Options:
    """Turns source files into a data set that the other commands read.

    The source is one of these:

    - A folder with tables of your own: users, campaigns and examples, each as .parquet, .csv or
      .csv.gz, or as a folder such as users.parquet with .parquet files. They need a --schema;
      `metaheac prepare SOURCE --infer schema.json` writes a first one to edit. A campaign of seeds
      alone (no example has label 0) gets 20 random users per seed as non-seeds, as a new one does.
    - A single file of users in such a format, for example a survey with a row per person. The
      schema names the columns that make campaigns: "campaigns_from": [{"name": "vote"}]. A
      value that enough users have and enough lack ("min_seeds") makes a campaign, whose seeds are
      the users with this value, and whose non-seeds are others, at most 20 per seed; 30% of both
      are held out to judge on, so rates and precision are those of this sample.
    - A folder with adFeature.csv, userFeature.data, train.csv and test1_truth.csv in the format of
      the Tencent Ads competition 2018, as `metaheac simulate` makes them.
    - A folder with the processed files of the paper's authors,
      {train,test_hot,test_cold}_stage{1,2}.pkl.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder with the source files, or a single file of users."""
    out: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DATA]")] = None
    """Folder to write; a data set there is replaced."""
    schema: Path | None = None
    """JSON file that names the fields to use. Tables require it. For the other sources, an example:
    {"user": [{"name": "age"}, {"name": "likes", "slots": 10}], "campaign": [{"name": "topic"}]};
    the default is the paper's 14 user and 6 campaign fields. A field with several slots is a list.
    In tables a list in text needs a "separator", "buckets" divides a number into ranges with about
    equally many users (a frequent number has one of its own), "hash_rows" hashes a field with too
    many values to that many rows, and a user field with "sensitive": true is not an input of any
    model; reports show how audiences differ by it. Besides the fields, a schema of tables may have
    "user_id" and "campaign_id" (the names of the id columns), "missing" (texts such as ["NA"] that
    stand for a missing value),
    "min_count" (values that fewer users have share a table row with unseen ones; 1),
    "campaigns_from", and "min_seeds" (of a campaign that is made from a column; 50)."""
    max_ids: int | None = None
    """For the competition's and the authors' files: refuse them if the largest ids of the user
    fields (in the authors' files, of all fields) add up to more than this, since memory grows with
    that sum. Default: 100 million."""
    max_memory: float | None = None
    """For the authors' files: refuse a file that takes more GiB of memory than this to read.
    Default: 2 GiB plus 50 times the size of the file."""
    infer: Path | None = None
    """JSON file to write a first schema of the tables to; nothing else is done."""
    overwrite: bool = False
    """With --infer, replace the file if it exists."""
    hash_rows: int = 0
    """For tables: hash every field with more than this many values to this many rows, and do not
    keep its values. 0 keeps all values; "hash_rows" in the schema hashes a single field."""
    skip_unknown_users: bool = False
    """For tables: leave out examples of users who are not in the file of users, such as deleted
    accounts, and say how many there are. By default, such an example is an error. If the users'
    ids are whole numbers, other ids in the examples must be, too."""
    extends: Path | None = None
    """Earlier data set, or model, that this data continues: its values and buckets are kept, new
    values are added, and `metaheac fit --from` can continue training its model on this data."""
    no_new_values: bool = False
    """With --extends: do not add values that the earlier data lacks; they count as unknown, and not
    in the length of a list (unless the field has a table row for rare values). The model can then
    be used on this data at once, for example to score today's users. Tables may then be of users
    alone."""


def main(options: Options) -> None:
    """Runs the command."""
    if not options.source.exists():
        raise InputError(f"{options.source}: no such folder; give the one with the source files")
    if options.source.is_file() and not tables.find_tables(options.source):
        raise InputError(f"{options.source}: is not a .parquet, .csv or .csv.gz file")
    if (options.out is None) == (options.infer is None):
        raise InputError("prepare: give the folder to write, or --infer")
    if options.infer is None and options.overwrite:
        raise InputError("--overwrite: only with --infer; a data set is replaced without it")
    if options.infer is not None:
        for name in _OF_DATA:
            if getattr(options, name):
                option = name.replace("_", "-")
                raise InputError(f"--{option}: not with --infer, which only writes a schema")
    terminal.check_minimum("--hash-rows", options.hash_rows, 0)
    if options.max_ids is not None:
        terminal.check_minimum("--max-ids", options.max_ids, 1)
    if options.max_memory is not None and not 0 < options.max_memory < math.inf:
        raise InputError(f"--max-memory: expected a number above 0, got {options.max_memory}")
    if options.no_new_values and options.extends is None:
        raise InputError("--no-new-values: only with --extends")
    if options.hash_rows and options.extends is not None:
        raise InputError("--hash-rows: not with --extends, which keeps the earlier rows")
    if options.out is not None:
        inputs = (options.source, options.schema, options.extends)
        terminal.check_output_folder("DATA", options.out, MANIFEST, "a data set", *inputs)
    screen = terminal.screen()
    if options.infer is not None:
        terminal.print_lines(screen, *_write_first_schema(options, options.infer))
    if options.out is None:
        return
    with locked(options.out), terminal.progress_display(screen) as progress:
        extends = None if options.extends is None else _earlier(options.extends, progress)
        data = _read(options, options.out, extends, progress)
    hashed = [field.name for field in data.schema.fields if field.hash_rows]
    has = (
        f"{data.num_campaigns} campaigns, {len(data.stage1.user):,} examples to learn from, "
        f"{len(data.stage2.user):,} to judge on"
    )
    if not data.num_campaigns:
        has = "without campaigns"
    lines = [f"{options.out}: {data.num_users:,} users, {has}"]
    unusable = np.flatnonzero(~is_usable(data))
    if len(unusable) and not options.no_new_values:  # otherwise, no model is trained on them
        lines.append(
            "note: fit needs --skip-unusable, since these campaigns have fewer than 20 examples to "
            f"learn from, or only seeds or only non-seeds: {list_campaigns(data, unusable)}"
        )
    least = PAPER.campaigns_per_step + MIN_CAMPAIGNS
    num_usable = data.num_campaigns - len(unusable)
    if data.num_campaigns and num_usable < least and not options.no_new_values:
        alone = "; --method lr learns from each alone" if num_usable and extends is None else ""
        lines.append(
            f"note: by default fit needs {least} campaigns, and {num_usable} can be used{alone}"
        )
    lines += [f"note: {what}" for what in _cut_lists(options)]
    if options.schema is not None and not read_json(options.schema).get("user_id", True):
        lines.append(
            "note: users have no ids and are numbered by row, so seeds, opt-outs and customised "
            "campaigns are valid with this file of users only"
        )
    if data.sensitive:
        lines.append(f"sensitive, left out of the model: {', '.join(data.sensitive)}")
    if hashed:
        lines.append(f"hashed: {', '.join(hashed)}")
    step = f"metaheac fit {terminal.quoted(options.out)} MODEL"
    if extends is not None:
        step += " --from EARLIER_MODEL"
        if options.no_new_values:
            step = f"metaheac expand EARLIER_MODEL --data {terminal.quoted(options.out)}"
        notes = _all_new(data, extends[1], options.extends, known_only=options.no_new_values)
        lines += [f"note: {what}" for what in notes]
    terminal.print_lines(screen, *lines, f"next: {step}")


def _cut_lists(options: Options) -> list[str]:
    """A line per field of lists from tables of which values were left out.

    None for data that extend other data, whose schema they have: the first `prepare` has told.
    """
    if options.schema is None or options.extends or not tables.find_tables(options.source):
        return []
    schema = TableSchema.read(options.schema)
    slots = {own.name: own.slots for own in schema.user}
    cut = tables.count_cut_lists(options.source, schema)
    return [
        f"field {name}: {count:,} users have more than {slots[name]} values, of which the first "
        f"{slots[name]} are kept (slots)"
        for name, count in cut.items()
        if count
    ]


def _write_first_schema(options: Options, path: Path) -> list[str]:
    """Infers a first schema and writes it; returns what to tell the user."""
    found = tables.find_tables(options.source).values()
    parts = [part for table in found if table.is_dir() for part in table.iterdir()]
    terminal.check_output("--infer", path, *found, *parts)
    if path.exists() and not options.overwrite:
        raise InputError(f"--infer: {path} exists; give --overwrite to replace it")
    schema, left_out = infer_schema(options.source)
    write_json(path, schema.to_json())
    what = "edit it"
    if not schema.campaign:
        what = 'move the fields whose values make campaigns from "user" to "campaigns_from"'
    lines = [f"{path}: {what}, then metaheac prepare with --schema"]
    if not schema.user_id:
        lines.append(
            "note: users are numbered by row, since the first column repeats or lacks a value, "
            'or cannot have ids; if it has the ids, set "user_id" to its name and remove it '
            'from "user": prepare then names the row to repair'
        )
    if left_out:
        why = "they cannot be fields, or each user has another text or date"
        lines.append(f"note: left out, since {why}: {', '.join(left_out)}")
    return lines


def _read(
    options: Options, out: Path, extends: tuple[Schema, Vocabulary] | None, progress: Progress
) -> Dataset:
    """Reads a source of any kind."""
    source = options.source
    has_tables, is_official = bool(tables.find_tables(source)), official.is_source(source)
    competition = any((source / name).exists() for name in ("userFeature.data", "adFeature.csv"))
    if not has_tables and not is_official and not competition:
        raise InputError(
            f"{source}: has none of users, campaigns, examples (.parquet, .csv, .csv.gz), nor the "
            "competition's or the authors' files"
        )
    if options.max_ids is not None and has_tables:
        raise InputError(f"--max-ids: {source} has tables, whose values are numbered")
    if options.max_memory is not None and (has_tables or not is_official):
        raise InputError(f"--max-memory: only for the authors' files, which {source} does not have")
    max_ids = MAX_IDS if options.max_ids is None else options.max_ids
    if has_tables:
        if options.schema is None:
            raise InputError(
                f"{source}: tables need a --schema; metaheac prepare {source} --infer schema.json "
                "writes a first one"
            )
        schema = TableSchema.read(options.schema)
        if options.skip_unknown_users and schema.campaigns_from:
            raise InputError(
                f'--skip-unknown-users: {options.schema} makes campaigns with "campaigns_from", so '
                "there is no file of examples"
            )
        return tables.prepare(
            source,
            out,
            schema=schema,
            hash_rows=options.hash_rows,
            extends=extends,
            new_values=not options.no_new_values,
            skip_unknown_users=options.skip_unknown_users,
            progress=progress,
        )
    fields = read_schema(options.schema)
    if options.hash_rows:
        raise InputError(f"--hash-rows: {source} has no tables, and all values of it are kept")
    if options.skip_unknown_users:
        raise InputError(f"--skip-unknown-users: only for tables, which {source} does not have")
    if not is_official:
        return tencent.prepare(
            source,
            out,
            schema=fields,
            extends=extends,
            new_values=not options.no_new_values,
            max_ids=max_ids,
            progress=progress,
        )
    if extends is not None:
        raise InputError(f"--extends: not for the authors' files in {source}")
    return official.prepare(
        source,
        out,
        schema=fields,
        max_ids=max_ids,
        max_memory=options.max_memory,
        progress=progress,
    )[0]


def _all_new(
    data: Dataset, earlier: Vocabulary, where: Path | None, *, known_only: bool
) -> list[str]:
    """A line for each field none of whose earlier values is in the data, or that has no value.

    With ``known_only``, the data has no other values than the earlier ones.
    """
    used = np.zeros(data.num_rows + 1, bool)
    for start in range(0, data.num_users, _BLOCK):
        used[data.user_rows[start : start + _BLOCK]] = True
    used[data.campaign_rows] = True
    lines, vocabulary = [], data.vocabulary
    fields = data.schema.fields if data.num_campaigns else data.schema.user
    for field, values, first, known in zip(
        fields, vocabulary.values, vocabulary.offsets, earlier.values, strict=False
    ):
        found, before = (
            [value for value in some.tolist() if value not in ("", -1)]
            for some in (values[used[first : first + len(values)]], known)
        )
        own, old = ([value for value in some if value != UNSEEN] for some in (found, before))
        if old and not (own if known_only else found):
            what = f"a value of {where}" if known_only else f"a value, unlike in {where}"
            lines.append(f"field {field.name}: no cell has {what}; is it right?")
        elif own and old and set(own).isdisjoint(old) and not field.edges and not field.hash_rows:
            lines.append(
                f"field {field.name}: its {len(own):,} values are all new to {where}; is "
                f"{str(own[0])[:40]!r} spelled as {str(old[0])[:40]!r} is there?"
            )
    return lines


def _earlier(folder: Path, progress: Progress) -> tuple[Schema, Vocabulary]:
    """The fields and values of a data set or a model."""
    if not folder.is_dir():
        raise InputError(f"--extends: {folder}: is no folder; give that of a data set or a model")
    if is_campaign(folder):
        raise InputError(
            f"--extends: {folder}: is a campaign; give its general model, or a data set"
        )
    if (folder / model.MANIFEST).is_file():
        general = model.load(folder, progress=progress)
        return general.schema, general.vocabulary
    data = open_dataset(folder, verify=False)
    return data.schema, data.vocabulary


def read_schema(path: Path | None) -> Schema:
    """The schema in a JSON file; the paper's if there is none.

    Raises:
      InputError: the file is not a schema, or has keys that only tables allow.
    """
    if path is None:
        return TENCENT
    content = read_json(path)
    try:
        schema = Schema.from_json(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    for field in schema.fields:
        if field.edges or field.hash_rows:
            raise InputError(f"{path}: field {field.name!r}: expected name and slots alone")
    return schema
