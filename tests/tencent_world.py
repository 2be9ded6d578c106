"""A small world in the competition's four files, with campaigns that cannot be judged."""

from pathlib import Path

import numpy as np
import toy

from experiments.sources.splits import paper_split
from metaheac_jax.schema import TENCENT

CAMPAIGNS, USERS, SEEN, POOL = 12, 300, 80, 40
AIDS = [100 + 7 * c for c in range(CAMPAIGNS)]
#: The test campaigns of seed 0, which depend only on the number of campaigns.
TEST = [AIDS[c] for c in paper_split(toy.dataset(campaigns=CAMPAIGNS), 0).test]
#: Test campaigns that cannot be judged in the world below, and why.
UNJUDGED = {
    TEST[0]: f"0 positives among {POOL} candidates",
    TEST[1]: "7 candidates, fewer than 20",
    TEST[2]: "0 candidates, fewer than 20",
}
USER_FILE, ADS, TRAIN, TRUTH = "userFeature.data", "adFeature.csv", "train.csv", "test1_truth.csv"


def world() -> dict[str, str]:
    """The four files; one gender likes a campaign more than the other does."""
    rng = np.random.default_rng(5)
    gender = rng.integers(1, 3, USERS)
    lines = []
    for u in range(USERS):
        fields = [f"uid {1000 + u}", f"gender {gender[u]}", f"os {rng.integers(1, 4)}"]
        for field in TENCENT.user:
            if field.name != "gender":
                values = rng.choice(9, min(field.slots, 3), replace=False)
                fields.append(" ".join([field.name, *map(str, values)]))
        lines.append("|".join(fields))
    ads = ["aid,advertiserId,campaignId,creativeId,creativeSize,adCategoryId,productId,productType"]
    train, truth = ["aid,uid,label"], []
    for c, aid in enumerate(AIDS):
        ads.append(f"{aid},{c % 5},{c},{c},{c % 3},{c % 4},{c % 6},{c % 2}")
        users = rng.permutation(USERS)
        liked = rng.random(USERS) < np.where(gender == 1 + c % 2, 0.6, 0.1)
        train += [f"{aid},{1000 + u},{1 if liked[u] else -1}" for u in users[:SEEN]]
        pool = users[SEEN : SEEN + POOL]
        if aid == TEST[0]:
            liked[pool] = False
        pool = pool[: {TEST[1]: 7, TEST[2]: 0}.get(aid, POOL)]
        truth += [f"{aid},{1000 + u},{1 if liked[u] else -1}" for u in pool]
    files = {USER_FILE: lines, ADS: ads, TRAIN: train, TRUTH: truth}
    return {name: "\n".join(lines) + "\n" for name, lines in files.items()}


def write(source: Path, **changes: str) -> Path:
    """Writes the four files to a folder; ``changes`` replaces some."""
    source.mkdir()
    for name, text in (world() | changes).items():
        (source / name).write_text(text)
    return source


def with_line(text: str, number: int, line: str) -> str:
    """Replaces line ``number``, which counts from 1."""
    lines = text.split("\n")
    lines[number - 1] = line
    return "\n".join(lines)
