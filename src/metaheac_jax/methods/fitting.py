"""General models by any method: training and customising them, and the checks around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from metaheac_jax.backend import environment, processor
from metaheac_jax.boundary import check_arrays
from metaheac_jax.data.batches import check_campaigns, check_indices
from metaheac_jax.data.campaign import Campaign, plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import Diverged, InputError, about, check_whole
from metaheac_jax.files import locked
from metaheac_jax.methods.held_out_campaigns import (
    halve_each,
    hold_out_campaigns,
    judge_of,
    judge_seeds,
)
from metaheac_jax.methods.method import Method, Offline, Online, Trained, method_named, method_of
from metaheac_jax.model import Customised, General, on_device
from metaheac_jax.processes import check_same, is_first
from metaheac_jax.progress import Progress, silent
from metaheac_jax.removing import RUN_MANIFEST, check_own
from metaheac_jax.schema import Vocabulary, union_of_values
from metaheac_jax.sealed import keep_config
from metaheac_jax.training.loop import Hook

#: Indices of campaigns.
Indices = Sequence[int] | np.ndarray


def configured(name: str, *, official: bool = False, **changes: Any) -> Method[Any]:
    """Makes a method with other values than its defaults.

    Args:
      name: name of the method.
      official: whether to take the settings of the authors' program; see `Config.official`.
      **changes: values by name, such as ``value_dropout=0.5`` or ``**{"head.penalty": 30}``.

    Raises:
      InputError: the method or a setting does not exist, or a value is out of range.
    """
    method = method_named(name)()
    config = method.config.official() if official else method.config
    with about(name):
        return type(method)(config.changed(changes))


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
      directory: folder for checkpoints, from which training resumes, and the configuration, in
        ``run.json``; None for no checkpoints. It has nothing else in it and is no link. Of the
        settings, only the offline epochs and the offline patience may change.
      hooks: functions of the records of the training (`training.loop`), such as ``wandb.log``.

    Raises:
      InputError: a campaign cannot be trained on or held out (it is named), there are too few, the
        method cannot use several devices or continue, or the directory has files of others or
        checkpoints of another training, data, code or library version.
      Busy: another process is writing to the directory.
      Diverged: the loss, gradient or result of a step is not finite.
    """
    method = configured(method) if isinstance(method, str) else method
    check_whole("seed", seed, 0)
    held = np.empty(0, int) if held_out is None or not len(held_out) else np.asarray(held_out)
    rest = np.setdiff1d(np.arange(data.num_campaigns), held)
    chosen = rest if campaigns is None else np.asarray(campaigns)
    check_indices(data, np.append(chosen, held) if len(held) else chosen)
    if mesh is not None:
        _check_mesh(method, data, start, chosen.tolist(), held.tolist(), seed)
        if not is_first():
            hooks, progress = (), silent
    if start is not None:
        _check_start(method, start)
        data = _with_values_of(data, start)
    data = data.completed(seed)
    check_campaigns(data, chosen)
    if method.holds_out and not len(held):
        chosen, held = hold_out_campaigns(data, chosen, seed, start=start)
    before = () if start is None else start.campaigns
    counted = data.campaigns_among([*before, *_ids(data, chosen)])
    counted[held] = False
    summary = data.learned_summary(counted) if start is None else start.summary
    offline = Offline(
        data.encoded_for(data.schema, data.vocabulary, summary),
        chosen,
        seed,
        start=start,
        directory=None if directory is None else Path(directory).absolute(),
        mesh=mesh,
        label=method.label,
        hooks=hooks,
        progress=progress,
    )
    if method.holds_out:
        offline = replace(offline, held_out=held)
        halves = halve_each(offline)
        offline = replace(offline, judge=judge_of(method.customise, offline, halves))
    if len(chosen) < method.min_campaigns:
        raise InputError(
            f"{data.where}: {len(chosen)} training campaigns besides {len(offline.held_out)} that "
            f"are held out, but {method.name} needs {method.min_campaigns}; add campaigns, hold "
            "none out (offline_patience=none), or train 'lr', which learns from each campaign alone"
        )
    if offline.directory is None or (mesh is not None and not is_first()):
        return _general(method, data, offline, method.fit(offline))
    with locked(offline.directory):
        check_own(offline.directory, RUN_MANIFEST)
        _keep_config(method, offline, offline.directory)
        return _general(method, data, offline, method.fit(offline))


def _check_mesh(method: Method[Any], data: Dataset, start: General | None, *others: Any) -> None:
    """Refuses a mesh for a method that takes none, and for processes that would not do the same."""
    if not method.takes_mesh:
        raise InputError(
            f"{method.name}: cannot use a mesh of devices; choose a method such as 'metaheac' or "
            "'mlp-pretraining', or omit the mesh"
        )
    given = method.config.plain(), data.digest, data.num_users, start and start.digest, *others
    check_same("data, model, settings, campaigns and seed", given)


