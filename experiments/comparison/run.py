"""One run: every method is trained, customised to the test campaigns and judged.

Finished results stay in the run's folder (see `run_folder`), and a resumed run skips them.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.comparison.campaign_space import campaign_space
from experiments.comparison.curves import CURVES, curve_campaign, fine_tuning_curve
from experiments.comparison.provenance import provenance
from experiments.comparison.run_folder import stored_result
from metaheac_jax.audience.evaluation import judge_all, score_pools
from metaheac_jax.audience.workspace import CUSTOMISED
from metaheac_jax.data.batches import check_campaigns
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.examples import Examples
from metaheac_jax.data.splits import Split
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.files import write_json
from metaheac_jax.methods import Method
from metaheac_jax.methods.fine_tuning import metaheac_network
from metaheac_jax.methods.stages import Run, epoch_steps
from metaheac_jax.model import General, Weights
from metaheac_jax.progress import Progress, prefixed
from metaheac_jax.settings import Settings

DRAWN = "metaheac"  # the method whose general model the figure of campaigns shows
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

    def with_fewer_examples(self, offline: float, online: float) -> Data:
        """The same campaigns and pools, with a part of the examples of stage 1.

        Which seed sets are small is as with all examples. A smaller part is contained in a larger.

        Args:
          offline, online: fractions of the seeds and of the non-seeds of each training campaign and
            of each test campaign; at least one of each is kept.
        """
        if offline == online == 1:
            return self
        fraction = np.ones(self.dataset.num_campaigns)
        fraction[self.split.train], fraction[self.split.test] = offline, online

        def fewer(dataset: Dataset) -> Dataset:
            kept = _part(dataset.stage1, fraction)
            name = f"{dataset.name}, stage 1: {offline:.3g} of training and {online:.3g} of test"
            return replace(dataset, name=name, stage1=dataset.stage1.pick(kept))

        without = self.without
        return replace(
            self,
            dataset=fewer(self.dataset),
            without=without and (lambda campaigns: fewer(without(campaigns))),
        )

    def check(self, settings: Settings) -> None:
        """Refuses data that methods cannot be trained on, before anything is written.

        Raises:
          InputError: a campaign with too few examples or a single class, or too few campaigns.
        """
        check_campaigns(self.dataset, np.concatenate([self.split.train, self.split.test]))
        if len(self.split.train) < settings.campaigns_per_step:
            raise InputError(
                f"{self.dataset.name}: {len(self.split.train)} training campaigns, but a meta-step "
                f"takes {settings.campaigns_per_step}; add campaigns"
            )

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


def _part(stage: Examples, fraction: np.ndarray) -> np.ndarray:
    """(E,) bool, which examples to keep for a (C,) fraction of each class of each campaign."""
    group = 2 * stage.campaign + stage.label  # one per class of a campaign
    order = np.lexsort((np.random.Generator(np.random.Philox(0)).random(len(group)), group))
    counts = np.bincount(group, minlength=2 * len(fraction))
    rank = np.empty(len(group), int)
    rank[order] = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank < np.ceil(np.repeat(fraction, 2) * counts)[group]


def run_methods(
    data: Data,
    methods: Sequence[Method],
    *,
    seed: int,
    directory: Path,
    progress: Progress,
    figures: bool = True,
    allow_changes: Collection[str] = (),
) -> dict[str, Any]:
    """Trains and judges methods on the test campaigns; ``{name: result}`` in the order given.

    Args:
      data: what to train on and to judge on.
      methods: methods with their settings.
      seed: determines initial values, batches and orders.
      directory: the run's folder, from `run_folder.open_run`.
      progress: receives what is being done.
      figures: also compute the data of Figure 3, with a thousand steps for each of `CURVES`.
      allow_changes: as in `Method.fit`.

    Raises:
      InputError: a result in the folder was reached with other settings.
    """
    results: dict[str, Any] = {}
    for method in methods:
        path = directory / "methods" / f"{method.name}.json"
        if not path.is_file():
            result = _run_whole(
                method, data, seed, directory, progress, allow_changes, figures=figures
            )
            origin = {"settings": asdict(method.settings), "provenance": provenance()}
            write_json(path, {**result, **origin})
            shutil.rmtree(_customised(directory / "checkpoints" / method.name), ignore_errors=True)
            forget_compiled()
        results[method.name] = stored_result(path, method.settings)
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


def _run_whole(
    method: Method,
    data: Data,
    seed: int,
    directory: Path,
    progress: Progress,
    allow_changes: Collection[str],
    *,
    figures: bool,
) -> dict[str, Any]:
    """A method's result, with the data for figures."""
    checkpoints = directory / "checkpoints" / method.name
    try:
        result, general = run_method(
            method,
            data,
            seed=seed,
            checkpoints=checkpoints,
            log=directory / "log.jsonl",
            allow_changes=allow_changes,
            progress=progress,
        )
    except Diverged as error:
        advice = f"to go on without it, leave {method.name} out of --methods"
        raise Diverged(f"{error}; {advice}") from error
    if figures and result["campaigns"] and method.name in CURVES:
        campaign = curve_campaign(data.dataset, result["campaigns"])
        result["curve"] = fine_tuning_curve(
            method, general, data.dataset, campaign, seed=seed, progress=progress
        )
    if figures and method.name == DRAWN:
        everyone = np.sort(np.concatenate([data.split.train, data.split.test]))
        weights = Weights(**general.state)
        network = metaheac_network(method.settings)
        result["space"] = campaign_space(data.dataset, everyone, network, weights)
    return result


