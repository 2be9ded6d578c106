"""General models by any method: training, customising and judging them, and the checks around."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from jax.sharding import Mesh

from metaheac_jax.data.batches import check_campaigns, check_indices
from metaheac_jax.data.campaign import Campaign, plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.files import locked
from metaheac_jax.methods.held_out_campaigns import halve, hold_out_campaigns, judge_state
from metaheac_jax.methods.method import GradientMethod, Method, Run
from metaheac_jax.methods.online import NetworkMethod
from metaheac_jax.methods.record import digest_of_start, general_of, keep_training_config
from metaheac_jax.methods.registry import configured, method_of
from metaheac_jax.model import Customised, General, Scorer, Watch, on_device
from metaheac_jax.processes import check_same, is_first
from metaheac_jax.progress import Progress, silent
from metaheac_jax.training.log import Hook
from metaheac_jax.training.loop import Quality

#: Indices of campaigns.
Indices = Sequence[int] | np.ndarray


def fit(
    data: Dataset,
    method: Method[Any] | str = "metaheac",
    *,
    start: General | None = None,
    campaigns: Indices | None = None,
    held_out: Indices | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
    directory: Path | str | None = None,
    log: Path | str | Hook | None = None,
    skip_nonfinite: int = 0,
    progress: Progress = silent,
) -> General:
    """Trains a general model.

    Args:
      data: the data set; its stage 1 has the examples. Campaigns without non-seeds get random
        ones, see `Dataset.completed`.
      method: a method, or the name of one with its default settings; see `registry.configured`.
      start: a model of this method to continue from, with its optimiser's state. The step numbers,
        which determine the batches, continue; embeddings move with their values; new values start
        as in an untrained model. The new model has the values of both.
      campaigns: indices of the training campaigns; by default all that are not ``held_out``.
      held_out: indices of other campaigns, which determine when a method that holds out campaigns
        stops. For the default see `methods.held_out_campaigns.hold_out_campaigns`.
      seed: random seed of initial values, batches and random non-seeds.
      mesh: several devices, from `training.sharding.device_mesh`; the result differs from that of
        one device only by rounding. If there are several processes, all call this with the same
        arguments and get the same model; the first one writes the files.
      directory: folder for checkpoints, from which training resumes; None for no checkpoints. The
        configuration is in a file beside the folder, with the same name and ``.json``. Of the
        settings, only the offline epochs, the offline patience and those that only the online stage
        uses may change.
      log: a file to which JSON lines with losses and speed are appended; its folder is made, and
        each training needs one of its own. Or a function of the records (`training.log`), such as
        ``wandb.log``.
      skip_nonfinite: maximum number of steps that may be skipped because their loss, gradient or
        result is not finite; each gives a warning and a log line. A resumed training counts those
        in its log. The maximum applies to each member of an ensemble.
      progress: receives the number of steps done.

    Raises:
      InputError: the data is invalid, a campaign cannot be trained on or held out (it is named),
        there are too few, the method cannot use several devices or continue, or the directory has
        checkpoints of another training, data, code or library version.
      Busy: another process is writing to the directory.
      Diverged: the loss, gradient or result of a step that may not be skipped is not finite.
    """
    method = configured(method) if isinstance(method, str) else method
    chosen, held = _chosen(data, campaigns, held_out)
    directory = None if directory is None else Path(directory)
    log = Path(log) if isinstance(log, str) else log
    check_whole("seed", seed, 0)
    check_whole("skip_nonfinite", skip_nonfinite, 0)
    if mesh is not None and not isinstance(method, NetworkMethod):
        raise InputError(
            f"{method.name}: cannot use a mesh of devices; choose a method such as 'metaheac' or "
            "'mlp-pretraining', or omit the mesh"
        )
    writes = mesh is None or is_first()
    if writes:  # the first process checks all of the data for the others
        data.check()
    else:
        log, progress = None, silent
    if mesh is not None:
        indices = [None if part is None else part.tolist() for part in (chosen, held)]
        given = method.config.plain(), indices, (seed, skip_nonfinite)
        check_same("data and model", (data.digest, data.num_users, digest_of_start(start)))
        check_same("settings, campaigns and seed", given)
    if start is not None:
        _check_start(method, start)
        union = data.vocabulary.extending(data.schema, start.schema, start.vocabulary)
        data = data.encoded_for(data.schema, union)
    data = data.completed(seed)
    check_campaigns(data, chosen)
    _check_number(method, data, chosen)
    run = Run(data, chosen, seed, directory, log, progress)
    run = replace(run, label=method.label, start=start, skip_nonfinite=skip_nonfinite, mesh=mesh)
    if method.holds_out:
        run = _judged(method, run, held)
    kept = directory if writes else None
    with nullcontext() if kept is None else locked(kept):
        if kept is not None:
            keep_training_config(method, run, kept, progress)
        if isinstance(log, Path):
            log.parent.mkdir(parents=True, exist_ok=True)
        trained = method.fit(run)
    return general_of(method, run, trained)


def _chosen(
    data: Dataset, campaigns: Indices | None, held_out: Indices | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The campaigns to train on, and the held-out ones if they are given."""
    every, held = np.arange(data.num_campaigns), None
    if held_out is not None:
        held = np.asarray(held_out)
        check_indices(data, held)
        every = np.setdiff1d(every, held)
    if campaigns is None:
        return every, held
    chosen = np.asarray(campaigns)
    check_indices(data, chosen)
    both = np.intersect1d(chosen, () if held is None else held)
    if len(both):
        raise InputError(
            f"{data.where}: campaign {plain_id(data.campaign_ids[int(both[0])])} is both a "
            "training and a held-out campaign; leave it out of one"
        )
    return chosen, held


