"""Finds an audience with Ray Data and the files of `metaheac export`; needs ray[data] as well.

    python ray_expand.py EXPORT USERS audience.parquet --size 10000

Workers score the Parquet files of a folder in batches, and return the best users of every batch.
The best of these are the audience of `metaheac expand`: best first, ties by user id. Leave out the
campaign's seeds with --leave-out, as `metaheac expand` does.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import ray

from metaheac_jax.customising.exported import open_export

BATCH = 8192  # users; all batches have this length, so a worker compiles once


class BestOfBatch:
    """A worker: keeps the scorer, and finds the best users of each batch."""

    def __init__(self, export: str, id_column: str, left_out: np.ndarray, size: int) -> None:
        """Reads the scorer; ``left_out`` holds ids as text."""
        self.scorer, self.id_column = open_export(export), id_column
        self.left_out, self.size = left_out, size

    def __call__(self, users: pa.Table) -> dict[str, np.ndarray]:
        """Maps rows of the users' table to the ids and scores of the best users."""
        fill = [None] * (BATCH - len(users))
        names = [field["name"] for field in self.scorer.manifest["fields"]]
        scores = self.scorer({name: users[name].to_pylist() + fill for name in names})
        ids = np.array(users[self.id_column].to_pylist())
        able = ~np.isin(ids.astype(str), self.left_out)
        return best(ids[able], scores[: len(ids)][able], self.size)


def best(ids: np.ndarray, scores: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """The users with the highest scores, best first; ties in ascending order of ids."""
    order = np.lexsort((ids, -scores))[:size]
    return {"user_id": ids[order], "score": scores[order]}


def expand(
    export: Path, users: Path, size: int, left_out: np.ndarray, *, id_column: str, workers: int
) -> dict[str, np.ndarray]:
    """The audience: user_id and score, best first."""
    blocks: Any = ray.data.read_parquet(str(users)).repartition(target_num_rows_per_block=4 * BATCH)
    scored = blocks.map_batches(
        BestOfBatch,
        fn_constructor_args=(str(export.resolve()), id_column, left_out, size),
        batch_format="pyarrow",
        batch_size=BATCH,
        concurrency=workers,
    )
    parts, count = [], 0
    for part in scored.iter_batches(batch_size=None):
        parts.append(part)
        count += len(part["user_id"])
        if count > 4 * size:  # memory grows with the audience, not with the users
            parts = [merged(parts, size)]
            count = len(parts[0]["user_id"])
    return merged(parts, size)


def merged(parts: list[dict[str, np.ndarray]], size: int) -> dict[str, np.ndarray]:
    """The best users of several parts."""
    ids, scores = (np.concatenate([part[name] for part in parts]) for name in ("user_id", "score"))
    return best(ids, scores, size)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path, help="folder, from metaheac export")
    parser.add_argument("users", type=Path, help="folder with Parquet files, or one file")
    parser.add_argument("out", type=Path, help="Parquet file to write")
    parser.add_argument("--size", type=int, required=True, help="number of users")
    further = "CSV files with a column user_id, of users to leave out"
    parser.add_argument("--leave-out", type=Path, nargs="*", default=[], help=further)
    parser.add_argument("--id-column", default="user_id", help="of the users' ids")
    parser.add_argument("--workers", type=int, default=2, help="processes that score")
    options = parser.parse_args()
    text = pa.csv.ConvertOptions(column_types={"user_id": pa.string()})
    left_out = [
        pa.csv.read_csv(path, convert_options=text)["user_id"] for path in options.leave_out
    ]
    ids = np.array([user for column in left_out for user in column.to_pylist()], str)
    if "RAY_ADDRESS" in os.environ:  # a cluster, as `ray job submit --working-dir .` sets it
        ray.init()
    else:  # this machine, with one more process for the tasks that read
        ray.init(num_cpus=options.workers + 1, include_dashboard=False)
    audience = expand(
        options.export,
        options.users,
        options.size,
        ids,
        id_column=options.id_column,
        workers=options.workers,
    )
    ranks = np.arange(1, len(audience["score"]) + 1)
    pa.parquet.write_table(pa.table({"rank": ranks, **audience}), options.out)


if __name__ == "__main__":
    main()
