"""Finds an audience among many users by Spark, by Ray and by the library, and compares them.

    python -m experiments.scale FOLDER --users 20000000 --json experiments/results/scale.json

Needs the extras ``spark`` and ``ray``, and Java 17. The users are copies of those of a simulated
world, so each score is tied a hundred times. An engine runs in a process of its own, with two
workers; its time is that from users in Parquet files to the audience in one, with all checks, but
without the start of the engine. The library has two times: that of `mh.prepare`, which reads and
encodes the users, and that of `mh.expand`. With ``--history`` the model reads histories, and the
engines join the examples, of which each copy of a user has as many as the user.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

import metaheac_jax as mh
from metaheac_jax.backend import environment, num_cores
from metaheac_jax.data.adding import add
from metaheac_jax.data.simulation.shapes import TENCENT_WORLD
from metaheac_jax.data.simulation.world import write_world
from metaheac_jax.methods import configured
from metaheac_jax.schema import TENCENT

WORLD_USERS = 200_000
WORKERS = 2
#: With histories: examples, and of a user who has some, in a stage.
EXAMPLES, PER_USER = 3 * WORLD_USERS, 4
_APART = 10**8  # between the ids of a user and its copy


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="keeps the users, 300 MB for each million")
    parser.add_argument("--prepare", action="store_true", help="only write the users and the model")
    parser.add_argument("--users", type=int, default=20_000_000, help="a multiple of 200,000")
    parser.add_argument("--size", type=int, default=100_000, help="of the audience")
    parser.add_argument("--method", default="metaheac")
    parser.add_argument("--history", action="store_true", help="the model reads histories")
    engines = {"library": by_library, "spark": by_spark, "ray": by_ray}
    parser.add_argument("--engines", nargs="+", choices=engines, default=[*engines])
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    folder, copies = options.folder.resolve(), options.users // WORLD_USERS
    load = os.getloadavg()[0]
    _run(prepare, folder, copies, options.method, options.history)
    if options.prepare:
        return
    results, audiences = dict[str, Any](), []
    for engine in (rates, *(engines[name] for name in options.engines)):
        results[engine.__name__] = _run(engine, folder, options.size)
        print(engine.__name__, json.dumps(results[engine.__name__]), flush=True)
        if engine is not rates:
            found = pl.read_parquet(folder / engine.__name__ / "*.parquet").sort("rank")
            audiences.append(found.select("rank", "user_id", "score"))
    equal = [
        own["user_id"].equals(audiences[0]["user_id"])
        and bool((own["score"] - audiences[0]["score"]).abs().max() <= 1e-6)
        for own in audiences
    ]
    kept = {
        name: value
        for name, value in vars(options).items()
        if name in ("users", "size", "method", "history")
    }
    kept |= {"cores": num_cores(), "load_before": round(load, 2)}
    content = {**kept, "equal": all(equal), "environment": environment(), "engines": results}
    if options.json is not None:
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def prepare(folder: Path, copies: int, method: str, history: bool) -> dict[str, Any]:
    """Writes the users, a model and an export, unless they are there."""
    world = folder / "world"
    if not (folder / "export").exists():
        size: dict[str, Any] = {"users": WORLD_USERS, "new_campaigns": 1}
        if history:
            size |= {"examples": EXAMPLES, "shape": replace(TENCENT_WORLD, per_user=PER_USER)}
        write_world(world, min_pool_examples=300, **size)
        schema = replace(TENCENT, history=history)
        data = mh.prepare(world, folder / "data", schema=schema)
        new = world / "new"
        data = add(data, campaigns=new / "campaigns.csv", examples=new / "examples.csv")
        settings: dict[str, Any] = {"offline_epochs": 1, "offline_patience": None}
        config = configured(method).config
        settings = {name: value for name, value in settings.items() if name in config}
        mh.save(mh.fit(data, configured(method, **settings)), folder / "model")
        general = mh.load(folder / "model")
        campaign = data.campaign(data.index_of(_campaign(folder)))
        [model] = mh.customise(general, data, [campaign])
        mh.export_scorer(model, folder / "export")
    shutil.rmtree(folder / "all", ignore_errors=True)
    for name in ("users", "examples"):
        frame = pl.read_parquet(world / f"{name}.parquet")
        if name == "examples":
            frame = frame.select("campaign_id", "user_id", "label", "stage")
        (folder / "all" / name).mkdir(parents=True)
        for copy in range(copies if history or name == "users" else 1):
            path = folder / "all" / name / f"{copy:05d}.parquet"
            frame.with_columns(pl.col("user_id") + copy * _APART).write_parquet(path)
    shutil.copy(world / "campaigns.parquet", folder / "all")
    return {}


def _tables(folder: Path, read: Callable[[str], Any]) -> dict[str, Any]:
    """The users, and the examples if the model reads histories, by the reader of an engine."""
    reads = mh.load(folder / "model").summary is not None
    names = ("users", "examples") if reads else ("users",)
    return {name: read(str(folder / "all" / name)) for name in names}


def _copies(folder: Path) -> list[Path]:
    return sorted((folder / "all" / "users").glob("*.parquet"))


def _campaign(folder: Path) -> int:
    return pl.read_csv(folder / "world" / "new" / "campaigns.csv")["campaign_id"][0]


def _seeds(folder: Path) -> pl.DataFrame:
    examples = pl.read_csv(folder / "world" / "new" / "examples.csv").filter(label=1)
    return examples.select("campaign_id", "user_id")


def rates(folder: Path, size: int) -> dict[str, Any]:
    """Users a second and core that one process encodes, and that it scores."""
    del size
    import pyarrow as pa
    import pyarrow.parquet as pq

    from metaheac_jax.engines.arrow import HISTORY, open_export

    scorer = open_export(folder / "export")
    users = pq.read_table(_copies(folder)[0])
    if scorer.tokens is not None:
        users = users.append_column(HISTORY, pa.nulls(len(users), pa.list_(pa.string())))
    parts = [users.slice(at, 1 << 16) for at in range(0, users.num_rows, 1 << 16)]
    scorer(parts[0].slice(0, 10))
    start = time.process_time()
    rows = [scorer.rows(part) for part in parts]
    encoded = time.process_time()
    for own in rows:
        scorer.score(own)
    scored = time.process_time()
    return {
        "encoded_per_second_and_core": round(users.num_rows / (encoded - start)),
        "scored_per_second_and_core": round(users.num_rows / (scored - encoded)),
    }


def by_library(folder: Path, size: int) -> dict[str, Any]:
    """`mh.prepare` and `mh.expand`; the campaign is that of the export, with its non-seeds."""
    general, data = mh.load(folder / "model"), mh.open_dataset(folder / "data")
    campaign = data.campaign(data.index_of(_campaign(folder)))
    new = folder / "world" / "new"
    start = time.monotonic()
    many = mh.prepare(folder / "all", folder / "prepared", schema=data.schema)
    many = add(many, campaigns=new / "campaigns.csv", examples=new / "examples.csv")
    prepared = time.monotonic()
    audience = mh.expand(general, many, campaign, size=size)
    result = _measured(prepared, many.num_users)
    (folder / "by_library").mkdir(exist_ok=True)
    audience.write_parquet(folder / "by_library" / "audience.parquet")
    return result | {"prepare_seconds": round(prepared - start, 1)}


def by_spark(folder: Path, size: int) -> dict[str, Any]:
    """Spark with two tasks at a time, in one Java process."""
    from pyspark.sql import SparkSession

    from metaheac_jax.engines.spark import expand_on_spark

    builder = SparkSession.builder.master(f"local[{WORKERS}]").config("spark.driver.memory", "3g")
    spark = builder.config("spark.ui.enabled", "false").getOrCreate()
    tables = _tables(folder, spark.read.parquet)
    seeds = spark.createDataFrame(_seeds(folder).to_arrow())
    start = time.monotonic()
    found = expand_on_spark(export=folder / "export", size=size, exclude=seeds, **tables)
    checked = time.monotonic()
    found.write.mode("overwrite").parquet(str(folder / "by_spark"))
    result = _measured(start, len(_copies(folder)) * WORLD_USERS)
    spark.stop()
    return result | {"of_which_checks": round(checked - start, 1)}


def by_ray(folder: Path, size: int) -> dict[str, Any]:
    """Ray with two workers that score, and a CPU more for tasks that read."""
    import ray

    from metaheac_jax.engines.ray import expand_on_ray

    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    tables = _tables(folder, ray.data.read_parquet)
    seeds = ray.data.from_arrow(_seeds(folder).to_arrow())
    start = time.monotonic()
    options: dict[str, Any] = {"exclude": seeds, "num_workers": WORKERS, **tables}
    found = expand_on_ray(export=folder / "export", size=size, **options)
    found.write_parquet(str(folder / "by_ray"), mode=ray.data.SaveMode.OVERWRITE)
    result = _measured(start, len(_copies(folder)) * WORLD_USERS)
    ray.shutdown()
    return result


def _measured(start: float, num_users: int) -> dict[str, Any]:
    """Seconds since then, users a second, and memory: the peak of each kind of process."""
    seconds, memory = time.monotonic() - start, dict[str, int]()
    for process in (os.getpid(), *_descendants(os.getpid())):
        try:
            name = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode()
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:  # it has ended
            continue
        peak = int((re.findall(r"VmHWM:\s+(\d+)", status) or ["0"])[0]) // 1024
        kind = Path(name.split("(")[0]).name + (" _Best" if "_Best" in name else "")
        memory[kind] = max(memory.get(kind, 0), peak)
    large = {kind: peak for kind, peak in memory.items() if peak > 100}
    rate = round(num_users / seconds)
    return {"seconds": round(seconds, 1), "users_per_second": rate, "peak_mib": large}


def _descendants(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task").glob("*/children")
    direct = [int(own) for path in children for own in path.read_text().split()]
    return direct + [own for child in direct for own in _descendants(child)]


def _run(task: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The result of a task in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(task, *arguments).result()


if __name__ == "__main__":
    main()
