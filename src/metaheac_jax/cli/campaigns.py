"""Files about campaigns that commands read: user ids, attributes, and lists of campaigns."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from metaheac_jax.audience.calibration import check_base_rate
from metaheac_jax.audience.campaign_folder import SavedCampaign
from metaheac_jax.audience.retrieve import audience_ranks
from metaheac_jax.audience.seed_check import MANY_SEEDS, SeedCheck
from metaheac_jax.data.campaign import Campaign, UserIds, check_user_ids, whole_number
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.sources.table_file import TableFile
from metaheac_jax.errors import InputError, about, message_of
from metaheac_jax.files import check_regular, read_json
from metaheac_jax.model import Customised, General
from metaheac_jax.schema import MISSING, Schema, Vocabulary

#: Note about a model for which `Customised.is_general` is true.
KEPT_GENERAL = (
    "on examples held out of the campaign, no customised model was better than the general one, "
    "which is kept"
)
#: The longest name in a file of campaigns, in UTF-8; names of a campaign's files are longer.
MAX_NAME_BYTES = 200
#: Number of users of a pool so large that no band is empty.
ANY_POOL = 2**31
_OPTIONAL = ("previous", "suppress", "size", "percent", "base_rate")  # keys of a campaign
_MAX_COMPARED = 5000  # values that a mistyped one is compared with, which takes time
_HEADERS = ("user_id", "userid", "uid", "id")  # names of the column of user ids
_PLAIN_HEADERS = _HEADERS[:2]  # those that mean users whatever the other columns are
_OUTCOMES = ("converted", "label")  # columns that say whether a user has responded
#: A name of ids: it ends in the word id, as customer_id, campaignId and UID do, and paid does not.
_IS_ID = re.compile(r"(?:^|[^A-Za-z])(?:id|Id|ID)$|[a-z](?:Id|ID)$|^[uU](?:id|ID)$")


@dataclass(frozen=True)
class Request:
    """The inputs for one campaign.

    Attributes:
      source: file of the seeds, or the campaign folder that has them.
      attributes: the campaign's attributes; None for a campaign folder, which has them.
      previous: file of an earlier audience, if there is one.
      suppress: file of users to leave out of its audience, if there is one.
      size, percent: its own size of the audience; at most one is given.
      base_rate: its own base rate, if it is given.
      name: name of the campaign, if it is one of many.
      saved: the content of a campaign folder, once it is read.
    """

    source: Path
    attributes: dict[str, Any] | None
    previous: Path | None = None
    suppress: Path | None = None
    size: int | None = None
    percent: float | None = None
    base_rate: float | None = None
    name: str | None = None
    saved: SavedCampaign | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the source is a campaign folder."""
        return self.attributes is None

    @contextmanager
    def named(self) -> Iterator[None]:
        """A context in which errors name the campaign, if it is one of many.

        Then errors of the system, such as a missing file, are an `InputError`, too.
        """
        with about(None if self.name is None else f"campaign {self.name}"):
            try:
                yield
            except OSError as error:
                if self.name is None:
                    raise
                raise InputError(message_of(error)) from error


def check_model_folder(model: Path) -> None:
    """Refuses a general model, or a campaign in its place, that is no folder.

    Raises:
      InputError: it is none.
    """
    if not model.is_dir():
        raise InputError(
            f"{model}: no such folder; give a model from metaheac fit, or a campaign from metaheac "
            "customise"
        )


def find_campaign(
    data: Dataset, seeds: Path, attributes: Path, *, exclude: UserIds = (), seed: int
) -> tuple[Campaign, SeedCheck]:
    """A new campaign from its files, and the check of its seeds.

    Raises:
      InputError: a file or its content is wrong (the message names the file), or a user may have
        several rows in the data.
    """
    values, ids = read_attributes(attributes), read_seeds(seeds, text=has_text(data))
    with about(attributes):
        data.vocabulary.encode_attributes(data.schema, values)
    data.check_one_row_per_user()
    with about(seeds):
        campaign = data.new_campaign(ids, values, exclude=exclude, seed=seed)
    return campaign, SeedCheck.of(campaign, ids)


def has_text(data: Dataset) -> bool:
    """Whether user ids are text."""
    return data.user_ids.dtype.kind == "S"


def require_seeds(check: SeedCheck, least: int, path: Path) -> None:
    """Refuses too few seeds.

    Raises:
      InputError: fewer than ``least`` are used; the message names the file.
    """
    if check.used < least:
        more = f" ({check.excluded} more are excluded)" if check.excluded else ""
        more += f", and {check.from_feedback} are from feedback" if check.from_feedback else ""
        raise InputError(
            f"{path}: {check.found - check.excluded} of {check.distinct} seeds are users of the "
            f"data{more}, fewer than --least-seeds {least}; give more seeds"
        )


