"""General models by any method: training and customising them, and the checks around."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from metaheac_jax.backend import environment
from metaheac_jax.customising.score import without_hidden
from metaheac_jax.data.batches import check_campaigns, check_indices
from metaheac_jax.data.campaign import Campaign, plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.history import Hidden, limited
from metaheac_jax.errors import InputError, about, check_whole
from metaheac_jax.files import locked
from metaheac_jax.methods.config import Config
from metaheac_jax.methods.held_out_campaigns import halve, hold_out_campaigns, judge_state
from metaheac_jax.methods.metaheac import OFFICIAL, PAPER, MetaHeacConfig
from metaheac_jax.methods.method import (
    METHODS,
    GradientMethod,
    Method,
    NetworkMethod,
    Run,
    Trained,
    method_of,
)
from metaheac_jax.model import Customised, General, Judged, on_device
from metaheac_jax.processes import check_same, is_first
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import Vocabulary, union_of_values
from metaheac_jax.sealed import keep_config
from metaheac_jax.training.loop import Hook

#: Indices of campaigns.
Indices = Sequence[int] | np.ndarray
_PRESETS = {"paper": PAPER, "official": OFFICIAL}
#: Settings of which the shapes, or the output, of a network depend.
_OF_NETWORK = ("width", "num_experts", "num_critics", "list_lengths")


def configured(
    name: str, preset: str | MetaHeacConfig | None = None, **changes: Any
) -> Method[Any]:
    """Makes a method with other values than its defaults.

    Args:
      name: name of the method.
      preset: ``paper``, the default, ``official``, the settings of the authors' program, or other
        settings of MetaHeac. Any method takes those for which its default is the paper's.
      **changes: values by name, such as ``value_dropout=0.5`` or ``**{"head.penalty": 30}``.

    Raises:
      InputError: the method, preset or setting does not exist, or a value is out of range.
    """
    if isinstance(preset, str) and preset not in _PRESETS:
        raise InputError(f"unknown preset {preset!r}; choose from {', '.join(_PRESETS)}")
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    method = METHODS[name]()
    wanted = preset if isinstance(preset, MetaHeacConfig) else _PRESETS[preset or "paper"]
    shared = _shared(method.config, wanted)
    with about(name):
        return method.changed(**shared).changed(**changes)


def _shared(config: Config, preset: MetaHeacConfig) -> dict[str, Any]:
    """The preset's values of settings that the config has from the paper, by name."""
    paper, wanted = PAPER.named(), preset.named()
    pairs = [(name, name.rpartition(".")[2], value) for name, value in config.named().items()]
    return {n: wanted[own] for n, own, value in pairs if own in paper and paper[own] == value}


