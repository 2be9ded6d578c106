"""Shared-Bottom and MMoE with pre-training: a head a campaign, and a new one for a new campaign."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from experiments.methods.fine_tuned import TUNED, fine_tune, plain_sampler, train_rows, untrained
from experiments.methods.method import Job, Method, Scorer, Watch
from metaheac_jax.baselines import MMoE, SharedBottom
from metaheac_jax.losses import Batch, build_loss
from metaheac_jax.network import Network
from metaheac_jax.offline import General, PlainInfo, plain_gradient
from metaheac_jax.presets import Preset

#: Where a new campaign's head and gate start, which the paper leaves open: at the mean of the
#: trained ones, or at random values.
Start = Literal["mean", "random"]
BuildHeads = Callable[[Preset, int], SharedBottom | MMoE]

OWN = ("gates", "heads")  # parameters that each campaign has for itself, on their first axis


def with_heads(
    label: str,
    build_offline: BuildHeads,
    build_online: Callable[[Preset], Network],
    *,
    work: tuple[float, float],
    start: Start = "mean",
) -> Method:
    """A method that learns a head a campaign offline, and a new one online.

    Args:
      label: as a table names it.
      build_offline: the network of a preset and a number of campaigns.
      build_online: the same with one head, and with a gradient for what is fine-tuned.
      work: see `Method`.
      start: of the new head.
    """
    return Method(
        label=label,
        offline=functools.partial(train_heads, build_offline, label),
        online=functools.partial(fine_tune_new, build_online, start),
        tuned=TUNED,
        steps=True,
        work=work,
    )


def train_heads(build_network: BuildHeads, label: str, job: Job) -> General:
    """Plain training of all campaigns alike; heads are in ascending order of their campaigns."""
    network, dataset = build_network(job.preset, len(job.campaigns)), job.dataset

    def gradient(params: Any, batch: Batch, owner: jax.Array) -> tuple[Any, PlainInfo]:
        own = functools.partial(network.apply, owner=owner)
        loss = build_loss(own, dataset.schema.user_slots, small_fields=dataset.small_fields)
        return plain_gradient(loss)(params, batch)

    general = untrained(job, network, jax.random.key(job.seed))
    return train_rows(job, general, gradient, plain_sampler(job).owned, label=label)


def fine_tune_new(
    build_network: Callable[[Preset], Network],
    start: Start,
    job: Job,
    general: General,
    campaigns: np.ndarray,
    watch: Watch | None = None,
) -> list[Scorer]:
    """Gives each campaign a new head (and gate), and fine-tunes what the network lets move."""
    network = build_network(job.preset)
    # Not the key of the offline stage: a head that starts at random is none of the trained ones.
    key = jax.random.fold_in(jax.random.key(job.seed), 1)
    fresh = untrained(job, network, key).network if start == "random" else None
    new = General(new_heads(general.network, fresh), general.table)
    return fine_tune(build_network, job, new, campaigns, watch)


def new_heads(trained: Any, fresh: Any = None) -> Any:
    """Parameters with one head in place of all.

    Args:
      trained: with C heads.
      fresh: with the head to put there; None for the mean of the trained ones.
    """
    params = trained["params"]
    own = {name: params[name] for name in OWN if name in params}
    if fresh is None:
        new = jax.tree.map(lambda leaf: leaf.mean(axis=0, keepdims=True), own)
    else:
        new = {name: fresh["params"][name] for name in own}
    return {"params": {**params, **new}}


METHODS = {
    "shared-bottom": with_heads(
        "Shared-Bottom+pre-training",
        lambda _, campaigns: SharedBottom(campaigns),
        lambda _: SharedBottom(head_only=True),
        work=(3 / 8, 1 / 8),  # online the bottom is run forwards only
    ),
    "mmoe": with_heads(
        "MMoE+pre-training",
        lambda preset, campaigns: MMoE(preset.experts, campaigns),
        lambda preset: MMoE(preset.experts),
        work=(6, 3),  # offline the gates of a hundred campaigns cost as much as the experts
    ),
}
