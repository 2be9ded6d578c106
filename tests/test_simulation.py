"""The simulated twin against the real data's published statistics, figure by figure.

The published figures are of 5,000 positive users of the 86 training campaigns of the official
split; MI is in nats and permutation-corrected. How they were computed is not told in more detail;
here lists are permuted whole, and campaigns are told apart by scikit-learn's logistic regression
as it comes (C = 1) on one-hot fields and tokens, trained on 4 in 5 users. `pytest -s` shows the
table.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from metaheac_jax.data.simulation import WECHAT, read_truth, write_world
from metaheac_jax.data.simulation.campaigns import make_campaigns
from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress, silent

ONE_VALUED = ("gender", "age", "consumptionAbility", "education", "LBS", "carrier", "house")
LISTS = ("kw2", "topic2", "interest2", "interest1", "topic1", "kw1", "interest3")
MODELLED = {*ONE_VALUED, *LISTS}
UNUSED = {"marriageStatus", "os", "ct"}
CAMPAIGNS = 173
OFFICIAL = random.Random(2021).sample(range(CAMPAIGNS), 86)
FILES = {
    *("adFeature.csv", "userFeature.data", "train.csv", "test1_truth.csv", "SIMULATED"),
    *("train_probability.npy", "test1_truth_probability.npy", "truth.npz"),
}

# (figure, real value, tolerance relative to it, absolute tolerance). What tells campaigns apart by
# tokens holds to 20%; that by lists' lengths to 25% (worlds of other seeds differ by 15%; their
# mean is within 10%), and that by single fields to 40% (half of it hangs on a few large campaigns).
REAL = [
    *[("MI gender", 0.380, 0.2, 0), ("MI age", 0.278, 0.2, 0)],
    *[("MI consumptionAbility", 0.100, 0.4, 0), ("MI education", 0.089, 0.4, 0)],
    *[("MI LBS", 0.077, 0.4, 0), ("MI carrier", 0.055, 0.4, 0), ("MI house", 0.044, 0.4, 0)],
    *[("MI kw2", 0.223, 0.2, 0), ("MI topic2", 0.134, 0.2, 0), ("MI interest2", 0.118, 0.2, 0)],
    *[("MI interest1", 0.056, 0.2, 0), ("MI topic1", 0.040, 0.2, 0), ("MI kw1", 0.040, 0.2, 0)],
    ("MI interest3", 0.002, 0, 0.015),
    *[("MI length interest1", 0.133, 0.25, 0), ("MI length interest2", 0.091, 0.25, 0)],
    *[("MI length kw1", 0.067, 0.25, 0), ("MI length topic1", 0.042, 0.25, 0)],
    *[("MI length kw2", 0.013, 0, 0.010), ("MI length topic2", 0.010, 0, 0.010)],
    *[("missing interest1", 0.125, 0, 0.04), ("missing interest2", 0.246, 0, 0.05)],
    *[("missing interest3", 0.967, 0, 0.01), ("missing kw1", 0.135, 0, 0.04)],
    *[("missing kw2", 0.020, 0, 0.015), ("missing topic1", 0.117, 0, 0.04)],
    ("missing topic2", 0.023, 0, 0.015),
    *[("mean length interest1", 7.9, 0, 0.3), ("mean length interest2", 5.6, 0, 0.3)],
    *[("mean length interest3", 7.4, 0, 0.7), ("mean length kw1", 4.7, 0, 0.1)],
    *[("mean length kw2", 4.95, 0, 0.05), ("mean length topic1", 5.0, 0, 0.001)],
    ("mean length topic2", 5.0, 0, 0.001),
    *[
        (f"length interest1 = {n}", share, 0, 0.03)
        for n, share in enumerate(
            (0, 0.108, 0.006, 0.09, 0.017, 0.079, 0.03, 0.066, 0.037, 0.567), 1
        )
    ],
    *[
        (f"length interest2 = {n}", share, 0, 0.03)
        for n, share in enumerate(
            (0.037, 0.211, 0.077, 0.129, 0.081, 0.078, 0.066, 0.053, 0.045, 0.223), 1
        )
    ],
    # topic1 and topic2 have 1,000 values at a tenth of the real size: no figure for their top 1000.
    *[("top 1 of kw1", 0.016, 0, 0.01), ("top 10 of kw1", 0.091, 0.2, 0)],
    *[("top 100 of kw1", 0.279, 0.1, 0), ("top 1000 of kw1", 0.561, 0.1, 0)],
    *[("top 1 of kw2", 0.015, 0, 0.01), ("top 10 of kw2", 0.111, 0.2, 0)],
    *[("top 100 of kw2", 0.408, 0.1, 0), ("top 1000 of kw2", 0.823, 0.1, 0)],
    *[("top 1 of topic1", 0.062, 0, 0.02), ("top 10 of topic1", 0.170, 0.2, 0)],
    ("top 100 of topic1", 0.335, 0.1, 0),
    *[("top 1 of topic2", 0.010, 0, 0.01), ("top 10 of topic2", 0.059, 0.2, 0)],
    ("top 100 of topic2", 0.256, 0.1, 0),
    *[("top 1 of interest1", 0.079, 0, 0.02), ("top 10 of interest1", 0.498, 0.1, 0)],
    ("top 100 of interest1", 0.998, 0, 0.005),
    *[("top 1 of interest2", 0.104, 0, 0.02), ("top 10 of interest2", 0.516, 0.1, 0)],
    ("top 100 of interest2", 1.0, 0, 0),
    *[("top 1 of LBS", 0.038, 0, 0.01), ("top 10 of LBS", 0.234, 0.1, 0)],
    *[("top 100 of LBS", 0.675, 0.1, 0), ("top 1000 of LBS", 1.0, 0, 0)],
    *[("MI consumptionAbility, carrier", 0.072, 0, 0.02), ("MI carrier, house", 0.051, 0, 0.02)],
    *[("MI age, education", 0.046, 0, 0.02), ("MI age, LBS", 0.045, 0, 0.02)],
    ("MI gender, consumptionAbility", 0.035, 0, 0.02),
    ("largest other MI between fields", 0.034, 0, 0.034),  # real: at most that
    *[(f"carrier = {i}", x, 0, 0.05) for i, x in enumerate((0.28, 0.48, 0.10, 0.14))],
    *[(f"consumptionAbility = {i}", x, 0, 0.05) for i, x in enumerate((0.22, 0.60, 0.18))],
    *[(f"age = {i}", x, 0, 0.06) for i, x in enumerate((0.00, 0.23, 0.21, 0.12, 0.21, 0.24))],
    *[
        (f"education = {i}", x, 0, 0.05)
        for i, x in enumerate((0.01, 0.13, 0.30, 0.05, 0.01, 0.02, 0.17, 0.31))
    ],
    # Which campaigns are the 86 moves the share of men: worlds of other seeds have .62 to .76.
    *[(f"gender = {i}", x, 0, 0.1) for i, x in enumerate((0.00, 0.68, 0.32))],
    *[(f"house = {i}", x, 0, 0.05) for i, x in enumerate((0.82, 0.18))],
    # For an AUC, 20% of what it is above .5.
    *[("AUC gender from tokens", 0.87, 0, 0.074), ("AUC age 2 from tokens", 0.80, 0, 0.06)],
    *[("AUC campaign from fields", 0.811, 0, 0.062), ("AUC campaign from tokens", 0.714, 0, 0.043)],
    ("AUC campaign from all", 0.814, 0, 0.063),
]


def read_users(path: Path, wanted: set[int]) -> dict[int, dict[str, list[int]]]:
    """Features of some users, read as a stranger would: named, optional, in any order."""
    users = {}
    with path.open() as file:
        for line in file:
            uid, _, rest = line.rstrip("\n").partition("|")
            key = int(uid.removeprefix("uid "))
            if key in wanted:
                parts = (part.split(" ") for part in rest.split("|"))
                users[key] = {name: [int(x) for x in values] for name, *values in parts}
    return users


def entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def plain_information(a: np.ndarray, b: np.ndarray) -> float:
    joint = np.unique(a * (int(b.max()) + 1) + b, return_counts=True)[1]
    return entropy(np.bincount(a)) + entropy(np.bincount(b)) - entropy(joint)


def information(value: np.ndarray, of: np.ndarray, row: np.ndarray | None = None) -> float:
    """MI in nats, less its mean when users are permuted; ``row``: the user of each value.

    Whole lists move, for values of one user are never the same; users without a list stay out.
    """
    rng = np.random.default_rng(0)
    value = np.unique(value, return_inverse=True)[1]
    having, row = np.unique(np.arange(len(of)) if row is None else row, return_inverse=True)
    chance = [plain_information(value, rng.permutation(of[having])[row]) for _ in range(20)]
    return plain_information(value, of[having][row]) - float(np.mean(chance))


def one_hot(value: np.ndarray, row: np.ndarray, rows: int) -> csr_matrix:
    kinds, column = np.unique(value, return_inverse=True)
    return csr_matrix((np.ones(len(row)), (row, column)), (rows, len(kinds)))


def told_apart(features: csr_matrix, kind: np.ndarray, kinds: Iterable[int]) -> float:
    """Mean AUC of logistic regressions that tell a kind from the rest, trained on 4 in 5 rows."""
    train = np.random.default_rng(0).random(len(kind)) < 0.8
    aucs = []
    for one in kinds:
        is_one = kind == one
        if is_one[train].sum() < 2 or is_one[~train].sum() < 2:
            continue
        model = LogisticRegression(solver="liblinear")
        model.fit(features[train], is_one[train])
        aucs.append(roc_auc_score(is_one[~train], model.decision_function(features[~train])))
    return float(np.mean(aucs))


def statistics(directory: Path) -> dict[str, float]:
    """Figures of a world: 5,000 positive users of the official 86 campaigns, as published."""
    aid, uid, label = np.loadtxt(directory / "train.csv", np.int64, delimiter=",", skiprows=1).T
    aids = np.sort(
        np.loadtxt(directory / "adFeature.csv", np.int64, delimiter=",", skiprows=1)[:, 0]
    )
    rank = np.searchsorted(aids, aid)
    seeds = np.flatnonzero((label == 1) & np.isin(rank, OFFICIAL))
    seeds = np.random.default_rng(0).permutation(seeds)[:5000]
    campaign = rank[seeds]
    by_uid = read_users(directory / "userFeature.data", set(uid[seeds].tolist()))
    users = [by_uid[key] for key in uid[seeds].tolist()]
    figures: dict[str, float] = {"users": len(users)}

    field = {f: np.array([user.get(f, [0])[0] for user in users]) for f in ONE_VALUED}
    length = {f: np.array([len(user.get(f, ())) for user in users]) for f in LISTS}
    token = {f: np.array([x for user in users for x in user.get(f, ())]) for f in LISTS}
    row = {f: np.repeat(np.arange(len(users)), length[f]) for f in LISTS}

    for f in ONE_VALUED:
        figures[f"MI {f}"] = information(field[f], campaign)
    for f in LISTS:
        figures[f"MI {f}"] = information(token[f], campaign, row[f])
    for f in LISTS:
        figures[f"MI length {f}"] = information(length[f], campaign)
    for f in LISTS:
        figures[f"missing {f}"] = float((length[f] == 0).mean())
    for f in LISTS:
        figures[f"mean length {f}"] = float(length[f][length[f] > 0].mean())
    for f, most in (("interest1", 10), ("interest2", 10)):
        present = length[f][length[f] > 0]
        for n in range(1, most + 1):
            figures[f"length {f} = {n}"] = float((present == n).mean())
    for f in ("kw1", "kw2", "topic1", "topic2", "interest1", "interest2", "LBS"):
        counts = np.unique(field[f] if f == "LBS" else token[f], return_counts=True)[1]
        counts = np.cumsum(np.sort(counts)[::-1]) / counts.sum()
        for top in (1, 10, 100, 1000):
            figures[f"top {top} of {f}"] = float(counts[min(top, len(counts)) - 1])
    for i, f in enumerate(ONE_VALUED):
        for g in ONE_VALUED[:i]:
            figures[f"MI {g}, {f}"] = information(field[f], field[g])
    for f in ("carrier", "consumptionAbility", "age", "education", "gender", "house"):
        for value, count in enumerate(np.bincount(field[f])):
            figures[f"{f} = {value}"] = count / len(users)

    told = {name for name, *_ in REAL}
    others = [x for name, x in figures.items() if "," in name and name not in told]
    figures["largest other MI between fields"] = max(others)

    fields = hstack([one_hot(x, np.arange(len(users)), len(users)) for x in field.values()]).tocsr()
    tokens = hstack([one_hot(token[f], row[f], len(users)) for f in LISTS]).tocsr()
    figures["AUC gender from tokens"] = told_apart(tokens, field["gender"], [2])
    figures["AUC age 2 from tokens"] = told_apart(tokens, field["age"], [2])
    kinds = np.unique(campaign)
    figures["AUC campaign from fields"] = told_apart(fields, campaign, kinds)
    figures["AUC campaign from tokens"] = told_apart(tokens, campaign, kinds)
    figures["AUC campaign from all"] = told_apart(hstack([fields, tokens]).tocsr(), campaign, kinds)
    return figures


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products on busy cores: BLAS threads that wait for one another cost a minute here."""
    with threadpool_limits(1):
        yield


