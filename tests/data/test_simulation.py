"""The simulated twin against the real data's published statistics, its tables and its answers.

`published_statistics` has the figures.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from published_statistics import CAMPAIGNS, LISTS, ONE_VALUED, off, statistics
from sklearn.metrics import roc_auc_score

from metaheac_jax.audience.rates import Lift
from metaheac_jax.data.campaign import groups_of
from metaheac_jax.data.simulation.truth import UNSHOWN, show, true_probability
from metaheac_jax.data.simulation.world import write_world
from metaheac_jax.errors import InputError
from metaheac_jax.schema import TENCENT

pytestmark = pytest.mark.slow

FILES = {
    *("users.parquet", "campaigns.parquet", "examples.parquet", "schema.json", "SIMULATED"),
    *("world.json", "truth.npz"),
}
NEW = {"new/campaigns.csv", "new/examples.csv"}
SMALL = {"users": 50_001, "examples": 30_000, "min_pool_examples": 20, "seed": 3}


def table(world: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(world / f"{name}.parquet", glob=False)


def files(world: Path) -> set[str]:
    return {str(path.relative_to(world)) for path in world.rglob("*") if path.is_file()}


def make_world(directory: Path, seed: int) -> Path:
    write_world(directory, users=240_000, examples=290_000, min_pool_examples=100, seed=seed)
    return directory


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("simulation") / "world", seed=0)


class Stage:
    """A stage's examples, campaigns by rank."""

    def __init__(self, world: Path, number: int, campaigns: int = CAMPAIGNS) -> None:
        self.campaigns = campaigns
        self.frame = table(world, "examples").filter(stage=number)
        self.user_id, self.label, self.probability = (
            self.frame[name].to_numpy() for name in ("user_id", "label", "probability")
        )
        self.campaign = np.unique(self.frame["campaign_id"], return_inverse=True)[1]

    def per_campaign(self, value: np.ndarray) -> np.ndarray:
        return np.bincount(self.campaign, value, self.campaigns)

    @property
    def rows(self) -> np.ndarray:
        return np.bincount(self.campaign, minlength=self.campaigns)

    @property
    def positives(self) -> np.ndarray:
        return self.per_campaign(self.label)

    def auc(self) -> float:
        """AUC of the true probability, as a mean over campaigns."""
        parts = [self.campaign == one for one in range(self.campaigns)]
        return np.mean(
            [
                roc_auc_score(self.label[of], self.probability[of])
                for of in parts
                if len(set(self.label[of])) == 2
            ]
        )


@pytest.fixture(scope="module")
def stages(world: Path) -> tuple[Stage, Stage]:
    return Stage(world, 1), Stage(world, 2)


def follows(label: np.ndarray, probability: np.ndarray) -> None:
    """Asserts that rows of a like probability convert at that rate: within 4 standard errors."""
    for part in np.array_split(np.argsort(probability), 10):
        p = probability[part].astype(np.float64)
        assert abs(label[part].sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum()) + 1


def test_statistics_are_those_of_the_real_data(world: Path) -> None:
    figures = statistics(world)
    assert figures["users"] == 5000
    assert not off(figures)


def test_labels_follow_the_true_probability(stages: tuple[Stage, Stage]) -> None:
    for stage in stages:
        # .01 as promised, and what chance does to some 3,000 positives of stage 2.
        assert stage.auc() == pytest.approx(0.80, abs=0.01 if stage is stages[0] else 0.02)
        # A campaign has the whole number of positives next to what is expected.
        assert np.abs(stage.positives - stage.per_campaign(stage.probability)).max() < 1.001
        follows(stage.label, stage.probability)


def test_campaigns_sizes_and_rates(stages: tuple[Stage, Stage]) -> None:
    stage1, stage2 = stages
    rate = stage1.per_campaign(stage1.probability) / stage1.rows
    assert rate.mean() == pytest.approx(0.0478, abs=0.0003)
    assert rate.std() == pytest.approx(0.0014, abs=0.0004)
    assert 0.0440 < rate.min() < 0.0460
    assert 0.0505 < rate.max() < 0.0555
    # Seeds at the real size: 60% of campaigns have <= 2k, 80% <= 4k, 90% <= 6k, up to over 14k.
    seeds = stage1.positives * 421_961 / stage1.positives.sum()
    for most, share in ((2000, 0.6), (4000, 0.8), (6000, 0.9)):
        assert (seeds <= most).mean() == pytest.approx(share, abs=0.04)
    assert 14_000 < seeds.max() < 20_000
    # 100 pool examples were asked for; without, the smallest campaign would have one.
    assert stage2.rows.min() > 75
    assert len(stage1.rows) == len(stage2.rows) == CAMPAIGNS
    assert stage1.rows.sum() + stage2.rows.sum() == pytest.approx(290_000, rel=0.01)
    for stage in stages:
        assert len(stage.user_id) / len(np.unique(stage.user_id)) == pytest.approx(1.12, abs=0.005)


