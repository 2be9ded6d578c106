"""The job that every data set goes through: train, customise, score, judge; whatever is done stays.

A run's folder, ``OUT/seed-R``, holds ``config.json``, ``methods/NAME.json`` (one campaign's figures
an entry), ``checkpoints/NAME/`` and ``log.jsonl``; a run that is resumed skips what is there.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.methods import METHODS
from experiments.methods.fine_tuned import heac
from experiments.methods.method import Job, Method, Scorer
from experiments.space import campaign_space
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.sampling import campaign_examples, check_campaigns
from metaheac_jax.data.splits import Split
from metaheac_jax.errors import InputError
from metaheac_jax.metrics import auc, judge
from metaheac_jax.offline import Diverged
from metaheac_jax.presets import Preset
from metaheac_jax.progress import Progress, silent

PERCENT = 5.0  # K of P@K% and R@K%
#: Methods whose fine-tuning is drawn, and the steps at which (Figure 3 a, b of the paper).
CURVES = ("mlp-one-stage", "hubble", "mmoe", "metaheac")
CURVE_STEPS = (*range(0, 100, 10), *range(100, 1001, 50))
MOST_SECTIONS = 30_000  # mapped, before compiled programs are dropped
DRAWN = "metaheac"  # the method in whose general model the campaigns are drawn


@dataclass(frozen=True)
class Data:
    """What a run works on.

    Attributes:
      dataset, split: what to train on and to judge on.
      references: by label, scores of all stage-2 examples that ignore the campaign, (E,).
    """

    dataset: Dataset
    split: Split
    references: Mapping[str, np.ndarray] = field(default_factory=dict)


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_json(path: Path, data: Any) -> None:
    """Writes JSON whole or not at all."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def open_run(directory: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Makes a run's folder, or checks that the one to be resumed is of the same configuration.

    A new run replaces what an older run left there, and nothing of anybody else's.

    Raises:
      InputError: there is nothing to resume, it was another run, or the folder is not a run's.
    """
    path = directory / "config.json"
    config = json.loads(json.dumps(config))
    if resume:
        if not path.is_file():
            raise InputError(f"{directory}: no run to resume; leave out --resume to start one")
        try:
            before = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: not a run's configuration; start afresh") from error
        changed = sorted(k for k in {*before, *config} if before.get(k) != config.get(k))
        if changed:
            raise InputError(
                f"{path}: the run had another {', '.join(changed)}; "
                "resume with the same options, or start afresh without --resume"
            )
    else:
        for name in ("methods", "checkpoints"):
            if (directory / name).exists() and not path.is_file():
                raise InputError(
                    f"{directory}: has {name} but no config.json, so it is not a run's folder; "
                    "choose another --out"
                )
        directory.mkdir(parents=True, exist_ok=True)
        clear_run(directory)
        write_json(path, config)
    (directory / "methods").mkdir(exist_ok=True)


def clear_run(directory: Path) -> None:
    """Removes what a run has left in its folder, and nothing of anybody else's."""
    for name in ("methods", "checkpoints"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in ("log.jsonl", "config.json"):
        (directory / name).unlink(missing_ok=True)


def check_run(dataset: Dataset, split: Split, preset: Preset) -> None:
    """Refuses data that the methods cannot be trained on, before anything is written.

    Raises:
      InputError: a campaign with too few examples or a single class, or too few campaigns.
    """
    check_campaigns(dataset, np.concatenate([split.train, split.test]))
    if len(split.train) < preset.campaigns_per_step:
        raise InputError(
            f"{dataset.name}: {len(split.train)} training campaigns, but a meta-step takes "
            f"{preset.campaigns_per_step}; add campaigns"
        )


def run_methods(
    data: Data,
    presets: Mapping[str, Preset],
    *,
    seed: int,
    directory: Path,
    progress: Progress,
    figures: bool = True,
) -> dict[str, Any]:
    """Trains and judges methods on the test campaigns; ``{name: result}`` in the order given.

    Args:
      data: what to train on and to judge on.
      presets: settings of each method, by name of `METHODS`.
      seed: decides initial values, batches and orders.
      directory: the run's folder, from `open_run`.
      progress: told what is under way.
      figures: also find what Figure 3 shows of a single run; a thousand steps for each of `CURVES`.

    Raises:
      InputError: a result in the folder was reached with other settings.
    """
    dataset, split = data.dataset, data.split
    results: dict[str, Any] = {}
    for name in presets:
        path, method = directory / "methods" / f"{name}.json", METHODS[name]
        job = Job(
            dataset=dataset,
            campaigns=split.train,
            preset=presets[name],
            seed=seed,
            directory=directory / "checkpoints" / name,
            log=directory / "log.jsonl",
            progress=progress,
        )
        used = asdict(job.preset)
        if not path.is_file():
            keep_settings(job)
            try:
                result, general = run_method(method, job, split)
            except Diverged as error:
                mend = f"to go on without it, leave {name} out of --methods"
                raise Diverged(f"{error}; {mend}") from error
            if figures and result["campaigns"] and name in CURVES:
                subject = _subject(dataset, result["campaigns"])
                result["curve"] = _curve(method, job, general, subject)
            if figures and name == DRAWN:
                everyone = np.sort(np.concatenate([split.train, split.test]))
                result["space"] = campaign_space(dataset, everyone, heac(job.preset), general)
            write_json(path, {**result, "settings": used})
            forget_compiled()
        results[name] = json.loads(path.read_text())
        if results[name].get("settings") != used:
            raise InputError(f"{path}: reached with other settings; start afresh without --resume")
    for label, values in data.references.items():
        pools = [values[dataset.stage2.of(c)] for c in split.test]
        results[label] = judge_all(dataset, split, pools, label=label)
    probability = dataset.stage2.probability
    if probability is not None:
        truth = [probability[dataset.stage2.of(c)] for c in split.test]
        results["oracle"] = judge_all(dataset, split, truth, label="oracle (the true probability)")
    return results


def forget_compiled() -> None:
    """Drops compiled programs from memory if they are many; those that took long are kept on disk.

    Each has mapped sections of its own, and a process has 65,530 of these on Linux by default: at
    the end of them LLVM aborts, as it did in a long comparison, in which every rate compiled anew.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MOST_SECTIONS:
        jax.clear_caches()


def keep_settings(job: Job) -> None:
    """Notes what a training is begun with, beside its checkpoints, which do not tell.

    Raises:
      InputError: it was begun with other settings.
    """
    path, used = job.directory.with_suffix(".json"), json.loads(json.dumps(asdict(job.preset)))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, used)
    elif json.loads(path.read_text()) != used:
        raise InputError(f"{path}: begun with other settings; start afresh without --resume")


def run_method(method: Method, job: Job, split: Split) -> tuple[dict[str, Any], Any]:
    """Trains a method and judges it on the test campaigns.

    Returns:
      Its result (see `judge_all`) with the seconds taken, and what its offline stage gave.

    Raises:
      Diverged: a loss or a score is not a number.
    """
    began = time.perf_counter()
    general = method.offline(job)
    trained = time.perf_counter()

    def told(what: str, done: int, total: int) -> None:
        job.progress(f"{method.label} {what}", done, total)

    models = method.online(replace(job, progress=told), general, split.test)
    adapted = time.perf_counter()
    scores = []
    for number, (c, model) in enumerate(zip(split.test, models, strict=True)):
        scores.append(model(pool_rows(job.dataset, c)))
        if np.isnan(scores[-1]).any():
            key = job.dataset.campaign_key[c]
            raise Diverged(f"{method.label}: a score for campaign {key} is not a number")
        told("score", number + 1, len(models))
    result = judge_all(job.dataset, split, scores, label=method.label)
    result["seconds"] = {
        "offline": trained - began,
        "customise": adapted - trained,
        "score": time.perf_counter() - adapted,
    }
    return result, general


def judge_all(
    dataset: Dataset, split: Split, scores: Sequence[np.ndarray], *, label: str
) -> dict[str, Any]:
    """Figures of every test campaign from the scores of its pool, and who could not be judged."""
    campaigns, left_out = [], []
    pooled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"small": [], "large": []}
    seeds = dataset.stage1.positives
    for c, values in zip(split.test, scores, strict=True):
        of = dataset.stage2.of(c)
        labels, key = dataset.stage2.label[of], int(dataset.campaign_key[c])
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


def describe(dataset: Dataset, split: Split) -> dict[str, Any]:
    """What a run is about, for reports and for telling runs apart."""
    return {
        "data": dataset.name,
        "users": dataset.users,
        "campaigns": dataset.campaigns,
        "stage1": len(dataset.stage1.user),
        "stage2": len(dataset.stage2.user),
        "rows": dataset.rows,
        "train_campaigns": len(split.train),
        "test_campaigns": len(split.test),
        "threshold": split.threshold,
    }


def configuration(preset: Preset, **more: Any) -> dict[str, Any]:
    """What must not change between a run and its resumption."""
    return {"preset": asdict(preset), **more}


def _subject(dataset: Dataset, judged: Sequence[Mapping[str, Any]]) -> int:
    """The campaign whose fine-tuning is drawn: the median by seeds among the small ones judged."""
    able = [c for c in judged if c["group"] == "small"] or judged
    median = sorted(able, key=lambda c: c["seeds"])[len(able) // 2]
    return int(np.searchsorted(dataset.campaign_key, median["campaign"]))


def pool_rows(dataset: Dataset, campaign: int) -> np.ndarray:
    """(P, S) table rows of the users in a campaign's pool, its stage 2."""
    return dataset.user_rows[dataset.stage2.user[dataset.stage2.of(campaign)]]


def _curve(method: Method, job: Job, general: Any, campaign: int) -> dict[str, Any] | None:
    """Loss on a campaign's examples and AUC on its pool while a general model adapts, by steps.

    Examples are scored as users of the pool are: Hubble, in training, does not let them hear
    themselves.

    None where a method does not adapt by steps of gradient descent.
    """
    dataset = job.dataset
    users, labels = pool_rows(dataset, campaign), dataset.stage2.label[dataset.stage2.of(campaign)]
    examples = campaign_examples(dataset, campaign)
    curve: dict[str, Any] = {"campaign": int(dataset.campaign_key[campaign])}
    curve |= {"steps": [], "loss": [], "auc": []}

    def note(step: int, models: Callable[[], list[Scorer]]) -> None:
        last = CURVE_STEPS[-1]
        job.progress(f"{method.label} fine-tuning curve", min(step, last), last)
        if step in CURVE_STEPS:
            [model] = models()
            odds = model(examples.user).astype(np.float64)
            curve["steps"].append(step)
            curve["loss"].append(float(np.mean(np.logaddexp(0, odds) - examples.label * odds)))
            curve["auc"].append(auc(model(users), labels))

    steps = math.ceil(len(examples.label) / job.preset.rows)
    epochs = math.ceil(CURVE_STEPS[-1] / steps)
    preset = replace(job.preset, online_epochs=epochs, online_patience=None)
    method.online(replace(job, preset=preset, progress=silent), general, np.array([campaign]), note)
    return curve if curve["steps"] else None
