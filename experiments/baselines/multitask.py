"""Shared-Bottom and MMoE with pre-training: one head per campaign, and a new head online."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from experiments.baselines.multitask_networks import MMoE, SharedBottom
from metaheac_jax.customising.score import ProgramScorer
from metaheac_jax.data.batches import Batch
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods import Offline, Online, Trained, register, setting
from metaheac_jax.methods.method import GradientMethod
from metaheac_jax.methods.offline import plain_sampler, train_rows, untrained
from metaheac_jax.methods.pretraining import FineTuningConfig, FineTuningConfigT, fine_tune
from metaheac_jax.model import State, Weights
from metaheac_jax.networks import Output, User
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.step import plain_gradient

Heads = SharedBottom | MMoE

#: Parameters whose first axis runs over the training campaigns.
PER_CAMPAIGN = ("gate_hidden", "gates", "heads")


@dataclass(frozen=True)
class _WithOwners:
    """A `Network` with one head per campaign, for examples with known owners (their campaigns)."""

    network: Heads
    owner: Array

    def init(self, key: Any, user: User, campaign: Array, /) -> Any:
        return self.network.init(key, user, campaign)

    def apply(self, params: Any, user: User, campaign: Array, /) -> Output:
        return self.network.apply(params, user, campaign, self.owner)  # pyrefly: ignore


class _WithHeads(GradientMethod[FineTuningConfigT]):
    """Plain training on all campaigns with one head each, and a new head for each new campaign.

    Heads are in ascending order of campaigns. The heads of a model are of its training campaigns,
    so training cannot continue from it.
    """

    continues = False

    @abstractmethod
    def network(self, num_campaigns: int) -> Heads:
        """The offline network."""

    @abstractmethod
    def new_network(self) -> Heads:
        """The online network, with one head."""

    def train(self, offline: Offline) -> Trained:
        """The offline stage."""
        network, layout = self.network(len(offline.campaigns)), offline.dataset.layout

        def loss(params: Any, examples: Batch, owner: Array) -> Array:
            return build_loss(_WithOwners(network, owner), layout)(params, examples)

        weights = untrained(offline, self.config, network)
        sampler, chosen = plain_sampler(offline, self.config), np.sort(offline.campaigns)

        def draw(step: int) -> tuple[Any, ...]:
            owner = np.searchsorted(chosen, sampler.positions(step)[1]).astype(np.int32)
            return (*sampler(step), owner)

        return train_rows(offline, self.config, weights, plain_gradient(loss), draw)

    def adapt(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[ProgramScorer]:
        """The online stage, from the mean of the trained heads; the paper does not state it."""
        weights = Weights(mean_head(state["network"]), state["table"])
        return fine_tune(online, self.config, self.new_network(), weights, campaigns)

    def general_scorers(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[ProgramScorer]:
        """Scorers with the mean head, before customising."""
        return self.changed(online_epochs=0).adapt(online, state, campaigns)


@dataclass(frozen=True)
class MMoEConfig(FineTuningConfig):
    """Settings of MMoE."""

    num_experts: int = setting(8, shapes=True)
    """Number of experts."""


@register
class SharedBottomMethod(_WithHeads[FineTuningConfig]):
    """Shared-Bottom+pre-training: online, only the new head is fine-tuned (paper section 4.1)."""

    name, label, default = "shared-bottom", "Shared-Bottom+pre-training", FineTuningConfig()

    def network(self, num_campaigns: int) -> SharedBottom:
        """See `_WithHeads.network`."""
        return SharedBottom(num_campaigns)

    def new_network(self) -> SharedBottom:
        """The network with one head and a frozen bottom."""
        return SharedBottom(head_only=True)


@register
class MMoEMethod(_WithHeads[MMoEConfig]):
    """MMoE+pre-training: online, everything is fine-tuned (paper section 4.1)."""

    name, label, default = "mmoe", "MMoE+pre-training", MMoEConfig()

    def network(self, num_campaigns: int) -> MMoE:
        """See `_WithHeads.network`."""
        return MMoE(self.config.num_experts, num_campaigns)

    def new_network(self) -> MMoE:
        """The network with one gate and one head."""
        return MMoE(self.config.num_experts)


def mean_head(trained: Any) -> Any:
    """Parameters with one head per campaign -> parameters with the mean head only."""
    params = trained["params"]
    heads = {name: params[name] for name in PER_CAMPAIGN if name in params}
    new = jax.tree.map(lambda leaf: leaf.mean(axis=0, keepdims=True), heads)
    return {"params": {**params, **new}}
