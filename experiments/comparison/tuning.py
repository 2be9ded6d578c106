"""Tuning on held-out training campaigns: learning rates of each method, n and m of MetaHeac.

The paper tunes the learning rate in `RATES`, and n and m in [3, 10] (section 4.1). It does not
state on which data. Here the fraction `HELD_OUT` of the first run's training campaigns is held out.
A method is trained on the rest, customised on stage 1 of the held-out campaigns and judged by the
mean AUC on their stage 2, or on half of stage 1 if there is none. No test campaign of the first run
is used. All runs use the result. If several runs divide the same campaigns, later runs test some of
the campaigns that were held out here.

A `Tuning` is plain data: ``{"methods": {name: search}, "sizes": search or None}``. A search is
``{"label", "settings", "tried": [trial, ...], "chosen": {field: value}}``, with the method's
settings before tuning. A trial is ``{"field", "fields", "auc"}``: the setting under trial, the
values of all settings that were changed, and the result. If training diverged, ``"diverged"`` has
the message.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.comparison.run import Data, forget_compiled, run_method
from metaheac_jax.data.batches import generator
from metaheac_jax.data.dataset import Dataset, group_by_campaign
from metaheac_jax.data.splits import Split
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.files import write_json
from metaheac_jax.methods import Method, method_named
from metaheac_jax.progress import Progress
from metaheac_jax.settings import Settings

Tuning = Mapping[str, Any]
Grid = Sequence[tuple[str, Sequence[Any]]]

RATES = (0.001, 0.005, 0.01, 0.02, 0.1)
SIZES = (3, 5, 8, 10)  # of the paper's [3, 10]
HELD_OUT = 0.2
SIZED = "metaheac"  # n and m are chosen with this method, for all methods
CHANCE = 0.5  # AUC of a trial that diverged
#: Stored tunings: a copy of tuning.json as NAME.json for the world NAME (tencent, movielens). Runs
#: with the paper's settings and without --tune use them.
TUNED = Path(__file__).parents[1] / "tuned"


def tuned_before(world: str | None) -> Tuning:
    """The stored tuning of a world; empty if there is none or the world is None."""
    path = TUNED / f"{world}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def with_sizes(settings: Settings, tuning: Tuning) -> Settings:
    """The settings with the chosen n and m, if any."""
    return replace(settings, **(tuning.get("sizes") or {}).get("chosen", {}))


def tuned_method(name: str, settings: Settings, tuning: Tuning) -> Method:
    """A method with its chosen learning rates, if any."""
    chosen = tuning.get("methods", {}).get(name, {}).get("chosen", {})
    return method_named(name, settings).with_settings(**chosen)


def hold_out(split: Split, seed: int) -> Split:
    """Divides the training campaigns; the fraction `HELD_OUT` of them are the test campaigns.

    Raises:
      InputError: there is a single training campaign.
    """
    count = len(split.train)
    num_held_out = math.ceil(HELD_OUT * count)
    if num_held_out == count:
        raise InputError("--tune: a single training campaign leaves none to train on")
    order = generator(seed, 0).permutation(split.train)
    return replace(split, train=np.sort(order[num_held_out:]), test=np.sort(order[:num_held_out]))


def with_pools(dataset: Dataset, campaigns: np.ndarray, seed: int) -> Dataset:
    """The dataset with a stage 2 for each of ``campaigns``.

    For a campaign without one, a random half of the seeds and a random half of the non-seeds move
    from stage 1 to stage 2.
    """
    stage1, stage2 = dataset.stage1, dataset.stage2
    moved = np.zeros(len(stage1.user), bool)
    for c in campaigns[stage2.counts[campaigns] == 0]:
        examples, rng = stage1.of(c), generator(seed, int(c))
        for label in (0, 1):
            positions = np.flatnonzero(stage1.label[examples] == label)
            drawn = rng.permutation(examples.start + positions)
            moved[drawn[: len(drawn) // 2]] = True
    if not moved.any():
        return dataset
    count = dataset.num_campaigns
    campaign1, campaign2 = (np.repeat(np.arange(count), s.counts) for s in (stage1, stage2))
    return replace(
        dataset,
        stage1=group_by_campaign(
            campaign1[~moved], stage1.user[~moved], stage1.label[~moved], num_campaigns=count
        ),
        stage2=group_by_campaign(
            np.concatenate([campaign2, campaign1[moved]]),
            np.concatenate([stage2.user, stage1.user[moved]]),
            np.concatenate([stage2.label, stage1.label[moved]]),
            num_campaigns=count,
        ),
    )


def search(
    grid: Grid,
    start: Mapping[str, Any],
    tried: list[dict[str, Any]],
    evaluate: Callable[[dict[str, Any]], dict[str, Any]],
    keep: Callable[[], None],
) -> dict[str, Any]:
    """Coordinate search: tunes one setting after the other, with the others at their best values.

    Args:
      grid: each setting and the values to try; the first of equal trials wins.
      start: initial values.
      tried: trials; existing ones are reused, new ones are appended.
      evaluate: ``evaluate(fields)`` returns the other entries of a trial.
      keep: called after each new trial.

    Returns:
      The values of the best trial.
    """
    best = dict(start)
    for field, values in grid:
        trials: list[dict[str, Any]] = []
        for value in values:
            fields = best | {field: value}
            same = [trial for trial in tried if trial["fields"] == fields]
            trial = next((trial for trial in same if trial["field"] == field), None)
            if trial is None:
                outcome = same[0] if same else evaluate(fields)
                trial = {**outcome, "field": field, "fields": fields}
                tried.append(trial)
                keep()
            trials.append(trial)
        best = max(trials, key=lambda trial: ("diverged" not in trial, trial["auc"]))["fields"]
    return best


def tune(
    data: Data,
    names: Sequence[str],
    settings: Settings,
    *,
    sizes: bool,
    seed: int,
    directory: Path,
    progress: Progress,
) -> Tuning:
    """Chooses the learning rates of methods, and n and m.

    Args:
      data: training and held-out campaigns, from `hold_out` and `with_pools`.
      names: of the methods whose rates are chosen, at the n and m of the settings.
      settings: before tuning.
      sizes: whether n and m are chosen too, with `SIZED` at its chosen rates.
      seed: of all trials.
      directory: a run's folder, which stores every trial, so that an interrupted search can resume.
      progress: receives the progress of each trial.

    Raises:
      InputError: no held-out campaign can be judged.
    """
    search = _Search(data, seed, directory, progress)

    def rates(name: str) -> dict[str, Any]:
        method = method_named(name, settings)
        start = {field: getattr(method.settings, field) for field in method.tuned}
        return search.best(method, name, [(field, RATES) for field in method.tuned], start)

    tuned = [name for name in names if method_named(name, settings).tuned]
    tuning: dict[str, Any] = {"methods": {name: rates(name) for name in tuned}, "sizes": None}
    if sizes:
        start = {**rates(SIZED)["chosen"], "num_critics": settings.num_critics}
        grid = [("num_experts", SIZES), ("num_critics", SIZES)]
        method = method_named(SIZED, settings)
        tuning["sizes"] = search.best(method, f"{SIZED}-sizes", grid, start)
    return tuning


class _Search:
    """Searches with common data and seed."""

    def __init__(self, data: Data, seed: int, directory: Path, progress: Progress) -> None:
        self.data, self.seed, self.directory, self.progress = data, seed, directory, progress

    def best(
        self, method: Method, file: str, grid: Grid, start: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Runs or resumes the search that is stored in ``file``.

        Raises:
          InputError: the stored search has other settings of the method.
        """
        path = self.directory / "methods" / f"{file}.json"
        checkpoints = self.directory / "checkpoints" / file
        settings = json.loads(json.dumps(asdict(method.settings)))
        record: dict[str, Any] = {"label": method.label, "settings": settings, "tried": []}
        if path.is_file():
            record = json.loads(path.read_text())
            if record.get("settings") != settings:
                raise InputError(f"{path}: has other settings; start afresh without --resume")
        best = search(
            grid,
            start,
            record["tried"],
            lambda fields: self._trial(method, fields, checkpoints),
            lambda: write_json(path, record),
        )
        record["chosen"] = {field: best[field] for field, _ in grid}
        write_json(path, record)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return record

    def _trial(self, method: Method, fields: dict[str, Any], directory: Path) -> dict[str, Any]:
        shown = ", ".join(f"{name} {value}" for name, value in fields.items())

        def labelled(what: str, done: int, total: int) -> None:
            self.progress(f"tune: {method.label}, {shown}, {what}", done, total)

        # Trials that differ only in the online stage share the checkpoints of the offline stage.
        offline = [str(v) for name, v in fields.items() if not name.startswith("online_")]
        try:
            result, _ = run_method(
                method.with_settings(**fields),
                self.data,
                seed=self.seed,
                checkpoints=directory / "-".join(["offline", *offline]),
                log=self.directory / "log.jsonl",
                progress=labelled,
            )
        except Diverged as error:
            return {"auc": CHANCE, "diverged": str(error)}
        finally:
            forget_compiled()
        if not result["campaigns"]:
            raise InputError("--tune: no held-out training campaign can be judged; omit --tune")
        return {"auc": float(np.mean([campaign["auc"] for campaign in result["campaigns"]]))}