def test_tables_have_the_fields_of_the_schema(world: Path) -> None:
    assert files(world) == FILES
    assert (world / "SIMULATED").read_text() == "simulated Tencent twin (seed 0, 240,000 users)\n"
    schema = json.loads((world / "schema.json").read_text())
    for side, name in (("user", "users"), ("campaign", "campaigns")):
        fields = [(field.name, field.slots) for field in getattr(TENCENT, side)]
        assert [(own["name"], own.get("slots", 1)) for own in schema[side]] == fields
        kinds = [pl.Int64, *(pl.Int64 if slots == 1 else pl.List(pl.Int64) for _, slots in fields)]
        columns = [f"{side}_id", *(field for field, _ in fields)]
        assert table(world, name).schema == dict(zip(columns, kinds, strict=True))
    users, examples = table(world, "users"), table(world, "examples")
    assert examples.columns == ["campaign_id", "user_id", "label", "stage", "probability"]
    assert examples.dtypes[2:] == [pl.Int8, pl.Int8, pl.Float32]
    assert not examples.null_count().sum_horizontal().item()
    assert not examples.select("campaign_id", "user_id").is_duplicated().any()
    assert examples.join(users, "user_id", how="anti").is_empty()
    assert users["user_id"].n_unique() == 240_000
    assert not users["user_id"].is_sorted()  # ids do not tell the order of rows

    missing = {f: users[f].null_count() / len(users) for f in ONE_VALUED}
    for name in LISTS:
        lists = users[name]
        assert not lists.null_count()
        assert (lists.list.n_unique() == lists.list.len()).all()
        assert lists.list.min().min() > 0
        missing[name] = (lists.list.len() == 0).mean()
    real = {"interest3": 0.97, "house": 0.82, "interest2": 0.34, "kw1": 0.10, "interest1": 0.09}
    real |= {"topic1": 0.08, "topic2": 0.04, "kw2": 0.03}
    assert missing == pytest.approx(dict.fromkeys(missing, 0) | real, abs=0.01)