def seed_notes(labels: np.ndarray) -> list[str]:
    """Notes on the examples that a model is customised to, from their labels."""
    notes, seeds, others = [], int((labels == 1).sum()), int((labels == 0).sum())
    if seeds < MANY_SEEDS:
        notes.append(f"with fewer than {MANY_SEEDS:,} seeds an audience is less reliable")
    if others < seeds:
        notes.append(
            f"there are only {others:,} other users to tell {seeds:,} seeds from; use a larger pool"
        )
    return notes


def model_notes(model: Customised) -> list[str]:
    """Notes on a customised model."""
    return unseen_notes(model) + ([KEPT_GENERAL] if model.is_general else [])


def unseen_notes(model: Customised) -> list[str]:
    """A note on the attributes of a campaign whose values the general model has not seen."""
    names, general = model.campaign.unknown_attributes, model.general
    if not names:
        return []
    values = unseen_values(general.schema, general.vocabulary, names, model.campaign.attributes)
    return [f"training has not seen these values of the campaign: {values}"]


def unseen_values(
    schema: Schema,
    vocabulary: Vocabulary,
    names: Sequence[str],
    attributes: Mapping[str, Any] | None,
) -> str:
    """Fields with their values, which are not in the vocabulary, and the closest ones that are."""
    known = {own.name: v for own, v in zip(schema.fields, vocabulary.values, strict=True)}
    return ", ".join(_unseen(name, (attributes or {}).get(name), known[name]) for name in names)


def _unseen(name: str, value: Any, known: np.ndarray) -> str:
    """A field with its value, and the closest of the known values."""
    shown = MISSING if value is None else repr(value)[:40]
    if value is None or known.dtype.kind != "U" or len(known) > _MAX_COMPARED:
        return f"{name} {shown}"
    spelled = {own.casefold(): own for own in known.tolist()}
    close = get_close_matches(str(value).strip().casefold(), spelled, n=1)
    return f"{name} {shown}" + "".join(f" (did you mean {spelled[own]!r}?)" for own in close)


def feedback_notes(folder: Path, saved: SavedCampaign, general: General) -> list[str]:
    """A note if a campaign folder's feedback has changed since its model learned from it."""
    if saved.is_up_to_date(general):
        return []
    return [f"feedback has changed since {folder} learned from it; metaheac update it first"]


def read_campaigns(path: Path) -> list[Request]:
    """The campaigns in a file: JSON objects, one per line or in a list.

    Each has ``name``; ``seeds`` (a file) and ``attributes``, or ``folder`` (of a campaign); and
    optionally ``previous`` and ``suppress`` (files), ``size`` or ``percent``, and ``base_rate``.
    What is null is missing. Paths are relative to the file of campaigns.

    Raises:
      InputError: the file cannot be read, or a campaign is wrong; the message has its number or
        name.
    """
    entries = _json_entries(path)
    if not entries:
        raise InputError(f"{path}: no campaign")
    requests = [_request(path, number, entry) for number, entry in enumerate(entries, start=1)]
    seen = set[str | None]()
    for request in requests:
        if request.name in seen:
            raise InputError(
                f"{path}: campaign {request.name}: occurs twice; give each a name of its own"
            )
        seen.add(request.name)
    return requests