def fit(
    data: Dataset,
    method: Method[Any] | str = "ensemble",
    *,
    start: General | None = None,
    campaigns: Indices | None = None,
    held_out: Indices | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
    directory: Path | str | None = None,
    hooks: Sequence[Hook] = (),
    progress: Progress = silent,
) -> General:
    """Trains a general model.

    Args:
      data: the data set; its stage 1 has the examples. Campaigns without non-seeds get random
        ones, see `Dataset.completed`.
      method: a method, or the name of one with its default settings; see `configured`.
      start: a model of this method to continue from, with its optimiser's state. The step numbers,
        which determine the batches, continue; embeddings move with their values; new values start
        as in an untrained model. The new model has the values of both.
      campaigns: indices of the training campaigns; by default all that are not ``held_out``.
      held_out: indices of other campaigns, which determine when a method that holds out campaigns
        stops or what it uses; then a learned prior learns from them too, so they judge nothing
        else. For the default see `methods.held_out_campaigns.hold_out_campaigns`.
      seed: random seed of initial values, batches and random non-seeds.
      mesh: several devices, from `training.sharding.device_mesh`; the result differs from that of
        one device only by rounding. If there are several processes, all call this with the same
        arguments and get the same model; the first one writes the files.
      directory: folder for checkpoints, from which training resumes; None for no checkpoints. The
        configuration is in a file beside the folder, with the same name and ``.json``. Of the
        settings, only the offline epochs and the offline patience may change.
      hooks: functions of the records of the training (`training.loop`), such as ``wandb.log``.

    Raises:
      InputError: a campaign cannot be trained on or held out (it is named), there are too few, the
        method cannot use several devices or continue, or the directory has checkpoints of another
        training, data, code or library version.
      Busy: another process is writing to the directory.
      Diverged: the loss, gradient or result of a step is not finite.
    """
    method = configured(method) if isinstance(method, str) else method
    directory = None if directory is None else Path(directory).resolve()
    check_whole("seed", seed, 0)
    held = np.empty(0, int) if held_out is None else np.asarray(held_out)
    rest = np.setdiff1d(np.arange(data.num_campaigns), held)
    chosen = rest if campaigns is None else np.asarray(campaigns)
    check_indices(data, np.append(chosen, held) if len(held) else chosen)
    if mesh is not None and not isinstance(method, NetworkMethod):
        raise InputError(
            f"{method.name}: cannot use a mesh of devices; choose a method such as 'metaheac' or "
            "'mlp-pretraining', or omit the mesh"
        )
    if mesh is not None:
        given = method.config.plain(), chosen.tolist(), held.tolist(), seed
        given += data.digest, data.num_users, start and start.digest
        check_same("data, model, settings, campaigns and seed", given)
        if not is_first():
            hooks, progress = (), silent
    if start is not None:
        _check_start(method, start)
        values = zip(data.vocabulary.values, start.vocabulary.values, strict=False)
        union = Vocabulary(tuple(union_of_values(*own) for own in values))
        data = data.encoded_for(start.schema, union)  # which compares the schemas
    data = data.completed(seed)
    check_campaigns(data, chosen)
    if method.holds_out and not len(held):
        chosen, held = hold_out_campaigns(data, chosen, seed, start=start)
    before = () if start is None else start.campaigns
    counted = data.campaigns_among([*before, *_ids(data, chosen)])
    counted[held] = False
    data = limited(data, counted)
    given = {"start": start, "mesh": mesh, "label": method.label}
    run = Run(data, chosen, seed, directory, hooks, progress, **given)
    if method.holds_out:
        halves = [halve(data, int(c), seed) for c in held]
        judge = partial(judge_state, method.customise, run, halves)
        run = replace(run, held_out=held, judge=judge)
    if len(chosen) < method.min_campaigns:
        raise InputError(
            f"{data.where}: {len(chosen)} training campaigns besides {len(run.held_out)} that are "
            f"held out, but {method.name} needs {method.min_campaigns}; add campaigns, hold none "
            "out (offline_patience=none), or train 'lr', which learns from each campaign alone"
        )
    kept = directory if mesh is None or is_first() else None
    with nullcontext() if kept is None else locked(kept):
        if kept is not None:
            _keep_config(method, run, kept)
        trained = method.fit(run)
    return _general(method, run, trained)


def _check_start(method: Method[Any], start: General) -> None:
    """Refuses to continue from a model of another method, or without its optimiser's state."""
    if not isinstance(method, GradientMethod):
        raise InputError(
            f"{method.name} takes no steps, so it cannot continue from a model; fit it from scratch"
        )
    _check_own(method, start)
    if start.optimizer is None:
        raise InputError(
            f"the general model of {start.data!r} has no optimiser state; in Python load it with "
            "optimizer=True; if it was saved without one, fit it from scratch"
        )


def _check_own(method: Method[Any], general: General) -> None:
    """Refuses a general model of another method or network."""
    if general.method != method.name:
        raise InputError(
            f"the general model was trained by {general.method!r}, not by {method.name!r}; use its "
            "own method"
        )
    trained = method_of(general).config.named()
    for name, own in method.config.named().items():
        if name.rpartition(".")[2] in _OF_NETWORK and own != trained[name]:
            raise InputError(
                f"the general model was trained with {name} {trained[name]!r}, the method has "
                f"{own!r}; use methods.method_of(general)"
            )


