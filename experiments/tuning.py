"""Settings chosen on held-out training campaigns: rates of every method, n and m of MetaHeac.

The paper tunes the learning rate in `RATES`, and n and m in [3, 10] (section 4.1), and does not say
on what. Here a fifth of the first run's training campaigns is held out: a method is trained on the
rest, customised on the held-out campaigns' stage 1 and judged on their stage 2 by the mean AUC;
where they have none, half of their stage 1 takes its place. No test campaign of the first run has a
part in it. What is chosen there serves all runs: where these divide the same campaigns anew, and do
not have a world each, the later ones test some that were held out there.

A `Tuning` is plain data: ``{"methods": {name: search}, "sizes": search or None}``. A search is
``{"label", "settings", "tried": [trial, ...], "chosen": {field: value}}``, the settings being the
method's before any choice. A trial is ``{"field", "fields", "auc"}``: the field under trial, the
values of all that were set, and what came of it; where the training diverged, ``"diverged"`` has
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

from experiments.job import forget_compiled, run_method, write_json
from experiments.methods import METHODS
from experiments.methods.method import Job, Method
from metaheac_jax.data.dataset import Dataset, group_by_campaign
from metaheac_jax.data.sampling import generator
from metaheac_jax.data.splits import Split
from metaheac_jax.errors import InputError
from metaheac_jax.offline import Diverged
from metaheac_jax.presets import Preset

Tuning = Mapping[str, Any]
Grid = Sequence[tuple[str, Sequence[Any]]]

RATES = (0.001, 0.005, 0.01, 0.02, 0.1)
SIZES = (3, 5, 8, 10)  # of the paper's [3, 10]
HELD_OUT = 0.2
SIZED = "metaheac"  # n and m are chosen with this method, for all
CHANCE = 0.5  # what a training that diverges is worth
#: Tunings of earlier runs, a copy of their tuning.json as NAME.json for the world NAME (tencent,
#: wechat, movielens): what a run of the paper's preset without --tune uses.
CHOSEN = Path(__file__).with_name("chosen")


def chosen_before(world: str | None) -> Tuning:
    """The tuning that is kept for a world; empty if there is none, or for no world."""
    path = CHOSEN / f"{world}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def with_sizes(preset: Preset, tuning: Tuning) -> Preset:
    """The preset with the n and m that were chosen, if they were."""
    return replace(preset, **(tuning.get("sizes") or {}).get("chosen", {}))


def with_rates(preset: Preset, tuning: Tuning, name: str) -> Preset:
    """A method's preset with the rates that were chosen for it, if they were."""
    return replace(preset, **tuning.get("methods", {}).get(name, {}).get("chosen", {}))


def hold_out(split: Split, seed: int) -> Split:
    """A division of the training campaigns alone: `HELD_OUT` of them in the place of the test's.

    Raises:
      InputError: there is a single training campaign.
    """
    count = len(split.train)
    held = math.ceil(HELD_OUT * count)
    if held == count:
        raise InputError("--tune: of a single training campaign none can be held out")
    order = generator(seed, 0).permutation(split.train)
    return replace(split, train=np.sort(order[held:]), test=np.sort(order[:held]))


