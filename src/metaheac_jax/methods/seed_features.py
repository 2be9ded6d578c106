"""Methods with seed features and list lengths, which are not in the paper.

Axes: M user fields, S slots of a user, Q reference users per label, R table rows, U adapted rows,
k embedding width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array

from metaheac_jax.customise.host_table import HostRows, on_host
from metaheac_jax.customise.score import AdaptedScorer
from metaheac_jax.data.batches import Batch, CampaignExamples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.reference_sets import ReferenceSampler, reference_set, with_reference
from metaheac_jax.methods.fine_tuning import SIZES, TUNED, metaheac_network, mlp_network
from metaheac_jax.methods.list_lengths import with_list_lengths
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.offline import campaign_sampler, meta_gradient, train_rows, untrained
from metaheac_jax.methods.online import (
    PROGRAMS_KEPT,
    adapt_weights,
    build_restore,
    compiled_customiser,
    compiled_scorer,
)
from metaheac_jax.methods.stages import Adapt, Run, Train, Trained
from metaheac_jax.model import AdaptedWeights, Scorer, State, Weights
from metaheac_jax.networks.base import BuildNetwork
from metaheac_jax.networks.seed_features import SeedNetwork, direction
from metaheac_jax.settings import PAPER, Settings
from metaheac_jax.table.layout import Layout

#: Q, the maximum number of seeds, and of non-seeds, in a reference set.
MAX_REFERENCE = 256
#: Settings that were chosen on held-out training campaigns.
_CHOSEN: dict[str, Any] = {"table_scale": 0.1, "reduction": "mean", "inner_learning_rate": 0.1}


def seed_aware(settings: Settings = PAPER) -> Method:
    """MetaHeac with an additional input: the similarity of a user to the campaign's seeds.

    It has its own table scale, reduction and inner learning rate, and disjoint sets, whatever the
    settings say; `Method.with_settings` changes them. The same holds for `seed_aware_alpha_zero`
    and `seed_aware_mlp`, whose inner learning rate is 0.
    """
    settings = replace(settings, **_CHOSEN)
    label = "MetaHeac, seed-aware"
    method = _seed_method("seed-aware", label, settings, metaheac_network, work=(8, 4))
    return replace(method, tuned=(*TUNED, "inner_learning_rate", *SIZES))


def seed_aware_alpha_zero(settings: Settings = PAPER) -> Method:
    """The method `seed_aware` without an inner step, as a control."""
    settings = replace(settings, **_CHOSEN | {"inner_learning_rate": 0.0})
    label = "MetaHeac, seed-aware, alpha = 0"
    method = _seed_method("alpha-0-seeds", label, settings, metaheac_network, work=(2, 4))
    return replace(method, tuned=(*TUNED, *SIZES))


def seed_aware_mlp(settings: Settings = PAPER) -> Method:
    """The MLP with the same input, in the batches of the meta-step without an inner step."""
    settings = replace(settings, **_CHOSEN | {"inner_learning_rate": 0.0})
    return _seed_method("mlp-seeds", "MLP, seed-aware", settings, mlp_network, work=(1 / 4, 1 / 2))


def _seed_method(
    name: str,
    label: str,
    settings: Settings,
    build_network: BuildNetwork,
    *,
    work: tuple[float, float],
) -> Method:
    method = Method(
        name=name,
        label=label,
        settings=replace(settings, disjoint=True),  # no query example is in a reference set
        train=build_seed_offline(build_network),
        adapt=build_seed_fine_tuning(build_network),
        restore=build_restore(lambda s: SeedNetwork(build_network(s))),
        tuned=TUNED,
        takes_steps=True,
        log_odds=False,  # the reference set changes the ratio of seeds and non-seeds
        splits=True,
        meshes=True,
        work=work,
    )
    return with_list_lengths(method)


def build_seed_offline(build_network: BuildNetwork) -> Train:
    """Builds Algorithm 1 on losses with seed features; reference sets come from support sets."""

    def stage(run: Run) -> Trained:
        network = SeedNetwork(build_network(run.settings))
        weights, gradient = untrained(run, network), meta_gradient(run, network)
        sampler = campaign_sampler(run)
        draw, campaigns_of = ReferenceSampler(sampler, size=MAX_REFERENCE), sampler.campaigns_of
        return train_rows(run, weights, gradient, draw, campaigns_of=campaigns_of)

    return stage


def build_seed_fine_tuning(build_network: BuildNetwork) -> Adapt:
    """Builds the online stage of a network with seed features."""

    def stage(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        network = SeedNetwork(build_network(run.settings))
        return fine_tune_aware(run, network, Weights(**state), campaigns)

    return stage


def fine_tune_aware(
    run: Run,
    network: SeedNetwork,
    weights: Weights,
    campaigns: Sequence[Campaign],
) -> list[Scorer]:
    """Customises the general model to each campaign.

    Half of a campaign's examples, at most `MAX_REFERENCE` per label, are the reference set of the
    other half. The reference set of a pool comes from all examples, with the same maximum.
    """
    dataset = run.dataset
    customiser, score = compiled_customiser(network, run), compiled_scorer(network, dataset.layout)
    find_direction, host_rows = compiled_direction(dataset.layout), HostRows(dataset.layout)

    def outside_reference(examples: Batch) -> Batch:
        """The examples of a campaign with their reference set, without those in it."""
        examples = with_reference(examples, MAX_REFERENCE, dataset.num_rows)
        return examples.pick(examples.weight > 0)

    examples = CampaignExamples(dataset, campaigns)

    def scorer(campaign: Campaign, batch: Batch, adapted: AdaptedWeights) -> Scorer:
        reference = reference_set(batch, MAX_REFERENCE, dataset.num_rows)
        if on_host(weights.table):
            table, reference = host_rows.cut(weights.table, reference, adapted)
            towards = find_direction(table, adapted.rows[:0], adapted.values[:0], reference)
        else:
            towards = find_direction(weights.table, adapted.rows, adapted.values, reference)
        directed = adapted._replace(network={**adapted.network, "direction": towards})
        return AdaptedScorer(score, weights, directed, campaign.rows)

    return adapt_weights(
        run,
        customiser,
        weights,
        CampaignExamples(dataset, campaigns, outside_reference),
        lambda adapted: list(map(scorer, campaigns, examples, adapted)),
        names=[campaign.name for campaign in campaigns],
    )


class FindDirection(Protocol):
    """Finds the direction of a customised model."""

    def __call__(self, table: Array, rows: np.ndarray, values: Array, reference: Any) -> Array:
        """(R, k) table, (U,) rows, (U, k) values, (2, Q, S) reference set -> (M, k) direction."""


@functools.lru_cache(PROGRAMS_KEPT)
def compiled_direction(layout: Layout) -> FindDirection:
    """The jitted `networks.seed_features.direction`, computed in an adapted table."""

    @jax.jit
    def find(table: Array, rows: Array, values: Array, reference: Array) -> Array:
        return direction(layout.reference(table.at[rows].set(values, mode="drop"), reference))

    return find
