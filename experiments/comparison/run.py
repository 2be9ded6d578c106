"""One run: every method is trained, customised to the test campaigns and judged.

The folder of a run, ``OUT/seed-R``, has ``config.json``, ``methods/NAME.json`` (every digit of a
result), and ``checkpoints/NAME/``. A resumed run skips the methods that have results.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.comparison.origin import provenance
from metaheac_jax.audience.evaluating import judge_all, pool_rows
from metaheac_jax.data.batches import check_campaigns
from metaheac_jax.data.dataset import Dataset, Split
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.files import write_json
from metaheac_jax.methods import Method, customise, fit
from metaheac_jax.model import Customised
from metaheac_jax.progress import Progress, prefixed

MAX_SECTIONS = 30_000  # mapped sections above which compiled programs are dropped


@dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
      dataset, split: what to train on and to judge on.
      references: (E,) scores of all stage-2 examples that ignore the campaign, by label.
      oracle: (E,) the true probabilities of these examples; None unless simulated.
      independent_runs: whether every run has its own world; otherwise, all runs divide the same
        campaigns.
    """

    dataset: Dataset
    split: Split
    references: Mapping[str, np.ndarray] = field(default_factory=dict)
    oracle: np.ndarray | None = None
    independent_runs: bool = True

    def check(self) -> None:
        """Refuses data that methods cannot be trained on, before anything is written.

        Raises:
          InputError: a campaign has too few examples or a single class.
        """
        check_campaigns(self.dataset, np.concatenate([self.split.train, self.split.test]))

    def describe(self) -> dict[str, Any]:
        """Describes the data, for reports and to distinguish runs."""
        return {
            "data": self.dataset.name,
            "users": self.dataset.num_users,
            "campaigns": self.dataset.num_campaigns,
            "stage1": len(self.dataset.stage1.user),
            "stage2": len(self.dataset.stage2.user),
            "rows": self.dataset.num_rows,
            "train_campaigns": len(self.split.train),
            "test_campaigns": len(self.split.test),
            "threshold": self.split.threshold,
        }


def run_methods(
    data: Data,
    methods: Sequence[Method[Any]],
    *,
    seed: int,
    directory: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Trains and judges methods on the test campaigns; ``{name: result}`` in the order given.

    Args:
      data: what to train on and to judge on.
      methods: methods with their settings.
      seed: determines initial values, batches and orders.
      directory: the run's folder.
      progress: receives what is being done.

    Raises:
      InputError: a result in the folder was reached with other settings.
    """
    results: dict[str, Any] = {}
    for method in methods:
        settings = json.loads(json.dumps(method.config.plain()))
        path = directory / "methods" / f"{method.name}.json"
        if not path.is_file():
            try:
                result = run_method(method, data, seed=seed, directory=directory, progress=progress)
            except Diverged as error:
                advice = f"to go on without it, leave {method.name} out of --methods"
                raise Diverged(f"{error}; {advice}") from error
            write_json(path, {**result, "settings": settings, "provenance": provenance()})
            forget_compiled()
        results[method.name] = json.loads(path.read_text())
        if results[method.name].get("settings") != settings:
            raise InputError(f"{path}: reached with other settings; start afresh without --resume")
    return results | references(data)


def references(data: Data) -> dict[str, Any]:
    """Results of the references: scores that ignore the campaign, and the true probability."""
    dataset, split = data.dataset, data.split
    scores = dict(data.references)
    names = {label: label for label in scores}
    if data.oracle is not None:
        scores["oracle"] = data.oracle
        names["oracle"] = "oracle (the true probability)"
    return {
        name: {"label": names[name]}
        | judge_all(dataset, split, [values[dataset.stage2.of(c)] for c in split.test])
        for name, values in scores.items()
    }


def run_method(
    method: Method[Any],
    data: Data,
    *,
    seed: int,
    directory: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Trains a method and judges it on the test campaigns.

    Returns:
      Its result (see `evaluating.judge_all`) with ``seconds`` by stage, and the campaigns' AUC
      before customising, if the general model can score.

    Raises:
      Diverged: a loss or a score is not a number.
    """
    dataset, test = data.dataset, data.split.test
    labelled = prefixed(progress, f"{method.label} ")
    began = time.perf_counter()
    general = fit(
        dataset,
        method,
        campaigns=data.split.train,
        seed=seed,
        directory=directory / "checkpoints" / method.name,
        progress=progress,
    )
    trained = time.perf_counter()
    wanted = [dataset.campaign(c, seed=seed) for c in test.tolist()]
    models = customise(general, dataset, wanted, method=method, seed=seed, progress=labelled)
    customised = time.perf_counter()
    scores = score_pools(models, dataset, test)
    ended = time.perf_counter()
    seconds = {"offline": trained - began, "customise": customised - trained}
    seconds["score"] = ended - customised
    judged = judge_all(dataset, data.split, scores)
    result: dict[str, Any] = {"label": method.label, "seconds": seconds, **judged}
    if before := customise(general, dataset, wanted, method=method, online=False):
        untouched = judge_all(dataset, data.split, score_pools(before, dataset, test))
        for own, of_general in zip(result["campaigns"], untouched["campaigns"], strict=True):
            own["auc_before"] = of_general["auc"]
    return result


def score_pools(
    models: Sequence[Customised], dataset: Dataset, campaigns: np.ndarray
) -> list[np.ndarray]:
    """The scores (P,) of each campaign's pool by its model."""
    data = models[0].general.read(dataset) if models else dataset
    return [own.score(pool_rows(data, c)) for own, c in zip(models, campaigns, strict=True)]


def forget_compiled() -> None:
    """Drops compiled programs from memory if there are many.

    Each maps its own sections of memory. Linux limits their number per process, and LLVM aborts at
    that limit. Programs that took long to compile are kept on disk.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MAX_SECTIONS:
        jax.clear_caches()
