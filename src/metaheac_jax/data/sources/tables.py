"""Reads users, campaigns and examples from Parquet or CSV files (CSV may be gzipped).

    users      a row per user: its id, and a column per field
    campaigns  a row per campaign: its id, and a column per field
    examples   a row per example: campaign id, user id, label 1 or 0, and, if wanted, stage 1 or 2

Ids are whole numbers or text of up to 64 bytes. A schema file names the columns, see `TableSchema`;
`infer_schema` writes a first one. Users are read as a stream, twice: once for the values of every
field, once to turn them into table rows. Memory does not grow with the users, but for their ids and
some bytes per example.

Axes: n rows of a block, U users, S slots of a user, C campaigns, N campaign fields, E examples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from metaheac_jax.data.campaign import MAX_ID_BYTES
from metaheac_jax.data.dataset import Dataset, Examples, SensitiveField, group_by_campaign
from metaheac_jax.data.storage import MANIFEST, open_dataset, write_columns
from metaheac_jax.errors import InputError
from metaheac_jax.files import new_directory
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import UNSEEN, Field, Schema, Vocabulary

FILES = ("users", "campaigns", "examples")
ENDINGS = (".parquet", ".csv", ".csv.gz")
_BLOCK = 200_000  # users held in memory at a time
#: In `infer_schema`: more distinct numbers than this are cut into buckets, lists are text with one
#: of these separators in at least this fraction of values, and have at most this many slots.
_MAX_CATEGORIES, _SEPARATORS, _LIST_FRACTION, _MAX_SLOTS = 50, ";|", 0.1, 10


@dataclass(frozen=True)
class Column:
    """How a field is read from its column.

    Attributes:
      name: of the field and its column.
      slots: values kept of a list; 1 for a field with one value.
      separator: between the values of a list in text; a Parquet list column needs none.
      buckets: of a number, how many quantile buckets; 0 for a category.
      sensitive: whether no model may see it; see `SensitiveField`.
    """

    name: str
    slots: int = 1
    separator: str = ""
    buckets: int = 0
    sensitive: bool = False

    @staticmethod
    def from_json(data: Any) -> Column:
        """A column from plain data.

        Raises:
          InputError: a key is unknown, or a value has another type; the field is named.
        """
        where = f"schema: field {data.get('name')!r}" if isinstance(data, dict) else "schema: field"
        kinds = {known.name: type(known.default) for known in fields(Column)} | {"name": str}
        _check_keys(where, data, kinds)
        if "name" not in data:
            raise InputError(f"{where}: has no 'name', got {json.dumps(data)[:80]}")
        return Column(**data)

    def __post_init__(self) -> None:
        if self.buckets < 0 or self.buckets == 1 or (self.buckets and self.slots > 1):
            raise InputError(
                f"schema: field {self.name!r} needs two buckets or more, and a single slot, to be "
                "a number"
            )


@dataclass(frozen=True)
class TableSchema:
    """What a schema file of tables says.

    Attributes:
      user, campaign: the fields; those of campaigns have one slot.
      user_id, campaign_id: names of the id columns, in all files that have them.
      min_count: a value that fewer users have shares one table row with all unseen values.
    """

    user: tuple[Column, ...]
    campaign: tuple[Column, ...]
    user_id: str = "user_id"
    campaign_id: str = "campaign_id"
    min_count: int = 1

    def __post_init__(self) -> None:
        names = [column.name for column in (*self.user, *self.campaign)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"schema: field {twice[0]!r} is named twice")
        sensitive = [column.name for column in self.campaign if column.sensitive]
        if sensitive:
            raise InputError(
                f"schema: campaign field {sensitive[0]!r} cannot be sensitive; user fields can"
            )

    @staticmethod
    def from_json(data: Any) -> TableSchema:
        """A schema from plain data, as in a schema file.

        Raises:
          InputError: a key is missing or unknown, or a value is wrong; it is named.
        """
        kinds = {"user": list, "campaign": list, "user_id": str, "campaign_id": str}
        kinds |= {"min_count": int}
        _check_keys("schema", data, kinds)
        for side in ("user", "campaign"):
            if side not in data:
                raise InputError(f"schema: has no {side!r}; name the fields there")
        user, campaign = (tuple(map(Column.from_json, data[side])) for side in ("user", "campaign"))
        others = {key: value for key, value in data.items() if key not in ("user", "campaign")}
        return TableSchema(user, campaign, **others)

    @staticmethod
    def read(path: Path) -> TableSchema:
        """The schema in a JSON file.

        Raises:
          InputError: the file is not JSON, or has an unknown key or a wrong value; it is named.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8-sig"))
            return TableSchema.from_json(data)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Plain data that `read` takes, without what is at its default."""
        plain = {known.name: known.default for known in fields(Column)}
        columns = {
            side: [
                {key: value for key, value in vars(column).items() if value != plain[key]}
                for column in getattr(self, side)
            ]
            for side in ("user", "campaign")
        }
        ids = {"user_id": self.user_id, "campaign_id": self.campaign_id}
        return {**ids, "min_count": self.min_count, **columns}


_KINDS = {str: "text", int: "a whole number", bool: "true or false", list: "a list"}


def _check_keys(where: str, data: Any, kinds: dict[str, type]) -> None:
    """Refuses plain data with an unknown key, or with a value of another type."""
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a JSON object, got {json.dumps(data)[:80]}")
    for key, value in data.items():
        if key not in kinds:
            raise InputError(f"{where}: unknown key {key!r}; expected {', '.join(kinds)}")
        if type(value) is not kinds[key]:
            shown = json.dumps(value)[:80]
            raise InputError(f"{where}: {key} is {shown}, expected {_KINDS[kinds[key]]}")


def find_tables(source: Path) -> dict[str, Path]:
    """The users', campaigns' and examples' files of a folder; empty if it has no such file."""
    found = {}
    for name in FILES:
        paths = [source / f"{name}{ending}" for ending in ENDINGS]
        present = [path for path in paths if path.is_file()]
        if len(present) > 1:
            raise InputError(f"{source}: has both {present[0].name} and {present[1].name}")
        if present:
            found[name] = present[0]
    return found


