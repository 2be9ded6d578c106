"""Synthetic inputs with the Tencent data's vocabularies, list lengths and popularity of values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.simulation.shapes import LISTS
from metaheac_jax.data.views import UserView
from metaheac_jax.errors import check_whole
from metaheac_jax.schema import TENCENT, Field, Vocabulary

#: Table rows of each field, user fields first (paper section 4.1).
ROWS_OF_FIELDS = (4, 3, 856, 6, 8, 3, 2, 125, 83, 13, 263_313, 49_781, 10_003, 9_985)
ROWS_OF_FIELDS += (79, 138, 15, 40, 33, 4)
#: A field with at least this many rows is scaled with the length of the table.
SCALED_FROM = 2000
#: Rows of all fields that keep their size.
FIXED_ROWS = sum(rows for rows in ROWS_OF_FIELDS if rows < SCALED_FROM)
MIN_CAMPAIGNS = 20
MINIBATCHES = 4  # minibatches in the examples of a campaign


class Size(NamedTuple):
    """The size of a benchmark.

    Attributes:
      campaigns: C, campaigns of a meta-step.
      batch_size: B, examples of a support set, of a query set and of an online minibatch.
      width: k, embedding width.
      table_rows: R, rows of the table.
    """

    campaigns: int
    batch_size: int
    width: int
    table_rows: int


def check_option(name: str, value: int) -> None:
    """Refuses a value of a `Size` option for which there are no inputs.

    Raises:
      InputError: the value is too small; the message names the option.
    """
    minimum = FIXED_ROWS + 1000 if name == "table_rows" else 1
    check_whole(f"--{name.replace('_', '-')}", value, minimum)


def synthetic(size: Size, num_users: int = 20_000) -> Dataset:
    """A dataset of the Tencent schema with ``size.table_rows`` rows and enough examples.

    One example in 20 is positive.
    """
    rng = np.random.default_rng(0)
    counts = field_sizes(size.table_rows)
    vocabulary = Vocabulary(tuple(np.arange(count) for count in counts))
    columns = [
        draw_field(rng, field, count, num_users, first=offset, pad=size.table_rows)
        for field, count, offset in zip(TENCENT.fields, counts, vocabulary.offsets, strict=True)
    ]
    rows = np.concatenate(columns, axis=1).astype(np.int32)
    num_campaigns = max(size.campaigns, MIN_CAMPAIGNS)
    campaign = np.repeat(np.arange(num_campaigns), max(MINIBATCHES * size.batch_size, 20))
    examples = group_by_campaign(
        campaign,
        rng.integers(0, num_users, len(campaign)),
        np.arange(len(campaign)) % 20 == 0,
        num_campaigns=num_campaigns,
    )
    return Dataset(
        name="synthetic inputs of a benchmark",
        schema=TENCENT,
        vocabulary=vocabulary,
        user_ids=np.arange(num_users),
        user_rows=UserView(rows[:, : TENCENT.num_slots]),
        campaign_ids=np.arange(num_campaigns),
        campaign_rows=rows[:num_campaigns, TENCENT.num_slots :],
        stage1=examples,
        stage2=examples,
    )


def field_sizes(num_rows: int) -> list[int]:
    """Number of values per field in a table of ``num_rows``; the largest field takes the rest."""
    large = [rows for rows in ROWS_OF_FIELDS if rows >= SCALED_FROM]
    scale = (num_rows - FIXED_ROWS) / sum(large)
    counts = [rows if rows < SCALED_FROM else max(1, int(rows * scale)) for rows in ROWS_OF_FIELDS]
    counts[ROWS_OF_FIELDS.index(max(large))] += num_rows - sum(counts)
    return counts


def draw_field(
    rng: np.random.Generator, field: Field, count: int, num_users: int, *, first: int, pad: int
) -> np.ndarray:
    """(U, slots) random table rows of a field whose ``count`` rows begin at row ``first``."""
    if field.slots == 1:
        return first + rng.integers(0, count, (num_users, 1))
    shape = LISTS[field.name]
    # A piecewise power law: the inverse of the cumulative fraction of the 1, 10, 100, ... most
    # popular values.
    known = [(10.0**i, share) for i, share in enumerate(shape.covered) if 10**i < count]
    rank, share = np.array([*known, (count, 1.0)]).T
    draw = np.log(rng.random((num_users, field.slots)))
    value = np.exp(np.interp(draw, np.log(share), np.log(rank))).astype(int) - 1
    length = rng.choice(len(shape.lengths), (num_users, 1), p=shape.lengths)
    return np.where(np.arange(field.slots) < length, value + first, pad)
