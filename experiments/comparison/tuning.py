"""Tuning on held-out training campaigns, for every method with the same budget of trials.

The fraction `HELD_OUT` of the first run's training campaigns, at most `MAX_HELD_OUT`, is held out.
A method is trained on the rest, or on as many of them as `trial_campaigns` draws, with early
stopping on those held out, and a trial's result is the weighted mean AUC on them (see
`methods.held_out_campaigns`).
No test campaign of the first run is used. All runs use the result. If several runs divide the same
campaigns, later runs test some of the campaigns that were held out here.

The search climbs one setting after the other: it tries the two neighbours of the best value on the
setting's ladder, and continues while the result improves, until the best value has no better
neighbour or the trials are used up. The paper tunes the learning rate in [.001, .1], and n and m in
[3, 10] (section 4.1).

A `Tuning` is plain data: ``{"origin": text, "methods": {name: search}}``; the origin says how it
was made and from which data. A search is ``{"label", "settings", "tried": [trial, ...], "chosen":
{field: value}}``, with the method's settings before tuning. A trial is ``{"fields", "auc"}``: the
values of all settings that the search tries, and the result. If training diverged, ``"diverged"``
has the message.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.comparison.adapting import method_named, with_bases
from experiments.comparison.run import Data, forget_compiled
from metaheac_jax.data.batches import generator
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.files import write_json
from metaheac_jax.methods import Method
from metaheac_jax.methods.held_out_campaigns import hold_out_campaigns
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, prefixed
from metaheac_jax.settings import Settings

Tuning = Mapping[str, Any]
Ladders = Mapping[str, Sequence[Any]]

_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
#: The values of each setting that is tuned, in order.
LADDERS: Ladders = {
    "outer_learning_rate": _RATES,
    "online_learning_rate": _RATES,
    "inner_learning_rate": (0.0, *_RATES, 0.3, 1.0),
    "table_scale": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "value_dropout": (0.0, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99),  # far apart: trials are noisy
    "weight_decay": (0.0, 0.01, 0.1, 1.0),
    "penalty": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0),
    "num_experts": (3, 5, 8, 10),
    "num_critics": (3, 5, 8, 10),
}
HELD_OUT = 0.2
# So that a trial takes minutes in any world.
MAX_HELD_OUT = 24  # campaigns
MAX_EXAMPLES = 500_000  # that a trial trains on
MIN_CAMPAIGNS = 24  # that a trial trains on, however many examples they have
CHANCE = 0.5  # AUC of a trial that diverged
#: Stored tunings: a copy of tuning.json as NAME.json for the world NAME (tencent, ml-1m-exposed).
#: Runs with the paper's settings and without --tune use them.
TUNED = Path(__file__).parents[1] / "tuned"
#: In the text of `describe`, this precedes the methods that keep their settings.
NOT_TUNED = "; not tuned: "


def tuned_before(world: str | None) -> Tuning:
    """The stored tuning of a world; empty if there is none or the world is None."""
    path = TUNED / f"{world}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def describe(names: Sequence[str], tuning: Tuning) -> str:
    """Where the settings of methods come from, for reports."""
    known, origin = tuning.get("methods", {}), tuning.get("origin", "unknown")
    untuned, tuned = list[str](), dict[str, list[str]]()
    for name in names:
        own = next((own for own in with_bases(name) if own in known), None)
        if own is None:
            untuned.append(name)
        else:
            tuned.setdefault(known[own].get("origin", origin), []).append(name)
    if not tuned:
        return "settings not tuned"
    told = [f"{', '.join(own)}: {where}" for where, own in tuned.items()]
    but = NOT_TUNED + ", ".join(untuned) if untuned else ""
    return f"settings tuned on: {'; '.join(told) if len(told) > 1 else next(iter(tuned))}{but}"


def tuned_method(name: str, settings: Settings, tuning: Tuning) -> Method:
    """A method with its chosen settings, if any.

    A method that was not tuned takes the settings chosen for the method that it differs from, so
    that it differs in one thing only; see `adapting.with_bases`.
    """
    method, known = method_named(name, settings), tuning.get("methods", {})
    of = next((own for own in with_bases(name) if own in known), None)
    chosen = {} if of is None else known[of]["chosen"]
    mine = {field: chosen[field] for field in chosen if of == name or field in method.tuned}
    return method.with_settings(**mine)


def climb(
    ladders: Ladders,
    start: Mapping[str, Any],
    tried: list[dict[str, Any]],
    evaluate: Callable[[dict[str, Any]], dict[str, Any]],
    keep: Callable[[], None],
    *,
    max_trials: int,
) -> dict[str, Any]:
    """Coordinate search: climbs one setting after the other, with the others at their best values.

    Args:
      ladders: the settings in order, and the values of each.
      start: the first trial. A value that is not on its ladder is inserted.
      tried: trials; existing ones are reused, new ones are appended.
      evaluate: ``evaluate(fields)`` returns the other entries of a trial.
      keep: called after each new trial.
      max_trials: the search ends after this many.

    Returns:
      The values of the best trial; of equal trials, the first.
    """

    def trial(fields: dict[str, Any]) -> tuple[bool, float] | None:
        known: dict[str, Any] | None = next((t for t in tried if t["fields"] == fields), None)
        if known is None:
            if len(tried) >= max_trials:
                return None
            known = {"fields": fields, **evaluate(fields)}
            tried.append(known)
            keep()
        return "diverged" not in known, float(known["auc"])

    best = dict(start)
    least = trial(best)
    for field, ladder in ladders.items():
        rungs = sorted({*ladder, best[field]})
        for direction in (1, -1):
            while True:
                at = rungs.index(best[field]) + direction
                if not 0 <= at < len(rungs):
                    break
                fields = best | {field: rungs[at]}
                result = trial(fields)
                if result is None or (least is not None and result <= least):
                    break
                best, least = fields, result
    return best


def searched(method: Method, only: Collection[str] = ()) -> Ladders:
    """The ladders of a method's settings; only of those in ``only``, unless it is empty."""
    return {field: LADDERS[field] for field in method.tuned if not only or field in only}


