"""MetaHeac with what the paper does not have: seed features, and the lengths of lists."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, replace

import jax
import numpy as np

from experiments.methods.fine_tuned import (
    TUNED,
    campaign_sampler,
    compiled_online,
    heac,
    train_rows,
    untrained,
)
from experiments.methods.method import Job, Method, Scorer, Watch, campaigns_at_once
from metaheac_jax.data.lengths import Lengths, with_lengths
from metaheac_jax.data.sampling import campaign_examples
from metaheac_jax.losses import Batch, Loss
from metaheac_jax.meta import build_meta_gradient
from metaheac_jax.offline import General
from metaheac_jax.online import Customised
from metaheac_jax.presets import OURS, PAPER
from metaheac_jax.rows import select_rows
from metaheac_jax.seed_features import (
    ReferenceSampler,
    SeedNetwork,
    build_direct,
    build_seed_loss,
    reference_rows,
    with_reference,
)

LABEL = "MetaHeac, ours"
#: The most seeds, and the most non-seeds, that a user is compared with.
REFERENCE = 256


def train_general(job: Job) -> General:
    """Algorithm 1 on losses with seed features, whose reference sets are of the support sets."""
    job, _ = _with_lengths(job)
    network, dataset, preset = SeedNetwork(heac(job.preset)), job.dataset, job.preset
    gradient = build_meta_gradient(
        build_seed_loss(
            network.apply,
            dataset.schema.user_slots,
            campaign_fields=len(dataset.schema.campaign),
            small_fields=dataset.small_fields,
            reduction=preset.reduction,
        ),
        inner_learning_rate=preset.inner_learning_rate,
        inner_steps=1 if preset.inner_learning_rate else 0,
        campaigns_per_chunk=campaigns_at_once(preset.campaigns_per_step),
        reduction=preset.reduction,
        select=select_rows,
    )
    general = untrained(job, network, jax.random.key(job.seed))
    sampler = ReferenceSampler(campaign_sampler(job), size=REFERENCE)
    return train_rows(job, general, gradient, sampler, label=LABEL)


def fine_tune(
    job: Job, general: General, campaigns: np.ndarray, watch: Watch | None = None
) -> list[Scorer]:
    """Customises the general model to each campaign.

    Half of its examples, up to `REFERENCE` of either kind, are the reference set of the others;
    users of a pool are compared with all of them, up to as many.
    """
    job, lengths = _with_lengths(job)
    preset, dataset = job.preset, job.dataset
    slots, small = dataset.schema.user_slots, dataset.small_fields
    fields = len(dataset.schema.campaign)
    customise, score = compiled_online(
        SeedNetwork(heac(preset)),
        slots,
        small,
        preset.rows,
        _seed_loss(fields),
    )
    direct = _compiled_direct(slots, small)
    examples = [campaign_examples(dataset, c) for c in campaigns]
    split = [with_reference(own, REFERENCE, dataset.rows) for own in examples]

    def scorer(campaign: int, own: Batch, model: Customised) -> Scorer:
        reference = reference_rows(own, REFERENCE, dataset.rows)
        directed, own_rows = direct(general, model, reference), dataset.campaign_rows[campaign]
        return lambda users: score(general, directed, own_rows, lengths.users(users))

    def scorers(models: list[Customised]) -> list[Scorer]:
        return [scorer(*own) for own in zip(campaigns, examples, models, strict=True)]

    def seen(step: int, models: Callable[[], list[Customised]]) -> None:
        if watch is not None:
            watch(step, lambda: scorers(models()))

    models = customise(
        general,
        [_weighted(own) for own in split],
        seed=job.seed,
        learning_rate=preset.online_learning_rate,
        epochs=preset.online_epochs,
        patience=preset.online_patience,
        progress=job.progress,
        watch=None if watch is None else seen,
    )
    return scorers(models)


def _weighted(examples: Batch) -> Batch:
    """The examples whose weight is not 0."""
    keep = examples.weight > 0
    return Batch(
        examples.user[keep], examples.campaign, examples.label[keep], examples.weight[keep]
    )


def _with_lengths(job: Job) -> tuple[Job, Lengths]:
    dataset, lengths = with_lengths(job.dataset)
    return replace(job, dataset=dataset), lengths


@functools.cache  # one object for all runs, so that they share what is compiled
def _seed_loss(campaign_fields: int) -> Callable[..., Loss]:
    return functools.partial(build_seed_loss, campaign_fields=campaign_fields)


@functools.cache
def _compiled_direct(
    user_slots: tuple[int, ...], small_fields: tuple[int, ...]
) -> Callable[..., Customised]:
    return build_direct(user_slots, small_fields=small_fields)


METHODS = {
    "ours": Method(
        label=LABEL,
        offline=train_general,
        online=fine_tune,
        # What a command sets for its data, such as the rates, stays.
        # A query example may not be in the reference set that it is compared with.
        settings={k: v for k, v in asdict(OURS).items() if v != getattr(PAPER, k)}
        | {"disjoint": True},
        tuned=TUNED,
        steps=True,
        work=(8, 4),
    )
}