def _keep_config(method: Method[Any], run: Run, directory: Path) -> None:
    """Writes a training's configuration beside its checkpoints, or compares it with that file.

    Raises:
      InputError: the checkpoints are those of another training.
    """
    data, settings, free = (
        run.dataset,
        method.config.named(),
        ("offline_epochs", "offline_patience"),
    )
    config = {
        "method": method.name,
        "settings": {name: own for name, own in settings.items() if not name.endswith(free)},
        "seed": run.seed,
        "data": {"name": data.name, "digest": data.digest},
        "campaigns": _ids(data, run.campaigns),
        "held_out": _ids(data, run.held_out),
        "start": run.start and [run.start.digest, steps_of(run.start)],
        **environment(),
    }
    path = directory.with_name(f"{directory.name}.json")
    keep_config(path, config, restart=f"delete {path} and {directory} to train afresh")


def _general(method: Method[Any], run: Run, trained: Trained) -> General:
    """The general model of a method's training."""
    data, start = run.dataset, run.start
    own, held = _ids(data, run.campaigns), _ids(data, run.held_out)
    before, held_before = ((), ()) if start is None else (start.campaigns, start.held_out)
    campaigns = tuple(dict.fromkeys([*before, *own]))
    return General(
        method=method.name,
        config=method.config.plain(),
        schema=data.schema,
        vocabulary=data.vocabulary,
        state=on_device(trained.state),  # once, not at every use
        data=data.name,
        campaigns=campaigns,
        seed=run.seed,
        judgements=tuple(
            Judged(int(step), auc, loss) for step, auc, loss in trained.judgements.tolist()
        ),
        held_out=(*held, *(key for key in held_before if key not in {*held, *campaigns})),
        optimizer=trained.optimizer,
    )


def _ids(data: Dataset, campaigns: np.ndarray) -> list[int | str]:
    """Ids of campaigns, given by index."""
    return [plain_id(value) for value in data.campaign_ids[campaigns]]


def steps_of(general: General) -> int:
    """Number of steps that a general model's optimiser has taken; 0 if it has no state."""
    return 0 if general.optimizer is None else int(general.optimizer["count"])


def customise(
    general: General,
    data: Dataset,
    campaigns: Sequence[Campaign],
    *,
    method: Method[Any] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Customised]:
    """Customises a general model to campaigns.

    Args:
      data: the data with the campaigns' users.
      campaigns: from `Dataset.new_campaign` or `Dataset.campaign` of this data.
      method: the model's method with other settings of the online stage.
      seed: random seed of held-out examples and minibatches, which do not depend on the other
        campaigns; nor does a model, but for rounding.

    Returns:
      One model per campaign, in the same order.

    Raises:
      InputError: the general model has another method or schema, or a campaign has no examples, or
        has users or fields that the data lacks.
      Diverged: weights or scores are not finite.
    """
    if method is None:
        method = method_of(general)
    else:
        _check_own(method, general)
    check_whole("seed", seed, 0)
    for campaign in campaigns:
        users = campaign.users
        if not len(users) or users.min() < 0 or users.max() >= data.num_users:
            raise InputError(f"{campaign.name}: expected users of {data.where}, one or more")
    known, own = data.encoded_for(general.schema, general.vocabulary), campaigns
    if known is not data:
        lookup = general.vocabulary.rows_of(data.vocabulary)
        own = [replace(campaign, rows=lookup[campaign.rows]) for campaign in campaigns]
    counted = known.campaigns_among(general.campaigns)
    known = limited(known, counted)
    run = Run(known, np.empty(0, int), seed, progress=progress)
    scorers = method.customise(run, on_device(general.state), own)
    hidden = [Hidden.of(known, counted, campaign) for campaign in own]
    scorers = map(without_hidden, scorers, hidden)
    return [Customised(general, *pair) for pair in zip(campaigns, scorers, strict=True)]