def make_world(directory: Path, seed: int) -> Path:
    write_world(
        directory, users=240_000, examples=290_000, cardinality=0.1, pool_rows=100, seed=seed
    )
    return directory


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("simulation") / "world", seed=0)


class Stage:
    """A stage's lines, campaigns by rank."""

    def __init__(self, world: Path, name: str, campaigns: int = CAMPAIGNS) -> None:
        self.campaigns = campaigns
        skip = int(name == "train")
        self.aid, self.uid, self.label = np.loadtxt(
            world / f"{name}.csv", np.int64, delimiter=",", skiprows=skip
        ).T
        self.probability = np.load(world / f"{name}_probability.npy")
        self.campaign = np.unique(self.aid, return_inverse=True)[1]

    def per_campaign(self, value: np.ndarray) -> np.ndarray:
        return np.bincount(self.campaign, value, self.campaigns)

    @property
    def rows(self) -> np.ndarray:
        return np.bincount(self.campaign, minlength=self.campaigns)

    @property
    def positives(self) -> np.ndarray:
        return self.per_campaign(self.label == 1)


@pytest.fixture(scope="module")
def stages(world: Path) -> tuple[Stage, Stage]:
    return Stage(world, "train"), Stage(world, "test1_truth")


def compare(
    figures: dict[str, float], real: Iterable[tuple[str, float, float, float]]
) -> list[str]:
    """Prints the table; returns the lines out of tolerance."""
    off = []
    print(f"\n{'figure':36s}   real simulated  tolerance")
    for name, value, relative, absolute in real:
        tolerance = max(relative * value, absolute)
        ours = figures.get(name, 0.0)
        fits = abs(ours - value) <= tolerance + 5e-4  # published figures are rounded
        line = f"{name:36s} {value:6.3f} {ours:9.3f} {tolerance:10.3f} {'' if fits else '  OFF'}"
        print(line)
        if not fits:
            off.append(line)
    return off


