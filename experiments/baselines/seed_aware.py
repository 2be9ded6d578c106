"""Methods with seed features and list lengths, which are not in the paper.

Axes: M user fields, S slots of a user, Q reference users per label, R table rows, U adapted rows,
k embedding width.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import jax
import numpy as np
from jax import Array

from experiments.baselines.reference_sets import ReferenceSampler, reference_set, with_reference
from experiments.baselines.seed_features import SeedNetwork, direction
from metaheac_jax.customising.score import AdaptedScorer
from metaheac_jax.data.batches import Batch, CampaignExamples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods import Run, Trained, register
from metaheac_jax.methods.fine_tuning import PretrainingConfig, meta_gradient
from metaheac_jax.methods.method import lengthened
from metaheac_jax.methods.offline import campaign_sampler, train_rows, untrained
from metaheac_jax.methods.online import (
    PROGRAMS_KEPT,
    FineTuningConfig,
    NetworkMethod,
    adapt_weights,
    compiled_customiser,
    compiled_scorer,
)
from metaheac_jax.model import AdaptedWeights, State, Weights
from metaheac_jax.networks.metaheac import MetaHeac, Mixture
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.table.layout import Layout
from metaheac_jax.training.losses import Reduction

#: Q, the maximum number of seeds, and of non-seeds, in a reference set.
MAX_REFERENCE = 256


@dataclass(frozen=True)
class SeedMLPConfig(FineTuningConfig):
    """Settings of an MLP with seed features; defaults were chosen on held-out campaigns.

    Attributes:
      reduction: reduction of a loss over its minibatch, and of the meta-loss over campaigns.
    """

    tuned: ClassVar[tuple[str, ...]] = PretrainingConfig.tuned

    table_scale: float = 0.1
    reduction: Reduction = "mean"


@dataclass(frozen=True)
class SeedControlConfig(SeedMLPConfig):
    """Settings of MetaHeac's network with seed features.

    Attributes:
      num_experts, num_critics, mixture: as for MetaHeac.
    """

    tuned: ClassVar[tuple[str, ...]] = (*PretrainingConfig.tuned, "num_experts", "num_critics")

    num_experts: int = 8
    num_critics: int = 5
    mixture: Mixture = "sum"


@dataclass(frozen=True)
class SeedAwareConfig(SeedControlConfig):
    """Settings of MetaHeac with seed features.

    Attributes:
      inner_learning_rate: alpha, for a loss with this reduction; 0 takes no inner step.
    """

    tuned: ClassVar[tuple[str, ...]] = (
        *(*PretrainingConfig.tuned, "inner_learning_rate", "num_experts", "num_critics"),
    )

    inner_learning_rate: float = 0.1


C = TypeVar("C", bound=SeedMLPConfig)


class _SeedMethod(NetworkMethod[C]):
    """Algorithm 1 on losses with seed features and list lengths, then fine-tuning.

    Reference sets come from support sets, so support and query share no example.
    """

    @property
    @abstractmethod
    def network(self) -> SeedNetwork:
        """The network."""

    def fit(self, run: Run) -> Trained:
        """The offline stage."""
        run, _ = lengthened(run, True)
        config, network = self.config, self.network
        weights = untrained(run, config, network)
        rate = config.inner_learning_rate if isinstance(config, SeedAwareConfig) else 0.0
        gradient = meta_gradient(network, run.dataset.layout, config.reduction, rate)
        sampler = campaign_sampler(run, config)
        draw = ReferenceSampler(sampler, size=MAX_REFERENCE)
        return train_rows(
            run,
            config,
            weights,
            gradient,
            draw,
            campaigns_of=sampler.campaigns_of,
            reduction=config.reduction,
        )

    def customise(
        self, run: Run, state: State, campaigns: Sequence[Campaign]
    ) -> Sequence[SeedScorer]:
        """Customises the general model to each campaign.

        Half of a campaign's examples, at most `MAX_REFERENCE` per label, are the reference set of
        the other half. The reference set of a pool comes from all examples, with the same maximum.
        """
        run, campaigns = lengthened(run, True, campaigns)
        dataset, network, weights = run.dataset, self.network, Weights(**state)
        customiser = compiled_customiser(network, run, self.config)
        pool = compiled_scorer(network, dataset.layout)
        find_direction = compiled_direction(dataset.layout)

        def outside_reference(examples: Batch) -> Batch:
            """The examples of a campaign with their reference set, without those in it."""
            examples = with_reference(examples, MAX_REFERENCE, dataset.num_rows)
            return examples.pick(examples.weight > 0)

        examples = CampaignExamples(dataset, campaigns)

        def scorer(campaign: Campaign, batch: Batch, adapted: AdaptedWeights) -> SeedScorer:
            reference = reference_set(batch, MAX_REFERENCE, dataset.num_rows)
            towards = find_direction(weights.table, adapted.rows, adapted.values, reference)
            directed = adapted._replace(network={**adapted.network, "direction": towards})
            return SeedScorer(pool, weights, directed, campaign.rows, run.lengths)

        return adapt_weights(
            run,
            self.config,
            customiser,
            weights,
            CampaignExamples(dataset, campaigns, outside_reference),
            lambda adapted: list(map(scorer, campaigns, examples, adapted)),
            names=[campaign.name for campaign in campaigns],
        )

    def general_scorers(
        self, run: Run, state: State, campaigns: Sequence[Campaign]
    ) -> Sequence[SeedScorer]:
        """Scorers with the general weights and the campaigns' directions, before customising."""
        return self.changed(online_epochs=0).customise(run, state, campaigns)


class SeedScorer(AdaptedScorer):
    """A scorer whose log-odds are not at the rate of all examples: the reference set has some."""

    log_odds = False


@register
class SeedControl(_SeedMethod[SeedControlConfig]):
    """The method `SeedAware` without an inner step, as a control."""

    name, label, default = "alpha-0-seeds", "MetaHeac, seed-aware, alpha = 0", SeedControlConfig()

    @property
    def network(self) -> SeedNetwork:
        """MetaHeac's network with seed features."""
        config = self.config
        return SeedNetwork(MetaHeac(config.num_experts, config.num_critics, mixture=config.mixture))


@register
class SeedAware(SeedControl):
    """MetaHeac with an additional input: the similarity of a user to the campaign's seeds."""

    name, label, default = "seed-aware", "MetaHeac, seed-aware", SeedAwareConfig()


@register
class SeedMLP(_SeedMethod[SeedMLPConfig]):
    """The MLP with the same input, in the batches of the meta-step without an inner step."""

    name, label, default = "mlp-seeds", "MLP, seed-aware", SeedMLPConfig()
    network = SeedNetwork(MLP())


class FindDirection(Protocol):
    """Finds the direction of a customised model."""

    def __call__(self, table: Array, rows: np.ndarray, values: Array, reference: Any) -> Array:
        """(R, k) table, (U,) rows, (U, k) values, (2, Q, S) reference set -> (M, k) direction."""


@functools.lru_cache(PROGRAMS_KEPT)
def compiled_direction(layout: Layout) -> FindDirection:
    """The jitted `baselines.seed_features.direction`, computed in an adapted table."""

    @jax.jit
    def find(table: Array, rows: Array, values: Array, reference: Array) -> Array:
        return direction(layout.reference(table.at[rows].set(values, mode="drop"), reference))

    return find
