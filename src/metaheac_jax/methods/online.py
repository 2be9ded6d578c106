"""The online stage of a network: customising its general weights to campaigns, and scoring."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from metaheac_jax.customising.customiser import Customiser
from metaheac_jax.customising.score import AdaptedScorer, PoolScorer
from metaheac_jax.data.batches import Batch, CampaignExamples, check_batch
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.errors import Diverged
from metaheac_jax.methods.config import Config, GradientConfig, within
from metaheac_jax.methods.method import GradientMethod, Run, lengthened
from metaheac_jax.model import AdaptedWeights, Scorer, State, Weights
from metaheac_jax.networks.base import Network
from metaheac_jax.table.layout import Layout
from metaheac_jax.training.sharding import own_devices

C = TypeVar("C", bound=Config)
#: How many compiled programs of a kind are kept. A comparison of all methods on a data set needs
#: fewer. There is a bound, so that programs for earlier layouts do not live for ever.
PROGRAMS_KEPT = 16


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


class NetworkMethod(GradientMethod[C]):
    """A method whose state is the `Weights` of one network.

    One device or several train it.
    """

    @property
    @abstractmethod
    def network(self) -> Network:
        """The network."""

    @abstractmethod
    def customise(
        self, run: Run, state: State, campaigns: Sequence[Campaign]
    ) -> Sequence[AdaptedScorer]:
        """See `Method.customise`."""

    def general_scorers(
        self, run: Run, state: State, campaigns: Sequence[Campaign]
    ) -> Sequence[AdaptedScorer]:
        """Scorers of the general model for these campaigns, before customising."""
        run, campaigns = lengthened(run, self.config["list_lengths"], campaigns)
        pool, weights = compiled_scorer(self.network, run.dataset.layout), Weights(**state)
        adapted = AdaptedWeights({}, np.empty(0, np.int32), weights.table[:0])
        return [AdaptedScorer(pool, weights, adapted, own.rows, run.lengths) for own in campaigns]


def fine_tune(
    run: Run,
    config: FineTuningConfig,
    network: Network,
    weights: Weights,
    campaigns: Sequence[Campaign],
) -> list[AdaptedScorer]:
    """Adapts general weights to each campaign; see `customising.customiser.Customiser`."""
    layout = run.dataset.layout
    customiser, pool = compiled_customiser(network, run, config), compiled_scorer(network, layout)

    def scorers(adapted: list[AdaptedWeights]) -> list[AdaptedScorer]:
        return [
            AdaptedScorer(pool, weights, own, campaign.rows, run.lengths)
            for campaign, own in zip(campaigns, adapted, strict=True)
        ]

    examples = CampaignExamples(run.dataset, campaigns)
    names = [campaign.name for campaign in campaigns]
    return adapt_weights(run, config, customiser, weights, examples, scorers, names=names)


S = TypeVar("S", bound=Scorer)


def adapt_weights(
    run: Run,
    config: FineTuningConfig,
    customiser: Customiser,
    weights: Weights,
    examples: Sequence[Batch],
    scorers: Callable[[list[AdaptedWeights]], list[S]],
    *,
    names: Sequence[str],
) -> list[S]:
    """Adapts weights to each campaign's examples.

    Args:
      run: has the seed, the progress and the watch.
      config: has the online settings.
      customiser: the customiser of the network.
      weights: general weights.
      examples: the examples of each campaign.
      scorers: turns the adapted weights of all campaigns into models.
      names: names of the campaigns, for messages.
    """
    watch = run.watch

    def on_step(step: int, adapted: Callable[[], list[AdaptedWeights]]) -> None:
        if watch is not None:
            watch(step, lambda: [*scorers(adapted())])

    adapted = customiser(
        weights,
        examples,
        seed=run.seed,
        learning_rate=config.online_learning_rate,
        epochs=config.online_epochs,
        patience=config.online_patience,
        progress=run.progress,
        names=names,
        watch=None if watch is None else on_step,
    )
    return scorers(adapted)


def adapt_each(
    run: Run,
    pool: PoolScorer,
    weights: Weights,
    campaigns: Sequence[Campaign],
    adapt: Callable[[Batch], AdaptedWeights],
    kind: type[AdaptedScorer] = AdaptedScorer,
) -> list[AdaptedScorer]:
    """Adapts general weights to one campaign after another, without gradient steps.

    Args:
      run: has the data and progress.
      pool: scores with the network.
      weights: general weights.
      campaigns: the campaigns.
      adapt: adapts the weights to a campaign's examples.
      kind: the class of the scorers.

    Raises:
      InputError: a campaign has no examples, or invalid ones.
      Diverged: an adapted parameter of the network is not finite.
    """
    dataset, models = run.dataset, list[AdaptedScorer]()
    all_examples = CampaignExamples(dataset, campaigns)
    for campaign, examples in zip(campaigns, all_examples, strict=True):
        check_batch(examples, dataset.layout, dataset.num_rows, campaign.name)
    for number, (campaign, examples) in enumerate(zip(campaigns, all_examples, strict=True)):
        adapted = adapt(examples)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(adapted.network)):
            raise Diverged(f"{campaign.name}: the adapted weights are not finite")
        models.append(kind(pool, weights, adapted, campaign.rows, run.lengths))
        run.progress("customise", number + 1, len(campaigns))
    return models


def compiled_customiser(network: Network, run: Run, config: FineTuningConfig) -> Customiser:
    """The customiser of a network for the run's data.

    On a mesh, the devices of this process divide its campaigns among them.
    """
    mesh = None if run.mesh is None else own_devices(run.mesh)
    return _customiser(network, run.dataset.layout, config.batch_size, mesh)


@functools.lru_cache(PROGRAMS_KEPT)  # methods with the same network share its compiled programs
def _customiser(network: Network, layout: Layout, batch_size: int, mesh: Mesh | None) -> Customiser:
    return Customiser(network, layout, batch_size=batch_size, mesh=mesh)


@functools.lru_cache(PROGRAMS_KEPT)
def compiled_scorer(network: Network, layout: Layout) -> PoolScorer:
    """The pool scorer of a network."""
    return PoolScorer(network, layout)