def test_statistics_are_those_of_the_real_data(world: Path) -> None:
    figures = statistics(world)
    assert figures["users"] == 5000
    assert not compare(figures, REAL)


@pytest.mark.long
def test_worlds_of_several_seeds_are_right_on_average(tmp_path: Path) -> None:
    several = [statistics(make_world(tmp_path / str(seed), seed)) for seed in range(4)]
    mean = {
        name: float(np.mean([figures.get(name, 0) for figures in several])) for name, *_ in REAL
    }
    tighter = [(name, value, min(relative, 0.2), least) for name, value, relative, least in REAL]
    assert not compare(mean, tighter)


def test_true_probability_reaches_the_auc(stages: tuple[Stage, Stage]) -> None:
    for stage in stages:
        aucs = []
        for campaign in range(CAMPAIGNS):
            of = stage.campaign == campaign
            if len(set(stage.label[of])) == 2:
                aucs.append(roc_auc_score(stage.label[of], stage.probability[of]))
        # .01 as promised, and what chance does to some 3,000 positives of stage 2.
        assert np.mean(aucs) == pytest.approx(0.80, abs=0.01 if stage is stages[0] else 0.02)


def test_the_truth_gives_the_probability_of_every_line(
    world: Path, stages: tuple[Stage, Stage]
) -> None:
    truth = read_truth(world)
    for stage in stages:
        user = np.searchsorted(truth.key, stage.uid)
        campaign = np.searchsorted(truth.aid, stage.aid)
        found = truth.probability(user, campaign)
        np.testing.assert_allclose(found, stage.probability, rtol=1e-5, atol=1e-9)


