"""Reads the files of the Tencent Ads competition 2018 (look-alike, preliminary round).

``userFeature.data`` is read in blocks of lines. Raw ids go to a scratch file; once all values are
known, a second pass turns them into table rows. Memory holds a few numbers per user and per
example.

Axes: n lines of a block, U users, S slots of a user, C campaigns, N campaign fields, E examples.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.examples import Examples, group_by_campaign, is_repeat
from metaheac_jax.data.storage import MANIFEST, check_target, open_dataset, write_columns
from metaheac_jax.errors import InputError
from metaheac_jax.files import check_regular, new_directory
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import TENCENT, Field, Schema, Vocabulary

LIST_LIMIT = 10  # a list is cut to its first 10 values, then to the field's slots
MAX_ID = 10**8 - 1  # largest id of a user feature
MAX_IDS = 10**8  # largest sum of the fields' largest ids: memory grows with these lookup tables
BLOCK = 1 << 25  # bytes of text, or of table rows, in memory at a time

_RAW = "raw_ids"  # scratch file in the directory of the dataset
_LINE = r"^[^ |]+( [^ |]+)+(\|[^ |]+( [^ |]+)+)*$"  # of userFeature.data


def prepare(
    source: Path,
    target: Path,
    *,
    schema: Schema = TENCENT,
    progress: Progress = silent,
) -> Dataset:
    """Turns the competition's files into a dataset on disk (paper section 4.1).

    Reads ``userFeature.data``, ``adFeature.csv``, ``train.csv`` (stage 1) and ``test1_truth.csv``
    (stage 2; no header). Every user is kept, in file order. The examples of a campaign are
    shuffled, since test1_truth.csv lists seeds first. A missing one-valued feature has the value -1
    and its own table row; a missing many-valued one is empty. In the files, the label of a seed is
    1 and that of a non-seed -1 or 0. Fields outside the schema, and list values beyond those kept,
    are not checked.

    An example line is left out, with a warning, if an earlier line of either file has the same
    campaign and user. So a user counts once per campaign, and no model is judged on an example that
    it learned from.

    A simulated world may add ``SIMULATED`` (the dataset's name), ``train_probability.npy`` and
    ``test1_truth_probability.npy`` (float32, one value per data line).

    Args:
      source: directory with the files.
      target: directory of the dataset; an existing dataset is replaced on success only.
      schema: the features to use.
      progress: receives the bytes done of each file, and the start of other work.

    Raises:
      InputError: a file is missing, unreadable or empty, or has a faulty line, which the message
        names; or the schema has a field that the files lack.
    """
    source, target = Path(source), check_target(target, source)
    users, ads = source / "userFeature.data", source / "adFeature.csv"
    train, truth = source / "train.csv", source / "test1_truth.csv"
    for path in (users, ads, train, truth):
        check_source(path)
    name = "Tencent look-alike"
    if (source / "SIMULATED").exists():
        name = (source / "SIMULATED").read_text(errors="replace").strip().partition("\n")[0]

    aid, campaign_values = _read_campaigns(ads, schema)
    with new_directory(target, marker=MANIFEST) as directory:
        uid, user_values = _read_users(users, directory / _RAW, schema, progress)
        progress("sorting users", 0, len(uid))
        by_uid = np.argsort(uid, kind="stable")
        _check_no_user_twice(users, uid)
        stage1, stage2 = _read_stages(source, aid, uid, by_uid, progress)

        vocabulary = Vocabulary((*user_values, *(np.unique(v) for v in campaign_values.T)))
        _encode_users(directory, schema, vocabulary, len(uid), progress)
        campaign_rows = [
            vocabulary.encode(len(schema.user) + i, column)
            for i, column in enumerate(campaign_values.T)
        ]
        dataset = Dataset(
            name=name,
            schema=schema,
            vocabulary=vocabulary,
            user_ids=uid,
            user_rows=np.load(directory / "user_rows.npy", mmap_mode="r"),
            campaign_ids=aid,
            campaign_rows=np.stack(campaign_rows, axis=1),
            stage1=stage1,
            stage2=stage2,
        )
        write_columns(dataset, directory, progress=progress)
    return open_dataset(target, verify=False)  # the checksums were just computed


def check_source(path: Path) -> None:
    """Refuses a file that cannot be read, or that is empty.

    Raises:
      InputError: the file is refused.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise InputError(f"{path}: empty; get the file again")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); put the competition's file there"
        ) from error


def line_error(path: Path, number: int, reason: str) -> InputError:
    """The error for a faulty line; line numbers start at 1."""
    return InputError(f"{path}: line {number}: {reason}; fix the line or get the file again")


# The four files -------------------------------------------------------------------------------


