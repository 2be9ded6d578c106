"""The methods that are compared (paper section 4.1): how each trains offline and adapts online."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

from metaheac_jax.baselines import MLP, LogisticRegression
from metaheac_jax.checkpoint import Checkpoints
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.sampling import CampaignSampler, ExampleSampler
from metaheac_jax.errors import InputError
from metaheac_jax.losses import build_loss
from metaheac_jax.meta import build_meta_gradient
from metaheac_jax.network import MetaHeac, Network
from metaheac_jax.offline import General, initialise, plain_gradient, train
from metaheac_jax.online import Customised, build_customise, build_score
from metaheac_jax.presets import Preset
from metaheac_jax.progress import Progress
from metaheac_jax.rows import build_row_step, table_adam

#: none: nothing is learned across campaigns. plain: examples of all campaigns alike. batches: the
#: meta-step's campaign batches, with no inner step (alpha = 0). meta: Algorithm 1.
Offline = Literal["none", "plain", "batches", "meta"]


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes:
      label: as a table names it.
      network: "heac", "mlp" or "lr".
      offline: see `Offline`. Every kind takes as many steps, and draws as many examples a step; at
        alpha = 0 the support half of them has no part in the gradient.
      scale: overrides the preset's scale of the table's initial values.
      online_learning_rate, online_epochs: override the preset's. A method that learns a campaign
        from nothing always trains until its held-out loss stops falling.
    """

    label: str
    network: Literal["heac", "mlp", "lr"]
    offline: Offline
    scale: float | None = None
    online_learning_rate: float | None = None
    online_epochs: int | None = None


METHODS = {
    "lr": Method("LR", "lr", "none", scale=0.0, online_learning_rate=0.01, online_epochs=50),
    "mlp-one-stage": Method(
        "MLP_one-stage", "mlp", "none", online_learning_rate=0.003, online_epochs=30
    ),
    "mlp-pretraining": Method("MLP+pre-training", "mlp", "plain"),
    "without-meta": Method("MetaHeac w/o Meta", "heac", "plain"),
    "alpha-0": Method("MetaHeac, alpha = 0", "heac", "batches"),
    "metaheac": Method("MetaHeac", "heac", "meta"),
}


def check_methods(names: Sequence[str]) -> None:
    """Refuses a name that no method has.

    Raises:
      InputError: it names the unknown method, and those there are.
    """
    for name in names:
        if name not in METHODS:
            raise InputError(f"--methods: unknown {name!r}; choose from {', '.join(METHODS)}")
    if not names:
        raise InputError(f"--methods: name at least one of {', '.join(METHODS)}")


def build_network(method: Method, preset: Preset) -> tuple[Network, int]:
    """The method's network, and the width of its table."""
    if method.network == "lr":
        return LogisticRegression(), 1
    if method.network == "mlp":
        return MLP(), preset.width
    return MetaHeac(experts=preset.experts, critics=preset.critics), preset.width


def campaigns_at_once(most: int) -> int:
    """How many campaigns to vmap together: all on an accelerator, one on a CPU.

    On 2 cores a batched product is up to three times slower than the same products in turn, since
    only the latter use the fast matrix kernels.
    """
    return 1 if jax.default_backend() == "cpu" else most


def offline_steps(dataset: Dataset, campaigns: np.ndarray, preset: Preset) -> int:
    """Steps of the offline stage: ``epochs`` times ceil(training examples / rows)."""
    examples = int(dataset.stage1.counts[campaigns].sum())
    return preset.epochs * -(-examples // preset.rows)


def train_general(
    method: Method,
    preset: Preset,
    dataset: Dataset,
    campaigns: np.ndarray,
    *,
    seed: int,
    directory: Path,
    log: Path | None,
    progress: Progress,
) -> General:
    """The method's general model, trained on stage 1 of ``campaigns``, resuming if it can.

    Args:
      method, preset: what to train, and how.
      dataset: of the campaigns.
      campaigns: indices of the training campaigns.
      seed: of the initial values and the batches.
      directory: of the checkpoints.
      log: JSON lines of the training.
      progress: told the steps done.
    """
    network, width = build_network(method, preset)
    schema = dataset.schema
    general = initialise(
        network,
        jax.random.key(seed),
        rows=dataset.rows,
        user_fields=len(schema.user),
        campaign_fields=len(schema.campaign),
        width=width,
        scale=preset.table_scale if method.scale is None else method.scale,
    )
    if method.offline == "none":
        return general
    sampler: Callable[[int], Any]
    if method.offline == "plain":
        # As many rows a step as the meta-step sees, so that the comparison is of methods.
        rows = 2 * preset.rows * preset.campaigns_per_step
        sampler = ExampleSampler(dataset, campaigns, seed=seed, rows=rows)
        gradient: Callable[..., Any] = plain_gradient(
            build_loss(network.apply, schema.user_slots, reduction="mean")
        )
    else:
        sampler = CampaignSampler(
            dataset,
            campaigns,
            seed=seed,
            campaigns_per_step=preset.campaigns_per_step,
            rows=preset.rows,
            disjoint=preset.disjoint,
            weights=preset.campaign_weights,
        )
        gradient = build_meta_gradient(
            build_loss(network.apply, schema.user_slots, reduction=preset.reduction),
            inner_learning_rate=preset.inner_learning_rate,
            inner_steps=1 if method.offline == "meta" else 0,
            campaigns_per_chunk=campaigns_at_once(preset.campaigns_per_step),
            reduction=preset.reduction,
        )
    table_optimizer = table_adam(preset.outer_learning_rate)
    step = build_row_step(gradient, optax.adam(preset.outer_learning_rate), table_optimizer)
    with Checkpoints(directory) as checkpoints:
        state = train(
            step,
            step.init(*general),
            sampler,
            steps=offline_steps(dataset, campaigns, preset),
            name=method.label,
            checkpoints=checkpoints,
            log=log,
            progress=progress,
        )
    return General(state.network, table_optimizer.flush(state.table).table)


def build_online(
    method: Method, preset: Preset, user_slots: tuple[int, ...]
) -> tuple[Callable[..., list[Customised]], Callable[..., np.ndarray], dict[str, Any]]:
    """The method's ``customise`` and ``score`` (see `online`), and the options of the first."""
    network, _ = build_network(method, preset)
    rate = method.online_learning_rate or preset.online_learning_rate
    options = {
        "epochs": method.online_epochs or preset.online_epochs,
        "patience": preset.online_patience or (3 if method.offline == "none" else None),
    }
    return *_compiled_online(network, user_slots, rate, preset.rows), options


@functools.cache  # methods that share a network share what is compiled for it
def _compiled_online(
    network: Network, user_slots: tuple[int, ...], learning_rate: float, rows: int
) -> tuple[Callable[..., list[Customised]], Callable[..., np.ndarray]]:
    customise = build_customise(
        network,
        user_slots,
        learning_rate=learning_rate,
        rows=rows,
        campaigns_at_once=campaigns_at_once(8),
    )
    return customise, build_score(network, user_slots)