def test_labels_follow_the_probability(stages: tuple[Stage, Stage]) -> None:
    for stage in stages:
        assert stage.probability.dtype == np.float32
        assert len(stage.probability) == len(stage.label)
        # A campaign has the whole number of positives next to what is expected.
        assert np.abs(stage.positives - stage.per_campaign(stage.probability)).max() < 1.001
        # Rows of a like probability convert at that rate: within 4 standard errors.
        for part in np.array_split(np.argsort(stage.probability), 10):
            p = stage.probability[part].astype(np.float64)
            error = np.sqrt((p * (1 - p)).sum())
            assert abs((stage.label[part] == 1).sum() - p.sum()) < 4 * error + 1


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
    # 100 pool rows were asked for; without, the smallest campaign would have one.
    assert stage2.rows.min() > 75
    assert len(stage1.rows) == len(stage2.rows) == CAMPAIGNS
    assert stage1.rows.sum() + stage2.rows.sum() == pytest.approx(290_000, rel=0.01)
    for stage in stages:
        assert len(stage.uid) / len(np.unique(stage.uid)) == pytest.approx(1.12, abs=0.005)


def test_no_pair_twice(stages: tuple[Stage, Stage]) -> None:
    pairs = np.concatenate([stage.aid * 10_000_000 + stage.uid for stage in stages])
    assert len(np.unique(pairs)) == len(pairs)