def _with_values_of(data: Dataset, start: General) -> Dataset:
    """The data with table rows for the model's values, too."""
    values = zip(data.vocabulary.values, start.vocabulary.values, strict=False)
    union = Vocabulary(tuple(union_of_values(*known) for known in values))
    return data.encoded_for(start.schema, union)  # which compares the schemas


def _check_start(method: Method[Any], start: General) -> None:
    """Refuses to continue from a model of another method, or without its optimiser's state."""
    if not method.continues:
        raise InputError(f"{method.name} cannot continue from a model; fit it from scratch")
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
    for name, value in method.config.named("shapes").items():
        if value != trained[name]:
            raise InputError(
                f"the general model was trained with {name} {trained[name]!r}, the method has "
                f"{value!r}; use methods.method_of(general)"
            )


def _keep_config(method: Method[Any], offline: Offline, directory: Path) -> None:
    """Writes a training's configuration among its checkpoints, or compares it with that file.

    Raises:
      InputError: the checkpoints are those of another training.
    """
    data, settings = offline.dataset, method.config.named()
    for name in method.config.named("resumable"):
        del settings[name]
    config = {
        "method": method.name,
        "settings": settings,
        "seed": offline.seed,
        "data": {"name": data.name, "digest": data.digest, "end": data.end},
        "campaigns": _ids(data, offline.campaigns),
        "held_out": _ids(data, offline.held_out),
        "start": offline.start and [offline.start.digest, steps_of(offline.start)],
        **environment(),
    }
    path, restart = directory / RUN_MANIFEST, f"delete {directory} to train afresh"
    keep_config(path, config, {"processor": processor()}, restart=restart)


def _general(method: Method[Any], data: Dataset, offline: Offline, trained: Trained) -> General:
    """The general model of a method's training on data, which may lack the histories."""
    start, history = offline.start, offline.dataset.user_rows.history
    halves = halve_each(offline)
    own, held = _ids(data, offline.campaigns), _ids(data, offline.held_out)
    ends = [data.end] if start is None else [data.end, start.end]
    known = [own for own in ends if own is not None]
    before, held_before = ((), ()) if start is None else (start.campaigns, start.held_out)
    campaigns = tuple(dict.fromkeys([*before, *own]))
    return General(
        method=method.name,
        config=method.config.plain(),
        schema=data.schema,
        vocabulary=data.vocabulary,
        state=on_device(trained.state),  # once, not at every use
        data=data.name,
        end=max(known) if len(known) == len(ends) else None,
        campaigns=campaigns,
        seed=offline.seed,
        judgements=trained.judgements,
        held_out=(*held, *(key for key in held_before if key not in {*held, *campaigns})),
        optimizer=trained.optimizer,
        seed_curve=judge_seeds(method.customise, offline, halves, trained.state) if halves else (),
        summary=None if history is None else history.summary,
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
    online: bool = True,
    progress: Progress = silent,
) -> list[Customised]:
    """Customises a general model to campaigns.

    Args:
      data: the data with the campaigns' users.
      campaigns: from `Dataset.new_campaign` or `Dataset.campaign` of this data.
      method: the model's method with other settings of the online stage.
      seed: random seed of held-out examples and minibatches, which do not depend on the other
        campaigns; nor does a model, but for rounding.
      online: False leaves the online stage out: models score as the general model does, if it can;
        otherwise there are none.

    Returns:
      One model per campaign, in the same order.

    Raises:
      InputError: the general model has another method or schema, or a campaign has no examples, or
        has users or fields that the data lacks.
      Diverged: weights or scores are not finite.
    """
    method = method_of(general) if method is None else method
    _check_own(method, general)
    check_whole("seed", seed, 0)
    for campaign in campaigns:
        users = campaign.users
        if not len(users) or users.min() < 0 or users.max() >= data.num_users:
            raise InputError(f"{campaign.name}: expected users of {data.where}, one or more")
    known, own = general.read(data), campaigns
    if known is not data:
        own = [replace(one, rows=known.rows_of(one, data)) for one in campaigns]
    given = Online(known, seed, progress)
    state = flatten_dict(dict(general.state), sep="/")
    where = f"the general model of {general.data!r}"
    check_arrays(state, method.columns(given, state), where, "fit it again")
    try:
        scorers = method.customise(given, on_device(general.state), own, general=not online)
    except np.linalg.LinAlgError as error:
        raise Diverged(f"{where}: {error}; fit it again") from error
    return [Customised(general, *pair) for pair in zip(campaigns, scorers, strict=online)]
