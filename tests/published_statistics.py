"""The real data's published statistics, and the same figures of a simulated world.

Marginals, which are constants of the recipe, are not repeated here.

The published figures are of 5,000 positive users of the 86 training campaigns of the official
split; MI is in nats and permutation-corrected. The source gives no further details. Here whole
lists are permuted, and campaigns are told apart by scikit-learn's logistic regression with its
default C = 1 on one-hot fields and tokens, trained on 4 of 5 users.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score, roc_auc_score

ONE_VALUED = ("gender", "age", "consumptionAbility", "education", "LBS", "carrier", "house")
LISTS = ("kw2", "topic2", "interest2", "interest1", "topic1", "kw1", "interest3")
CAMPAIGNS = 173
OFFICIAL = random.Random(2021).sample(range(CAMPAIGNS), 86)

# (figure, real value, tolerance relative to it, absolute tolerance). Figures that tell campaigns
# apart by tokens hold to 20%, those by list lengths to 25% (they vary with the seed of the world),
# and those by single fields to 40% (they depend largely on a few large campaigns).
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
    *[("MI consumptionAbility, carrier", 0.072, 0, 0.02), ("MI carrier, house", 0.051, 0, 0.02)],
    *[("MI age, education", 0.046, 0, 0.02), ("MI age, LBS", 0.045, 0, 0.02)],
    ("MI gender, consumptionAbility", 0.035, 0, 0.02),
    ("largest other MI between fields", 0.034, 0, 0.034),  # real: at most that
    # The tolerance of an AUC is 20% of its excess over .5.
    *[("AUC gender from tokens", 0.87, 0, 0.074), ("AUC age 2 from tokens", 0.80, 0, 0.06)],
    *[("AUC campaign from fields", 0.811, 0, 0.062), ("AUC campaign from tokens", 0.714, 0, 0.043)],
    ("AUC campaign from all", 0.814, 0, 0.063),
]


def information(value: np.ndarray, of: np.ndarray, row: np.ndarray | None = None) -> float:
    """MI in nats, less its mean when users are permuted; ``row``: the user of each value.

    Whole lists move, since the values of a user are distinct; users without a list are left out.
    """
    rng = np.random.default_rng(0)
    value = np.unique(value, return_inverse=True)[1]
    having, row = np.unique(np.arange(len(of)) if row is None else row, return_inverse=True)
    chance = [mutual_info_score(value, rng.permutation(of[having])[row]) for _ in range(20)]
    return mutual_info_score(value, of[having][row]) - float(np.mean(chance))


def one_hot(value: np.ndarray, row: np.ndarray, rows: int) -> csr_matrix:
    kinds, column = np.unique(value, return_inverse=True)
    return csr_matrix((np.ones(len(row)), (row, column)), (rows, len(kinds)))


def told_apart(features: csr_matrix, kind: np.ndarray, kinds: Iterable[int]) -> float:
    """Mean AUC of logistic regressions that tell a kind from the rest, trained on 4 of 5 rows."""
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
    ids = pl.read_parquet(directory / "campaigns.parquet")["campaign_id"].sort()
    stage1 = pl.read_parquet(directory / "examples.parquet").filter(stage=1)
    rank = np.searchsorted(ids.to_numpy(), stage1["campaign_id"].to_numpy())
    seeds = np.flatnonzero((stage1["label"].to_numpy() == 1) & np.isin(rank, OFFICIAL))
    seeds = np.random.default_rng(0).permutation(seeds)[:5000]
    campaign = rank[seeds]
    of_users = pl.read_parquet(directory / "users.parquet")
    users = stage1[seeds].join(of_users, "user_id", how="left", maintain_order="left")
    figures: dict[str, float] = {"users": len(users)}

    field = {f: users[f].fill_null(0).to_numpy() for f in ONE_VALUED}
    length = {f: users[f].list.len().to_numpy().astype(int) for f in LISTS}
    token = {f: users[f].list.explode().drop_nulls().to_numpy() for f in LISTS}
    row = {f: np.repeat(np.arange(len(users)), length[f]) for f in LISTS}

    for f in ONE_VALUED:
        figures[f"MI {f}"] = information(field[f], campaign)
    for f in LISTS:
        figures[f"MI {f}"] = information(token[f], campaign, row[f])
    for f in LISTS:
        figures[f"MI length {f}"] = information(length[f], campaign)
    for f in LISTS:
        figures[f"missing {f}"] = float((length[f] == 0).mean())
    for i, f in enumerate(ONE_VALUED):
        for g in ONE_VALUED[:i]:
            figures[f"MI {g}, {f}"] = information(field[f], field[g])
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


def off(figures: dict[str, float]) -> list[tuple[str, float, float]]:
    """Figures out of tolerance: name, real value, and that of the world."""
    return [
        (name, value, figures[name])
        for name, value, relative, absolute in REAL
        # Published figures are rounded.
        if abs(figures[name] - value) > max(relative * value, absolute) + 5e-4
    ]
