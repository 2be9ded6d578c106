"""The AUC of customising everything and of customising only heads, from one general model."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from experiments.comparison.run import Data
from experiments.comparison.significance import Difference, over_campaigns
from experiments.comparison.tuning import HELD_OUT, LADDERS
from metaheac_jax.audience.evaluation import judge_all, pool_rows
from metaheac_jax.methods import Method
from metaheac_jax.methods.held_out_campaigns import hold_out_campaigns
from metaheac_jax.model import General
from metaheac_jax.progress import Progress
from metaheac_jax.settings import Adapts

RATES: Sequence[float] = LADDERS["online_learning_rate"]


@dataclass(frozen=True)
class WayResult:
    """The result of one way of customising.

    Attributes:
      tried: AUC on held-out training campaigns by online learning rate.
      rate: the best rate, with which the test campaigns are customised.
      seconds: time to customise all test campaigns.
      result: metrics of the test campaigns; see `audience.evaluation.judge_all`.
    """

    tried: Mapping[float, float]
    rate: float
    seconds: float
    result: Mapping[str, Any]

    def aucs(self, group: str) -> dict[Any, float]:
        """AUC of each test campaign of a group, by id."""
        return {c["campaign"]: c["auc"] for c in self.result["campaigns"] if c["group"] == group}


def customise_both_ways(
    data: Data,
    method: Method,
    *,
    seed: int,
    directory: Path,
    allow_changes: Collection[str] = (),
    progress: Progress,
) -> dict[Adapts, WayResult]:
    """Trains a general model once, and customises it to the test campaigns in each way.

    Held-out training campaigns, customised whole, decide when training stops, which favours
    customising whole. They also choose the online learning rate of each way.

    Args:
      data: what to train on and to judge on.
      method: the method with its settings.
      seed: seed of the held-out campaigns and of all stages.
      directory: folder for checkpoints, from which training resumes.
      allow_changes: as in `Method.fit`.
      progress: receives what is being done.
    """
    kept, held = hold_out_campaigns(data.dataset, data.split.train, seed, fraction=HELD_OUT)
    data = data.apart_from(held)
    dataset = data.dataset
    general = method.fit(
        dataset,
        campaigns=kept,
        held_out=held,
        seed=seed,
        directory=directory / "checkpoints" / method.name,
        log=directory / "log.jsonl",
        allow_changes=allow_changes,
        progress=progress,
    )
    return {
        adapts: _customise(
            data, method.with_settings(online_adapts=adapts), general, held, seed, progress
        )
        for adapts in get_args(Adapts)
    }


def _customise(
    data: Data, method: Method, general: General, held: np.ndarray, seed: int, progress: Progress
) -> WayResult:
    dataset, test = data.dataset, data.split.test
    tried = {}
    for number, rate in enumerate(RATES):
        progress(f"rates, {method.settings.online_adapts}", number, len(RATES))
        trial = method.with_settings(online_learning_rate=rate)
        tried[rate] = trial.judge(general, dataset, held, seed=seed).auc
    best = max(tried, key=lambda rate: tried[rate])
    method = method.with_settings(online_learning_rate=best)
    began = time.perf_counter()
    campaigns = [dataset.campaign(c) for c in test]
    models = method.customise(general, dataset, campaigns, seed=seed, progress=progress)
    seconds = time.perf_counter() - began
    scores = [m.score(pool_rows(dataset, c)) for c, m in zip(test, models, strict=True)]
    return WayResult(
        tried, best, seconds, judge_all(dataset, data.split, scores, label=method.label)
    )


def loss_of_heads(ways: Mapping[Adapts, WayResult], group: str) -> Difference:
    """The mean AUC of heads minus that of everything, paired over the campaigns of a group."""
    return over_campaigns([ways["heads"].aucs(group)], [ways["all"].aucs(group)])