def test_files_have_the_competitions_form(world: Path, stages: tuple[Stage, Stage]) -> None:
    assert {path.name for path in world.iterdir()} == FILES
    assert (world / "SIMULATED").read_text() == "simulated Tencent twin (seed 0, 240,000 users)\n"
    with (world / "train.csv").open() as file:
        assert next(file) == "aid,uid,label\n"
    for stage in stages:
        assert set(stage.label) == {-1, 1}
    truth = stages[1].label
    assert (np.diff(truth) <= 0).all(), "positives first"
    assert (np.diff(stages[0].label) > 0).any(), "train.csv is not in such an order"

    uids, orders, present = set(), set(), dict.fromkeys(MODELLED | UNUSED, 0)
    with (world / "userFeature.data").open() as file:
        for number, line in enumerate(file):
            uid, *parts = line.rstrip("\n").split("|")
            uids.add(int(uid.removeprefix("uid ")))
            if number >= 20_000:
                continue
            names = []
            for part in parts:
                name, *values = part.split(" ")
                names.append(name)
                present[name] += 1
                assert values, line
                assert all(value.isdecimal() for value in values), line
                assert len(set(values)) == len(values), line
                if name in ONE_VALUED:
                    assert len(values) == 1, line
            assert len(set(names)) == len(names), line
            orders.add(tuple(name for name in names if name in {"age", "gender", "LBS", "os"}))
    assert len(uids) == 240_000
    for stage in stages:
        assert uids.issuperset(stage.uid.tolist())
    assert len(orders) > 4
    share = {name: count / 20_000 for name, count in present.items()}
    missing = {"interest3": 0.97, "house": 0.82, "interest2": 0.34, "kw1": 0.10, "interest1": 0.09}
    for name, real in {**missing, "topic1": 0.08, "topic2": 0.04, "kw2": 0.03}.items():
        assert 1 - share[name] == pytest.approx(real, abs=0.01), name
    assert all(share[name] == 1 for name in UNUSED | {"age", "gender", "LBS", "carrier"})


def test_interest1_has_popular_values_first(world: Path) -> None:
    wanted = set(range(1, 40_000))
    lists = [
        user["interest1"]
        for user in read_users(world / "userFeature.data", wanted).values()
        if len(user.get("interest1", ())) == 10
    ]
    values = np.array(lists)
    popularity = np.bincount(values.ravel())[values].mean(0)
    assert (np.diff(popularity) < 0).all()


