"""Spark and Ray find the audience of the walk with histories in time; run in its folder."""

import polars as pl
import ray
from pyspark.sql import SparkSession

from metaheac_jax.engines.ray import expand_on_ray
from metaheac_jax.engines.spark import expand_on_spark

USERS, EXAMPLES, SCORER, SIZE = (
    "tables/users.parquet",
    "tables/examples.parquet",
    "timed-scorer",
    1000,
)


def main() -> None:
    """Runs both engines, and compares."""
    expected = pl.read_parquet("timed.parquet").sort("campaign_id", "rank")
    seeds = pl.read_csv("new.csv").filter(label=1).select("campaign_id", "user_id").to_arrow()
    spark = SparkSession.builder.config("spark.ui.enabled", "false").getOrCreate()
    tables = spark.read.parquet(USERS), SCORER, SIZE
    more = {"examples": spark.read.parquet(EXAMPLES), "exclude": spark.createDataFrame(seeds)}
    expand_on_spark(*tables, **more).write.parquet("on-spark")
    spark.stop()
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    tables = ray.data.read_parquet(USERS), SCORER, SIZE
    more = {"examples": ray.data.read_parquet(EXAMPLES), "exclude": ray.data.from_arrow(seeds)}
    expand_on_ray(*tables, num_workers=2, **more).write_parquet("on-ray")
    for name in ("on-spark", "on-ray"):
        found = pl.read_parquet(f"{name}/*.parquet").sort("campaign_id", "rank")
        assert found["user_id"].equals(expected["user_id"]), name
        assert (found["score"] - expected["score"]).abs().max() <= 1e-6, name
    print(f"Spark and Ray find the same {len(expected):,} users")


if __name__ == "__main__":
    main()
