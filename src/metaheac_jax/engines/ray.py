"""Audiences from the users of a Ray dataset; needs ``pip install "metaheac-jax[ray]"``.

Workers keep the scorer and pass on the users who are among the best they have seen; tasks merge
these. No row of a user passes through the driver, apart from a sample that is checked first.

Axis: C campaigns of an export.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.data.checkpoint import CheckpointConfig

from metaheac_jax.encoding import array_of
from metaheac_jax.engines.arrow import HISTORY, ArrowScorer, open_export, scorer_of_worker
from metaheac_jax.engines.repeated_ids import PART, divided, parts_of, refuse_repeated, repeated
from metaheac_jax.engines.top_users import (
    BLOCK,
    CAMPAIGN,
    SAMPLE,
    SCORE,
    USER,
    TopUsers,
    keys_of,
    with_groups,
)
from metaheac_jax.errors import InputError, check_hold_out, check_whole

_MERGED = 16  # tables that a task merges


def expand_on_ray(
    users: Dataset,
    export: Path | str,
    size: int,
    *,
    examples: Dataset | None = None,
    exclude: Dataset | None = None,
    hold_out: float = 0.0,
    num_workers: int = 1,
    num_gpus: float = 0,
    checkpoint: str | None = None,
) -> Dataset:
    """The users whom an export scores highest, as `expand` and `expand_on_spark` find them.

    The first arguments, the columns and the errors are those of `expand_on_spark`.

    Args:
      users: a row per user, with the columns from which the data was prepared.
      num_workers: number of processes that score; each needs a CPU, and reading needs another.
      num_gpus: GPUs of each of them.
      checkpoint: folder or URL that keeps all scores, so that the same job goes on where it was if
        its driver dies. Then ``users`` are read from files, and no ``examples`` are given. Delete
        it when the job is done.

    Returns:
      campaign_id, rank (from 1), user_id, score and, with control groups, group, computed.
    """
    check_whole("size", size, 1)
    check_hold_out(hold_out)
    scorer, num_cpus = open_export(export), max(1, int(ray.cluster_resources()["CPU"]))
    scorer.check_examples(None if examples is None else examples.columns())
    sample = pa.concat_tables(ray.get(users.limit(SAMPLE).to_arrow_refs()))
    if scorer.tokens is not None:
        if checkpoint is not None:
            raise InputError("checkpoint: cannot be kept with examples; omit it")
        sample = sample.append_column(HISTORY, pa.nulls(len(sample), pa.list_(pa.string())))
    user_id, id_type = scorer.user_id, scorer.check_sample(sample)
    pool = {
        "compute": ActorPoolStrategy(min_size=1, max_size=num_workers),
        "num_gpus": num_gpus,
        "batch_size": BLOCK,
        "batch_format": "pyarrow",
    }
    content = ray.put(scorer.export)
    columns = [name for name in scorer.columns if name != HISTORY]
    users = users.select_columns([user_id, *columns])
    parts = users.select_columns([user_id]).map_batches(
        lambda table: divided(table[user_id].cast(id_type).combine_chunks()),
        batch_size=None,
        batch_format="pyarrow",
    )
    found = parts.groupby(PART, num_partitions=num_cpus).map_groups(
        repeated, batch_format="pyarrow"
    )
    refuse_repeated([row[USER] for row in found.take(1)])
    if checkpoint is not None:
        place = f"{checkpoint}/{scorer.export.digest}"
        scores = users.map_batches(_Scores, fn_constructor_args=(content, user_id), **pool)
        users = _kept(scores, place, user_id)
    users = users.rename_columns({user_id: USER})
    if examples is not None and scorer.tokens is not None:
        lists = _histories(examples, scorer, id_type, num_cpus)
        users = users.join(lists, "left_outer", num_cpus, on=(USER,))
    pairs, spare = None, 0
    if exclude is not None:
        columns: Any = exclude.schema()
        kinds = dict(zip(columns.names, columns.types, strict=True))
        keys = pa.schema(keys_of(kinds, scorer.campaigns.type, id_type))
        exclude = exclude.select_columns(keys.names)
        if CAMPAIGN in keys.names:
            found = _pairs.remote(scorer.campaigns, keys, *exclude.to_arrow_refs())
            pairs, spare = found[0], ray.get(found[1])
        else:
            exclude = exclude.map_batches(lambda table: table.cast(keys), batch_format="pyarrow")
            users = users.join(exclude, "left_anti", num_cpus, on=(USER,))
    best = users.map_batches(_Best, fn_constructor_args=(content, size + spare), **pool)
    tables = best.to_arrow_refs()
    while True:
        groups = [tables[at : at + _MERGED] for at in range(0, max(1, len(tables)), _MERGED)]
        tables = [
            _merged.remote(scorer.campaigns, id_type, size, pairs, *group) for group in groups
        ]
        if len(tables) == 1:
            break
    best = ray.data.from_arrow_refs(tables)
    if not hold_out:
        return best
    return best.map_batches(lambda table: with_groups(table, hold_out), batch_format="pyarrow")


def _histories(
    examples: Dataset, scorer: ArrowScorer, id_type: pa.DataType, num_parts: int
) -> Dataset:
    """A row per user with examples that count: the id, and a list of tokens."""
    names = [scorer.campaign_id, scorer.user_id, "label"]
    tokens = pa.array(scorer.tokens, pa.string())

    def read(table: pa.Table) -> pa.Table:
        campaign, user, label = (table[name] for name in names)
        label = pc.cast(pc.cast(label, pa.int8()), pa.string())
        token = pc.binary_join_element_wise(label, pc.cast(campaign, pa.string()), ":")
        ids = array_of(pc.cast(user, id_type))
        rows = pa.table({USER: ids, HISTORY: token, PART: parts_of(ids)})
        return rows.filter(pc.is_in(token, tokens))

    def listed(rows: pa.Table) -> pa.Table:
        lists = rows.group_by(USER).aggregate([(HISTORY, "list")])
        return lists.rename_columns({f"{HISTORY}_list": HISTORY}).select([USER, HISTORY])

    rows = examples.map_batches(read, batch_format="pyarrow", batch_size=None)
    return rows.groupby(PART, num_partitions=num_parts).map_groups(listed, batch_format="pyarrow")


def _kept(scores: Dataset, place: str, user_id: str) -> Dataset:
    """Computes scores of users in files, without those that are there already, and reads all."""
    done = CheckpointConfig(user_id, f"{place}/done", delete_checkpoint_on_success=False)
    scores.context.checkpoint_config = done
    try:
        scores.write_parquet(f"{place}/scores")
    finally:
        scores.context.checkpoint_config = None  # the caller's dataset has the same context
    return ray.data.read_parquet(f"{place}/scores")


class _Scores:
    """A worker that scores users."""

    def __init__(self, export: Any, user_id: str) -> None:
        self._scorer, self._user_id = scorer_of_worker(ray.get(export)), user_id

    def __call__(self, users: pa.Table) -> pa.Table:
        """Maps users to their ids and lists of scores."""
        scores = self._scorer(users)
        lists = pa.FixedSizeListArray.from_arrays(scores.ravel(), scores.shape[1])
        return pa.table({self._user_id: users[self._user_id], SCORE: lists})


class _Best:
    """A worker. What it has seen twice, since a block was read again, counts once."""

    def __init__(self, export: Any, size: int) -> None:
        self._scorer, self._size = scorer_of_worker(ray.get(export)), size
        self._top: TopUsers | None = None

    def __call__(self, users: pa.Table) -> pa.Table:
        """Maps users to those who are among the best so far."""
        if self._top is None:
            self._top = TopUsers(self._scorer.campaigns, users[USER].type, self._size)
        if SCORE in users.column_names and SCORE not in self._scorer.columns:
            scores = users[SCORE].combine_chunks().flatten().to_numpy()
            return self._top.add(users[USER], scores.reshape(users.num_rows, -1))
        return self._top.add(users[USER], self._scorer(users))


@ray.remote(num_returns=2)
def _pairs(campaigns: pa.Array, keys: pa.Schema, *exclude: pa.Table) -> tuple[pa.Table, int]:
    """The pairs to exclude, and the largest number of them in a campaign."""
    pairs = pa.concat_tables([table.cast(keys) for table in exclude])
    pairs = pairs.filter(pc.is_in(pairs[CAMPAIGN], campaigns)).group_by(keys.names).aggregate([])
    most = pc.max(pairs.group_by(CAMPAIGN).aggregate([(USER, "count")])[f"{USER}_count"]).as_py()
    return pairs, most or 0


@ray.remote
def _merged(
    campaigns: pa.Array, id_type: pa.DataType, size: int, pairs: pa.Table | None, *tables: pa.Table
) -> pa.Table:
    """The best rows of several tables, without excluded ones."""
    top = TopUsers(campaigns, id_type, size)
    for table in tables:
        if table.num_rows:
            left = (
                table
                if pairs is None
                else table.join(pairs, pairs.column_names, join_type="left anti")
            )
            top.add_table(left)
    return top.table()
