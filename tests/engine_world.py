"""Users with columns of every kind, of whom engines find audiences."""

import numpy as np
import polars as pl

from metaheac_jax.schema import Field, Schema

SCHEMA = Schema(
    user=(
        Field("city"),
        Field("zip"),
        Field("income", buckets=4),
        Field("likes", slots=3),
        Field("tags", slots=2, separator=";"),
        Field("member"),
    ),
    campaign=(Field("topic"),),
    user_id="uid",
    missing=("NA",),
)
USERS, CAMPAIGNS = 3000, (7, 12, 31)


def tables():
    """Users, few of whose rows differ, so that many scores are tied; campaigns; examples."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 60, USERS)
    users = pl.DataFrame(
        {
            "uid": [f"é{i:04d}" for i in rng.permutation(USERS)],
            "city": [["Paris", "Lyon", "NA", None][k % 4] for k in kinds],
            "zip": [[75001, 5, None][k % 3] for k in kinds],
            "income": [[3.0, 10.5, 15.5, 99.0, None][k % 5] for k in kinds],
            "likes": [[[], ["tea"], ["golf", "tea"], ["a", "b", "c", "tea"]][k % 4] for k in kinds],
            "tags": [["", "x; y", "y;z;x", None][k // 15] for k in kinds],
            "member": [[True, False, None][k % 3] for k in kinds],
        }
    )
    campaigns = pl.DataFrame({"campaign_id": CAMPAIGNS, "topic": ["tea", "golf", "tea"]})
    shown = [rng.choice(USERS, 200, replace=False) for _ in CAMPAIGNS]
    odds = [rng.random(60) for _ in CAMPAIGNS]
    examples = pl.DataFrame(
        {
            "campaign_id": np.repeat(CAMPAIGNS, 200),
            "uid": users["uid"][np.concatenate(shown)],
            "label": np.concatenate(
                [rng.random(200) < p[kinds[own]] for p, own in zip(odds, shown, strict=True)]
            ).astype(int),
        }
    )
    return {"users": users, "campaigns": campaigns, "examples": examples}


def same(found, expected):
    """Whether audiences are equal: users in the same order, scores to 1e-6."""
    found, expected = (own.sort("campaign_id", "rank") for own in (found, expected))
    assert found.columns == expected.columns
    for name in {*found.columns} - {"score"}:
        assert found[name].to_list() == expected[name].to_list()
    np.testing.assert_allclose(found["score"], expected["score"], rtol=0, atol=1e-6)
    return True


#: Users that are refused: what to change, and a part of the message.
WRONG = (
    (lambda users: users.drop("city"), "no column 'city'"),
    (lambda users: users.drop("uid"), "no column 'uid'"),
    (lambda users: users.with_columns(likes=pl.lit("tea")), "'likes' is of type"),
    (lambda users: users.with_columns(city=pl.col("likes")), "'city' is of type"),
    (lambda users: users.with_columns(income=pl.lit("much")), "'income'"),
    (lambda users: users.with_columns(uid=pl.lit(0.5)), "'uid' is of type"),
    (lambda users: pl.concat([users, users[5:6]]), "occurs twice"),
    (lambda users: users.with_columns(uid=pl.lit(None, pl.String)), "no id"),
)
