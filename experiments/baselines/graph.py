"""Hubble-like: a graph network over campaigns and users, and a new MLP for each new campaign.

This follows section 4.1 of the paper, after Zhuang et al., *Hubble* (KDD 2020), but omits the
adaptive and disentangled components and the distillation. The graph is inductive; see
`baselines.campaign_graph`.

Axes: B examples, P users of a pool, n examples of a campaign, s seeds of a campaign, S slots of
a user, R table rows, k embedding width, C training campaigns, F folds, h representation width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.baselines.campaign_graph import CampaignGraph
from experiments.baselines.from_scratch import FromScratchConfig, OnFrozenFields
from metaheac_jax.customising.customiser import Customiser
from metaheac_jax.customising.score import over_chunks
from metaheac_jax.data.batches import Batch, campaign_examples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods import Run, Trained, register
from metaheac_jax.methods.method import GradientMethod
from metaheac_jax.methods.offline import campaign_sampler, train_rows, untrained
from metaheac_jax.methods.online import adapt_weights
from metaheac_jax.model import AdaptedWeights, FunctionScorer, Scorer, State, Weights
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.progress import silent
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.training.losses import cross_entropy, masked
from metaheac_jax.training.step import Gradient, plain_gradient

# The paper does not state these; they are not tuned.
CAMPAIGNS_PER_STEP = 20  # enough for attention to learn to choose among many campaigns
FOLDS = 5  # an example's user attends to the new campaign without the seeds of the user's fold

_GRAPH = CampaignGraph()
_apply: Callable[..., Any] = _GRAPH.apply
_HEAD = OnFrozenFields(MLP())
#: Layout of a user in a table of representations: one field in one slot.
_REPRESENTED = Layout.one_field()
TABLE_MULTIPLE = 4096  # tables of representations are padded to it, so steps rarely recompile


class Graph(NamedTuple):
    """The general model.

    Attributes:
      network: parameters of the graph network.
      table: (R, k) embedding table.
      campaigns: (C, h) representations of the training campaigns, each from all its seeds.
    """

    network: Any
    table: Array
    campaigns: np.ndarray


def graph_gradient(layout: Layout) -> Gradient[Batch, Batch]:
    """``gradient(params, support, query)`` of the cross-entropy of both sets.

    Query examples are predicted from campaigns that consist of the support set's seeds, and vice
    versa. Thus no user attends to itself, and the campaigns that a user attends to do not depend on
    the user's label. Leaving out only the user itself would reveal the label, since only seeds can
    be left out.
    """

    def loss(params: Any, support: Batch, query: Batch) -> Array:
        both = jax.tree.map(lambda a, b: jnp.stack([a, b]), support, query)
        apply = functools.partial(_apply, params["network"])
        users = apply(layout.users(params["table"], both.ids.user).dense(), method="user")
        seeds = both.label * both.weight
        campaigns = apply(users, seeds, method="campaign")[::-1]

        def side(users: Array, campaigns: Array) -> tuple[Array, Array]:
            attended = jnp.ones((users.shape[0] * users.shape[1], campaigns.shape[0]), bool)
            flat = users.reshape(-1, users.shape[-1])
            representations = apply(flat, campaigns, attended, method="represent")
            own_campaign = jnp.repeat(campaigns, users.shape[1], axis=0)
            output = apply(representations, own_campaign, method="predict")
            return output.log_p, output.log_not_p

        log_p, log_not_p = jax.vmap(side)(users, campaigns)
        label, weight = (side.reshape(log_p.shape) for side in (both.label, both.weight))
        return masked(cross_entropy(log_p, log_not_p, label), weight, "mean")

    return plain_gradient(loss)


def training_campaigns(run: Run, weights: Weights) -> np.ndarray:
    """(C, h) representations of the training campaigns in ascending order, each from all seeds."""
    dataset = run.dataset
    node = functools.partial(user_nodes, *weights, layout=dataset.layout)
    representations = []
    for index in np.sort(run.campaigns):
        examples = campaign_examples(dataset, dataset.campaign(index))
        users = over_chunks(node, examples.ids.user[examples.label == 1])
        representations.append(
            campaign_nodes(weights.network, users, np.zeros(len(users), int), 1)[0]
        )
    return np.stack(representations)


@functools.partial(jax.jit, static_argnames="layout")
def user_nodes(params: Any, table: Array, users: Array, *, layout: Layout) -> Array:
    """(R, k) table, (B, S) table rows -> (B, h) users before any message passing."""
    return _apply(params, layout.users(table, users).dense(), method="user")


def campaign_nodes(params: Any, seeds: np.ndarray, fold: np.ndarray, folds: int) -> np.ndarray:
    """(s, h) seeds -> (F, h) representations of the campaign, each without the seeds of one fold.

    Args:
      params: parameters of the graph network.
      seeds: (s, h) from `user_nodes`.
      fold: (s,) fold of each seed.
      folds: F; 1 for the campaign with all its seeds.
    """
    kept = fold != np.arange(folds)[:, None] if folds > 1 else np.ones((1, len(seeds)), bool)
    # Means are computed on the host, since each new number of seeds would recompile.
    means = kept @ seeds / np.maximum(kept.sum(axis=1, keepdims=True), 1)
    return np.asarray(_campaign_from_mean(params, np.asarray(means, np.float32)))


@jax.jit
def _campaign_from_mean(params: Any, means: Array) -> Array:
    return _apply(params, means[:, None], jnp.ones((len(means), 1)), method="campaign")


@jax.jit
def represent(params: Any, campaigns: Array, users: Array, attended: Array) -> Array:
    """(C, h) campaigns, (B, h) users and a (B, C) attention mask -> (B, h) representations."""
    return _apply(params, users, campaigns, attended, method="represent")


def assign_folds(label: np.ndarray) -> np.ndarray:
    """(n,) fold of each example; seeds and non-seeds are each distributed over all folds.

    There are `FOLDS` folds, but no more than there are seeds, and at least two. A fold without a
    seed would reveal that its members are non-seeds.

    Args:
      label: (n,) 1 for a seed, 0 for a non-seed.
    """
    is_seed = label == 1
    folds = max(2, min(FOLDS, int(is_seed.sum())))
    return np.where(is_seed, np.cumsum(is_seed) - 1, np.cumsum(~is_seed) - 1) % folds


class NewCampaign(NamedTuple):
    """A new campaign in the graph, before any online training.

    Attributes:
      campaigns: (C + 1, h) the training campaigns and the new one, from all its seeds; the users of
        a pool attend to these.
      examples: (n, h) representations of its examples.
    """

    campaigns: np.ndarray
    examples: np.ndarray


def join(graph: Graph, examples: Batch, layout: Layout) -> NewCampaign:
    """Adds a new campaign and its examples to the graph.

    The user of an example attends to the training campaigns, and to the new one without the seeds
    of the user's fold.

    Args:
      graph: the general model.
      examples: D_c of the campaign; ids are table rows.
      layout: layout of the ids.
    """
    fold, is_seed = assign_folds(examples.label), examples.label == 1
    node = functools.partial(user_nodes, graph.network, graph.table, layout=layout)
    users = over_chunks(node, examples.ids.user)
    without = campaign_nodes(graph.network, users[is_seed], fold[is_seed], FOLDS)
    complete = campaign_nodes(graph.network, users[is_seed], fold[is_seed], 1)
    attended = np.ones((len(users), len(graph.campaigns) + FOLDS), bool)
    attended[:, len(graph.campaigns) :] = fold[:, None] == np.arange(FOLDS)
    known = np.concatenate([graph.campaigns, without])
    to_representation = functools.partial(represent, graph.network, known)
    return NewCampaign(
        np.concatenate([graph.campaigns, complete]), over_chunks(to_representation, users, attended)
    )


@register
class Hubble(GradientMethod[FromScratchConfig]):
    """The Hubble-like method: online, the graph network is frozen (paper section 4.1)."""

    name, label, default = "hubble", "Hubble-like", FromScratchConfig()

    def fit(self, run: Run) -> Trained:
        """Trains the graph network on random subgraphs, of as many examples as a meta-step."""
        config, per_step = self.config, min(CAMPAIGNS_PER_STEP, len(run.campaigns))
        batch_size = max(1, config.batch_size * config.campaigns_per_step // per_step)
        # Sets are disjoint: no user may attend to itself.
        sampler = campaign_sampler(
            run, replace(config, campaigns_per_step=per_step, batch_size=batch_size)
        )
        weights, gradient = untrained(run, config, _GRAPH), graph_gradient(run.dataset.layout)
        draw = lambda step: sampler(step).shared()  # noqa: E731

        def finish(trained: Weights) -> State:
            return Graph(*trained, training_campaigns(run, trained))._asdict()

        return train_rows(
            run, config, weights, gradient, draw, finish=finish, campaigns_of=sampler.campaigns_of
        )

    def customise(self, run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Trains an MLP from scratch for each campaign, on the representations of its examples.

        The graph network is frozen. All MLPs have the same initial values.
        """
        graph, layout = Graph(**state), run.dataset.layout
        # The offline stage drew the graph network and the table with the parts 0 and 1 of the key.
        head = new_head(jax.random.fold_in(jax.random.key(run.seed), 2))
        customiser = representation_customiser(self.config.batch_size)

        def fit(campaign: Campaign) -> Scorer:
            examples = campaign_examples(run.dataset, campaign)
            new = join(graph, examples, layout)
            # Representations are the rows of a separate table.
            n = len(new.examples)
            table = jnp.asarray(np.pad(new.examples, ((0, -n % TABLE_MULTIPLE), (0, 0))))
            ids = Ids(np.arange(n, dtype=np.int32)[:, None], np.empty(0, np.int32))

            def scorers(adapted: list[AdaptedWeights]) -> list[Scorer]:
                return [_scorer(graph, new, head.network, layout) for head in adapted]

            quiet, batch = replace(run, progress=silent), examples._replace(ids=ids)
            [model] = adapt_weights(
                quiet,
                self.config,
                customiser,
                Weights(head, table),
                [batch],
                scorers,
                names=[campaign.name],
            )
            return model

        models: list[Scorer] = []
        run.progress("customise", 0, len(campaigns))
        for campaign in campaigns:
            models.append(fit(campaign))
            run.progress("customise", len(models), len(campaigns))
        return models


