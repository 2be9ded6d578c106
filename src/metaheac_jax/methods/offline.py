"""The offline stage of a network: training its general weights on all campaigns."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
import optax
from flax.serialization import from_state_dict, to_state_dict
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from metaheac_jax.backend import jit
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.samplers import CampaignSampler, ExampleSampler
from metaheac_jax.methods.config import GradientConfig
from metaheac_jax.methods.method import Offline, Trained
from metaheac_jax.model import General, Judgement, State, Weights, initialise
from metaheac_jax.networks import Network
from metaheac_jax.schema import Vocabulary
from metaheac_jax.table.adam import table_adam
from metaheac_jax.training.checkpoint import Checkpoints
from metaheac_jax.training.loop import EarlyStop, Judge, Training, to_progress, train
from metaheac_jax.training.losses import Reduction, build_loss
from metaheac_jax.training.sharding import BY_ROW, EVERYWHERE, Placement, one_device
from metaheac_jax.training.step import Gradient, RowState, RowStep, build_row_step, plain_gradient

#: Judgements per epoch of the offline stage, and the minimum number of steps that it continues for
#: after the best one.
_JUDGEMENTS, _PATIENCE_STEPS = 4, 800


def train_plain(offline: Offline, config: GradientConfig, network: Network) -> Trained:
    """Trains a network on the examples of all campaigns, as many per step as a meta-step draws."""
    weights, sampler = untrained(offline, config, network), plain_sampler(offline, config)
    total, size = build_loss(network, offline.dataset.layout, reduction="sum"), sampler.batch_size
    gradient = plain_gradient(lambda *given: total(*given) / size)
    return train_rows(offline, config, weights, gradient, sampler, reduction="sum", num_items=size)


def plain_sampler(offline: Offline, config: GradientConfig) -> ExampleSampler:
    """Samples batches for plain training, with as many examples as a meta-step draws."""
    return ExampleSampler(
        offline.dataset,
        offline.campaigns,
        seed=offline.seed,
        batch_size=2 * config.batch_size * config.campaigns_per_step,
        value_dropout=config.value_dropout,
    )


def campaign_sampler(
    offline: Offline, config: GradientConfig, *, disjoint: bool = True
) -> CampaignSampler:
    """Samples support and query sets of a few campaigns per step."""
    return CampaignSampler(
        offline.dataset,
        offline.campaigns,
        seed=offline.seed,
        campaigns_per_step=config.campaigns_per_step,
        batch_size=config.batch_size,
        disjoint=disjoint,
        value_dropout=config.value_dropout,
    )


def _placement(offline: Offline, num_items: int) -> Placement:
    """The placement of a training's arrays; a step divides so many items over the devices."""
    mesh = one_device() if offline.mesh is None else offline.mesh
    return Placement(mesh, num_items, offline.dataset.num_rows)


def untrained(
    offline: Offline, config: GradientConfig, network: Network, key: Array | None = None
) -> Weights:
    """Untrained weights for the data; consumes the key, by default that of the seed."""
    placement = _placement(offline, config.campaigns_per_step)
    # A row's values depend only on its number, so the padding rows do not change the others.
    start = functools.partial(
        initialise,
        network,
        layout=offline.dataset.layout,
        num_rows=placement.padded_rows,
        width=config.width,
    )
    places: Any = Weights(*map(placement.sharding, (EVERYWHERE, BY_ROW)))  # pyrefly: ignore
    key = jax.random.key(offline.seed) if key is None else key
    network, table = jit(start, out_shardings=places)(key)
    # Within the jitted function, the scale would be merged with others and round differently.
    return Weights(network, config.table_scale * table)


