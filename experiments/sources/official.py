"""Reads the processed files of the paper's authors: pickled pandas data frames, without pandas.

A pickle can call anything that it names. This reader knows the nine names in these files, for which
it takes stand-ins that store their arguments, and refuses every other name.

Each line of a frame is an example with the features of its user, but without a user id.
"""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments.sources.simulated import prepare as prepare_tables
from experiments.sources.splits import OFFICIAL_THRESHOLD
from metaheac_jax.data.batches import generator
from metaheac_jax.data.dataset import Dataset, Split
from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import TENCENT, Schema

NAME = "Tencent look-alike, the authors' files"
KINDS = ("train", "test_hot", "test_cold")  # hot: large seed sets, cold: small seed sets


def is_source(folder: Path) -> bool:
    """Whether a folder contains the authors' files."""
    return any(folder.glob("*_stage1.pkl"))


def prepare(
    source: Path, target: Path, *, schema: Schema = TENCENT, progress: Progress = silent
) -> tuple[Dataset, Split]:
    """Turns the authors' files into a dataset on disk, and returns it with their split.

    Reads ``{train,test_hot,test_cold}_stage{1,2}.pkl``; ``train_stage2.pkl`` may be missing. Each
    example is a user of its own: the files do not say which examples belong to the same user, so
    no audience can be drawn from this data. ``Split.small`` is true for the campaigns of the
    test_cold files and false for others.

    Args:
      source: directory with the files.
      target: directory of the dataset; an existing dataset is replaced on success only.
      schema: the columns to use.
      progress: receives what is being done.

    Raises:
      InputError: a file is missing, is not such a pickle, or lacks a column; the message names the
        file. Or a campaign is in files of two kinds, or its fields differ.
    """
    parts = list[pl.DataFrame]()
    for number, (stage, kind) in enumerate((stage, kind) for stage in (1, 2) for kind in KINDS):
        progress("reading files", number, 2 * len(KINDS))
        path = source / f"{kind}_stage{stage}.pkl"
        if path.exists() or (stage, kind) != (2, "train"):
            added = {"stage": pl.lit(stage, pl.Int8), "files": pl.lit(kind)}
            parts.append(_read(path, schema).with_columns(**added))
    rows = pl.concat(parts)
    # Random, since rankings break ties by user id and the files list seeds first.
    rows = rows.with_columns(user_id=generator(0, 0).permutation(len(rows)))
    of_campaign = ["campaign_id", *(field.name for field in schema.campaign)]
    campaigns = rows.select(*of_campaign, "files").unique().sort("campaign_id")
    twice = campaigns.filter(pl.col("campaign_id").is_duplicated())
    if len(twice):
        raise InputError(
            f"{source}: campaign {twice['campaign_id'][0]} has different fields or kinds of files; "
            "get the files again"
        )
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder) / NAME
        tables.mkdir()
        of_user = ["user_id", *(field.name for field in schema.user)]
        rows.select(of_user).write_parquet(tables / "users.parquet")
        campaigns.select(of_campaign).write_parquet(tables / "campaigns.parquet")
        examples = rows.select("campaign_id", "user_id", "label", "stage")
        examples.write_parquet(tables / "examples.parquet")
        dataset = prepare_tables(tables, target, schema=schema, progress=progress)
    kind = campaigns["files"].to_numpy()
    return dataset, Split(
        train=np.flatnonzero(kind == "train"),
        test=np.flatnonzero(kind != "train"),
        small=kind == "test_cold",
        threshold=OFFICIAL_THRESHOLD,
    )


def _read(path: Path, schema: Schema) -> pl.DataFrame:
    """The examples of a file: campaign, label, and the fields of campaign and user."""
    try:
        with path.open("rb") as file:
            frame = pl.DataFrame(columns_of(_Unpickler(file).load()))
        values = {field.name: pl.col(field.name) for field in (*schema.campaign, *schema.user)}
        for field in schema.user:
            if field.slots > 1:  # values beyond the length are padding
                used = pl.min_horizontal(f"{field.name}_length", pl.lit(field.slots))
                values[field.name] = pl.col(field.name).arr.to_list().list.head(used)
        label = (pl.col("label") == 1).cast(pl.Int8)
        return frame.select(campaign_id="aid", label=label, **values)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); get the file") from error
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

    # Without this method, a pickle could set attributes of the class itself.
    def __setstate__(self, state: Any) -> None:
        self.state = state


_ADMITTED = (
    *("pandas.core.frame.DataFrame", "pandas.core.internals.managers.BlockManager"),
    *("pandas.core.indexes.base._new_Index", "pandas.core.indexes.base.Index"),
    *("pandas.core.indexes.numeric.Int64Index", "numpy.core.multiarray._reconstruct"),
    *("numpy.ndarray", "numpy.dtype"),
)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        """The stand-in for one of the admitted names."""
        if (module, name) == ("builtins", "slice"):
            return slice
        if f"{module}.{name}" not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")
        return _Record


def columns_of(frame: Any) -> dict[str, np.ndarray]:
    """The columns of a data frame's record: (n,) numbers, or (n, length) lists of equal lengths."""
    manager = frame.state["_mgr"].state
    content = manager[3]["0.14.1"]  # the layout of pandas 0.14.1, which later versions keep
    names = _array(content["axes"][0].args[1]["data"])
    columns = dict[str, np.ndarray]()
    for block in content["blocks"]:
        place, values = block["mgr_locs"], _array(block["values"])
        own = names[place if isinstance(place, slice) else _array(place)]
        for name, row in zip(own, values, strict=True):
            columns[name] = np.stack(list(map(_array, row))) if row.dtype == object else row
    return columns


def _array(record: Any) -> np.ndarray:
    """The array that a record of ``numpy.core.multiarray._reconstruct`` stands for."""
    _, shape, dtype, fortran, data = record.state
    if isinstance(data, list):
        flat = np.fromiter(data, object, len(data))
    else:
        flat = np.frombuffer(data, np.dtype(dtype.state[1] + dtype.args[0]))
    return flat.reshape(shape, order="F" if fortran else "C")
