"""The offline stage of a network: training its general weights on all campaigns."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.serialization import from_state_dict, to_state_dict
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from metaheac_jax.data.batches import CampaignBatch
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.samplers import CampaignSampler, ExampleSampler, GroupSampler
from metaheac_jax.methods.stages import Run, Train, Trained, epoch_steps
from metaheac_jax.model import General, State, Weights, initialise
from metaheac_jax.networks.base import BuildNetwork, Network
from metaheac_jax.processes import is_first
from metaheac_jax.settings import Reduction
from metaheac_jax.table.adam import TableOptimizer, TableState, table_adam
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.checkpoint import Checkpoints
from metaheac_jax.training.loop import EarlyStop, train
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.mesh_checkpoints import MeshCheckpoints
from metaheac_jax.training.meta import MetaGradient, build_meta_gradient
from metaheac_jax.training.sharding import Placement, build_mesh_step
from metaheac_jax.training.step import Gradient, RowState, RowStep, build_row_step, plain_gradient

#: none: no training. plain: plain training on the examples of all campaigns. batches: the campaign
#: batches of the meta-step without an inner step (alpha = 0). meta: Algorithm 1. All kinds but
#: "none" take the same number of steps, and draw the same number of examples per step if campaigns
#: have enough. In "batches", support examples do not affect the gradient.
Offline = Literal["none", "plain", "batches", "meta"]
#: Judgements per epoch of the offline stage, and the minimum number of steps that it continues for
#: after the best one.
_JUDGEMENTS, _PATIENCE_STEPS = 4, 800


def build_offline(build_network: BuildNetwork, offline: Offline) -> Train:
    """Builds the offline stage of a network."""

    def stage(run: Run) -> Trained:
        return train_network(run, build_network(run.settings), offline)

    return stage


def train_network(run: Run, network: Network, offline: Offline) -> Trained:
    """Trains the general weights of a network; they stay untrained if ``offline`` is "none"."""
    weights = untrained(run, network)
    if offline == "none":
        return Trained(weights._asdict())
    if offline == "plain" and run.mesh is None:
        gradient = plain_gradient(build_loss(network, run.dataset.layout))
        return train_rows(run, weights, gradient, plain_sampler(run))
    if offline == "plain":
        gradient, draw = plain_in_groups(run, network)
        return train_rows(run, weights, gradient, draw, reduction="sum")
    gradient = meta_gradient(run, network, has_step=offline == "meta")
    return train_on_campaigns(run, weights, gradient)


def meta_gradient(run: Run, network: Network, *, has_step: bool = True) -> MetaGradient:
    """Algorithm 1's gradient of a network, with the run's settings.

    There is no inner step without ``has_step``, or if its learning rate is 0.
    """
    settings = run.settings
    return build_meta_gradient(
        build_loss(network, run.dataset.layout, reduction=settings.reduction),
        inner_learning_rate=settings.inner_learning_rate,
        inner_steps=1 if has_step and settings.inner_learning_rate else 0,
        reduction=settings.reduction,
        select=select_rows,
    )


def plain_in_groups(run: Run, network: Network) -> tuple[Gradient[...], GroupSampler]:
    """Plain training on a mesh, whose devices take groups of examples instead of campaigns."""
    placement, sampler = placement_of(run), plain_sampler(run)
    total = build_loss(network, run.dataset.layout, reduction="sum")
    gradient = build_meta_gradient(
        lambda params, examples: total(params, examples) / sampler.batch_size,
        inner_steps=0,
        reduction="sum",
        select=select_rows,
    )
    part = placement.own_campaigns()
    groups = GroupSampler(run.dataset, sampler, num_groups=placement.num_campaigns, part=part)
    return gradient, groups


def campaign_sampler(run: Run) -> CampaignSampler:
    """Samples support and query sets of a few campaigns per step, with the run's settings.

    On a mesh, it samples only those of the campaigns that this process takes.
    """
    settings = run.settings
    return CampaignSampler(
        run.dataset,
        run.campaigns,
        seed=run.seed,
        campaigns_per_step=settings.campaigns_per_step,
        batch_size=settings.batch_size,
        disjoint=settings.disjoint,
        value_dropout=settings.value_dropout,
        part=None if run.mesh is None else placement_of(run).own_campaigns(),
    )


def placement_of(run: Run) -> Placement:
    """The placement of a training's arrays; the run has a mesh."""
    assert run.mesh is not None
    return Placement(run.mesh, run.settings.campaigns_per_step, run.dataset.num_rows)