def prepare(
    source: Path, target: Path, *, schema: TableSchema, progress: Progress = silent
) -> Dataset:
    """Turns tables into a dataset on disk.

    Args:
      source: folder with ``users``, ``campaigns`` and ``examples``, each ``.parquet``, ``.csv`` or
        ``.csv.gz``.
      target: directory of the dataset; replaced if it exists, and only when all went well.
      schema: which columns to use.
      progress: receives the number of users read.

    Raises:
      InputError: a file or a column is missing, or a row is wrong: an id twice, a label that is not
        0 or 1, text in a column of numbers, an example of an unknown user or campaign, or a user of
        a campaign with both labels. The file and row are named.
    """
    source, target = Path(source), Path(target).resolve()
    if source.resolve().is_relative_to(target):
        raise InputError(f"{target}: would replace the source {source}; choose another target")
    paths = find_tables(source)
    missing = [name for name in FILES if name not in paths]
    if missing:
        raise InputError(f"{source}: has no {missing[0]}.parquet, .csv or .csv.gz")
    users = _Table(paths["users"], [schema.user_id, *(c.name for c in schema.user)])
    campaigns = _Table(paths["campaigns"], [schema.campaign_id, *(c.name for c in schema.campaign)])
    frame = campaigns.scan().collect()
    campaign_key, order = _ascending_ids(campaigns, frame[schema.campaign_id])
    frame = frame[order]

    model = [users.learn(c, schema.min_count) for c in schema.user if not c.sensitive]
    sensitive = [users.learn(column, 1) for column in schema.user if column.sensitive]
    attributes = [campaigns.learn(column, 1) for column in schema.campaign]
    plain = Schema(
        tuple(learned.field for learned in model), tuple(learned.field for learned in attributes)
    )
    vocabulary = Vocabulary(tuple(learned.values for learned in (*model, *attributes)))
    campaign_rows = np.concatenate(
        [
            learned.rows(frame[learned.column.name], vocabulary, number)
            for number, learned in enumerate(attributes, start=len(model))
        ],
        axis=1,
    )
    with new_directory(target, marker=MANIFEST) as directory:
        columns = {"user_rows": _Encoder(model, vocabulary)}
        for own in sensitive:
            columns[f"sensitive_codes_{own.field.name}"] = _Encoder([own], own.vocabulary)
        user_key = _write_users(directory, users, schema.user_id, columns, progress)
        stages = _read_examples(paths["examples"], schema, user_key, campaign_key)
        maps = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in columns}
        dataset = Dataset(
            name=source.resolve().name,
            schema=plain,
            vocabulary=vocabulary,
            user_key=user_key,
            user_rows=maps["user_rows"],
            campaign_key=campaign_key,
            campaign_rows=campaign_rows,
            stage1=stages[0],
            stage2=stages[1],
            sensitive={
                own.field.name: SensitiveField(
                    np.array([own.field.text(value) for value in own.values]),
                    maps[f"sensitive_codes_{own.field.name}"],
                )
                for own in sensitive
            },
        )
        write_columns(dataset, directory, progress=progress)
    return open_dataset(target, verify=False)  # its checksums are seconds old


