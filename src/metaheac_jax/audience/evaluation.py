"""Quality of audiences for campaigns that a general model does not know (paper section 4.1).

A campaign is customised as `retrieve.expand` does it. Its users of stage 2, of whom it is known who
converted, are its pool.

Axes: P users of a campaign's pool, S slots of a user, G campaigns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.dataset import Dataset, Split, small_campaigns
from metaheac_jax.errors import InputError
from metaheac_jax.methods import Method, customise, method_of
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import Metrics, auc, campaign_metrics

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
    method: Method[Any],
    general: General,
    dataset: Dataset,
    campaigns: Sequence[int] | np.ndarray,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> PoolScores:
    """Customises a general model to campaigns and scores their pools.

    Args:
      method: the method that trained the general model.
      dataset: the data with the campaigns; stage 1 is for customising, stage 2 for scoring.
      campaigns: (G,) campaign indices.

    Raises:
      InputError: a campaign has no stage-1 examples, or the data does not fit the model.
      Diverged: a score is not a number.
    """
    began = time.perf_counter()
    wanted = [dataset.campaign(int(c), seed=seed) for c in campaigns]
    models = customise(general, dataset, wanted, method=method, seed=seed, progress=progress)
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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The quality of a general model's audiences.

    Attributes:
      method: label of the method.
      threshold: the largest number of seeds of a small seed set.
      campaigns: a row per campaign: campaign (its id), seeds, group (small or large, by its number
        of seeds), auc, precision and recall; see `judge_all`.
      left_out: the campaigns that could not be judged, with the reason (``why``).
    """

    method: str
    threshold: int
    campaigns: pl.DataFrame
    left_out: Sequence[Mapping[str, Any]]

    def means(self) -> pl.DataFrame:
        """Averages the metrics: group, campaigns (their number), auc, precision and recall."""
        parts = self.campaigns.group_by("group")
        means = parts.agg(pl.len().alias("campaigns"), pl.col(Metrics._fields).mean())
        return means.sort("group", descending=True)

    def differences(self, other: Evaluation) -> pl.DataFrame:
        """Tells how much higher the metrics are than those of another model.

        Returns:
          A row per group of the campaigns that both models were judged on: group, campaigns, and
          per metric the mean difference and its standard error over the campaigns (null for one).
          The error does not include what another training of the same model would change.

        Raises:
          InputError: there are no such campaigns.
        """
        both = self.campaigns.join(other.campaigns, on="campaign", suffix="_other")
        if both.is_empty():
            raise InputError(
                "the two models have no campaign in common that is new to both; leave the same "
                "campaigns out of both with metaheac fit --leave-out"
            )
        columns = [pl.len().alias("campaigns")]
        for name in Metrics._fields:
            change = pl.col(name) - pl.col(f"{name}_other")
            columns += [change.mean(), (change.std() / pl.len().sqrt()).alias(f"{name}_error")]
        return both.group_by("group").agg(columns).sort("group", descending=True)


def evaluate(
    general: General, data: Dataset, *, seed: int = 0, progress: Progress = silent
) -> Evaluation:
    """Judges a general model on the campaigns that it does not know, with seeds and stage 2.

    Args:
      data: stage 1 of a campaign is for customising; users of stage 2 are ranked.

    Raises:
      InputError: no campaign can be judged, or the data does not fit the model.
      Diverged: a score is not a number.
    """
    data = data.encoded_for(general.schema, general.vocabulary)
    # Held-out campaigns are not new either, since they decided when training stopped.
    known = data.campaigns_among((*general.campaigns, *general.held_out))
    able = (data.stage1.positives > 0) & (data.stage2.counts > 0)
    test = np.flatnonzero(~known & able)
    if not len(test):
        raise InputError(
            f"{data.where}: no campaign that is new to the model has seeds to customise on and "
            "users to judge on; leave campaigns out with metaheac fit --leave-out, and give users "
            "to judge on as rows of examples with stage 2"
        )
    method = method_of(general)
    pools = score_pools(method, general, data, test, seed=seed, progress=progress)
    split = Split(np.flatnonzero(known), test, *small_campaigns(data))
    found = judge_all(data, split, pools.scores, label=method.label)
    if not found["campaigns"]:
        own = found["left_out"][0]
        raise InputError(
            f"campaign {own['campaign']}: cannot be judged: {own['why']}; give it more examples of "
            "stage 2"
        )
    campaigns = pl.DataFrame(found["campaigns"])
    return Evaluation(method.label, split.threshold, campaigns, found["left_out"])
