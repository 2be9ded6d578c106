"""Methods whose online stage fine-tunes a whole network on the campaign's own examples."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import jax
import numpy as np
import optax
from jax import Array

from experiments.methods.method import (
    Job,
    Method,
    Scorer,
    Watch,
    campaigns_at_once,
    offline_steps,
)
from metaheac_jax.baselines import MLP, LogisticRegression
from metaheac_jax.checkpoint import Checkpoints
from metaheac_jax.data.sampling import CampaignSampler, ExampleSampler, campaign_examples
from metaheac_jax.losses import Loss, build_loss
from metaheac_jax.meta import build_meta_gradient
from metaheac_jax.network import MetaHeac, Network
from metaheac_jax.offline import General, initialise, plain_gradient, train
from metaheac_jax.online import Customised, build_customise, build_score
from metaheac_jax.presets import Preset
from metaheac_jax.rows import build_row_step, select_rows, table_adam

#: none: nothing is learned across campaigns. plain: examples of all campaigns alike. batches: the
#: meta-step's campaign batches, with no inner step (alpha = 0). meta: Algorithm 1. Every kind takes
#: as many steps, and draws as many examples a step; at alpha = 0 the support half of them has no
#: part in the gradient.
Offline = Literal["none", "plain", "batches", "meta"]
BuildNetwork = Callable[[Preset], Network]

#: What is tuned of a method that trains offline and by steps online.
TUNED = ("outer_learning_rate", "online_learning_rate")
ONE_STAGE_PATIENCE = 3  # epochs; a campaign learned from nothing always stops by its held-out loss
#: The online settings of an MLP that is learned from nothing.
FROM_NOTHING = {
    "online_learning_rate": 0.003,
    "online_epochs": 30,
    "online_patience": ONE_STAGE_PATIENCE,
}


def heac(preset: Preset) -> MetaHeac:
    """MetaHeac's network of a preset."""
    return MetaHeac(experts=preset.experts, critics=preset.critics)


def fine_tuned(
    label: str,
    build_network: BuildNetwork,
    offline: Offline,
    *,
    work: float,
    by_slot: bool = False,
    **settings: Any,
) -> Method:
    """A method that trains a network offline in one of the ways and fine-tunes all of it online.

    Args:
      label: as a table names it.
      build_network: of the preset.
      offline: see `Offline`.
      work: arithmetic of an example as a multiple of MetaHeac's forward pass.
      by_slot: see `fine_tune`; of a method without an offline stage.
      **settings: of the preset, overridden.
    """
    if offline == "none":
        settings = {"online_patience": ONE_STAGE_PATIENCE} | settings
    passes = {"none": 0, "plain": 3, "batches": 1.5, "meta": 6}[offline]
    return Method(
        label=label,
        offline=functools.partial(train_general, build_network, offline, label),
        online=functools.partial(fine_tune, build_network, by_slot=by_slot),
        settings=settings,
        tuned=("online_learning_rate",) if offline == "none" else TUNED,
        steps=offline != "none",
        work=(passes * work, 3 * work),
    )


def train_general(build_network: BuildNetwork, offline: Offline, label: str, job: Job) -> General:
    """The general model; untrained if ``offline`` is "none"."""
    network, dataset, preset = build_network(job.preset), job.dataset, job.preset
    general = untrained(job, network, jax.random.key(job.seed))
    if offline == "none":
        return general
    loss = functools.partial(
        build_loss, network.apply, dataset.schema.user_slots, small_fields=dataset.small_fields
    )
    sampler: Callable[[int], Any]
    if offline == "plain":
        sampler = plain_sampler(job)
        gradient: Callable[..., Any] = plain_gradient(loss(reduction="mean"))
    else:
        sampler = campaign_sampler(job)
        gradient = build_meta_gradient(
            loss(reduction=preset.reduction),
            inner_learning_rate=preset.inner_learning_rate,
            inner_steps=1 if offline == "meta" else 0,
            campaigns_per_chunk=campaigns_at_once(preset.campaigns_per_step),
            reduction=preset.reduction,
            select=select_rows,
        )
    return train_rows(job, general, gradient, sampler, label=label)


def at_base_rate(job: Job) -> General:
    """An untrained `LogisticRegression` whose bias is the training campaigns' log-odds.

    From a bias of 0 all weights would learn the base rate first, and rank users by how few values
    they have.
    """
    seeds = job.dataset.stage1.positives[job.campaigns].sum()
    others = job.dataset.stage1.counts[job.campaigns].sum() - seeds
    start = untrained(job, LogisticRegression(), jax.random.key(job.seed))
    bias = np.log(max(seeds, 1) / max(others, 1)).astype(np.float32)
    return start._replace(network=jax.tree.map(lambda _: bias, start.network))  # it has no other


def campaign_sampler(job: Job) -> CampaignSampler:
    """Support and query sets of a few campaigns a step, as the preset has them."""
    preset = job.preset
    return CampaignSampler(
        job.dataset,
        job.campaigns,
        seed=job.seed,
        campaigns_per_step=preset.campaigns_per_step,
        rows=preset.rows,
        disjoint=preset.disjoint,
        weights=preset.campaign_weights,
    )


