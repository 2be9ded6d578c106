"""Figures of the test campaigns from the scores of their pools (paper section 4.1).

Axes: P users of a campaign's pool, S slots of a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.splits import Split
from metaheac_jax.ranking import auc, judge

PERCENT = 5.0  # K of P@K% and R@K%


def pool_rows(dataset: Dataset, campaign: int) -> np.ndarray:
    """(P, S) table rows of the users in a campaign's pool, its stage 2."""
    return dataset.user_rows[dataset.stage2.user[dataset.stage2.of(campaign)]]


def judge_all(
    dataset: Dataset, split: Split, scores: Sequence[np.ndarray], *, label: str
) -> dict[str, Any]:
    """Figures of every test campaign from the scores of its pool.

    Args:
      dataset: the pools are its stage 2.
      split: has the test campaigns.
      scores: (P,) of each test campaign's pool.
      label: of the method.

    Returns:
      ``label``, ``campaigns`` (one entry per judged campaign), ``left_out`` (the campaigns that
      cannot be judged, and why), and ``pooled_auc`` per group.
    """
    campaigns, left_out = [], []
    pooled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"small": [], "large": []}
    seeds = dataset.stage1.positives
    for c, values in zip(split.test, scores, strict=True):
        of = dataset.stage2.of(c)
        labels, key = dataset.stage2.label[of], plain_id(dataset.campaign_key[c])
        verdict = judge(values, labels, dataset.user_key[dataset.stage2.user[of]], PERCENT)
        if isinstance(verdict, str):
            left_out.append({"campaign": key, "why": verdict})
            continue
        group = "small" if split.small[c] else "large"
        pooled[group].append((values, labels))
        campaigns.append(
            {"campaign": key, "seeds": int(seeds[c]), "group": group, **verdict._asdict()}
        )
    return {
        "label": label,
        "campaigns": campaigns,
        "left_out": left_out,
        "pooled_auc": {
            group: auc(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
            for group, pairs in pooled.items()
            if pairs
        },
    }
