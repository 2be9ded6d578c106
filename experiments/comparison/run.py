"""One run: every method is trained, customised to the test campaigns and judged.

The folder of a run, ``OUT/seed-R``, has ``config.json``, ``methods/NAME.json`` (every digit of a
result), ``checkpoints/NAME/`` and ``log.jsonl``. A resumed run skips the methods that have results.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.comparison.origin import provenance
from metaheac_jax.audience.evaluation import judge_all, score_pools
from metaheac_jax.data.batches import check_campaigns
from metaheac_jax.data.campaign import Campaign, plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.splits import Split
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.files import write_json
from metaheac_jax.methods import Method, Run, Trained, fit
from metaheac_jax.methods.method import GradientMethod
from metaheac_jax.methods.offline import epoch_steps
from metaheac_jax.model import General, Scorer, State
from metaheac_jax.progress import Progress, prefixed

MAX_SECTIONS = 30_000  # mapped sections above which compiled programs are dropped


@dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
      dataset, split: what to train on and to judge on.
      references: (E,) scores of all stage-2 examples that ignore the campaign, by label.
      independent_runs: whether every run has its own world; otherwise, all runs divide the same
        campaigns.
      without: makes the dataset again, with nothing about users from the examples of the given
        campaigns (indices); None if features of users do not come from examples.
    """

    dataset: Dataset
    split: Split
    references: Mapping[str, np.ndarray] = field(default_factory=dict)
    independent_runs: bool = True
    without: Callable[[np.ndarray], Dataset] | None = None

    def apart_from(self, campaigns: np.ndarray) -> Data:
        """The same data, with nothing about users from the examples of these campaigns."""
        if self.without is None:
            return self
        return replace(self, dataset=self.without(campaigns), without=None)

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
        results[method.name] = stored_result(path, settings)
    return results | references(data)


def references(data: Data) -> dict[str, Any]:
    """Results of the references: scores that ignore the campaign, and the true probability."""
    dataset, split = data.dataset, data.split
    scores = dict(data.references)
    names = {label: label for label in scores}
    if dataset.stage2.probability is not None:
        scores["oracle"] = dataset.stage2.probability
        names["oracle"] = "oracle (the true probability)"
    return {
        name: judge_all(
            dataset, split, [values[dataset.stage2.of(c)] for c in split.test], label=names[name]
        )
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
      Its result (see `evaluation.judge_all`) with ``seconds`` by stage, and, for a method that
      takes steps, ``offline`` and the campaigns' AUC before customising.

    Raises:
      Diverged: a loss or a score is not a number.
    """
    dataset, test = data.dataset, data.split.test
    labelled, log = prefixed(progress, f"{method.label} "), directory / "log.jsonl"
    began = time.perf_counter()
    general = fit(
        dataset,
        method,
        campaigns=data.split.train,
        seed=seed,
        directory=directory / "checkpoints" / method.name,
        log=log,
        progress=progress,
    )
    trained = time.perf_counter()
    pools = score_pools(method, general, dataset, test, seed=seed, progress=labelled)
    result = judge_all(dataset, data.split, pools.scores, label=method.label)
    result["seconds"] = {
        "offline": trained - began,
        "customise": pools.customise_seconds,
        "score": pools.score_seconds,
    }
    if isinstance(method, GradientMethod):
        step_time, in_all = _times(log, method.label)
        # The log's is larger after a resumption.
        result["seconds"]["offline"] = max(trained - began, in_all)
        result["offline"] = _offline(method, general, dataset) | step_time
    if hasattr(method, "general_scorers"):
        pools = score_pools(
            _Untouched(method), general, dataset, test, seed=seed, progress=labelled
        )
        before = judge_all(dataset, data.split, pools.scores, label=method.label)
        for own, of_general in zip(result["campaigns"], before["campaigns"], strict=True):
            own["auc_before"] = of_general["auc"]
    return result


class _Untouched(Method[Any]):
    """A method that does not customise."""

    def __init__(self, method: Any) -> None:
        self.method, self.name, self.config = method, method.name, method.config

    def fit(self, run: Run) -> Trained:
        return self.method.fit(run)

    def customise(self, run: Run, state: State, campaigns: Sequence[Campaign]) -> Sequence[Scorer]:
        return self.method.general_scorers(run, state, campaigns)


def stored_result(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A method's result in a run's folder.

    Raises:
      InputError: it is damaged, or it was reached with other settings.
    """
    try:
        result = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged; delete it and resume") from error
    if result.get("settings") != settings:
        raise InputError(f"{path}: reached with other settings; start afresh without --resume")
    return result


def _offline(method: Method[Any], general: General, dataset: Dataset) -> dict[str, Any]:
    """Summary of the offline stage: steps, ceiling, best step, [step, loss, AUC] of judgements.

    Without early stopping, it ends at the ceiling, and there is no best step. If training is judged
    only once, after the trainings of its members, only the kept steps are known, and the shares of
    the members.
    """
    trained = {*general.campaigns}
    campaigns = np.flatnonzero([plain_id(value) in trained for value in dataset.campaign_ids])
    steps = epoch_steps(Run(dataset, campaigns, general.seed), method.config["batch_size"])
    ceiling = method.config["offline_epochs"] * steps
    if not general.judgements:
        return {"steps": ceiling, "ceiling": ceiling, "curve": []}
    curve = [[judged.step, judged.loss, judged.auc] for judged in general.judgements]
    best = max(general.judgements, key=lambda judged: judged.auc).step
    if len(curve) == 1:
        kept = {"best_step": best, "curve": curve}
        shares = general.state.get("network", {}).get("shares")
        return kept if shares is None else kept | {"shares": np.asarray(shares).tolist()}
    return {"steps": curve[-1][0], "best_step": best, "ceiling": ceiling, "curve": curve}


def _times(log: Path, label: str) -> tuple[dict[str, float], float]:
    """Reads the times of a training from a log.

    Returns:
      ``step_ms``, the median time of a step in milliseconds, if the log has it; and the seconds
      that the training, or the trainings of an ensemble's members, took until the last step, over
      all processes that worked on it.
    """
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    rates, seconds = dict[str, list[float]](), dict[str, float]()
    for line in lines:
        name = line["name"]
        if (name == label or name.startswith(f"{label}: ")) and "steps_per_second" in line:
            rates.setdefault(name, []).append(line["steps_per_second"])
            seconds[name] = max(line["seconds"], seconds.get(name, 0.0))
    step_time = {"step_ms": 1000 / float(np.median(rates[label]))} if label in rates else {}
    return step_time, sum(seconds.values())


def forget_compiled() -> None:
    """Drops compiled programs from memory if there are many.

    Each maps its own sections of memory. Linux limits their number per process, and LLVM aborts at
    that limit. Programs that took long to compile are kept on disk.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MAX_SECTIONS:
        jax.clear_caches()
