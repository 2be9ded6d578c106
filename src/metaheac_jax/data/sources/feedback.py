"""Reads feedback, the users shown a campaign and whether they converted, from Parquet or CSV.

A file has one row per record, with the columns ``user_id`` and ``converted`` (1 or 0). Other
columns, such as the id or the time of an event, are ignored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metaheac_jax.data.campaign_record import Feedback
from metaheac_jax.data.sources.table_file import ENDINGS, TableFile
from metaheac_jax.errors import InputError


def read_feedback(path: Path, *, text: bool) -> Feedback:
    """The feedback in a file, read as a stream.

    Args:
      path: ends in ``.parquet``, ``.csv`` or ``.csv.gz``.
      text: whether user ids are text; otherwise they are whole numbers.

    Raises:
      InputError: the file cannot be read or lacks a column, or a row is wrong; the message names
        the row.
    """
    if not path.name.endswith(ENDINGS):
        raise InputError(f"{path}: expected a file that ends in {', '.join(ENDINGS)}")
    table = TableFile(path, ["user_id", "converted"])
    users, converted = [np.empty(0, "S1" if text else np.int64)], [np.empty(0, bool)]
    for start, frame in table.blocks():
        users.append(table.ids(frame["user_id"], start, whole=not text))
        converted.append(table.one_of(frame["converted"], start, (0, 1)))
    return Feedback.of(np.concatenate(users), np.concatenate(converted))