def _read_numbers(path: Path, names: Sequence[str], *, header: bool = True) -> np.ndarray:
    """(n, columns) int64: the columns of a CSV file with these names, or all without a header."""
    try:
        table = pl.read_csv(
            path,
            has_header=header,
            new_columns=None if header else names,
            infer_schema=False,
            glob=False,
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read ({reason}); get the file again") from error
    absent = [name for name in names if name not in table.columns]
    if absent:
        raise InputError(
            f"{path}: line 1: expected a column {absent[0]!r}, got {', '.join(table.columns)[:200]}"
        )
    if not len(table):
        raise InputError(f"{path}: no line after the header; get the file again")
    columns = []
    for name in names:
        column = table[name].cast(pl.Int64, strict=False)
        if column.has_nulls():
            row = int(column.is_null().arg_max() or 0)
            reason = f"expected a whole number as {name}, got {table[name][row]!r}"
            raise line_error(path, row + 1 + header, reason)
        columns.append(column.to_numpy())
    return np.stack(columns, axis=1)


def _read_campaigns(path: Path, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Campaign ids (C,), ascending, and raw values (C, N), both int64."""
    table = _read_numbers(path, ["aid", *(field.name for field in schema.campaign)])
    again = is_repeat(table[:, 0])
    if again.any():
        row = int(again.argmax())
        raise line_error(path, row + 2, f"aid {table[row, 0]} occurs twice")
    table = table[np.argsort(table[:, 0])]
    return table[:, 0], table[:, 1:]


def _read_users(
    path: Path, raw: Path, schema: Schema, progress: Progress
) -> tuple[np.ndarray, list[np.ndarray]]:
    """User ids (U,) int64 and the values of each user field; writes raw ids (U, S) to ``raw``.

    The values in that file are int32: the id plus 1, or 0 for no value.
    """
    seen = [np.zeros(1, bool) for _ in schema.user]
    uids, number = [], 1
    with raw.open("wb") as file:
        for lines in _line_blocks(path, progress):
            uid, ids = _parse_users(path, number, lines, schema)
            uids.append(uid)
            ids.tofile(file)
            number += len(uid)
            for f, (start, field) in enumerate(zip(schema.user_starts, schema.user, strict=True)):
                field_ids = ids[:, start : start + field.slots]
                largest = int(field_ids.max())
                if max(largest - len(seen[f]), 0) + sum(map(len, seen)) > MAX_IDS:
                    raise InputError(
                        f"{path}: field {field.name!r} has an id of {largest - 1}, with which the "
                        f"largest ids add up to more than {MAX_IDS}; renumber the ids"
                    )
                seen[f] = np.pad(seen[f], (0, max(0, largest + 1 - len(seen[f]))))
                seen[f][field_ids] = True
    for field, known in zip(schema.user, seen, strict=True):
        if not known[1:].any():
            raise InputError(
                f"{path}: no line has the user field {field.name!r}; remove it from the schema"
            )
        if field.slots > 1:
            known[0] = False  # a missing list is empty, not a value
    return np.concatenate(uids), [np.flatnonzero(known) - 1 for known in seen]


def _line_blocks(path: Path, progress: Progress) -> Iterator[pl.Series]:
    """Yields the lines of a text file, a block at a time."""
    total, remainder = path.stat().st_size, b""
    with path.open("rb") as file:
        while text := file.read(BLOCK):
            whole, newline, remainder = (remainder + text).rpartition(b"\n")
            if newline:
                yield _lines(path, whole)
            progress(path.name, file.tell(), total)
    if remainder:
        yield _lines(path, remainder)


def _lines(path: Path, text: bytes) -> pl.Series:
    try:
        return pl.Series("line", [text.decode()]).str.split("\n").explode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); get the file again") from error


def _parse_users(
    path: Path, number: int, lines: pl.Series, schema: Schema
) -> tuple[np.ndarray, np.ndarray]:
    """User ids (n,) int64 and raw ids plus 1 (n, S) int32 of lines, the first with this number."""

    def check(valid: pl.Series, reason: str) -> None:
        if not valid.all():
            row = int((~valid).arg_max() or 0)
            raise line_error(path, number + row, f"{reason}, got {lines[row][:100]!r}")

    check(lines.str.contains(_LINE), "expected 'field value value ...' between bars")
    names = ["uid", *(field.name for field in schema.user)]
    count = lines.str.count_matches(rf"(?:^|\|)(?:{'|'.join(map(re.escape, names))}) ")
    ids = np.zeros((len(lines), schema.num_slots), np.int32)
    uid = _values(lines, "uid").cast(pl.Int64, strict=False)
    check((uid >= 0).fill_null(value=False), "expected one uid, a whole number")
    known = pl.Series(np.ones(len(lines), np.uint32))
    for field, start in zip(schema.user, schema.user_starts, strict=True):
        values = _values(lines, field.name)
        known += values.is_not_null()
        lists = values.str.split(" ").list.head(_kept(field))
        numbers = lists.cast(pl.List(pl.Int64), strict=False)
        fits = numbers.list.eval(pl.element().is_between(0, MAX_ID).fill_null(value=False))
        what = f"expected whole numbers up to {MAX_ID} in {field.name!r}"
        check(fits.list.all().fill_null(value=True), what)
        for slot in range(_kept(field)):
            ids[:, start + slot] = numbers.list.get(slot, null_on_oob=True).fill_null(-1) + 1
    check(count == known, "expected a field at most once")
    return uid.to_numpy(), ids


def _values(lines: pl.Series, name: str) -> pl.Series:
    """The text after a field's name in each line; null where the line lacks the field."""
    return lines.str.extract(rf"(?:^|\|){re.escape(name)} ([^|]*)")


def _kept(field: Field) -> int:
    return min(field.slots, LIST_LIMIT)


def _check_no_user_twice(path: Path, uid: np.ndarray) -> None:
    again = is_repeat(uid)
    if again.any():
        second = int(again.argmax())
        first = int(np.argmax(uid == uid[second]))
        reason = f"uid {uid[second]} is already on line {first + 1}"
        raise line_error(path, second + 1, reason)


class _Lines(NamedTuple):
    """The examples of a file, in file order: (E,) positions of campaign and user, and labels."""

    campaign: np.ndarray
    user: np.ndarray
    label: np.ndarray


def _read_stages(
    source: Path, aid: np.ndarray, uid: np.ndarray, by_uid: np.ndarray, progress: Progress
) -> list[Examples]:
    """The examples of both stages, without repeats, by campaign; ``uid[by_uid]`` ascends."""
    train, truth = source / "train.csv", source / "test1_truth.csv"
    progress("reading examples", 0, 2)
    first = _read_examples(train, True, aid, uid, by_uid)
    second = _read_examples(truth, False, aid, uid, by_uid)
    progress("sorting examples", 0, len(first.label) + len(second.label))
    pairs = [lines.campaign.astype(np.int64) * len(uid) + lines.user for lines in (first, second)]
    again = np.split(is_repeat(np.concatenate(pairs)), [len(first.label)])
    stages = []
    for path, lines, left_out, number in (
        (train, first, again[0], 2),
        (truth, second, again[1], 1),
    ):
        if left_out.any():
            warnings.warn(
                f"{path}: lines left out: {left_out.sum():,}, the first is line "
                f"{number + int(left_out.argmax())}; an earlier line of train.csv or "
                "test1_truth.csv has the same aid and uid",
                stacklevel=3,
            )
        stages.append(_by_campaign(path, lines, ~left_out, len(aid)))
    return stages


def _by_campaign(path: Path, lines: _Lines, kept: np.ndarray, num_campaigns: int) -> Examples:
    """The kept examples of a file, with their true probabilities if they are simulated."""
    file = path.with_name(f"{path.stem}_probability.npy")
    probability = np.load(file, mmap_mode="r")[kept] if file.exists() else None
    campaign, user, label = (column[kept] for column in lines)
    return group_by_campaign(
        campaign, user, label, num_campaigns=num_campaigns, probability=probability
    ).shuffled()


def _read_examples(
    path: Path, header: bool, aid: np.ndarray, uid: np.ndarray, by_uid: np.ndarray
) -> _Lines:
    """The examples of one file; ``uid[by_uid]`` ascends."""
    aids, uids, labels = _read_numbers(path, ["aid", "uid", "label"], header=header).T
    user, campaign = _find(uid[by_uid], uids), _find(aid, aids)
    for valid, raw, reason in (
        (np.isin(labels, (1, 0, -1)), labels, "expected label 1 or -1, got {}"),
        (user >= 0, uids, "uid {} has no line in userFeature.data"),
        (campaign >= 0, aids, "aid {} has no line in adFeature.csv"),
    ):
        if not valid.all():
            row = int(np.argmin(valid))
            raise line_error(path, row + 1 + header, reason.format(raw[row]))
    return _Lines(
        campaign.astype(np.int32), by_uid[user].astype(np.int32), (labels == 1).astype(np.int8)
    )


def _find(ordered: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Positions of ``ids`` in an ascending array; -1 where absent."""
    order = np.argsort(ids)  # searching for ascending ids is cache-friendly
    ids = ids[order]
    candidate = np.searchsorted(ordered, ids).clip(max=len(ordered) - 1)
    position = np.empty(len(ids), np.int64)
    position[order] = np.where(ordered[candidate] == ids, candidate, -1)
    return position


def _encode_users(
    directory: Path, schema: Schema, vocabulary: Vocabulary, users: int, progress: Progress
) -> None:
    """Turns the scratch file of raw ids + 1 into ``user_rows.npy``, (U, S) int32 table rows."""
    # One lookup table serves all fields: value x of slot s has table row lookup[x + base[s]].
    sizes = [int(values[-1]) + 2 for values in vocabulary.values[: len(schema.user)]]
    starts = np.cumsum([0, *sizes])[:-1]
    lookup = np.full(sum(sizes), vocabulary.num_rows, np.int32)
    known = zip(starts, vocabulary.offsets, vocabulary.values, strict=False)
    for start, offset, values in known:
        lookup[start + 1 + values] = offset + np.arange(len(values))
    base = np.repeat(starts, [field.slots for field in schema.user])

    raw, step = directory / _RAW, BLOCK // (4 * len(base))
    ids = np.memmap(raw, np.int32, "r", shape=(users, len(base)))
    with (directory / "user_rows.npy").open("wb") as out:
        header = {"descr": "<i4", "fortran_order": False, "shape": ids.shape}
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, users, step):
            lookup.take(ids[start : start + step] + base).tofile(out)
            progress("encoding users", start, users)
    raw.unlink()