def _json_entries(path: Path) -> list[Any]:
    text = _read_text(path)
    # JSON allows other line ends, such as U+2028, inside strings.
    lines = [(f":{n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    whole = text.lstrip().startswith("[")
    entries = []
    for where, part in [("", text)] if whole else lines:
        try:
            entries.append(json.loads(part))
            json.dumps(entries[-1], ensure_ascii=False).encode()  # fails for half a surrogate pair
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}{where}: not valid JSON ({error})") from error
    return entries[0] if whole else entries


def _request(path: Path, number: int, entry: Any) -> Request:
    name = entry.get("name") if isinstance(entry, dict) else None
    named = isinstance(name, str) and 1 <= len(name.encode()) <= MAX_NAME_BYTES
    if not named or name.startswith(".") or set(name) & set("/\\\0"):
        raise InputError(
            f'{path}: campaign number {number}: expected a "name" that can be the name of a '
            f"file, of at most {MAX_NAME_BYTES} bytes"
        )
    where = f"{path}: campaign {name}"
    # Programs that write tables as JSON give missing values as null.
    entry = {key: own for key, own in entry.items() if own is not None}
    needed = ("folder",) if "folder" in entry else ("seeds", "attributes")
    missing = [key for key in needed if key not in entry]
    unknown = [key for key in entry if key not in ("name", *needed, *_OPTIONAL)]
    if missing or unknown:
        wrong = f"has no {missing[0]!r}" if missing else f"has an unknown {unknown[0]!r}"
        raise InputError(
            f"{where}: {wrong}; expected name, seeds and attributes, or name and folder; "
            f"{', '.join(_OPTIONAL)} are optional"
        )
    for key in ("seeds", "folder", "previous", "suppress"):
        if not isinstance(entry.get(key, ""), str) or "\0" in entry.get(key, ""):
            kind = "folder" if key == "folder" else "file"
            raise InputError(f"{where}: {key}: expected the name of a {kind}, got {entry[key]!r}")
    attributes = entry.get("attributes")
    if "attributes" in needed and not isinstance(attributes, dict):
        raise InputError(f"{where}: attributes: expected a JSON object")
    own = {key: entry[key] for key in ("size", "percent", "base_rate") if key in entry}
    if "size" in own and "percent" in own:
        raise InputError(f"{where}: has both size and percent; give one of them")
    with about(where):
        if "size" in own or "percent" in own:
            audience_ranks(ANY_POOL, size=own.get("size"), percent=own.get("percent"))
        if "base_rate" in own:
            check_base_rate(own["base_rate"])
    files = {key: path.parent / entry[key] for key in ("previous", "suppress") if key in entry}
    return Request(path.parent / entry[needed[0]], attributes, **files, **own, name=name)


def read_seeds(path: Path, *, text: bool) -> np.ndarray:
    """The user ids in a file of seeds, see `read_user_ids`.

    Raises:
      InputError: as `read_user_ids` does, or the file has a column that says who has responded, as
        feedback and examples have, so that others would become seeds too.
    """
    ids = read_user_ids(path, text=text)
    names = TableFile(path, []).names if _is_table(path) else next(_rows(path))[1]
    outcomes = [name for name in names if name.lower() in _OUTCOMES]
    if outcomes and _named_column(path, names) is not None:  # or they are ids in text
        raise InputError(
            f"{path}: has a column {outcomes[0]}, so perhaps not all of its users have responded; "
            "give the ids of those who have, without that column"
        )
    return ids


def read_user_ids(path: Path, *, text: bool = False, may_be_empty: bool = False) -> np.ndarray:
    """User ids: one per line, or the column ``user_id`` of a CSV (also with gzip) or Parquet file.

    They are (n,) int64 or, if ids are text, UTF-8 bytes.

    Args:
      path: the file; a first line with a name of `_HEADERS`, or whose first cell has no digit, is a
        header.
      text: whether ids are text. If so, only the names in `_HEADERS` are headers.
      may_be_empty: whether the file may have no ids below a name of their column.

    Raises:
      InputError: the file cannot be read, has no ids, has several columns that may be the ids, or
        has a line that is not one id, such as 007 if ids are whole numbers; the message names the
        line.
    """
    if _is_table(path):
        ids, has_name, place = _column(_id_table(path), text=text), True, "row"
    else:
        (listed, has_name), place = _read_lines(path, text=text), "line"
        with about(path):
            ids = check_user_ids(listed, text=text)
    if not len(ids) and not (has_name and may_be_empty):
        raise InputError(f"{path}: no user ids; write one per {place}")
    return ids


def _read_lines(path: Path, *, text: bool) -> tuple[list[Any], bool]:
    """The user ids in a text file, and whether it begins with a name of their column."""
    rows = _rows(path)
    top = next(rows, (1, []))
    named = _named_column(path, top[1])
    column = named or 0
    has_name = named is not None
    header = has_name or (bool(top[1]) and not text and not _has_digit(top[1][0]))
    ids: list[Any] = []
    num_cells = len(top[1]) if has_name else 1
    for line, row in rows if header else chain([top], rows):
        if not any(row):
            continue
        alone = len(row) == num_cells
        if has_name and not alone:
            raise InputError(
                f"{path}:{line}: expected {num_cells} {'cell' if num_cells == 1 else 'cells'}, as "
                "the first line has; fix or remove it"
            )
        one = alone and row[column] != "" and "\n" not in row[column]
        if not one or not (text or whole_number(row[column]) is not None):
            got = ",".join(row)[:40]
            name = "; name the column of the ids user_id in the first line"
            hint = "" if alone or has_name else name
            raise InputError(f"{path}:{line}: expected one user id, got {got!r}{hint}")
        ids.append(row[column] if text else int(row[column]))
    return ids, has_name


def _named_column(path: Path, names: Sequence[str]) -> int | None:
    """The position of the column of user ids; None if no column has such a name.

    Raises:
      InputError: the names do not tell which of several columns it is.
    """
    lower = [name.lower() for name in names]
    found = next((name for name in _HEADERS if name in lower), None)
    if found is None:
        return None
    position = lower.index(found)
    others = [name for name in names if _IS_ID.search(name) and name.lower() != found]
    if others and found not in _PLAIN_HEADERS:  # a database's id may number the rows
        raise InputError(
            f"{path}: has the columns {names[position]} and {others[0]}; name the column of user "
            "ids user_id"
        )
    return position


def read_audience(path: Path, *, text: bool = False) -> np.ndarray:
    """The user ids in an audience's file, CSV (also with gzip) or Parquet, as `read_user_ids`.

    Args:
      path: the file; it is Parquet if its name ends in ``.parquet``.
      text: whether ids are text.

    Raises:
      InputError: the file cannot be read, has no column ``user_id``, or has a row without a
        valid id, such as 007 if ids are whole numbers; the message names it.
    """
    return _column(audience_table(path), text=text)


def audience_table(path: Path, *others: str) -> TableFile:
    """An audience's file, with its column of user ids in use, and those of ``others`` that it has.

    Raises:
      InputError: the file cannot be read, or has no column ``user_id``.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give an audience that metaheac expand has written")
    table = TableFile(path, [])
    if "user_id" not in table.names:
        raise InputError(f"{path}: not the file of an audience, with a column user_id")
    table.columns = ["user_id", *(name for name in others if name in table.names)]
    return table


def _is_table(path: Path) -> bool:
    return path.suffix == ".parquet"


def _id_table(path: Path) -> TableFile:
    """A Parquet file with its column of user ids in use."""
    check_regular(path)
    names = TableFile(path, []).names
    named = _named_column(path, names)
    return TableFile(path, [_HEADERS[0] if named is None else names[named]])


def _column(table: TableFile, *, text: bool) -> np.ndarray:
    """The ids in the only column in use."""
    [name] = table.columns
    blocks = [table.ids(frame[name], start, whole=not text) for start, frame in table.blocks()]
    return np.concatenate([check_user_ids((), text=text), *blocks])


def check_readable(path: Path) -> None:
    """Refuses a file of user ids that cannot be read, before any work.

    Raises:
      InputError: it is not UTF-8, or not a regular file, or a damaged gzip file, or a Parquet file
        without a column of user ids.
    """
    if _is_table(path):
        _id_table(path)
    else:
        _read_text(path)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file, each with the number of the line where it begins."""
    reader = csv.reader(io.StringIO(_read_text(path)), strict=True)
    line = 1
    try:
        for row in reader:
            yield line, [cell.strip() for cell in row]
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}:{line}: expected one user id ({error}); fix or remove the line"
        ) from error


