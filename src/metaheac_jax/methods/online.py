"""The online stage of a network: customising its general weights to campaigns, and scoring."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metaheac_jax.customise.customiser import Customiser
from metaheac_jax.customise.heads import HeadCustomiser
from metaheac_jax.customise.host_table import rows_of
from metaheac_jax.customise.kept import KeptCampaigns
from metaheac_jax.customise.score import AdaptedScorer, PoolScorer
from metaheac_jax.data.batches import Batch, CampaignExamples, check_batch
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.errors import Diverged
from metaheac_jax.methods.stages import Adapt, Restore, Run
from metaheac_jax.model import AdaptedWeights, Scorer, State, Weights
from metaheac_jax.networks.base import BuildNetwork, Network, SplitNetwork
from metaheac_jax.settings import Adapts
from metaheac_jax.table.layout import Layout
from metaheac_jax.training.sharding import own_devices

#: How many compiled programs of a kind are kept. A comparison of all methods on a data set needs
#: fewer. There is a bound, so that programs for earlier layouts do not live for ever.
PROGRAMS_KEPT = 16


def build_fine_tuning(build_network: BuildNetwork) -> Adapt:
    """Builds the online stage of a network."""

    def stage(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        return fine_tune(run, build_network(run.settings), Weights(**state), campaigns)

    return stage


def build_restore(build_network: BuildNetwork) -> Restore:
    """Builds the `Restore` of a network."""

    def restore(run: Run, state: State, campaign: Campaign, adapted: AdaptedWeights) -> Scorer:
        pool = compiled_scorer(build_network(run.settings), run.dataset.layout)
        return AdaptedScorer(pool, Weights(**state), adapted, campaign.rows)

    return restore


def fine_tune(
    run: Run, network: Network, weights: Weights, campaigns: Sequence[Campaign]
) -> list[Scorer]:
    """Adapts general weights to each campaign; see `customise.customiser.Customiser`."""
    layout = run.dataset.layout
    customiser, score = compiled_customiser(network, run), compiled_scorer(network, layout)

    def scorer(campaign: Campaign, adapted: AdaptedWeights) -> Scorer:
        return AdaptedScorer(score, weights, adapted, campaign.rows)

    return adapt_weights(
        run,
        customiser,
        weights,
        CampaignExamples(run.dataset, campaigns),
        lambda adapted: list(map(scorer, campaigns, adapted)),
        names=[campaign.name for campaign in campaigns],
    )


def adapt_weights(
    run: Run,
    customiser: Customiser | HeadCustomiser,
    weights: Weights,
    examples: Sequence[Batch],
    scorers: Callable[[list[AdaptedWeights]], list[Scorer]],
    *,
    names: Sequence[str],
) -> list[Scorer]:
    """Adapts weights to each campaign's examples with the run's online settings.

    Args:
      run: has the settings, seed and progress.
      customiser: the customiser of the network.
      weights: general weights.
      examples: the examples of each campaign.
      scorers: turns the adapted weights of all campaigns into models.
      names: names of the campaigns, for messages.
    """

    def on_step(step: int, adapted: Callable[[], list[AdaptedWeights]]) -> None:
        if run.watch is not None:
            run.watch(step, lambda: scorers(adapted()))

    kept = None
    if run.kept is not None and run.watch is None:
        kept = KeptCampaigns(run.kept, weights, [asdict(run.settings), run.seed])
    adapted = customiser(
        weights,
        examples,
        seed=run.seed,
        learning_rate=run.settings.online_learning_rate,
        epochs=run.settings.online_epochs,
        patience=run.settings.online_patience,
        progress=run.progress,
        names=names,
        watch=None if run.watch is None else on_step,
        kept=kept,
    )
    return scorers(adapted)


def adapt_each(
    run: Run,
    pool: PoolScorer,
    weights: Weights,
    campaigns: Sequence[Campaign],
    adapt: Callable[[Batch], AdaptedWeights],
) -> list[Scorer]:
    """Adapts general weights to one campaign after another, without gradient steps.

    With 0 online epochs, all models equal the general model.

    Args:
      run: has the data, settings and progress.
      pool: scores with the network.
      weights: general weights.
      campaigns: the campaigns.
      adapt: adapts the weights to a campaign's examples.

    Raises:
      InputError: a campaign has no examples, or invalid ones.
      Diverged: an adapted parameter of the network is not finite.
    """
    dataset, settings, models = run.dataset, run.settings, list[Scorer]()
    kept = None if run.kept is None else KeptCampaigns(run.kept, weights, asdict(settings))
    all_examples = CampaignExamples(dataset, campaigns)
    for campaign, examples in zip(campaigns, all_examples, strict=True):
        check_batch(examples, dataset.layout, dataset.num_rows, campaign.name)
    no_rows = np.empty(0, np.int32)
    general = AdaptedWeights({}, no_rows, jnp.asarray(rows_of(weights.table, no_rows)))
    for number, (campaign, examples) in enumerate(zip(campaigns, all_examples, strict=True)):
        adapted = kept.find(examples) if kept else None
        if adapted is None and not settings.online_epochs:
            adapted = general
        elif adapted is None:
            adapted = adapt(examples)
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(adapted.network)):
                raise Diverged(f"{campaign.name}: the adapted weights are not finite")
            if kept:
                kept.add(examples, adapted)
        models.append(AdaptedScorer(pool, weights, adapted, campaign.rows))
        run.progress("customise", number + 1, len(campaigns))
    return models


def compiled_customiser(network: Network, run: Run) -> Customiser | HeadCustomiser:
    """The customiser of a network for the run's data and settings.

    On a mesh, the devices of this process divide its campaigns among them.
    """
    own, settings = None if run.mesh is None else own_devices(run.mesh), run.settings
    layout = run.dataset.layout
    return _customiser(network, layout, settings.batch_size, settings.online_adapts, own)


@functools.lru_cache(PROGRAMS_KEPT)  # methods with the same network share its compiled programs
def _customiser(
    network: Network, layout: Layout, batch_size: int, adapts: Adapts, mesh: Mesh | None
) -> Customiser | HeadCustomiser:
    if adapts == "all":
        return Customiser(network, layout, batch_size=batch_size, mesh=mesh)
    if not isinstance(network, SplitNetwork):
        raise TypeError(f"{network} cannot be split after its first layer")
    return HeadCustomiser(network, layout, batch_size=batch_size)


@functools.lru_cache(PROGRAMS_KEPT)
def compiled_scorer(network: Network, layout: Layout) -> PoolScorer:
    """The pool scorer of a network."""
    return PoolScorer(network, layout)
