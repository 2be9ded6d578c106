"""Reads the processed files of the paper's authors: pickled pandas data frames, without pandas.

A pickle can call anything that it names. This reader maps the nine names in these files to records
that only store their arguments, and refuses every other name. The records are interpreted and
checked after loading.

Each line of a frame is an example with the features of its user, but without a user id. Feature ids
are already encoded.

Axes: n lines of a frame, S slots of a user, M user fields, N campaign fields, C campaigns,
E examples.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.sources.splits import OFFICIAL_THRESHOLD
from metaheac_jax.data.batches import generator
from metaheac_jax.data.campaign import Examples, group_by_campaign
from metaheac_jax.data.dataset import Dataset, Split
from metaheac_jax.data.storage import check_target, open_dataset, write_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import TENCENT, Schema, Vocabulary

FRAMES = ("train", "test_hot", "test_cold")  # hot: large seed sets, cold: small seed sets
FILES = [(stage, frame) for stage in ("stage1", "stage2") for frame in FRAMES]
MAX_ID = 10**8 - 1  # largest id of a feature


def is_source(folder: Path) -> bool:
    """Whether a folder contains the authors' files."""
    return any(folder.glob("*_stage1.pkl"))


def prepare(
    source: Path,
    target: Path,
    *,
    schema: Schema = TENCENT,
    progress: Progress = silent,
) -> tuple[Dataset, Split]:
    """Turns the authors' files into a dataset on disk, and returns it with their split.

    Reads ``{train,test_hot,test_cold}_{stage1,stage2}.pkl``; ``train_stage2.pkl`` may be missing.
    Each example has its own user row, numbered in the order of reading: the files do not say which
    examples belong to the same user, so no audience can be drawn from this data. The values of a
    field range from 0 to the largest id in the files, so ids and table sizes equal those of the
    authors. ``Split.small`` is true for the campaigns of the test_cold files and false for others.

    Args:
      source: directory with the files.
      target: directory of the dataset; an existing dataset is replaced on success only.
      schema: the columns to use.
      progress: receives the number of files read, then the bytes of the checksums.

    Raises:
      InputError: a file is missing, is not such a pickle, or has inconsistent content; the message
        names the file.
    """
    source, target = Path(source), check_target(target, source)
    names, files = list[tuple[str, str]](), list[_File]()
    for number, (stage, frame) in enumerate(FILES):
        progress("reading files", number, len(FILES))
        path = source / f"{frame}_{stage}.pkl"
        if path.is_file():
            names.append((stage, frame))
            files.append(_read_file(path, schema))
        elif (stage, frame) != ("stage2", "train"):
            raise InputError(f"{path}: missing; put the authors' file there")
    whole = _File(*(np.concatenate(columns) for columns in zip(*files, strict=True)))
    counts = [len(file.label) for file in files]
    campaign_ids, first, campaign = np.unique(whole.aid, return_index=True, return_inverse=True)

    def of_campaigns(values: np.ndarray, what: str) -> np.ndarray:
        """(E, ...) values that all examples of a campaign must share -> (C, ...)."""
        same = (values == values[first][campaign]).reshape(len(values), -1).all(axis=1)
        if not same.all():
            aid = whole.aid[np.argmin(same)]
            raise InputError(f"{source}: campaign {aid} has different {what}; get the files again")
        return values[first]

    group = np.repeat([FRAMES.index(frame) for _, frame in names], counts)
    group = of_campaigns(group, "kinds of files")
    campaign_values = of_campaigns(whole.campaign, "campaign fields")

    vocabulary = Vocabulary(tuple(map(np.arange, whole.sizes.max(axis=0))))
    num_slots = [field.slots for field in schema.user]
    user_offsets = np.repeat(np.array(vocabulary.offsets[: len(schema.user)], np.int32), num_slots)
    campaign_offsets = vocabulary.offsets[len(schema.user) :]
    user_rows = np.where(whole.ids < 0, np.int32(vocabulary.num_rows), whole.ids + user_offsets)
    end = sum(n for (stage, _), n in zip(names, counts, strict=True) if stage == "stage1")

    def examples(of: slice) -> Examples:
        user = np.arange(len(campaign))[of]
        return group_by_campaign(
            campaign[of], user, whole.label[of], num_campaigns=len(campaign_ids)
        ).shuffled()

    dataset = Dataset(
        name="Tencent look-alike, the authors' files",
        schema=schema,
        vocabulary=vocabulary,
        # Random, since rankings break ties by user id and the files list seeds first.
        user_ids=generator(0, 0).permutation(len(user_rows)),
        user_rows=user_rows,
        campaign_ids=campaign_ids,
        campaign_rows=(campaign_values + campaign_offsets).astype(np.int32),
        stage1=examples(slice(end)),
        stage2=examples(slice(end, None)),
    )
    write_dataset(dataset, target, progress=progress)
    split = Split(
        train=np.flatnonzero(group == FRAMES.index("train")),
        test=np.flatnonzero(group != FRAMES.index("train")),
        small=group == FRAMES.index("test_cold"),
        threshold=OFFICIAL_THRESHOLD,
    )
    return open_dataset(target, verify=False), split