def tune(
    data: Data,
    names: Sequence[str],
    settings: Settings,
    *,
    max_trials: int,
    origin: str,
    seed: int,
    directory: Path,
    only: Collection[str] = (),
    before: Tuning | None = None,
    allow_changes: Collection[str] = (),
    progress: Progress,
) -> Tuning:
    """Chooses the settings of methods.

    Args:
      data: the data; a part of its training campaigns is held out.
      names: names of the methods.
      settings: settings before tuning.
      max_trials: maximum number of trials per method.
      origin: origin of the tuning.
      seed: seed of the draw of held-out campaigns, and of all trials.
      directory: a run's folder, which stores every trial, so that an interrupted search can resume,
        and the log of every training, ``checkpoints/METHOD-offline-VALUES.jsonl``.
      only: the settings to choose; empty for all of a method.
      before: an earlier tuning, from whose choices the search starts. A method with none of the
        settings in ``only`` keeps its choices, together with their origin.
      allow_changes: as in `Method.fit`.
      progress: receives the progress of each trial.

    Raises:
      InputError: too few campaigns can be held out.
    """
    search = _Search(data, seed, directory, max_trials, allow_changes, progress)
    before = before or {}
    kept = dict.fromkeys(own for name in names for own in with_bases(name))
    found = {
        name: {"origin": before.get("origin", "unknown"), **of}
        for name, of in before.get("methods", {}).items()
        if name in kept
    }
    for name in names:
        method = tuned_method(name, settings, before)
        if ladders := searched(method, only):
            found[name] = search.best(method, name, ladders)
    return {"origin": origin, "methods": {name: found[name] for name in kept if name in found}}


def trial_campaigns(data: Dataset, train: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the campaigns that all trials train on, and of those that judge them.

    The former are drawn at random while they have at most `MAX_EXAMPLES` examples in total, but at
    least `MIN_CAMPAIGNS` are drawn, or all if there are fewer.
    """
    kept, held = hold_out_campaigns(data, train, seed, fraction=HELD_OUT)
    rng = generator(seed, 1)
    held = rng.permutation(held)[:MAX_HELD_OUT]
    kept = rng.permutation(kept)
    enough = int((np.cumsum(data.stage1.counts[kept]) <= MAX_EXAMPLES).sum())
    return np.sort(kept[: max(enough, MIN_CAMPAIGNS)]), np.sort(held)


class _Search:
    """Searches that share the data and the seed."""

    def __init__(
        self,
        data: Data,
        seed: int,
        directory: Path,
        max_trials: int,
        allow_changes: Collection[str],
        progress: Progress,
    ) -> None:
        self.seed, self.directory = seed, directory
        self.max_trials, self.progress = max_trials, progress
        self.kept, self.held = trial_campaigns(data.dataset, data.split.train, seed)
        self.dataset = data.apart_from(self.held).dataset
        self.trained: tuple[Path, General] | None = None  # the last general model
        self.allow_changes = allow_changes

    def best(self, method: Method, file: str, ladders: Ladders) -> dict[str, Any]:
        """Runs or resumes the search stored in ``file``, which starts from the method's settings.

        Raises:
          InputError: the stored search started from other settings.
        """
        path = self.directory / "methods" / f"{file}.json"
        checkpoints = self.directory / "checkpoints" / file
        settings = json.loads(json.dumps(asdict(method.settings)))
        record: dict[str, Any] = {"label": method.label, "settings": settings, "tried": []}
        if path.is_file():
            record = json.loads(path.read_text())
            if record.get("settings") != settings:
                raise InputError(f"{path}: has other settings; start afresh without --resume")
        start = {field: getattr(method.settings, field) for field in method.tuned}
        best = start | climb(
            ladders,
            {field: start[field] for field in ladders},
            record["tried"],
            lambda fields: self._trial(method, fields, checkpoints),
            lambda: write_json(path, record),
            max_trials=self.max_trials,
        )
        record["chosen"] = best
        write_json(path, record)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return record

    def _trial(self, method: Method, fields: dict[str, Any], directory: Path) -> dict[str, Any]:
        shown = ", ".join(f"{name} {value}" for name, value in fields.items())
        labelled = prefixed(self.progress, f"tune: {method.label}, {shown}, ")
        # Trials that differ only in the online stage share the offline stage, which judges models
        # with the online settings from before the search.
        offline = {
            name: value
            for name, value in fields.items()
            if not (name.startswith("online_") or name == "penalty")
        }
        folder = directory / "-".join(["offline", *map(str, offline.values())])
        try:
            if self.trained is None or self.trained[0] != folder:
                general = method.with_settings(**offline).fit(
                    self.dataset,
                    campaigns=self.kept,
                    held_out=self.held,
                    seed=self.seed,
                    directory=folder,
                    log=directory.with_name(f"{directory.name}-{folder.name}.jsonl"),
                    allow_changes=self.allow_changes,
                    progress=labelled,
                )
                self.trained = folder, general
            tried = method.with_settings(**fields)
            quality = tried.judge(self.trained[1], self.dataset, self.held, seed=self.seed)
        except Diverged as error:
            return {"auc": CHANCE, "diverged": str(error)}
        finally:
            forget_compiled()
        return {"auc": quality.auc}
