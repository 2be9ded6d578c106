"""Shared-Bottom and MMoE with pre-training: one head per campaign, and a new head online."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from metaheac_jax.data.batches import Batch
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.fine_tuning import TUNED
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.offline import plain_sampler, train_rows, untrained
from metaheac_jax.methods.online import build_restore, fine_tune
from metaheac_jax.methods.stages import Adapt, Run, Train, Trained
from metaheac_jax.model import Scorer, State, Weights
from metaheac_jax.networks.base import Output, User
from metaheac_jax.networks.multitask import MMoE, SharedBottom
from metaheac_jax.settings import PAPER, Settings
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.step import plain_gradient

Heads = SharedBottom | MMoE

#: Parameters whose first axis runs over the training campaigns.
PER_CAMPAIGN = ("gate_hidden", "gates", "heads")


def shared_bottom(settings: Settings = PAPER) -> Method:
    """Shared-Bottom+pre-training: online, only the new head is fine-tuned (paper section 4.1)."""
    return Method(
        name="shared-bottom",
        label="Shared-Bottom+pre-training",
        settings=settings,
        train=build_offline_heads(lambda _, count: SharedBottom(count)),
        adapt=build_new_head_tuning(_one_bottom),
        restore=build_restore(_one_bottom),
        tuned=TUNED,
        takes_steps=True,
        no_start="has one head per training campaign",
        work=(3 / 8, 1 / 8),  # online, the bottom runs forward only
    )


def mmoe(settings: Settings = PAPER) -> Method:
    """MMoE+pre-training: online, everything is fine-tuned (paper section 4.1)."""
    return Method(
        name="mmoe",
        label="MMoE+pre-training",
        settings=settings,
        train=build_offline_heads(lambda s, num_campaigns: MMoE(s.num_experts, num_campaigns)),
        adapt=build_new_head_tuning(_one_mixture),
        restore=build_restore(_one_mixture),
        tuned=(*TUNED, "num_experts"),
        takes_steps=True,
        no_start="has one head per training campaign",
        work=(4, 4),
    )


def _one_bottom(settings: Settings) -> SharedBottom:
    """The network with one head and a frozen bottom."""
    del settings
    return SharedBottom(head_only=True)


def _one_mixture(settings: Settings) -> MMoE:
    """The network with one gate and one head."""
    return MMoE(settings.num_experts)


@dataclass(frozen=True)
class _WithOwners:
    """A `Network` with one head per campaign, for examples with known owners (their campaigns)."""

    network: Heads
    owner: Array

    def init(self, key: Any, user: User, campaign: Array, /) -> Any:
        return self.network.init(key, user, campaign)

    def apply(self, params: Any, user: User, campaign: Array, /, *reference: Any) -> Output:
        del reference  # these networks have no seed features
        return self.network.apply(params, user, campaign, self.owner)  # pyrefly: ignore


def build_offline_heads(build_network: Callable[[Settings, int], Heads]) -> Train:
    """Builds plain training on all campaigns; heads are in ascending order of campaigns.

    Args:
      build_network: ``build_network(settings, num_campaigns)``.
    """

    def stage(run: Run) -> Trained:
        network, layout = build_network(run.settings, len(run.campaigns)), run.dataset.layout

        def loss(params: Any, examples: Batch, owner: Array) -> Array:
            return build_loss(_WithOwners(network, owner), layout)(params, examples)

        weights = untrained(run, network)
        draw = plain_sampler(run).owned
        return train_rows(run, weights, plain_gradient(loss), draw)

    return stage


def build_new_head_tuning(build_network: Callable[[Settings], Heads]) -> Adapt:
    """Builds fine-tuning with a new head (and gate) for each campaign.

    The new head starts at the mean of the trained heads; the paper does not state how it starts.

    Args:
      build_network: ``build_network(settings)`` of a network with one head.
    """

    def stage(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        weights = Weights(mean_head(state["network"]), state["table"])
        return fine_tune(run, build_network(run.settings), weights, campaigns)

    return stage


def mean_head(trained: Any) -> Any:
    """Parameters with one head per campaign -> parameters with the mean head only."""
    params = trained["params"]
    heads = {name: params[name] for name in PER_CAMPAIGN if name in params}
    new = jax.tree.map(lambda leaf: leaf.mean(axis=0, keepdims=True), heads)
    return {"params": {**params, **new}}
