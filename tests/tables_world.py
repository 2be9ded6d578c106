"""A small world in tables of users, campaigns and examples."""

import numpy as np
import polars as pl

from metaheac_jax.schema import Field, Schema

SCHEMA = Schema(
    user=(Field("city"), Field("income", buckets=4), Field("likes", slots=3, separator=";")),
    campaign=(Field("topic"), Field("budget", buckets=2)),
)


def world(num_users=80, num_campaigns=4, seed=0):
    """Users with text ids, some of whose values are missing; each campaign has 40 examples."""
    rng = np.random.default_rng(seed)
    users = {
        "user_id": [f"é{i:03d}" for i in rng.permutation(num_users)],
        "city": [f"c{x}" if x else None for x in rng.integers(0, 5, num_users)],
        "income": [x if x > 1 else None for x in rng.gamma(2, 2, num_users).round(2).tolist()],
        "likes": [
            [f"t{x}" for x in rng.choice(9, rng.integers(0, 6), replace=False)]
            for _ in range(num_users)
        ],
    }
    campaigns = {
        "campaign_id": [f"k{i}" for i in range(num_campaigns)],
        "topic": ["sport", "food"] * (num_campaigns // 2),
        "budget": [float(i) for i in range(num_campaigns)],
    }
    examples = [
        (f"k{c}", users["user_id"][u], int(rng.random() < 0.4), 1 if n < 25 else 2)
        for c in range(num_campaigns)
        for n, u in enumerate(rng.choice(num_users, 40, replace=False))
    ]
    return users, campaigns, examples


def write(folder, users, campaigns, examples, form="csv"):
    folder.mkdir(exist_ok=True)
    frames = {
        "users": pl.DataFrame(users),
        "campaigns": pl.DataFrame(campaigns),
        "examples": pl.DataFrame(
            examples, ["campaign_id", "user_id", "label", "stage"], orient="row"
        ),
    }
    for name, frame in frames.items():
        if form == "parquet":
            frame.write_parquet(folder / f"{name}.parquet")
            continue
        if name == "users":
            frame = frame.with_columns(pl.col("likes").list.join(";"))
        compression = "gzip" if form == "csv.gz" else "uncompressed"
        frame.write_csv(folder / f"{name}.{form}", compression=compression)
    return folder
