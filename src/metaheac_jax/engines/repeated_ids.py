"""Finds an id that several users have: ids are divided, and each part of them is counted alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from metaheac_jax.engines.top_users import USER
from metaheac_jax.errors import InputError

#: Column with the number of a part, and the number of parts.
PART, _PARTS = "part", 64


def parts_of(ids: pa.Array) -> np.ndarray:
    """(n,) uint8 part of each id, which depends on nothing else."""
    return (pl.Series(ids).hash() % _PARTS).to_numpy().astype(np.uint8)


def divided(ids: pa.Array) -> pa.Table:
    """A list of ids for each part."""
    part = parts_of(ids)
    ids = ids.take(pa.array(np.argsort(part, kind="stable")))
    ends = np.cumsum(np.bincount(part, minlength=_PARTS))
    lists = pa.ListArray.from_arrays(np.append(0, ends).astype(np.int32), ids)
    return pa.table({PART: np.arange(_PARTS), "ids": lists})


def repeated(parts: pa.Table) -> pa.Table:
    """An id of those in a part that several users have, or that is missing; maybe none."""
    ids = pa.table({USER: pc.list_flatten(parts["ids"])})
    counts = ids.group_by(USER, use_threads=False).aggregate([([], "count_all")])
    wrong = pc.or_(pc.greater(counts["count_all"], 1), pc.is_null(counts[USER]))
    return counts.filter(wrong).select([USER])[:1]


def refuse_repeated(found: Sequence[Any]) -> None:
    """Refuses users if `repeated` has found any id.

    Raises:
      InputError: there is an id.
    """
    for key in found[:1]:
        what = "a user has no id" if key is None else f"user {key} occurs twice"
        raise InputError(f"users: {what}; give one row per user")
