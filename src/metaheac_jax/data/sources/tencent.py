"""Reads the files of the Tencent Ads competition 2018 (look-alike, preliminary round).

``userFeature.data`` is read as a stream of blocks. Raw ids go to a scratch file; once all values
are known, a second pass turns them into table rows. Memory holds a few numbers per user and per
example.

Axes: n lines of a block, U users, S slots of a user, C campaigns, N campaign fields, E examples.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.examples import Examples, group_by_campaign, is_repeat
from metaheac_jax.data.sources import text_blocks as blocks
from metaheac_jax.data.sources.text_blocks import (
    Malformed,
    Tokens,
    check_start,
    is_integer,
    line_error,
    parse_file,
    show,
)
from metaheac_jax.data.storage import MANIFEST, check_target, open_dataset, write_columns
from metaheac_jax.errors import InputError
from metaheac_jax.files import check_regular, new_directory
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import TENCENT, Field, Schema, Vocabulary
from metaheac_jax.threads import in_threads

LIST_LIMIT = 10  # a list is cut to its first 10 values, then to the field's slots
MAX_ID = 10**8 - 1  # largest id of a user feature
MAX_IDS = 10**8  # default limit of the sum of the largest ids, the total size of lookup tables

_RAW = "raw_ids"  # scratch file in the directory of the dataset


def prepare(
    source: Path,
    target: Path,
    *,
    schema: Schema = TENCENT,
    extends: tuple[Schema, Vocabulary] | None = None,
    new_values: bool = True,
    max_ids: int = MAX_IDS,
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
      extends: fields and values of earlier data; the dataset keeps their values.
      new_values: whether values that these lack are added, or unknown, see `Vocabulary.encode`.
      max_ids: limit of the sum of the user fields' largest ids, with which memory grows.
      progress: receives the bytes done of each file, and the start of other work.

    Raises:
      InputError: a file is missing, unreadable or empty, or has a faulty line, which the message
        names; or the schema has a field that the files lack, or differs from that of the earlier
        data.
    """
    source, target = Path(source), check_target(target, source)
    users, ads = source / "userFeature.data", source / "adFeature.csv"
    train, truth = source / "train.csv", source / "test1_truth.csv"
    for path in (users, ads, train, truth):
        _check_readable(path)
    name = "Tencent look-alike"
    if (source / "SIMULATED").exists():
        name = (source / "SIMULATED").read_text(errors="replace").strip().partition("\n")[0]

    aid, campaign_values = _read_campaigns(ads, schema)
    with new_directory(target, marker=MANIFEST) as directory:
        uid, user_values = _read_users(users, directory / _RAW, schema, max_ids, progress)
        progress("sorting users", 0, len(uid))
        by_uid = np.argsort(uid, kind="stable")
        _check_no_user_twice(users, uid)
        stage1, stage2 = _read_stages(source, aid, uid, by_uid, progress)

        every = Vocabulary((*user_values, *(np.unique(v) for v in campaign_values.T)))
        every = every if extends is None else every.extending(schema, *extends)
        vocabulary = every
        if extends is not None and not new_values:
            every.warn_of_unknown(schema, vocabulary := extends[1], source)
        _encode_users(directory, schema, vocabulary, every, len(uid), progress)
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


def _check_readable(path: Path) -> None:
    check_regular(path)
    try:
        with path.open("rb") as file:
            check_start(path, file.read(4))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); put the competition's file there"
        ) from error


# The four files -------------------------------------------------------------------------------


