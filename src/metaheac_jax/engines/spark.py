"""Audiences from the users of a Spark DataFrame; needs ``pip install "metaheac-jax[spark]"``.

    python -m metaheac_jax.engines.spark EXPORT USERS AUDIENCES --size 10000

Each task keeps the best users of its partition, a few tasks merge them, and Spark ranks the rest.
No row of a user passes through the driver, apart from a sample that is checked first.

Axis: C campaigns of an export.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type
from pyspark.sql.types import DataType

from metaheac_jax.data.campaign import GROUP
from metaheac_jax.engines.arrow import HISTORY, ArrowScorer, open_export, scorer_of_worker
from metaheac_jax.engines.export_files import Export
from metaheac_jax.engines.repeated_ids import PART, divided, refuse_repeated, repeated
from metaheac_jax.engines.top_users import (
    BLOCK,
    CAMPAIGN,
    RANK,
    SAMPLE,
    SCORE,
    USER,
    TopUsers,
    keys_of,
    with_groups,
)
from metaheac_jax.errors import InputError, check_hold_out, check_whole

_MERGING = 8  # tasks that merge the best users of all partitions
#: Large batches for Python; Spark would measure their bytes after each row.
_BATCHES = {"maxRecordsPerBatch": str(BLOCK), "maxBytesPerBatch": str(2**31 - 1)}


def expand_on_spark(
    users: DataFrame,
    export: Path | str,
    size: int,
    *,
    examples: DataFrame | None = None,
    exclude: DataFrame | None = None,
    hold_out: float = 0.0,
) -> DataFrame:
    """The users whom an export scores highest, as `expand` finds them.

    Args:
      users: a row per user, with the columns from which the data was prepared. The limits of
        batches for Python are changed in its session.
      export: folder on the driver, from `metaheac export`; tasks receive its content.
      size: K, the number of users per campaign; fewer if there are fewer candidates.
      examples: if the model reads histories, all examples, with the columns from which the data was
        prepared: campaign, user and label, a row per campaign and user.
      exclude: users who are left out, by the column ``user_id``; if it also has ``campaign_id``,
        only from the audiences of that campaign. The campaigns' seeds belong there.
      hold_out: probability that a user of an audience is in its control group, as for `expand`.

    Returns:
      campaign_id, rank (from 1), user_id, score and, with control groups, group. Users are scored
      when it is computed.

    Raises:
      InputError: the export cannot be read, or ``users`` lacks a column, has one of another type,
        a user without an id or a user twice, or ``exclude`` or ``examples`` lacks a column.
    """
    check_whole("size", size, 1)
    check_hold_out(hold_out)
    scorer = open_export(export)
    scorer.check_examples(None if examples is None else examples.columns)
    if scorer.tokens is not None:  # not yet joined, for the checks of a sample
        users = users.withColumn(HISTORY, F.lit(None).cast("array<string>"))
    wanted = [scorer.user_id, *scorer.columns]
    if {*wanted} <= {*users.columns}:
        users = users.select([F.col(f"`{name}`") for name in wanted])
    for name, limit in _BATCHES.items():
        users.sparkSession.conf.set(f"spark.sql.execution.arrow.{name}", limit)
    kind = scorer.check_sample(users.limit(SAMPLE).toArrow())
    users = users.withColumnRenamed(scorer.user_id, USER)
    refuse_repeated(_repeated(users.select(USER), kind))
    if examples is not None and scorer.tokens is not None:
        lists = _histories(examples, scorer, users.schema[USER].dataType)
        users = users.drop(HISTORY).join(lists, USER, "left")
    campaigns, id_type = scorer.campaigns, users.schema[USER].dataType
    pairs, spare = None, 0
    if exclude is not None:
        kinds = {column.name: to_arrow_type(column.dataType) for column in exclude.schema}
        keys = list(keys_of(kinds, campaigns.type, to_arrow_type(id_type)))
        exclude = exclude.select(keys).distinct()
        if CAMPAIGN in keys:
            pairs = exclude.where(F.col(CAMPAIGN).isin(campaigns.to_pylist()))
            [most] = pairs.groupBy(CAMPAIGN).count().agg(F.max("count")).collect()
            spare = most[0] or 0
        else:
            users = users.join(exclude, USER, "left_anti")
    kind = "bigint" if pa.types.is_integer(campaigns.type) else "string"
    schema = f"{CAMPAIGN} {kind}, {RANK} int, {USER} {id_type.simpleString()}, {SCORE} float"
    best = users.mapInArrow(_best(campaigns, size + spare, scorer.export), schema)
    if pairs is not None:
        best = best.join(pairs, [CAMPAIGN, USER], "left_anti").select(CAMPAIGN, RANK, USER, SCORE)
    best = best.repartition(_MERGING).mapInArrow(_best(campaigns, size), schema)
    order = Window.partitionBy(CAMPAIGN).orderBy(F.desc(SCORE), USER)
    ranked = best.withColumn(RANK, F.row_number().over(order)).where(F.col(RANK) <= size)
    ranked = ranked.select(CAMPAIGN, RANK, USER, SCORE)
    if not hold_out:
        return ranked
    return ranked.mapInArrow(_marked(hold_out), f"{schema}, {GROUP} string")


def _histories(examples: DataFrame, scorer: ArrowScorer, id_type: DataType) -> DataFrame:
    """A row per user with examples that count: the id, and a list of tokens."""
    campaign, user, label = (
        F.col(f"`{name}`") for name in (scorer.campaign_id, scorer.user_id, "label")
    )
    token = F.concat_ws(":", label.cast("int").cast("string"), campaign.cast("string"))
    rows = examples.select(user.cast(id_type).alias(USER), token.alias(HISTORY))
    counted = rows.where(F.col(HISTORY).isin(scorer.tokens))
    return counted.groupBy(USER).agg(F.collect_list(HISTORY).alias(HISTORY))


def _marked(
    hold_out: float,
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Maps rows of audiences to the same, with their groups."""

    def mark(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from with_groups(pa.Table.from_batches([batch]), hold_out).to_batches()

    return mark


def _repeated(ids: DataFrame, kind: pa.DataType) -> list[Any]:
    """An id that occurs twice, or None for one that is missing; an empty list if all is well."""
    name = ids.schema[USER].dataType.simpleString()

    def divide(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from divided(batch.column(0).cast(kind)).to_batches()

    parts = ids.mapInArrow(divide, f"{PART} bigint, ids array<{name}>").groupBy(PART)
    found = parts.applyInArrow(repeated, f"{USER} {name}").limit(1).collect()
    return [row[USER] for row in found]


def _best(
    campaigns: pa.Array, size: int, export: Export | None = None
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Maps the users of a partition, or rows of top users if there is no export, to the best."""

    def best(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        top = None
        for batch in batches:
            top = top or TopUsers(campaigns, batch[USER].type, size)
            if export is None:
                top.add_table(pa.Table.from_batches([batch]))
            else:
                top.add(batch[USER], scorer_of_worker(export)(batch))
        yield from top.table().to_batches() if top else ()

    return best


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("export", help="folder on the driver, from metaheac export")
    parser.add_argument("users", help="folder or URL of Parquet files, a row per user")
    parser.add_argument("out", help="folder or URL for the audiences, which are Parquet files")
    parser.add_argument("--size", type=int, required=True, help="users per audience")
    what = "Parquet files of all examples, if the model reads histories"
    parser.add_argument("--examples", help=what)
    what = "Parquet files of users to leave out: user_id, and campaign_id if it is not for all"
    parser.add_argument("--exclude", help=what)
    what = "fraction of each audience to keep as a control group, which is not shown the campaign"
    parser.add_argument("--hold-out", type=float, default=0.0, help=what)
    options = parser.parse_args()
    spark = SparkSession.builder.appName("metaheac").getOrCreate()
    read = spark.read.parquet
    examples = None if options.examples is None else read(options.examples)
    exclude = None if options.exclude is None else read(options.exclude)
    try:
        found = expand_on_spark(
            read(options.users),
            options.export,
            options.size,
            examples=examples,
            exclude=exclude,
            hold_out=options.hold_out,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    found.write.parquet(options.out)


if __name__ == "__main__":
    main()