class _Table:
    """A file of rows, read as a stream; an error names the row."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Raises:
        InputError: the file cannot be read, or lacks one of these columns.
        """
        self.path, self._text = path, not path.name.endswith(".parquet")
        try:
            names = self.scan().collect_schema().names()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{path}: cannot be read ({_first_line(error)})") from error
        for column in columns:
            if column not in names:
                raise InputError(
                    f"{path}: has no column {column!r}; it has {', '.join(names)[:200]}"
                )
        self.columns = list(columns)

    def scan(self) -> pl.LazyFrame:
        """All rows; columns of text files are text."""
        if self._text:
            return pl.scan_csv(self.path, infer_schema=False)
        return pl.scan_parquet(self.path)

    def blocks(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """Number of rows before a block, and the block with the columns in use."""
        start = 0
        frames = self.scan().select(self.columns).collect_batches(chunk_size=_BLOCK)
        try:
            for frame in frames:
                if len(frame):
                    yield start, frame
                start += len(frame)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{self.path}: cannot be read ({_first_line(error)})") from error

    def fault(self, row: int, what: str) -> InputError:
        """The error for a row, counted from 0; of a text file its line."""
        where = f"line {row + 2}" if self._text else f"row {row + 1}"
        return InputError(f"{self.path}: {where}: {what}; fix or remove it")

    def has_whole_ids(self, column: str) -> bool:
        """Whether a column's ids are all whole numbers that fit into 64 bits."""
        whole = pl.col(column).cast(pl.Int64, strict=False)
        if not self._text and not self.scan().collect_schema()[column].is_integer():
            return False
        bad = self.scan().select((whole.is_null() & pl.col(column).is_not_null()).any())
        return not bad.collect(engine="streaming").item()

    def learn(self, column: Column, min_count: int) -> _Learned:
        """The values of a column that get a table row each.

        Raises:
          InputError: the column is empty, or not what the schema says.
        """
        try:
            return self._learn(column, min_count)
        except pl.exceptions.PolarsError as error:
            raise InputError(
                f"{self.path}: column {column.name!r} is not what the schema says "
                f"({_first_line(error)})"
            ) from error

    def _learn(self, column: Column, min_count: int) -> _Learned:
        cells = self.scan().select(pl.col(column.name))
        if column.buckets:
            return self._learn_numbers(column)
        if column.slots > 1:
            cells = cells.select(_as_list(column).alias(column.name)).explode(column.name)
        counts = (
            cells.select(pl.col(column.name).cast(pl.String))
            .group_by(column.name)
            .len()
            .collect(engine="streaming")
        )
        known = counts.filter(pl.col(column.name).is_not_null() & (pl.col(column.name) != ""))
        frequent = known.filter(pl.col("len") >= min_count)[column.name].to_list()
        values = set(frequent)
        if len(frequent) < len(known):
            values.add(UNSEEN)
        if column.slots == 1 and len(known) < len(counts):
            values.add("")  # a missing value is a value of its own
        if not values:
            raise InputError(f"{self.path}: column {column.name!r} is empty; remove the field")
        return _Learned(column, Field(column.name, column.slots), np.array(sorted(values)))

    def _learn_numbers(self, column: Column) -> _Learned:
        """Quantile buckets of a column of numbers, and one more row for a missing value."""
        self._check_numbers(column.name)
        fractions = [i / column.buckets for i in range(1, column.buckets)]
        number = _number(column.name)
        edges = (
            self.scan()
            .select([number.quantile(f, "linear").alias(str(i)) for i, f in enumerate(fractions)])
            .collect(engine="streaming")
            .row(0)
        )
        if None in edges:
            raise InputError(f"{self.path}: column {column.name!r} has no numbers")
        bounds = tuple(sorted(set(map(float, edges))))
        field = Field(column.name, edges=bounds)
        return _Learned(column, field, np.arange(-1, len(bounds) + 1))

    def _check_numbers(self, name: str) -> None:
        """Refuses a cell that is neither empty nor a finite number."""
        cell, finite = pl.col(name), _number(name).is_finite().fill_null(False)
        wrong = (cell.is_not_null() & (cell.cast(pl.String) != "") & ~finite).cast(pl.UInt8)
        found = self.scan().select(wrong.max().alias("any"), wrong.arg_max().alias("row"))
        any_wrong, row = found.collect().row(0)
        if any_wrong:
            raise self.fault(row, f"{name} is not a number")


@dataclass(frozen=True)
class _Learned:
    """A column, its field, and the field's values, ascending."""

    column: Column
    field: Field
    values: np.ndarray

    @property
    def vocabulary(self) -> Vocabulary:
        """Of this field alone, as a sensitive one has it."""
        return Vocabulary((self.values,))

    def rows(self, cells: pl.Series, vocabulary: Vocabulary, number: int) -> np.ndarray:
        """(n, slots) int32 table rows of cells; the pad id where there is no value."""
        if self.field.edges:
            value = cells.to_frame().select(_number(cells.name)).to_series()
            bucket = self.field.bucket(value.fill_null(float("nan")).to_numpy())
            return vocabulary.encode(number, bucket)[:, None]
        if self.field.slots == 1:
            text = cells.cast(pl.String).fill_null("").to_numpy().astype(str)
            return vocabulary.encode(number, text)[:, None]
        lists = cells.to_frame().select(_as_list(self.column).alias("list"))
        lists = lists.select(pl.col("list").list.head(self.field.slots))
        length = lists.select(pl.col("list").list.len()).to_series().to_numpy()
        flat = lists.select(pl.col("list").filter(pl.col("list").list.len() > 0).explode())
        text = flat.to_series().cast(pl.String).to_numpy().astype(str)
        rows = np.full((len(cells), self.field.slots), vocabulary.num_rows, np.int32)
        used = np.arange(self.field.slots) < length[:, None]
        rows[used] = vocabulary.encode(number, text)
        return rows


@dataclass(frozen=True)
class _Encoder:
    """Fields that are stored side by side in one column of users."""

    fields: Sequence[_Learned]
    vocabulary: Vocabulary

    @property
    def num_slots(self) -> int:
        """S."""
        return sum(learned.field.slots for learned in self.fields)

    def rows(self, frame: pl.DataFrame) -> np.ndarray:
        """(n, S) int32 rows of the vocabulary."""
        blocks = [
            learned.rows(frame[learned.column.name], self.vocabulary, number)
            for number, learned in enumerate(self.fields)
        ]
        return np.concatenate(blocks, axis=1)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _as_list(column: Column) -> pl.Expr:
    """The values of a list column, without empty ones; an empty list where it is missing."""
    cell = pl.col(column.name)
    if column.separator:
        cell = cell.cast(pl.String).str.split(column.separator)
        cell = cell.list.eval(pl.element().str.strip_chars())
        cell = cell.list.eval(pl.element().filter(pl.element() != ""))
    return cell.fill_null([]).list.drop_nulls()


def _number(name: str) -> pl.Expr:
    """A column as numbers; null where it is empty or text."""
    return pl.col(name).cast(pl.Float64, strict=False)


def _as_ids(table: _Table, column: pl.Series, first_row: int, *, whole: bool) -> np.ndarray:
    """(n,) int64 ids, or the UTF-8 bytes of text.

    Raises:
      InputError: an id is missing or too long; its row is named.
    """
    missing = column.is_null()
    if missing.any():
        raise table.fault(first_row + int(missing.arg_max() or 0), f"no {column.name}")
    if whole:
        return column.cast(pl.Int64).to_numpy()
    text = column.cast(pl.String)
    length = text.str.len_bytes()
    wrong = (length > MAX_ID_BYTES) | (length == 0)
    if wrong.any():
        what = f"{column.name} must have 1 to {MAX_ID_BYTES} bytes"
        raise table.fault(first_row + int(wrong.arg_max() or 0), what)
    return np.array([value.encode() for value in text.to_list()])


def _write_users(
    directory: Path,
    table: _Table,
    user_id: str,
    columns: Mapping[str, _Encoder],
    progress: Progress,
) -> np.ndarray:
    """Streams users to a ``.npy`` file per column, and returns their ids (U,)."""
    count = int(table.scan().select(pl.len()).collect(engine="streaming").item())
    if not count:
        raise InputError(f"{table.path}: has no user")
    maps = {
        name: np.lib.format.open_memmap(
            directory / f"{name}.npy", "w+", np.int32, (count, encoder.num_slots)
        )
        for name, encoder in columns.items()
    }
    whole, keys = table.has_whole_ids(user_id), []
    for start, frame in table.blocks():
        keys.append(_as_ids(table, frame[user_id], start, whole=whole))
        for name, encoder in columns.items():
            maps[name][start : start + len(frame)] = encoder.rows(frame)
        progress(f"users: {table.path.name}", start + len(frame), count)
    for column in maps.values():
        column.flush()
    user_key = np.concatenate(keys)
    _check_once(table, user_key, user_id)
    return user_key


def _check_once(table: _Table, keys: np.ndarray, name: str) -> None:
    order = np.argsort(keys, kind="stable")
    again = order[1:][keys[order][1:] == keys[order][:-1]]
    if len(again):
        second = int(again.min())
        raise table.fault(second, f"{name} {_shown(keys[second])} occurs on an earlier row")


def _shown(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)


def _ascending_ids(table: _Table, column: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """The campaigns' ids, ascending, and their order in the file."""
    keys = _as_ids(table, column, 0, whole=table.has_whole_ids(column.name))
    if not len(keys):
        raise InputError(f"{table.path}: has no campaign")
    _check_once(table, keys, column.name)
    order = np.argsort(keys)
    return keys[order], order


def _read_examples(
    path: Path, schema: TableSchema, user_key: np.ndarray, campaign_key: np.ndarray
) -> tuple[Examples, Examples]:
    """Both stages; an example without a stage is of stage 1."""
    table = _Table(path, [schema.campaign_id, schema.user_id, "label"])
    if "stage" in table.scan().collect_schema().names():
        table.columns.append("stage")
    order = np.argsort(user_key)
    parts: list[np.ndarray] = []
    for start, frame in table.blocks():
        user = _positions(table, frame[schema.user_id], start, user_key, order)
        campaign = _positions(
            table, frame[schema.campaign_id], start, campaign_key, np.arange(len(campaign_key))
        )
        label = _one_of(table, frame["label"], start, (0, 1))
        stage = np.ones(len(frame), int)
        if "stage" in frame.columns:
            stage = _one_of(table, frame["stage"], start, (1, 2))
        parts.append(np.stack([campaign, user, label, stage]))
    if not parts:
        raise InputError(f"{path}: has no example")
    campaign, user, label, stage = np.concatenate(parts, axis=1)
    _check_pairs(table, campaign, user, len(user_key))

    def of_stage(number: int) -> Examples:
        chosen = stage == number
        return group_by_campaign(
            campaign[chosen], user[chosen], label[chosen], num_campaigns=len(campaign_key)
        )

    return of_stage(1), of_stage(2)


def _positions(
    table: _Table, column: pl.Series, start: int, keys: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """Where ids occur among the keys; ``keys[order]`` ascends."""
    whole = keys.dtype.kind != "S"
    if whole:
        numbers = column.cast(pl.Int64, strict=False)
        text = numbers.is_null() & column.is_not_null()
        if text.any():
            at = int(text.arg_max() or 0)
            raise table.fault(start + at, f"unknown {column.name} {column[at]}")
        column = numbers
    ids = _as_ids(table, column, start, whole=whole)
    ordered = keys[order]
    position = np.searchsorted(ordered, ids).clip(max=len(keys) - 1)
    unknown = ordered[position] != ids
    if unknown.any():
        at = int(np.argmax(unknown))
        raise table.fault(start + at, f"unknown {column.name} {_shown(ids[at])}")
    return order[position]


def _one_of(table: _Table, column: pl.Series, start: int, allowed: tuple[int, int]) -> np.ndarray:
    value = column.cast(pl.Float64, strict=False)
    wrong = ~value.is_in([float(number) for number in allowed]).fill_null(False)
    if wrong.any():
        at = int(wrong.arg_max() or 0)
        what = f"{column.name} is {column[at]!r}, expected {allowed[0]} or {allowed[1]}"
        raise table.fault(start + at, what)
    return value.to_numpy().astype(int)


def _check_pairs(table: _Table, campaign: np.ndarray, user: np.ndarray, num_users: int) -> None:
    """Refuses a user who is twice an example of a campaign, in whatever stage or with any label."""
    pair = campaign.astype(np.int64) * num_users + user
    order = np.argsort(pair, kind="stable")
    again = order[1:][pair[order][1:] == pair[order][:-1]]
    if len(again):
        raise table.fault(int(again.min()), "the user is an example of this campaign already")


def infer_schema(source: Path) -> TableSchema:
    """A first schema from the tables themselves, for the user to edit.

    The first column of users and of campaigns counts as their id. A column of numbers with many
    values becomes buckets, text with separators or a Parquet list becomes a list, anything else is
    a category.

    Raises:
      InputError: there are no tables.
    """
    paths = find_tables(source)
    for name in ("users", "campaigns"):
        if name not in paths:
            raise InputError(f"{source}: has no {name}.parquet, .csv or .csv.gz")
    sides = {}
    for name in ("users", "campaigns"):
        head = _Table(paths[name], []).scan().head(_BLOCK).collect()
        sides[name] = head.columns[0], [_infer(head[column]) for column in head.columns[1:]]
    user_id, user = sides["users"]
    campaign_id, campaign = sides["campaigns"]
    single = tuple(Column(column.name) for column in campaign)
    return TableSchema(tuple(user), single, user_id, campaign_id)


def _infer(column: pl.Series) -> Column:
    if column.dtype == pl.List:
        longest = int(column.list.len().max() or 1)  # pyrefly: ignore
        return Column(column.name, slots=min(max(longest, 2), _MAX_SLOTS))
    text = column.cast(pl.String).drop_nulls()
    for separator in _SEPARATORS:
        counts = text.str.count_matches(separator, literal=True)
        if len(text) and (counts > 0).mean() >= _LIST_FRACTION:  # pyrefly: ignore
            slots = min(int(counts.max()) + 1, _MAX_SLOTS)  # pyrefly: ignore
            return Column(column.name, slots=slots, separator=separator)
    numbers = text.cast(pl.Float64, strict=False)
    if len(text) and not numbers.is_null().any() and text.n_unique() > _MAX_CATEGORIES:
        return Column(column.name, buckets=10)
    return Column(column.name)