class _File(NamedTuple):
    """The content of one file.

    Attributes:
      ids: (n, S) int32 encoded ids of users; -1 in unused slots.
      label: (n,) int8, 1 for a seed, else 0.
      aid: (n,) int64 campaign ids.
      campaign: (n, N) encoded ids of the campaigns.
      sizes: (1, M + N) the largest id of each field in the file (padding included) plus 1.
    """

    ids: np.ndarray
    label: np.ndarray
    aid: np.ndarray
    campaign: np.ndarray
    sizes: np.ndarray


def _read_file(path: Path, schema: Schema) -> _File:
    frame = read_frame(path)

    def column(name: str, *, axes: int = 1) -> np.ndarray:
        if name not in frame:
            raise InputError(f"{path}: no column {name!r}; use the authors' file unchanged")
        values = frame[name]
        if values.dtype.kind not in "iu" or values.ndim != axes:
            what = "one whole number" if axes == 1 else "one list of whole numbers"
            raise InputError(f"{path}: column {name!r} does not hold {what} per row")
        return values.astype(np.int64, copy=False)

    def check(valid: np.ndarray, name: str, what: str) -> None:
        if not valid.all():
            raise InputError(f"{path}: row {int(np.argmin(valid))} (from 0): {name} is not {what}")

    def encoded(name: str, *, axes: int = 1) -> np.ndarray:
        values = column(name, axes=axes)
        fits = ((values >= 0) & (values <= MAX_ID)).reshape(len(values), -1)
        check(np.asarray(fits.all(axis=1)), name, f"an id from 0 to {MAX_ID}")
        return values

    label, aid = column("label"), encoded("aid")
    check(np.isin(label, (1, 0, -1)), "label", "1, 0 or -1")
    ids = np.full((len(label), schema.num_slots), -1, np.int32)
    sizes = []
    for field, start in zip(schema.user, schema.user_starts, strict=True):
        if field.slots == 1:
            values = encoded(field.name)
            ids[:, start] = values
        else:
            values, length = encoded(field.name, axes=2), column(f"{field.name}_length")
            fits = (length >= 0) & (length <= values.shape[1])
            check(fits, f"{field.name}_length", f"0 to {values.shape[1]}")
            # Values beyond the length are padding; its id differs between fields.
            kept = values[:, : field.slots]
            used = np.arange(kept.shape[1]) < length[:, None]
            ids[:, start : start + kept.shape[1]] = np.where(used, kept, -1)
        sizes.append(int(values.max(initial=-1)) + 1)
    campaign = np.stack([encoded(field.name) for field in schema.campaign], axis=1)
    sizes += [int(values.max(initial=-1)) + 1 for values in campaign.T]
    return _File(ids, (label == 1).astype(np.int8), aid, campaign, np.array([sizes]))


# The pickle ------------------------------------------------------------------------------------