def run_method(
    method: Method,
    data: Data,
    *,
    seed: int,
    checkpoints: Path,
    log: Path,
    allow_changes: Collection[str] = (),
    progress: Progress,
) -> tuple[dict[str, Any], General]:
    """Trains a method and judges it on the test campaigns.

    Returns:
      Its result (see `evaluation.judge_all`) with the seconds taken, and the general model.

    Raises:
      Diverged: a loss or a score is not a number.
    """
    dataset, test = data.dataset, data.split.test
    labelled = prefixed(progress, f"{method.label} ")
    began = time.perf_counter()
    general = method.fit(
        dataset,
        campaigns=data.split.train,
        seed=seed,
        directory=checkpoints,
        log=log,
        allow_changes=allow_changes,
        progress=progress,
    )
    trained = time.perf_counter()
    kept = _customised(checkpoints)
    pools = score_pools(
        method, general, dataset, test, seed=seed, directory=kept, progress=labelled
    )
    result = judge_all(dataset, data.split, pools.scores, label=method.label)
    result["seconds"] = {
        "offline": trained - began,
        "customise": pools.customise_seconds,
        "score": pools.score_seconds,
    }
    if method.takes_steps:
        step_time, in_all = _times(log, method.label)
        result["seconds"]["offline"] = max(
            trained - began, in_all
        )  # the log's is larger after a resumption
        result["offline"] = _offline(method, general, dataset) | step_time
    if method.takes_steps and method.general_scores:
        untouched = method.with_settings(online_epochs=0)
        pools = score_pools(untouched, general, dataset, test, seed=seed, progress=labelled)
        before = judge_all(dataset, data.split, pools.scores, label=method.label)
        for own, of_general in zip(result["campaigns"], before["campaigns"], strict=True):
            own["auc_before"] = of_general["auc"]
    return result, general


def _customised(checkpoints: Path) -> Path:
    """Folder for the customised campaigns of a method, until its result is written."""
    return checkpoints.with_name(f"{checkpoints.name}{CUSTOMISED}")


def _offline(method: Method, general: General, dataset: Dataset) -> dict[str, Any]:
    """Summary of the offline stage: steps, ceiling, best step, [step, loss, AUC] of judgements.

    Without early stopping, it ends at the ceiling, and there is no best step. If training is judged
    only once, after the trainings of its members, only the kept steps are known, and the shares of
    the members.
    """
    trained = {*general.campaigns}
    campaigns = np.flatnonzero([plain_id(value) in trained for value in dataset.campaign_ids])
    steps = epoch_steps(Run(dataset, campaigns, method.settings, general.seed))
    ceiling = method.settings.offline_epochs * steps
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