def _read_campaigns(path: Path, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Campaign ids (C,), ascending, and raw values (C, N), both int64."""
    header, *lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    columns = header.decode(errors="replace").split(",")
    wanted = ["aid", *(field.name for field in schema.campaign)]
    absent = [name for name in wanted if name not in columns]
    if absent:
        raise InputError(
            f"{path}: line 1: the header has no {absent[0]!r}, which the schema needs; "
            f"it has {', '.join(columns)[:200]!r}"
        )
    positions = [columns.index(name) for name in wanted]
    rows: dict[int, list[int]] = {}
    for number, line in enumerate(lines, start=2):
        cells = line.split(b",")
        if len(cells) != len(columns):
            raise line_error(path, number, f"expected {len(columns)} columns, got {len(cells)}")
        kept = [cells[position] for position in positions]
        wrong = [cell for cell in kept if not is_integer(cell)]
        if wrong:
            raise line_error(path, number, f"expected whole numbers, got {show(wrong[0])}")
        key, *values = map(int, kept)
        if key in rows:
            raise line_error(path, number, f"aid {key} occurs twice")
        rows[key] = values
    if not rows:
        raise InputError(f"{path}: no campaign after the header; get the file again")
    order = sorted(rows)
    return np.array(order, np.int64), np.array([rows[key] for key in order], np.int64)


def _read_users(
    path: Path, raw: Path, schema: Schema, max_ids: int, progress: Progress
) -> tuple[np.ndarray, list[np.ndarray]]:
    """User ids (U,) int64 and the values of each user field; writes raw ids (U, S) to ``raw``.

    The values in that file are int32: the id plus 1, or 0 for no value.
    """
    starts = schema.user_starts
    seen = [np.zeros(1, bool) for _ in schema.user]
    uids = []

    def parse(block: bytes) -> tuple[np.ndarray, ...]:
        return _parse_users(block, schema)

    def fault(line: bytes) -> str:
        return _user_fault(line, schema)

    with raw.open("wb") as file:
        for uid, ids in parse_file(path, parse, fault, progress):
            uids.append(uid)
            ids.tofile(file)
            for f, (start, field) in enumerate(zip(starts, schema.user, strict=True)):
                field_ids = ids[:, start : start + field.slots]
                largest = int(field_ids.max())
                if max(largest - len(seen[f]), 0) + sum(map(len, seen)) > max_ids:
                    raise InputError(
                        f"{path}: field {field.name!r} has an id of {largest - 1}, with which the "
                        f"largest ids add up to more than {max_ids}; renumber the ids, or raise "
                        "max_ids (--max-ids)"
                    )
                seen[f] = np.pad(seen[f], (0, max(0, int(field_ids.max()) + 1 - len(seen[f]))))
                seen[f][field_ids] = True
    for field, known in zip(schema.user, seen, strict=True):
        if not known[1:].any():
            raise InputError(
                f"{path}: no line has the user field {field.name!r}; remove it from the schema"
            )
        if field.slots > 1:
            known[0] = False  # a missing list is empty, not a value
    return np.concatenate(uids), [np.flatnonzero(known) - 1 for known in seen]


def _parse_users(block: bytes, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """User ids (n,) int64 and raw ids plus 1 (n, S) int32 of a block of user lines."""
    tokens = Tokens.of(block, b" |\n")
    names = np.flatnonzero(tokens.before != ord(" "))
    counts = np.diff(names, append=len(tokens.end)) - 1
    if not counts.all():
        raise Malformed
    line = np.cumsum(tokens.before[names] == ord("\n")) - 1
    n = int(line[-1]) + 1
    ids = np.zeros((n, schema.num_slots), np.int32)
    texts = [b"uid", *(field.name.encode() for field in schema.user)]
    at_uid, *at_fields = tokens.matches(names, texts)
    for at in (at_uid, *at_fields):
        if np.bincount(line[at]).max(initial=0) > 1:
            raise Malformed
    if len(at_uid) != n or counts[at_uid].max() > 1:
        raise Malformed
    for field, start, at in zip(schema.user, schema.user_starts, at_fields, strict=True):
        for slot in range(_kept(field)):
            at = at[counts.take(at) > slot]
            value = tokens.integers(names.take(at) + (1 + slot))
            if value.max(initial=0) > MAX_ID:
                raise Malformed
            ids[line.take(at), start + slot] = value + 1
    return tokens.integers(names[at_uid] + 1), ids


def _user_fault(line: bytes, schema: Schema) -> str:
    """The fault of a line of userFeature.data; empty if there is none."""
    kept = {field.name.encode(): _kept(field) for field in schema.user}
    values_of: dict[bytes, list[bytes]] = {}
    for entry in line.split(b"|"):
        name, *values = entry.split(b" ")
        if not name or not values or b"" in values:
            return f"expected 'field value value ...' between bars, got {show(entry)}"
        if name in values_of and (name in kept or name == b"uid"):
            return f"field {show(name)} occurs twice"
        values_of[name] = values
        for value in values[: kept.get(name, 0)]:
            if not is_integer(value) or int(value) > MAX_ID:
                return f"expected whole numbers up to {MAX_ID} in {show(name)}, got {show(value)}"
    uid = values_of.get(b"uid", [])
    if len(uid) != 1 or not is_integer(uid[0]):
        return f"expected one uid, a whole number, got {show(b' '.join(uid))}"
    return ""


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
    first = _read_examples(train, "aid,uid,label", aid, uid, by_uid, progress)
    second = _read_examples(truth, None, aid, uid, by_uid, progress)
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
    probability = _read_probability(file, len(kept))[kept] if file.exists() else None
    campaign, user, label = (column[kept] for column in lines)
    return group_by_campaign(
        campaign, user, label, num_campaigns=num_campaigns, probability=probability
    ).shuffled()


def _read_examples(
    path: Path,
    header: str | None,
    aid: np.ndarray,
    uid: np.ndarray,
    by_uid: np.ndarray,
    progress: Progress,
) -> _Lines:
    """The examples of one file; ``uid[by_uid]`` ascends."""
    ordered = uid[by_uid]

    def parse(block: bytes) -> tuple[np.ndarray, ...]:
        aids, uids, label = _parse_examples(block)
        return _find(ordered, uids), _find(aid, aids), label, uids, aids

    columns = []
    number = 1 if header is None else 2
    for user, campaign, label, uids, aids in parse_file(
        path, parse, _example_fault, progress, header=header
    ):
        for position, raw, message in (
            (user, uids, "uid {} has no line in userFeature.data"),
            (campaign, aids, "aid {} has no line in adFeature.csv"),
        ):
            if position.min() < 0:
                first = int(np.argmin(position))
                raise line_error(path, number + first, message.format(raw[first]))
        columns.append((campaign.astype(np.int32), by_uid[user].astype(np.int32), label))
        number += len(label)
    if not columns:
        raise InputError(f"{path}: no example after the header; get the file again")
    return _Lines(*map(np.concatenate, zip(*columns, strict=True)))


def _find(ordered: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Positions of ``ids`` in an ascending array; -1 where absent."""
    order = np.argsort(ids)  # searching for ascending ids is cache-friendly
    ids = ids[order]
    candidate = np.searchsorted(ordered, ids).clip(max=len(ordered) - 1)
    position = np.empty(len(ids), np.int64)
    position[order] = np.where(ordered[candidate] == ids, candidate, -1)
    return position


def _parse_examples(block: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Campaign ids and user ids, (n,) int64, and labels, (n,) int8, 1 for a seed, else 0."""
    tokens = Tokens.of(block, b",\n")
    before = tokens.before
    if len(before) % 3 or (before.reshape(-1, 3) != np.frombuffer(b"\n,,", np.uint8)).any():
        raise Malformed
    aid, uid, at = np.arange(len(before)).reshape(-1, 3).T
    label = np.full(len(at), -1, np.int8)
    for value, equal in zip((1, 0, 0), tokens.matches(at, (b"1", b"-1", b"0")), strict=True):
        label[equal] = value
    if label.min() < 0:
        raise Malformed
    return tokens.integers(aid), tokens.integers(uid), label


def _example_fault(line: bytes) -> str:
    """The fault of a line of examples; empty if there is none."""
    cells = line.split(b",")
    if len(cells) != 3:
        return f"expected 3 columns, aid,uid,label, got {show(line)}"
    for name, cell in zip(("aid", "uid"), cells, strict=False):
        if not is_integer(cell):
            return f"expected a whole number as {name}, got {show(cell)}"
    if cells[2] not in (b"1", b"-1", b"0"):
        return f"expected label 1 or -1, got {show(cells[2])}"
    return ""


def _read_probability(path: Path, count: int) -> np.ndarray:
    try:
        # A memory map allocates nothing for a false header, and accepts `.npy` files only.
        probability = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise InputError(f"{path}: not a .npy file ({error}); simulate the world again") from error
    if probability.shape != (count,) or probability.dtype != np.float32:
        raise InputError(
            f"{path}: {probability.dtype} {probability.shape}, expected float32 ({count},), one "
            "per data line; simulate the world again"
        )
    if not ((probability >= 0) & (probability <= 1)).all():
        raise InputError(f"{path}: a value is outside 0 to 1; simulate the world again")
    return probability


def _encode_users(
    directory: Path,
    schema: Schema,
    vocabulary: Vocabulary,
    every: Vocabulary,
    users: int,
    progress: Progress,
) -> None:
    """Turns the scratch file of raw ids + 1 into ``user_rows.npy``, (U, S) int32 table rows.

    ``every`` has all values of the file, and the vocabulary those that have a table row.
    """
    # One lookup table serves all fields: value x of slot s has table row lookup[x + base[s]].
    sizes = [int(values[-1]) + 2 for values in every.values[: len(schema.user)]]
    starts = np.cumsum([0, *sizes])[:-1]
    lookup = np.full(sum(sizes), vocabulary.num_rows, np.int32)
    known = zip(starts, vocabulary.offsets, vocabulary.values, strict=False)
    for start, offset, values in known:
        lookup[start + 1 + values] = offset + np.arange(len(values))
    base = np.repeat(starts, [field.slots for field in schema.user])

    num_slots, user_bytes = len(base), 4 * len(base)

    def encode(block: bytes) -> np.ndarray:
        return lookup.take(np.frombuffer(block, np.int32).reshape(-1, num_slots) + base)

    raw = directory / _RAW
    with raw.open("rb") as source, (directory / "user_rows.npy").open("wb") as out:
        header = {"descr": "<i4", "fortran_order": False, "shape": (users, num_slots)}
        np.lib.format.write_array_header_1_0(out, header)
        chunks = iter(partial(source.read, max(1, blocks.BLOCK // user_bytes) * user_bytes), b"")
        for rows in in_threads(encode, chunks, num_threads=blocks.WORKERS):
            rows.tofile(out)
            progress("encoding users", out.tell(), users * user_bytes)
    raw.unlink()
