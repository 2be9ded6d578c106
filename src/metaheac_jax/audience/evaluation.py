"""Metrics of the test campaigns, from the scores of their pools (paper section 4.1).

Axes: P users of a campaign's pool, S slots of a user, G campaigns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit

from metaheac_jax.audience.gains import Gain, gains_of
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.splits import Split
from metaheac_jax.methods import Method
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import auc, campaign_metrics, top

PERCENT = 5.0  # K of P@K% and R@K%


def pool_rows(dataset: Dataset, campaign: int) -> np.ndarray:
    """(P, S) table rows of the users in a campaign's pool, which is its stage 2."""
    return dataset.user_rows[dataset.stage2.user[dataset.stage2.of(campaign)]]


class PoolScores(NamedTuple):
    """Scores of the pools of several campaigns.

    Attributes:
      scores: (P,) scores per campaign.
      customise_seconds, score_seconds: time spent on customising and on scoring.
    """

    scores: list[np.ndarray]
    customise_seconds: float
    score_seconds: float


def score_pools(
    method: Method,
    general: General,
    dataset: Dataset,
    campaigns: Sequence[int] | np.ndarray,
    *,
    seed: int = 0,
    directory: Path | str | None = None,
    progress: Progress = silent,
) -> PoolScores:
    """Customises a general model to campaigns and scores their pools.

    Args:
      method: the method that trained the general model.
      general: the general model.
      dataset: the data with the campaigns; stage 1 is for customising, stage 2 for scoring.
      campaigns: (G,) campaign indices.
      seed: random seed for customising.
      directory: folder that keeps customised campaigns, as in `Method.customise`.
      progress: receives the number of campaigns done.

    Raises:
      InputError: a campaign has no stage-1 examples, or the data does not fit the model.
      Diverged: a score is not a number.
    """
    began = time.perf_counter()
    wanted = [dataset.campaign(c) for c in campaigns]
    models = method.customise(
        general, dataset, wanted, seed=seed, directory=directory, progress=progress
    )
    adapted, scores = time.perf_counter(), []
    for c, model in zip(campaigns, models, strict=True):
        scores.append(model.score(pool_rows(dataset, c)))
        progress("score", len(scores), len(models))
    return PoolScores(scores, adapted - began, time.perf_counter() - adapted)


def judge_all(
    dataset: Dataset, split: Split, scores: Sequence[np.ndarray], *, label: str
) -> dict[str, Any]:
    """Metrics of every test campaign, from the scores of its pool.

    Args:
      dataset: the data; its stage 2 has the pools.
      split: the split with the test campaigns.
      scores: (P,) scores of each test campaign's pool.
      label: label of the method.

    Returns:
      ``label``, ``campaigns`` (one entry per judged campaign), ``left_out`` (the campaigns that
      cannot be judged, with the reason), and ``pooled_auc`` per group.
    """
    campaigns, left_out = [], []
    pooled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"small": [], "large": []}
    seeds = dataset.stage1.positives
    for c, values in zip(split.test, scores, strict=True):
        of = dataset.stage2.of(c)
        labels, own = dataset.stage2.label[of], plain_id(dataset.campaign_ids[c])
        verdict = campaign_metrics(
            values, labels, dataset.user_ids[dataset.stage2.user[of]], PERCENT
        )
        if isinstance(verdict, str):
            left_out.append({"campaign": own, "why": verdict})
            continue
        group = "small" if split.small[c] else "large"
        pooled[group].append((values, labels))
        campaigns.append(
            {"campaign": own, "seeds": int(seeds[c]), "group": group, **verdict._asdict()}
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


def pool_probabilities(dataset: Dataset, campaign: int, scores: np.ndarray) -> np.ndarray:
    """(P,) probabilities of converting at the rate of a campaign's pool.

    Scores are log-odds at the rate of stage 1, which is often not that of the pool, since non-seeds
    are drawn per seed. The difference of the two rates moves all of them by the same amount
    (Prentice and Pyke, "Logistic disease incidence models and case-control studies", 1979).

    Args:
      dataset: the data, in which both stages of the campaign have seeds and non-seeds.
      campaign: index of the campaign.
      scores: (P,) log-odds of its pool.
    """
    stages = dataset.stage1, dataset.stage2
    sampled, pool = (stage.label[stage.of(campaign)].mean(dtype=float) for stage in stages)
    return expit(scores.astype(float) + logit(pool) - logit(sampled))


def pool_gains(
    dataset: Dataset, campaigns: Sequence[int], scores: Sequence[np.ndarray]
) -> list[Gain]:
    """Users and converts by decile of score, summed over campaigns; see `gains_of`.

    Each pool is divided separately, since scores of different campaigns are not comparable. Ties
    are ordered by ascending user id.

    Args:
      dataset: the data; its stage 2 has the pools.
      campaigns: indices of G campaigns, each with at least one convert in its pool.
      scores: (P,) scores of each campaign's pool.
    """
    ranked = []
    for c, values in zip(campaigns, scores, strict=True):
        of = dataset.stage2.of(c)
        order = top(values, dataset.user_ids[dataset.stage2.user[of]], len(values))
        ranked.append(dataset.stage2.label[of][order])
    return gains_of(ranked)
