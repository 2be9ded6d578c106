"""MLPs that are trained from scratch for each new campaign (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from metaheac_jax.customising.score import ProgramScorer
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods import Method, Offline, Online, Trained, register, setting
from metaheac_jax.methods.method import GradientMethod
from metaheac_jax.methods.offline import train_plain, untrained
from metaheac_jax.methods.pretraining import FineTuningConfig, fine_tune
from metaheac_jax.model import State, Weights
from metaheac_jax.networks import MLP, Network, User


@dataclass(frozen=True)
class FromScratchConfig(FineTuningConfig):
    """Settings of a method that trains a network from scratch online, after gradient steps."""

    online_learning_rate: float = 0.003
    online_epochs: int = setting(30, least=0)


@dataclass(frozen=True)
class OnFrozenFields:
    """A network whose field vectors get no gradient, so that training does not change the table."""

    network: Network

    def init(self, key: Any, user: User, campaign: Array, /) -> Any:
        """The network's own parameters."""
        return self.network.init(key, user, campaign)

    def apply(self, params: Any, user: User, campaign: Array, /) -> Any:
        """The network's own output."""
        return self.network.apply(params, *jax.lax.stop_gradient((user, campaign)))


_NEW_MLP = OnFrozenFields(MLP())


@register
class MLPOneStage(Method[FromScratchConfig]):
    """MLP_one-stage: an MLP trained from scratch on the campaign's examples."""

    name, label, default = "mlp-one-stage", "MLP_one-stage", FromScratchConfig()

    def train(self, offline: Offline) -> Trained:
        """The offline stage, which draws initial values."""
        return Trained(untrained(offline, self.config, MLP())._asdict())

    def adapt(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[ProgramScorer]:
        """The online stage: trains the MLP."""
        return fine_tune(online, self.config, MLP(), Weights(**state), campaigns)


@register
class MLPEmbeddings(GradientMethod[FromScratchConfig]):
    """MLP+emb: an MLP trained from scratch on frozen embeddings that all campaigns share."""

    name, label, default = "mlp-embeddings", "MLP+emb", FromScratchConfig()

    def train(self, offline: Offline) -> Trained:
        """The offline stage: plain training."""
        return train_plain(offline, self.config, MLP())

    def adapt(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[ProgramScorer]:
        """Trains an MLP from scratch for each campaign, on the general model's embeddings."""
        # The offline stage drew its MLP and the table with the parts 0 and 1 of the key.
        key = jax.random.fold_in(jax.random.key(online.seed), 2)
        drawing = Offline(online.dataset, np.empty(0, int), online.seed)
        network = untrained(drawing, self.config, _NEW_MLP, key).network
        return fine_tune(online, self.config, _NEW_MLP, Weights(network, state["table"]), campaigns)