def _scorer(graph: Graph, new: NewCampaign, head: Any, layout: Layout) -> Scorer:
    score = functools.partial(
        _score, graph.network, head, new.campaigns, graph.table, layout=layout
    )

    return FunctionScorer(lambda users: over_chunks(score, users))


def new_head(key: Array) -> Any:
    """Parameters of an untrained MLP; consumes the key."""
    width = _GRAPH.features
    return jax.jit(_HEAD.init)(key, jnp.zeros((1, 1, width)), jnp.zeros((0, width)))


@functools.cache
def representation_customiser(batch_size: int) -> Customiser:
    """The customiser of the MLP on a frozen table of representations."""
    return Customiser(_HEAD, _REPRESENTED, batch_size=batch_size)


@functools.partial(jax.jit, static_argnames="layout")
def _score(
    params: Any,
    head: Any,
    campaigns: Array,
    table: Array,
    users: Array,
    *,
    layout: Layout,
) -> Array:
    nodes = user_nodes(params, table, users, layout=layout)
    attended = jnp.ones((len(nodes), len(campaigns)), bool)
    representations = represent(params, campaigns, nodes, attended)
    fields = jnp.zeros((0, representations.shape[-1]))
    output = _HEAD.apply(head, representations[:, None], fields)
    return output.log_odds