def _check_number(
    method: Method[Any], data: Dataset, campaigns: np.ndarray, besides: str = ""
) -> None:
    """Refuses fewer training campaigns than the method needs."""
    if len(campaigns) < method.min_campaigns:
        none = ", hold none out (offline_patience=none)" if besides else ""
        raise InputError(
            f"{data.where}: {len(campaigns)} training campaigns{besides}, but {method.name} needs "
            f"{method.min_campaigns}; add campaigns{none}, or train 'lr' instead, which learns "
            "from each campaign alone"
        )


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


#: Settings of which the shapes, or the output, of a network depend.
_OF_NETWORK = ("width", "num_experts", "num_critics", "mixture", "list_lengths")


def _judged(method: Method[Any], run: Run, held_out: np.ndarray | None) -> Run:
    """A run that held-out campaigns judge; by default they come from its campaigns."""
    data, chosen, seed = run.dataset, run.campaigns, run.seed
    if held_out is None:
        chosen, held_out = hold_out_campaigns(data, chosen, seed, start=run.start)
        _check_number(method, data, chosen, f" (besides {len(held_out)} that are held out)")
    halves = [halve(data, int(c), seed) for c in held_out]
    judge = partial(judge_state, method.customise, run, halves)
    return replace(run, campaigns=chosen, held_out=held_out, judge=judge)


def judge(
    general: General,
    data: Dataset,
    campaigns: Indices,
    *,
    method: Method[Any] | None = None,
    seed: int = 0,
) -> Quality:
    """Judges a general model on campaigns that it was not trained on.

    It is customised to half of each campaign's stage 1 and judged on the other half; see
    `methods.held_out_campaigns`.

    Args:
      general: the general model.
      data: the data set with the campaigns.
      campaigns: their indices; each needs two seeds and two non-seeds in stage 1.
      method: the model's method with other settings of the online stage.
      seed: random seed of the halves and of customising.

    Raises:
      InputError: the general model has another method, network or schema, the campaigns are not
        one or more distinct indices, or one has fewer than two seeds or two non-seeds.
      Diverged: a score is not a number.
    """
    method = _method_for(general, method)
    check_indices(data, np.asarray(campaigns))
    check_whole("seed", seed, 0)
    data = data.encoded_for(general.schema, general.vocabulary).completed(seed)
    run, halves = Run(data, np.empty(0, int), seed), [halve(data, int(c), seed) for c in campaigns]
    return judge_state(method.customise, run, halves, general.state)


def _method_for(general: General, method: Method[Any] | None) -> Method[Any]:
    """The method that is given, after checking that it is the model's, or else the model's."""
    if method is None:
        return method_of(general)
    _check_own(method, general)
    return method


@overload
def customise(
    general: General,
    data: Dataset,
    campaigns: Campaign,
    *,
    method: Method[Any] | None = None,
    seed: int = 0,
    progress: Progress = silent,
    watch: Watch[Scorer] | None = None,
) -> Customised: ...


@overload
def customise(
    general: General,
    data: Dataset,
    campaigns: Sequence[Campaign],
    *,
    method: Method[Any] | None = None,
    seed: int = 0,
    progress: Progress = silent,
    watch: Watch[Scorer] | None = None,
) -> list[Customised]: ...


def customise(
    general: General,
    data: Dataset,
    campaigns: Campaign | Sequence[Campaign],
    *,
    method: Method[Any] | None = None,
    seed: int = 0,
    progress: Progress = silent,
    watch: Watch[Scorer] | None = None,
) -> Customised | list[Customised]:
    """Customises a general model to a campaign, or to several.

    Args:
      general: the general model.
      data: the data with the campaigns' users.
      campaigns: one or several, from `Dataset.new_campaign` or `Dataset.campaign` of this data.
      method: the model's method with other settings of the online stage.
      seed: random seed of held-out examples and minibatches, which do not depend on the other
        campaigns; nor does a model, but for rounding.
      progress: receives the number of campaigns done.
      watch: follows an online stage that takes gradient steps, except an ensemble's.

    Returns:
      One model per campaign, in the same order.

    Raises:
      InputError: the general model has another method or schema, or a campaign has no examples, or
        has users or fields that the data lacks.
      Diverged: weights or scores are not finite.
    """
    method = _method_for(general, method)
    check_whole("seed", seed, 0)
    chosen = [campaigns] if isinstance(campaigns, Campaign) else campaigns
    for campaign in chosen:
        if not isinstance(campaign, Campaign):
            raise InputError(f"campaigns: expected a list of campaigns, got {campaign!r}")
        campaign.check(data.num_users, len(data.schema.campaign))
    known, own = data.encoded_for(general.schema, general.vocabulary), chosen
    if known is not data:
        lookup = general.vocabulary.rows_of(data.vocabulary)
        own = [replace(campaign, rows=lookup[campaign.rows]) for campaign in chosen]
    run = Run(known, np.empty(0, int), seed, progress=progress, watch=watch)
    scorers = method.customise(run, on_device(general.state), own)
    models = [Customised(general, *pair) for pair in zip(chosen, scorers, strict=True)]
    return models[0] if isinstance(campaigns, Campaign) else models