def read_frame(path: Path) -> dict[str, np.ndarray]:
    """The columns of one of the authors' pickled data frames, by name.

    A column of numbers is (n,). A column of lists, which must have equal lengths, is (n, length).
    Nothing that the file names is imported or called, so a malicious file is harmless.

    Raises:
      InputError: the file cannot be read, or is not such a pickle.
    """
    try:
        with path.open("rb") as file:
            return _columns(_Unpickler(file).load())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a hostile file can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise InputError(
            f"{path}: not a data frame pickled by the authors ({reason}); get the file again"
        ) from error


class _Record:
    """A stand-in for an object in a pickle, which stores its arguments and state."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> _Record:
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    # Without this method, a pickle could set attributes of the classes themselves.
    def __setstate__(self, state: Any) -> None:
        self.state = state


_ADMITTED = {
    (module, name): type(name, (_Record,), {"__slots__": ()})
    for module, name in (
        ("pandas.core.frame", "DataFrame"),
        ("pandas.core.internals.managers", "BlockManager"),
        ("pandas.core.indexes.base", "_new_Index"),
        ("pandas.core.indexes.base", "Index"),
        ("pandas.core.indexes.numeric", "Int64Index"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("builtins", "slice"),
    )
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Record]:
        """The record class for one of the nine admitted names."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused") from None


def _columns(frame: Any) -> dict[str, np.ndarray]:
    """The columns of a data frame's record. Malformed records can raise any exception."""
    manager = _expect(_expect(frame, "DataFrame").state["_mgr"], "BlockManager")
    content = manager.state[3]["0.14.1"]  # the layout of pandas 0.14.1, which later versions keep
    names = _array(_expect(content["axes"][0], "_new_Index").args[1]["data"]).tolist()
    columns: dict[str, np.ndarray] = {}
    for block in content["blocks"]:
        values = _array(block["values"])
        for name, row in zip(_names_at(block["mgr_locs"], names), values, strict=True):
            columns[name] = _stack(row) if row.dtype == object else row
    if len(columns) != len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{len(columns)} columns for {len(names)} names")
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError("columns of different lengths")
    return columns


def _names_at(locations: Any, names: list[Any]) -> list[Any]:
    """The names of the columns at these locations."""
    if _is(locations, "slice"):
        return names[slice(*locations.args)]
    return [names[position] for position in _array(locations).tolist()]


def _array(record: Any) -> np.ndarray:
    """The array that a record of ``numpy.core.multiarray._reconstruct`` stands for."""
    _, shape, dtype, fortran, data = _expect(record, "_reconstruct").state
    kind = _dtype(dtype)
    flat = np.frombuffer(data, kind) if kind.kind != "O" else np.fromiter(data, kind, len(data))
    return flat.reshape(shape, order="F" if fortran else "C")


def _stack(cells: np.ndarray) -> np.ndarray:
    """(n,) records of one-dimensional arrays of numbers, as (n, length)."""
    if not len(cells):
        return np.zeros((0, 0), np.int64)
    _, shape, dtype, _, _ = _expect(cells[0], "_reconstruct").state
    (length,) = shape
    kind = _dtype(dtype)
    for cell in cells:
        state = _expect(cell, "_reconstruct").state
        if state[2] is not dtype and _dtype(state[2]) != kind:
            raise ValueError("lists of different types in a column")
        if state[1] != shape or len(state[4]) != length * kind.itemsize:
            raise ValueError(f"lists of different lengths in a column, {shape} and {state[1]}")
    flat = np.frombuffer(b"".join(cell.state[4] for cell in cells), kind)
    return flat.reshape(len(cells), length)


def _dtype(record: Any) -> np.dtype:
    code, order = _expect(record, "dtype").args[0], record.state[1]
    if code == "O8":
        return np.dtype(object)
    if not re.fullmatch("[biuf][1248]", code) or order not in ("<", ">", "|"):
        raise ValueError("an array of neither numbers nor objects")
    return np.dtype(order + code)


def _expect(record: Any, name: str) -> _Record:
    if not _is(record, name):
        raise TypeError(f"{name} expected")
    return record


def _is(record: Any, name: str) -> bool:
    """Whether a record stands for this admitted name."""
    return isinstance(record, _Record) and type(record).__name__ == name