def plain_sampler(run: Run) -> ExampleSampler:
    """Samples batches for plain training, with as many examples as a meta-step draws."""
    return ExampleSampler(
        run.dataset,
        run.campaigns,
        seed=run.seed,
        batch_size=2 * run.settings.batch_size * run.settings.campaigns_per_step,
        value_dropout=run.settings.value_dropout,
    )


def untrained(run: Run, network: Network, key: Array | None = None) -> Weights:
    """Untrained weights for the run's data and settings.

    Consumes the key, by default that of the run's seed.
    """
    start = functools.partial(
        initialise,
        network,
        layout=run.dataset.layout,
        num_rows=run.dataset.num_rows,
        width=run.settings.width,
        scale=run.settings.table_scale,
    )
    key = jax.random.key(run.seed) if key is None else key
    if run.mesh is None:
        return start(key)
    # A row's values depend only on its number, so the padding rows do not change the others.
    placement = placement_of(run)
    on_mesh = functools.partial(start, num_rows=placement.padded_rows)
    lives = Weights(placement.state.network, placement.state.table.table)
    return jax.jit(on_mesh, out_shardings=lives)(key)


def train_on_campaigns(
    run: Run,
    weights: Weights,
    gradient: Gradient[...],
    *,
    finish: Callable[[Weights], State] = Weights._asdict,
    reduction: Reduction | None = None,
) -> Trained:
    """Trains by `train_rows` on support and query sets of the training campaigns."""
    sampler = campaign_sampler(run)
    return train_rows(
        run,
        weights,
        gradient,
        sampler,
        finish=finish,
        campaigns_of=sampler.campaigns_of,
        reduction=reduction,
    )