def test_campaign_attributes(world: Path) -> None:
    with (world / "adFeature.csv").open() as file:
        header = next(file).rstrip("\n")
    assert header == (
        "aid,advertiserId,campaignId,creativeId,creativeSize,adCategoryId,productId,productType"
    )
    table = np.loadtxt(world / "adFeature.csv", np.int64, delimiter=",", skiprows=1)
    kinds = [len(np.unique(column)) for column in table.T]
    assert kinds == [173, 79, 138, 173, 15, 40, 33, 4]
    advertiser, category, product = table[:, 1], table[:, 5], table[:, 6]
    single = [len(np.unique(category[advertiser == one])) == 1 for one in np.unique(advertiser)]
    assert np.mean(single) == pytest.approx(0.84, abs=0.05)
    assert (product == 0).mean() == pytest.approx(0.5, abs=0.01)


def small(target: Path, progress: Progress = silent, **options: Any) -> dict[str, bytes]:
    options = {"users": 50_001, "examples": 30_000, "pool_rows": 20, **options}
    write_world(target, **options, progress=progress)
    return {path.name: path.read_bytes() for path in target.iterdir()}


def test_same_seed_same_bytes(tmp_path: Path, world: Path) -> None:
    calls = []
    first = small(tmp_path / "a", lambda *call: calls.append(call), seed=3)
    assert first.keys() == FILES
    assert small(tmp_path / "b", seed=3) == first
    assert first["adFeature.csv"] != (world / "adFeature.csv").read_bytes()
    # Attributes are drawn without arithmetic that processors round differently.
    assert hashlib.sha256(first["adFeature.csv"]).hexdigest()[:16] == "e87dba64c9e5026d"
    assert calls == [("simulating users", done, 50_001) for done in (50_000, 50_001)]


def test_a_world_of_the_wechat_shape(tmp_path: Path) -> None:
    options = {"users": 60_000, "examples": 48_000, "pool_rows": 100, "shape": WECHAT}
    assert small(tmp_path / "world", **options).keys() == FILES
    told = (tmp_path / "world" / "SIMULATED").read_text()
    assert told == "simulated WeChat-shaped Tencent twin (seed 0, 60,000 users)\n"
    stage1, stage2 = (Stage(tmp_path / "world", n, 90) for n in ("train", "test1_truth"))
    assert len(stage1.rows) == len(stage2.rows) == 90
    # Eleven rows a seed in stage 1, and as many in stage 2.
    assert stage1.positives.sum() * 11 / stage1.rows.sum() == pytest.approx(1, abs=0.02)
    assert stage2.rows.sum() / stage1.rows.sum() == pytest.approx(1, abs=0.02)
    rate = stage1.per_campaign(stage1.probability) / stage1.rows
    assert rate.mean() == pytest.approx(1 / 11, abs=0.0006)
    assert rate.std() == pytest.approx(0.0014 / 0.0478 / 11, abs=0.0008)
    aucs = [
        roc_auc_score(stage1.label[of], stage1.probability[of])
        for of in (stage1.campaign == campaign for campaign in range(90))
        if len(set(stage1.label[of])) == 2
    ]
    assert np.mean(aucs) == pytest.approx(0.80, abs=0.02)
    table = np.loadtxt(tmp_path / "world" / "adFeature.csv", np.int64, delimiter=",", skiprows=1)
    kinds = [len(np.unique(column)) for column in table.T]
    assert kinds == [90, 41, 72, 90, 15, 21, 17, 4]


def test_sizes_of_the_wechat_shape_at_the_real_size() -> None:
    rows = make_campaigns(WECHAT, np.random.default_rng(0)).rows
    seeds = 286_036 * rows / rows.sum()
    assert (seeds > 10_000).sum() == 7
    assert seeds.max() < 50_000


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pool_rows": 300}, "fewer pool rows"),
        ({"users": 1000}, "more users"),
        ({"users": 0}, "users >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"cardinality": 0}, "cardinality in"),
    ],
)
def test_bad_sizes_are_told_and_leave_nothing(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told) as error:
        small(tmp_path / "world", **options)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
