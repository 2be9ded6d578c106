"""Methods whose online stage fine-tunes a whole network on the examples of a campaign.

If a source does not state a value, a comment says where the value comes from.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from metaheac_jax.customising.customiser import Customiser
from metaheac_jax.customising.score import PROGRAMS_KEPT, AdaptedScorer
from metaheac_jax.data.batches import CampaignExamples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.config import GradientConfig, within
from metaheac_jax.methods.method import (
    NetworkMethod,
    Run,
    Trained,
    lengthened,
    register,
)
from metaheac_jax.methods.offline import train_plain
from metaheac_jax.model import State, Weights
from metaheac_jax.networks import MLP, MetaHeac, Network
from metaheac_jax.table.layout import Layout


@dataclass(frozen=True)
class FineTuningConfig(GradientConfig):
    """Settings of a method that fine-tunes a network online.

    Attributes:
      online_learning_rate: learning rate of the online Adam.
      online_epochs: passes over a campaign's examples; with patience, the maximum.
      online_patience: number of epochs without a lower held-out loss before the online stage stops.
        None runs all epochs.
    """

    online_learning_rate: float = 0.001  # "until the loss converges"; the program's rate
    online_epochs: int = within(10, least=0)
    online_patience: int | None = 3


@dataclass(frozen=True)
class PretrainingConfig(FineTuningConfig):
    """Settings of MLP+pre-training.

    Attributes:
      list_lengths: whether list lengths are user fields too; see `data.list_lengths`.
    """

    list_lengths: bool = False


@dataclass(frozen=True)
class WithoutMetaConfig(PretrainingConfig):
    """Settings of MetaHeac's network with plain training.

    Attributes:
      num_experts: n, the number of experts.
      num_critics: m, the number of critics.
    """

    num_experts: int = 8  # the paper tunes n and m in [3, 10]; these are the program's
    num_critics: int = 5


F = TypeVar("F", bound=PretrainingConfig)
W = TypeVar("W", bound=WithoutMetaConfig)


class FineTunedMethod(NetworkMethod[F]):
    """A method that trains a network offline, and fine-tunes all of it online."""

    def fit(self, run: Run) -> Trained:
        """Trains on the examples of all campaigns, plainly."""
        run, _ = lengthened(run, self.config.list_lengths)
        return train_plain(run, self.config, self.network)

    def customise(
        self, run: Run, state: State, campaigns: Sequence[Campaign]
    ) -> list[AdaptedScorer]:
        """See `Method.customise`."""
        run, campaigns = lengthened(run, self.config.list_lengths, campaigns)
        return fine_tune(run, self.config, self.network, Weights(**state), campaigns)


@register
class PretrainedMLP(FineTunedMethod[PretrainingConfig]):
    """MLP+pre-training: plain training offline, then fine-tuning (paper section 4.1)."""

    name, label, default = "mlp-pretraining", "MLP+pre-training", PretrainingConfig()
    network = MLP()


@register
class WithoutMeta(FineTunedMethod[W]):
    """MetaHeac's network with plain training offline (paper, Table 4)."""

    name, label, default = "without-meta", "MetaHeac w/o Meta", WithoutMetaConfig()

    @property
    def network(self) -> MetaHeac:
        """MetaHeac's network."""
        return MetaHeac(self.config.num_experts, self.config.num_critics)


def fine_tune(
    run: Run,
    config: FineTuningConfig,
    network: Network,
    weights: Weights,
    campaigns: Sequence[Campaign],
) -> list[AdaptedScorer]:
    """Adapts general weights to each campaign; see `customising.customiser.Customiser`."""
    layout = run.dataset.layout
    adapted = _compiled_customiser(network, layout, config.batch_size)(
        weights,
        CampaignExamples(run.dataset, campaigns),
        seed=run.seed,
        learning_rate=config.online_learning_rate,
        epochs=config.online_epochs,
        patience=config.online_patience,
        names=[campaign.name for campaign in campaigns],
        progress=run.progress,
    )
    return [
        AdaptedScorer(network, layout, weights, own, campaign.rows, run.lengths)
        for campaign, own in zip(campaigns, adapted, strict=True)
    ]


@functools.lru_cache(PROGRAMS_KEPT)  # methods with the same network share its compiled programs
def _compiled_customiser(network: Network, layout: Layout, batch_size: int) -> Customiser:
    return Customiser(network, layout, batch_size=batch_size)