def train_rows(
    run: Run,
    weights: Weights,
    gradient: Gradient[...],
    sampler: Callable[[int], Any],
    *,
    finish: Callable[[Weights], State] = Weights._asdict,
    campaigns_of: Callable[[int], np.ndarray] | None = None,
    reduction: Reduction | None = None,
) -> Trained:
    """Trains network and table with row-local Adam steps, with the run's checkpoints and log.

    Args:
      run: has the learning rate, number of steps, checkpoints, log, label, progress, judge and
        start.
      weights: initial values.
      gradient: see `training.step.build_row_step`.
      sampler: ``sampler(step) -> (rows, *batches)``.
      finish: converts trained weights to the method's state.
      campaigns_of: see `training.loop.train`.
      reduction: reduction of the gradient over campaigns; by default that of the settings.
    """
    steps, table_optimizer = epoch_steps(run), table_adam(run.settings.outer_learning_rate)
    placement = None if run.mesh is None else placement_of(run)
    step = _build_step(run, gradient, table_optimizer, placement, reduction)

    # The moments are not copied, nor fetched from a mesh.
    values = jax.jit(lambda table: table_optimizer.flush(table).table)

    def current(state: RowState) -> Weights:
        if placement is None:
            return Weights(state.network, values(state.table))
        state, absent = placement.flush(state, table_optimizer), cast(Any, None)
        table = state.table._replace(mu=absent, nu=absent, last=absent)
        state = placement.fetch(state._replace(opt_state=None, table=table))
        return Weights(state.network, state.table.table)

    judge, early_stop = run.judge, None
    if judge is not None:
        early_stop = EarlyStop(
            lambda state: judge(finish(current(state))),
            every=max(1, steps // _JUDGEMENTS),
            patience=run.settings.offline_patience or 1,
            patience_steps=_PATIENCE_STEPS,
            judge_start=run.start is not None,
        )
    state = step.init(*weights)
    if run.start is not None:
        state = continued_state(run.start, run.dataset, state, placement)
    first = int(state.table.count)
    writes, options = run.mesh is None or is_first(), dict[str, Any]()
    with Checkpoints.at(run.directory if writes else None) as checkpoints:
        options["checkpoints"] = checkpoints
        if placement is not None and run.directory is not None:
            options["checkpoints"] = MeshCheckpoints(checkpoints, run.directory, placement)
            if jax.process_count() > 1:  # save by steps only, since clocks differ
                options |= {"save_every": 100, "save_seconds": math.inf}
        state, judgements = train(
            step,
            state,
            sampler,
            num_steps=first + run.settings.offline_epochs * steps,
            first_step=first,
            early_stop=early_stop,
            name=run.label,
            campaigns_of=campaigns_of,
            skip_nonfinite=run.skip_nonfinite,
            log=run.log,
            progress=run.progress,
            **options,
        )
    state = _flush(state, table_optimizer, placement)
    optimizer_state = {
        "network": to_state_dict(state.opt_state),
        "table": {"mu": state.table.mu, "nu": state.table.nu},
        "count": state.table.count,
    }
    weights = Weights(state.network, state.table.table)
    return Trained(finish(weights), judgements, jax.device_get(optimizer_state))


def _flush(
    state: RowState, table_optimizer: TableOptimizer, placement: Placement | None
) -> RowState:
    """The state with all rows up to date, in the form that it has without a mesh."""
    if placement is None:
        return state._replace(table=table_optimizer.flush(state.table))
    return placement.fetch(placement.flush(state, table_optimizer))


def _build_step(
    run: Run,
    gradient: Gradient[...],
    table_optimizer: TableOptimizer,
    placement: Placement | None,
    reduction: Reduction | None,
) -> RowStep:
    """The training step, on one device or on a mesh, for the batches of the sampler."""
    settings = run.settings
    optimizer = optax.adamw(settings.outer_learning_rate, weight_decay=settings.weight_decay)
    if placement is None:
        return build_row_step(gradient, optimizer, table_optimizer, checked=True)
    init, on_mesh = build_mesh_step(
        gradient,
        optimizer,
        table_optimizer,
        placement,
        reduction=reduction or settings.reduction,
        checked=True,
    )

    def step(state: RowState, rows: Any, *batches: Any) -> tuple[RowState, Any]:
        return on_mesh(state, *placement.place_batch(CampaignBatch(rows, *batches)))

    return RowStep(init, step)


def continued_state(
    start: General, data: Dataset, fresh: RowState, placement: Placement | None = None
) -> RowState:
    """The state of a general model's training, on data that has its values and possibly more.

    Args:
      start: a general model with its optimiser's state.
      data: data of the new training; with list lengths, if the network takes them.
      fresh: an initial state on the data, from which the rows of new values are taken.
      placement: placement of both states, if they are on a mesh.
    """
    if placement is not None:
        fresh = placement.fetch(fresh)
    # List lengths are not fields of the model, and have the same values in all data sets.
    known = dict(zip((f.name for f in start.schema.fields), start.vocabulary.values, strict=True))
    places = [
        data.vocabulary.encode(number, known.get(field.name, data.vocabulary.values[number]))
        for number, field in enumerate(data.schema.fields)
    ]
    rows, optimizer = np.concatenate(places), start.optimizer or {}
    count = np.array(optimizer["count"])
    old = (start.state["table"], optimizer["table"]["mu"], optimizer["table"]["nu"])
    new = [np.array(array) for array in (fresh.table.table, fresh.table.mu, fresh.table.nu)]
    for mine, theirs in zip(new, old, strict=True):
        mine[rows] = theirs
    parts = flatten_dict(to_state_dict(fresh.opt_state), keep_empty_nodes=True)
    parts |= flatten_dict(dict(optimizer["network"]))  # empty parts are not saved to disk
    table: list[Any] = [*new, np.full(fresh.table.last.shape, count), count]
    state = RowState(
        network=start.state["network"],
        opt_state=from_state_dict(fresh.opt_state, unflatten_dict(parts)),
        table=TableState(*table),
    )
    # Copies, since a step consumes its state.
    return jax.tree.map(jnp.array, state) if placement is None else placement.place(state)