def train_rows(
    offline: Offline,
    config: GradientConfig,
    weights: Weights,
    gradient: Gradient[...],
    sampler: Callable[[int], Any],
    *,
    num_items: int | None = None,
    finish: Callable[[Weights], State] = Weights._asdict,
    reduction: Reduction = "mean",
) -> Trained:
    """Trains network and table with row-local Adam steps, with checkpoints and hooks.

    Args:
      weights: initial values, which are consumed.
      gradient: see `training.step.build_row_step`.
      sampler: ``sampler(step) -> (rows, *batches)``.
      num_items: what a step divides over the devices of a mesh; by default its campaigns.
      finish: converts trained weights to the method's state.
      reduction: reduction of the gradient over the items.
    """
    placement = _placement(offline, num_items or config.campaigns_per_step)
    table_optimizer = table_adam(config.outer_learning_rate)
    num_examples = int(offline.dataset.stage1.counts[offline.campaigns].sum())
    steps = -(-num_examples // config.batch_size)  # of an epoch
    init, jitted = build_row_step(
        gradient,
        optax.adamw(config.outer_learning_rate, weight_decay=config.weight_decay),
        table_optimizer,
        placement=placement,
        reduction=reduction,
    )

    def step(state: RowState, *batch: Any) -> tuple[RowState, Any]:
        return jitted(state, *placement.place_batch(batch))

    # Of a judged state only the values are needed, without the moments.
    values = jit(
        lambda table: table_optimizer.flush(table).table, out_shardings=placement.sharding(BY_ROW)
    )

    def judged(judge: Judge, state: RowState, number: int) -> Judgement:
        table = placement.fetch_rows(values(state.table))
        return judge(finish(Weights(placement.fetch(state.network), table)), number)

    state, early_stop = init(*weights), None
    if offline.start is not None:
        state = _continued(offline.start, offline.dataset, state, placement)
    first = int(state.table.count)
    if offline.judge is not None:
        early_stop = EarlyStop(
            functools.partial(judged, offline.judge),
            every=max(1, steps // _JUDGEMENTS),
            patience=config.offline_patience or 1,
            patience_steps=_PATIENCE_STEPS,
        )
    training = Training(
        RowStep(init, step),
        state,
        sampler,
        num_steps=first + config.offline_epochs * steps,
        done=first,
        name=offline.label,
        early_stop=early_stop,
    )
    checkpoints = None if offline.directory is None else Checkpoints(offline.directory)
    hooks = [*offline.hooks, to_progress(offline.progress)]
    state, judgements = train(training, hooks, checkpoints)
    state = placement.fetch(state._replace(table=table_optimizer.flush(state.table)))
    optimizer_state = {
        "network": to_state_dict(state.opt_state),
        "table": {"mu": state.table.mu, "nu": state.table.nu},
        "count": state.table.count,
    }
    return Trained(finish(Weights(state.network, state.table.table)), judgements, optimizer_state)


def _continued(start: General, data: Dataset, fresh: RowState, placement: Placement) -> RowState:
    """The state of a general model's training, on data that has its values and possibly more.

    Rows of new values are those of ``fresh``, an initial state.
    """
    fresh = placement.fetch(fresh)
    # List lengths are not fields of the model, and have the same values in all data sets.
    known = dict(zip((f.name for f in start.schema.fields), start.vocabulary.values, strict=True))
    pairs = zip(data.schema.fields, data.vocabulary.values, strict=True)
    earlier = Vocabulary(tuple(known.get(field.name, values) for field, values in pairs))
    rows, optimizer = data.vocabulary.rows_of(earlier)[:-1], start.optimizer or {}
    count = np.array(optimizer["count"])
    old = (start.state["table"], optimizer["table"]["mu"], optimizer["table"]["nu"])
    new = [fresh.table.table, fresh.table.mu, fresh.table.nu]
    for mine, theirs in zip(new, old, strict=True):
        mine[rows] = theirs
    parts = flatten_dict(to_state_dict(fresh.opt_state), keep_empty_nodes=True)
    parts |= flatten_dict(dict(optimizer["network"]))  # empty parts are not saved to disk
    last: Any = np.full(fresh.table.last.shape, count)
    state = RowState(
        network=start.state["network"],
        opt_state=from_state_dict(fresh.opt_state, unflatten_dict(parts)),
        table=fresh.table._replace(last=last, count=cast(Any, count)),
    )
    return placement.place(state)