def read_excluded(
    paths: Sequence[Path], data: Dataset, *, aim: str = "leave out"
) -> tuple[np.ndarray, list[str]]:
    """Ids of users who may not be in an audience, in the data's form, and notes for the user.

    The ids are ascending and distinct. A note names a file in which some ids are not users of the
    data, or which has only a header, and says what the users are for, the ``aim``.

    Raises:
      InputError: as `read_user_ids` does.
    """
    excluded, notes = [data.checked_ids(())], []
    for path in paths:
        ids = np.unique(read_user_ids(path, text=has_text(data), may_be_empty=True))
        if not len(ids):
            notes.append(f"{path}: has no users to {aim}")
            continue
        known = int((data.find_users(ids) >= 0).sum())
        if known < len(ids):
            hint = "" if known else "; check that they are ids of the prepared users"
            notes.append(
                f"{path}: {known:,} of {len(ids):,} ids to {aim} are users of the data{hint}"
            )
        excluded.append(ids)
    return np.unique(np.concatenate(excluded)), notes


def check_known(path: Path, ids: np.ndarray, data: Dataset) -> int:
    """How many ids of a file are users of the data; refuses a file without any.

    Raises:
      InputError: no id is a user of the data; the message names the file.
    """
    known = int((data.find_users(ids) >= 0).sum())
    if not known:
        raise InputError(
            f"{path}: none of its {len(ids)} ids is a user of {data.where}; check that the ids "
            "are those of the prepared users"
        )
    return known


def read_attributes(path: Path) -> dict[str, Any]:
    """A campaign's attributes from a JSON file.

    Raises:
      InputError: the file cannot be read or is not a JSON object.
    """
    attributes = read_json(path)
    if not isinstance(attributes, dict):
        raise InputError(f'{path}: expected a JSON object such as {{"advertiserId": 42}}')
    return attributes


def _read_text(path: Path) -> str:
    """The text of a file, which may be compressed with gzip."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        check_regular(path)
        with opened(path, "rt", encoding="utf-8-sig") as file:
            return str(file.read())
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file; save it as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); write the file again") from error


def _has_digit(text: str) -> bool:
    return any(character.isdigit() for character in text)