def small(target: Path, **options: Any) -> Path:
    write_world(target, **{**SMALL, **options})
    return target


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("here") / "[here]")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same world with ten new campaigns."""
    return small(tmp_path_factory.mktemp("new") / "world", new_campaigns=10)


def digest(world: Path) -> str:
    """Of what the methods see."""
    tables = [table(world, name) for name in ("users", "campaigns", "examples")]
    rows = [own.drop("probability", strict=False).write_ndjson().encode() for own in tables]
    return hashlib.sha256(b"".join(rows)).hexdigest()[:16]


def test_a_seed_gives_one_world_on_all_processors(tmp_path: Path, world: Path, here: Path) -> None:
    """Where the digest changes, so does `FORMAT`. The other process multiplies without AVX."""
    expected = digest(here)
    assert expected == "4dd6e11967399d52"
    script = "import pathlib, sys; from metaheac_jax.data.simulation.world import write_world; "
    script += f"write_world(pathlib.Path(sys.argv[1]), **{SMALL})"
    without = os.environ | {"OPENBLAS_CORETYPE": "Nehalem", "OPENBLAS_NUM_THREADS": "1"}
    instructions = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    without |= {"NPY_DISABLE_CPU_FEATURES": " ".join(instructions)}
    without |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path / "there")]
    subprocess.run(command, env=without, check=True)
    assert digest(tmp_path / "there") == expected
    assert not table(here, "campaigns").equals(table(world, "campaigns"))  # of another seed


def test_new_campaigns_are_in_no_table(here: Path, new: Path) -> None:
    assert files(new) == FILES | NEW
    campaigns, seeds = (pl.read_csv(new / "new" / f"{n}.csv") for n in ("campaigns", "examples"))
    every = table(here, "campaigns")
    assert pl.concat([table(new, "campaigns"), campaigns]).sort("campaign_id").equals(every)
    assert len(campaigns) == 10
    assert seeds.columns == ["campaign_id", "user_id", "label"]
    assert set(seeds["label"]) == {1}
    assert seeds["campaign_id"].unique().sort().equals(campaigns["campaign_id"])
    assert seeds["campaign_id"].value_counts()["count"].max() <= 300
    # Nothing else differs, down to the bytes of what does not depend on campaigns.
    kept = table(here, "examples").join(campaigns, "campaign_id", how="anti")
    assert table(new, "examples").equals(kept)
    for name in ("users.parquet", "schema.json", "truth.npz"):
        assert (new / name).read_bytes() == (here / name).read_bytes()


def test_seeds_of_new_campaigns_have_converted(new: Path) -> None:
    user_ids = table(new, "users")["user_id"].to_numpy()
    for (campaign,), seeds in pl.read_csv(new / "new" / "examples.csv").group_by("campaign_id"):
        p = true_probability(new, campaign, user_ids)
        own = true_probability(new, campaign, seeds["user_id"].to_numpy())
        mean = (p * p).sum() / p.sum()
        spread = np.sqrt((p**3).sum() / p.sum() - mean**2)
        assert abs(own.mean() - mean) < 4 * spread / np.sqrt(len(own))


def test_users_convert_by_their_true_probability(tmp_path: Path, new: Path) -> None:
    ids = [pl.read_csv(new / "new" / "campaigns.csv")["campaign_id"][0]]
    ids.append(table(new, "campaigns")["campaign_id"][0])
    users = table(new, "users").select("user_id")
    audience = pl.concat([users.with_columns(pl.lit(one).alias("campaign_id")) for one in ids])
    shown = show(new, audience, seed=5)
    assert shown.columns == ["campaign_id", "user_id", "label", "audience"]
    assert shown.select(audience.columns).equals(audience)
    assert set(shown["audience"]) == {1}
    for one in ids:
        answers = shown.filter(campaign_id=one)
        p = true_probability(new, one, answers["user_id"].to_numpy())
        follows(answers["label"].to_numpy(), p)
    labels = [shown.filter(campaign_id=one)["label"].to_numpy() for one in ids]
    assert abs(np.corrcoef(labels)[0, 1]) < 0.2  # each campaign is answered on its own

    # The same answers from a file, in another order, to some of them.
    some = audience.sample(500, seed=1).with_columns(rank=1, score=0.5)
    some.write_csv(tmp_path / "audience.csv")
    some.write_parquet(tmp_path / "audience.parquet")
    for name in ("audience.csv", "audience.parquet"):
        again = show(new, tmp_path / name, seed=5)
        assert again.equals(
            some.select(audience.columns)
            .join(shown, audience.columns, how="left")
            .select(shown.columns)
        )
    assert not show(new, audience, seed=6)["label"].equals(shown["label"])


def test_a_control_group_shows_what_a_campaign_causes(new: Path) -> None:
    """The interval holds the true difference 19 times of 20."""
    one = pl.read_csv(new / "new" / "campaigns.csv")["campaign_id"][0]
    users = table(new, "users")["user_id"][:2000]
    group = groups_of([one] * 2000, users, 0.2)
    audience = pl.DataFrame({"campaign_id": one, "user_id": users, "group": group})
    p, control = true_probability(new, one, users.to_numpy()), np.array(group) == "control"
    truth = p[~control].mean() - UNSHOWN * p[control].mean()
    held, runs = 0, 100
    for seed in range(runs):
        answers = show(new, audience, seed=seed)
        assert answers["group"].equals(audience["group"])
        labels = [answers.filter(group=own)["label"] for own in ("shown", "control")]
        found = Lift(tuple(own.sum() for own in labels), tuple(map(len, labels))).difference
        held += found.low <= truth <= found.high
    assert held >= 88  # 19 of 20 are fewer once in a thousand


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("campaign_id,user_id\n{c},{u}\n{c},0\n", "line 3: user_id is not in the world"),
        ("campaign_id,user_id\n0,{u}\n", "line 2: campaign_id is not in the world"),
        ("campaign_id,user_id\n{c},a\n", "line 2: user_id is not in the world"),
        ("user_id\n{u}\n", "has no column 'campaign_id'"),
    ],
)
def test_bad_audiences_are_told(tmp_path: Path, here: Path, rows: str, told: str) -> None:
    path, campaigns = tmp_path / "audience.csv", table(here, "campaigns")
    user = table(here, "users")["user_id"][0]
    path.write_text(rows.format(c=campaigns["campaign_id"][0], u=user))
    with pytest.raises(InputError, match=f"^{path}: {told}"):
        show(here, path)
