"""Scores of users by the models of many campaigns, with one first layer for all that share it.

Models share the table and the first layer if adapting has left both unchanged; see
`customise.heads`. Only the arithmetic after the first layer is then done per campaign.

Axes: C campaigns, P users, S slots of a user, N campaign fields, k embedding width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax import Array

from metaheac_jax.backend import campaigns_at_once
from metaheac_jax.customise.host_table import on_host
from metaheac_jax.customise.score import AdaptedScorer
from metaheac_jax.data.dataset import UserRows
from metaheac_jax.data.list_lengths import LengthenedUsers
from metaheac_jax.model import Scorer, Weights, with_own_parameters
from metaheac_jax.networks.base import SplitNetwork
from metaheac_jax.table.layout import Layout

_MAX_TOGETHER = 8  # campaigns vmapped together on an accelerator

#: (P, S) table rows of users -> (P,) scores of each campaign.
BlockScorer = Callable[[UserRows], list[np.ndarray]]


def score_jointly(scorers: Sequence[Scorer]) -> BlockScorer:
    """Builds a function that scores users with the models of C campaigns.

    Models that share the table and the first layer compute them together; others score one by one.
    A single model is given a table of its own; several would need too much memory, so each call
    copies the table for each of them.
    """
    if len(scorers) == 1:
        scorers = [s.with_own_table() if isinstance(s, AdaptedScorer) else s for s in scorers]
    groups: dict[Hashable, list[int]] = {}
    for number, scorer in enumerate(scorers):
        groups.setdefault(_shared_by(scorer) or number, []).append(number)
    parts = [
        (group, _score_group([scorers[number] for number in group])) for group in groups.values()
    ]

    def score(users: UserRows) -> list[np.ndarray]:
        scores: dict[int, np.ndarray] = {}
        for group, part in parts:
            scores |= zip(group, part(users), strict=True)
        return [scores[number] for number in range(len(scorers))]

    return score


def _shared_by(scorer: Scorer) -> Hashable | None:
    """A key that is equal for scorers with the same table and first layer.

    None if either is not the general model's, or if the table is in host memory.
    """
    if not isinstance(scorer, AdaptedScorer) or len(scorer.adapted.rows):
        return None
    if on_host(scorer.weights.table):
        return None
    network, general = scorer.pool_scorer.network, scorer.weights.network
    if not isinstance(network, SplitNetwork):
        return None
    later, own = (flatten_dict(p) for p in (network.later_layers(general), scorer.adapted.network))
    if set(own) != set(later):
        return None
    return id(scorer.pool_scorer), id(general), id(scorer.weights.table), scorer.lengths


def _score_group(scorers: Sequence[Scorer]) -> BlockScorer:
    """Scores with one scorer, or with several that share the table and the first layer."""
    some = [scorer for scorer in scorers if isinstance(scorer, AdaptedScorer)]
    if len(scorers) == 1:
        return lambda users: [scorer(users) for scorer in scorers]
    pool_scorer, weights, lengths = some[0].pool_scorer, some[0].weights, some[0].lengths
    num_rows = len(weights.table)
    for scorer in some:
        pool_scorer.check_campaign(scorer.campaign, num_rows)
    campaigns = np.stack([scorer.campaign for scorer in some])
    own = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(s.adapted.network for s in some))
    score_chunk = _compiled(pool_scorer.network, pool_scorer.layout)

    def score(users: UserRows) -> list[np.ndarray]:
        if lengths is not None:
            users = LengthenedUsers(users, lengths)
        part = functools.partial(score_chunk, weights, own, campaigns)
        return list(np.ascontiguousarray(pool_scorer.over_users(part, users, num_rows).T))

    return score


@functools.lru_cache(maxsize=8)  # a bound, so that networks do not live for ever
def _compiled(network: SplitNetwork, layout: Layout) -> Callable[..., Array]:
    """Weights, stacked later layers, (C, N) campaigns and (P, S) users -> (P, C) log-odds."""
    together = campaigns_at_once(_MAX_TOGETHER)

    @jax.jit
    def score(weights: Weights, own: Any, campaigns: Array, users: Array) -> Array:
        first = network.first_layer(weights.network, layout.users(weights.table, users))
        fields = weights.table.at[campaigns].get(mode="fill", fill_value=0)

        def later_layers(campaign: tuple[Any, Array]) -> Array:
            params = with_own_parameters(weights.network, campaign[0])
            output = network.apply(params, first, campaign[1])
            return output.log_odds

        # One by one on a CPU, since a batched product does not use its fast matrix kernels.
        batch_size = together if together > 1 else None
        return jax.lax.map(later_layers, (own, fields), batch_size=batch_size).T

    return score
