"""Makes campaigns from columns of users: the users with one value against those with others.

Axes: C campaigns, E examples, U users.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import polars as pl

from metaheac_jax.data.campaign import MAX_ID_BYTES, draw_by_id
from metaheac_jax.data.dataset import COLUMN_FIELDS, NON_SEEDS_PER_SEED
from metaheac_jax.data.sources.table_fields import as_text, check_lists, spells_whole
from metaheac_jax.data.sources.table_file import TableFile
from metaheac_jax.data.sources.table_schema import Column, TableSchema
from metaheac_jax.errors import InputError

#: Fraction of the users in stage 2, on whom audiences are judged.
_HELD_OUT = 0.3


class ColumnCampaigns(NamedTuple):
    """Campaigns and their examples.

    Attributes:
      ids: (C,) ``column=value`` in UTF-8, ascending.
      attributes: the fields of `COLUMN_FIELDS`, one row per campaign.
      examples: (3, E) campaign, user and label.
    """

    ids: np.ndarray
    attributes: pl.DataFrame
    examples: np.ndarray


def columns_to_campaigns(
    file: TableFile, schema: TableSchema, known: np.ndarray | tuple[()] = ()
) -> ColumnCampaigns:
    """Makes one campaign per value of the columns that the schema names.

    The seeds of a campaign are the users with the value. Its non-seeds are users with other values,
    drawn at random if there are more than `NON_SEEDS_PER_SEED` per seed. Users without a value are
    not examples.

    Args:
      file: the file of users.
      schema: names the columns and sets the least number of seeds and of non-seeds per campaign.
      known: values of earlier data, which keep their spelling.

    Raises:
      InputError: no value has enough seeds and non-seeds, two long values share a beginning, or
        lists are described as single values.
    """
    found: dict[bytes, tuple[str, str, np.ndarray, np.ndarray]] = {}
    for column in schema.campaigns_from:
        check_lists(file, column)
        pairs = _users_with_values(file, column, known)
        answered = np.unique(pairs["user"].to_numpy())
        for (value,), group in pairs.group_by("value", maintain_order=True):
            seeds = group["user"].to_numpy()
            if min(len(seeds), len(answered) - len(seeds)) < schema.min_seeds:
                continue
            others = np.setdiff1d(answered, seeds, assume_unique=True)
            own = f"{column.name}={value}".encode()[:MAX_ID_BYTES].decode(errors="ignore").encode()
            if own in found:
                raise InputError(
                    f"{file.path}: two values of {column.name!r} begin with {own.decode()!r}; "
                    "shorten them"
                )
            rng = np.random.Generator(np.random.Philox(zlib.crc32(own)))
            count = min(len(others), NON_SEEDS_PER_SEED * len(seeds))
            others = np.sort(rng.choice(others, count, replace=False))
            found[own] = column.name, str(value), seeds, others
    if not found:
        names = ", ".join(column.name for column in schema.campaigns_from)
        raise InputError(
            f"{file.path}: no value of {names} has at least {schema.min_seeds} users with it and "
            'as many with other values; lower "min_seeds" or name other columns (to score users '
            "with --no-new-values, remove one of these columns)"
        )
    ids = sorted(found)
    columns, values, seeds, others = zip(*(found[own] for own in ids), strict=True)
    parts = [np.concatenate(pair) for pair in zip(seeds, others, strict=True)]
    user = np.concatenate(parts)
    labels = [np.repeat([1, 0], [len(s), len(o)]) for s, o in zip(seeds, others, strict=True)]
    campaign = np.repeat(np.arange(len(ids)), [len(part) for part in parts])
    return ColumnCampaigns(
        ids=np.array(ids),
        attributes=pl.DataFrame([columns, values], schema=COLUMN_FIELDS),
        examples=np.stack([campaign, user, np.concatenate(labels)]).astype(np.int32),
    )


def stages_of(user_ids: np.ndarray) -> np.ndarray:
    """(U,) the stage of each user, the same in every campaign: 2 for a random 30% of them.

    It depends on the id alone, so that a user whom a model was trained on stays in stage 1 when the
    file changes.
    """
    return np.where(draw_by_id(user_ids) < _HELD_OUT, 2, 1).astype(np.int32)


def _users_with_values(
    file: TableFile, column: Column, known: np.ndarray | tuple[()]
) -> pl.DataFrame:
    """Distinct pairs in columns ``user`` (row number from 0) and ``value``, by value, then user."""
    cell = as_text(column, whole=spells_whole(file, column, known))
    cells = file.scan().select(cell.alias("value")).with_row_index("user")
    if column.slots > 1:
        cells = cells.explode("value")
    present = cells.filter(pl.col("value").is_not_null() & (pl.col("value") != ""))
    return file.collect(present.unique()).sort("value", "user")
