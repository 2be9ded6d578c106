"""Training a network on the examples of all campaigns, then fine-tuning all of it to each one.

The method with an MLP is the paper's MLP+pre-training (section 4.1).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from metaheac_jax.customising.customiser import Customiser
from metaheac_jax.customising.score import PROGRAMS_KEPT, ProgramScorer, network_scorers
from metaheac_jax.data.batches import CampaignExamples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.config import GradientConfig, setting
from metaheac_jax.methods.method import NetworkMethod, Offline, Online, Trained, register
from metaheac_jax.methods.offline import train_plain
from metaheac_jax.model import State, Weights
from metaheac_jax.networks import MLP, Network
from metaheac_jax.table.layout import Layout


@dataclass(frozen=True)
class FineTuningConfig(GradientConfig):
    """Settings of a method that takes gradient steps online, too."""

    online_learning_rate: float = 0.001
    """Learning rate of the online Adam; that of the authors' program."""
    online_epochs: int = setting(10, least=0, official=2)
    """Passes over a campaign's examples; with patience, the maximum. The paper trains "until the
    loss converges"."""
    online_patience: int | None = setting(3, official=None)
    """Number of epochs without a lower held-out loss before the online stage stops. None runs all
    epochs."""


FineTuningConfigT = TypeVar("FineTuningConfigT", bound=FineTuningConfig)


class PretrainedMethod(NetworkMethod[FineTuningConfigT]):
    """A method that trains a network offline, and fine-tunes all of it online."""

    def train(self, offline: Offline) -> Trained:
        """Trains on the examples of all campaigns, plainly."""
        return train_plain(offline, self.config, self.network)

    def adapt(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[ProgramScorer]:
        """See `Method.adapt`."""
        return fine_tune(online, self.config, self.network, Weights(**state), campaigns)


@register
class PretrainedMLP(PretrainedMethod[FineTuningConfig]):
    """MLP+pre-training: plain training offline, then fine-tuning (paper section 4.1)."""

    name, label, default = "mlp-pretraining", "MLP+pre-training", FineTuningConfig()
    network = MLP()


def fine_tune(
    online: Online,
    config: FineTuningConfig,
    network: Network,
    weights: Weights,
    campaigns: Sequence[Campaign],
) -> list[ProgramScorer]:
    """Adapts general weights to each campaign; see `customising.customiser.Customiser`."""
    layout = online.dataset.layout
    adapted = _compiled_customiser(network, layout, config.batch_size)(
        weights,
        CampaignExamples(online.dataset, campaigns),
        seed=online.seed,
        learning_rate=config.online_learning_rate,
        epochs=config.online_epochs,
        patience=config.online_patience,
        names=[campaign.name for campaign in campaigns],
        progress=online.progress,
    )
    rows = [campaign.rows for campaign in campaigns]
    return network_scorers(network, layout, weights, zip(adapted, rows, strict=True))


@functools.lru_cache(PROGRAMS_KEPT)  # methods with the same network share its compiled programs
def _compiled_customiser(network: Network, layout: Layout, batch_size: int) -> Customiser:
    return Customiser(network, layout, batch_size=batch_size)