def with_pools(dataset: Dataset, campaigns: np.ndarray, seed: int) -> Dataset:
    """The dataset with a stage 2 for each of ``campaigns``: where there is none, half of stage 1.

    The half has half of the seeds and half of the non-seeds, drawn at random.
    """
    stage1, stage2 = dataset.stage1, dataset.stage2
    moved = np.zeros(len(stage1.user), bool)
    for c in campaigns[stage2.counts[campaigns] == 0]:
        of, rng = stage1.of(c), generator(seed, int(c))
        for kind in (0, 1):
            drawn = rng.permutation(of.start + np.flatnonzero(stage1.label[of] == kind))
            moved[drawn[: len(drawn) // 2]] = True
    if not moved.any():
        return dataset
    count = dataset.campaigns
    owner, pooled = (np.repeat(np.arange(count), stage.counts) for stage in (stage1, stage2))
    return replace(
        dataset,
        stage1=group_by_campaign(
            owner[~moved], stage1.user[~moved], stage1.label[~moved], campaigns=count
        ),
        stage2=group_by_campaign(
            np.concatenate([pooled, owner[moved]]),
            np.concatenate([stage2.user, stage1.user[moved]]),
            np.concatenate([stage2.label, stage1.label[moved]]),
            campaigns=count,
        ),
    )


def search(
    grid: Grid,
    start: Mapping[str, Any],
    tried: list[dict[str, Any]],
    evaluate: Callable[[dict[str, Any]], dict[str, Any]],
    keep: Callable[[], None],
) -> dict[str, Any]:
    """The fields of the best trial of a search, one field after the other, the rest at their best.

    Args:
      grid: each field and the values to try; of equals the first is best.
      start: fields set from the beginning on.
      tried: trials; those there are not made again, new ones are added.
      evaluate: ``evaluate(fields)`` gives what a trial has besides its fields.
      keep: called after every new trial.
    """
    best = dict(start)
    for field, values in grid:
        trials: list[dict[str, Any]] = []
        for value in values:
            fields = best | {field: value}
            same = [trial for trial in tried if trial["fields"] == fields]
            trial = next((trial for trial in same if trial["field"] == field), None)
            if trial is None:
                found = same[0] if same else evaluate(fields)
                trial = {**found, "field": field, "fields": fields}
                tried.append(trial)
                keep()
            trials.append(trial)
        best = max(trials, key=lambda trial: ("diverged" not in trial, trial["auc"]))["fields"]
    return best


def tune(job: Job, held: Split, names: Sequence[str], *, sizes: bool) -> Tuning:
    """Chooses the rates of methods, and n and m.

    Args:
      job: what is common to all trials. Its directory is a run's, and keeps every trial, so that an
        interrupted search goes on where it stopped.
      held: what to train on and to judge on, from `hold_out`.
      names: of the methods whose rates are chosen, at the preset's n and m.
      sizes: whether n and m are chosen, too, with `SIZED` at its chosen rates.

    Raises:
      InputError: no held-out campaign can be judged.
    """

    def rates(name: str) -> dict[str, Any]:
        method = METHODS[name]
        start = {field: getattr(method.preset(job.preset), field) for field in method.tuned}
        return _choose(job, held, method, name, [(field, RATES) for field in method.tuned], start)

    found: dict[str, Any] = {"methods": {n: rates(n) for n in names if METHODS[n].tuned}}
    found["sizes"] = None
    if sizes:
        start = {**rates(SIZED)["chosen"], "critics": job.preset.critics}
        grid = [("experts", SIZES), ("critics", SIZES)]
        found["sizes"] = _choose(job, held, METHODS[SIZED], f"{SIZED}-sizes", grid, start)
    return found


def _choose(
    job: Job, held: Split, method: Method, file: str, grid: Grid, start: Mapping[str, Any]
) -> dict[str, Any]:
    """A search, from where its file has left it.

    Raises:
      InputError: it was begun with other settings of the method.
    """
    path, place = job.directory / "methods" / f"{file}.json", job.directory / "checkpoints" / file
    settings = json.loads(json.dumps(asdict(method.preset(job.preset))))
    record: dict[str, Any] = {"label": method.label, "settings": settings, "tried": []}
    if path.is_file():
        record = json.loads(path.read_text())
        if record.get("settings") != settings:
            raise InputError(f"{path}: begun with other settings; start afresh without --resume")

    def evaluate(fields: dict[str, Any]) -> dict[str, Any]:
        shown = ", ".join(f"{name} {value}" for name, value in fields.items())

        def told(what: str, done: int, total: int) -> None:
            job.progress(f"tune: {method.label}, {shown}, {what}", done, total)

        preset = replace(method.preset(job.preset), **fields)
        # Trials that differ in the online stage alone share the offline one, by its checkpoints.
        offline = [str(v) for name, v in fields.items() if not name.startswith("online_")]
        directory = place / "-".join(["offline", *offline])
        trial = replace(
            job, campaigns=held.train, preset=preset, directory=directory, progress=told
        )
        try:
            judged = run_method(method, trial, held)[0]["campaigns"]
        except Diverged as error:
            return {"auc": CHANCE, "diverged": str(error)}
        finally:
            forget_compiled()
        if not judged:
            raise InputError("--tune: no held-out training campaign can be judged; leave it out")
        return {"auc": float(np.mean([campaign["auc"] for campaign in judged]))}

    best = search(grid, start, record["tried"], evaluate, lambda: write_json(path, record))
    record["chosen"] = {field: best[field] for field, _ in grid}
    write_json(path, record)
    shutil.rmtree(place, ignore_errors=True)
    return record