def untrained(job: Job, network: Network, key: Array) -> General:
    """A general model of the job's sizes that has learned nothing; consumes the key."""
    schema = job.dataset.schema
    return initialise(
        network,
        key,
        rows=job.dataset.rows,
        user_fields=len(schema.user),
        campaign_fields=len(schema.campaign),
        width=job.preset.width,
        scale=job.preset.table_scale,
    )


def plain_sampler(job: Job) -> ExampleSampler:
    """Batches of plain training.

    They have as many rows as the meta-step sees, so that the comparison is of methods.
    """
    rows = 2 * job.preset.rows * job.preset.campaigns_per_step
    return ExampleSampler(job.dataset, job.campaigns, seed=job.seed, rows=rows)


def train_rows(
    job: Job,
    general: General,
    gradient: Callable[..., Any],
    sampler: Callable[[int], Any],
    *,
    label: str,
) -> General:
    """Trains network and table by row-local Adam steps, with the job's checkpoints and log.

    Args:
      job: gives rate, number of steps, checkpoints, log and progress.
      general: the initial values.
      gradient: as `rows.build_row_step` takes it.
      sampler: ``sampler(step) -> (rows, *batches)``.
      label: of what is trained.
    """
    rate = job.preset.outer_learning_rate
    table_optimizer = table_adam(rate)
    step = build_row_step(gradient, optax.adam(rate), table_optimizer)
    with Checkpoints(job.directory) as checkpoints:
        state = train(
            step,
            step.init(*general),
            sampler,
            steps=offline_steps(job.dataset, job.campaigns, job.preset),
            name=label,
            checkpoints=checkpoints,
            log=job.log,
            progress=job.progress,
        )
    return General(state.network, table_optimizer.flush(state.table).table)


def fine_tune(
    build_network: BuildNetwork,
    job: Job,
    general: General,
    campaigns: np.ndarray,
    watch: Watch | None = None,
    *,
    by_slot: bool = False,
) -> list[Scorer]:
    """Customises the general model to each campaign (see `online.build_customise`).

    With ``by_slot`` the network gets a vector a slot instead of the mean of a field's slots.
    """
    preset, dataset = job.preset, job.dataset
    slots, small = dataset.schema.user_slots, dataset.small_fields
    if by_slot:
        slots, small = (1,) * sum(slots), ()
    customise, score = compiled_online(
        build_network(preset),
        slots,
        small,
        preset.rows,
    )

    def scorer(campaign: int, model: Customised) -> Scorer:
        return functools.partial(score, general, model, dataset.campaign_rows[campaign])

    def seen(step: int, models: Callable[[], list[Customised]]) -> None:
        if watch is not None:
            watch(step, lambda: list(map(scorer, campaigns, models())))

    models = customise(
        general,
        [campaign_examples(dataset, c) for c in campaigns],
        seed=job.seed,
        learning_rate=preset.online_learning_rate,
        epochs=preset.online_epochs,
        patience=preset.online_patience,
        progress=job.progress,
        watch=None if watch is None else seen,
    )
    return list(map(scorer, campaigns, models))


@functools.cache  # methods that share a network share what is compiled for it
def compiled_online(
    network: Network,
    user_slots: tuple[int, ...],
    small_fields: tuple[int, ...],
    rows: int,
    build_loss: Callable[..., Loss] = build_loss,
) -> tuple[Callable[..., list[Customised]], Callable[..., np.ndarray]]:
    """``customise`` and ``score`` (see `online`)."""
    customise = build_customise(
        network,
        user_slots,
        small_fields=small_fields,
        rows=rows,
        campaigns_at_once=campaigns_at_once(8),
        build_loss=build_loss,
    )
    return customise, build_score(network, user_slots, small_fields=small_fields)


METHODS = {
    "lr": replace(
        fine_tuned(
            "LR",
            lambda _: LogisticRegression(),
            "none",
            work=0.01,
            by_slot=True,  # a weight for every value that is there: features are 0 or 1
            width=1,
            table_scale=0.0,
            online_learning_rate=0.01,
            online_epochs=50,
        ),
        offline=at_base_rate,
    ),
    "mlp-one-stage": fine_tuned(
        "MLP_one-stage",
        lambda _: MLP(),
        "none",
        work=1 / 8,
        **FROM_NOTHING,
    ),
    "mlp-pretraining": fine_tuned("MLP+pre-training", lambda _: MLP(), "plain", work=1 / 8),
    "without-meta": fine_tuned("MetaHeac w/o Meta", heac, "plain", work=1),
    "alpha-0": fine_tuned("MetaHeac, alpha = 0", heac, "batches", work=1),
    "without-hc": fine_tuned("MetaHeac w/o HC (one critic)", heac, "meta", work=1, critics=1),
    "without-he": fine_tuned("MetaHeac w/o HE (one expert)", heac, "meta", work=1 / 8, experts=1),
    "metaheac": fine_tuned("MetaHeac", heac, "meta", work=1),
}
