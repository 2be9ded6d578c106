"""Hubble: a graph network on the graph of campaigns and users, and on it a new MLP a campaign.

After Zhuang et al., *Hubble* (KDD 2020), as the paper's section 4.1 has it. The graph is inductive:
see `baselines.CampaignGraph`.

Axes: B examples, P users of a pool, n examples of a campaign, S slots of a user, C campaigns,
F folds, h width of a representation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.methods.chunks import over_chunks
from experiments.methods.fine_tuned import FROM_NOTHING, TUNED, train_rows, untrained
from experiments.methods.method import Job, Method, Scorer, Watch
from metaheac_jax.baselines import MLP, CampaignGraph, OnFrozenFields
from metaheac_jax.data.sampling import CampaignSampler, campaign_examples
from metaheac_jax.fields import field_vectors
from metaheac_jax.losses import Batch, cross_entropy, masked
from metaheac_jax.offline import General, PlainInfo
from metaheac_jax.online import Customised, build_customise
from metaheac_jax.progress import silent

# What the paper leaves open, chosen beforehand and not tuned.
CAMPAIGNS_PER_STEP = 20  # of the graph, so that attention learns to choose among many
FOLDS = 5  # a new campaign's user hears the seeds of the folds that it is not in

_GRAPH = CampaignGraph()
_apply: Callable[..., Any] = _GRAPH.apply
_HEAD = OnFrozenFields(MLP())
TABLE = 4096  # tables of representations are as long, or a multiple: so steps compile seldom


class Graph(NamedTuple):
    """The general model.

    Attributes:
      network: parameters of the graph network.
      table: (R, k).
      campaigns: (C, h) the training campaigns, each from all its seeds.
    """

    network: Any
    table: Array
    campaigns: np.ndarray


def train_graph(job: Job) -> Graph:
    """Trains the graph network on parts of the graph, as many examples a step as the others."""
    preset, dataset = job.preset, job.dataset
    per_step = min(CAMPAIGNS_PER_STEP, len(job.campaigns))
    sampler = CampaignSampler(
        dataset,
        job.campaigns,
        seed=job.seed,
        campaigns_per_step=per_step,
        rows=max(1, preset.rows * preset.campaigns_per_step // per_step),
        disjoint=True,  # whatever the preset says: no user may hear itself
        weights=preset.campaign_weights,
    )
    gradient = graph_gradient(dataset.schema.user_slots, dataset.small_fields)
    general = untrained(job, _GRAPH, jax.random.key(job.seed))
    draw = lambda step: sampler(step).shared()  # noqa: E731
    general = train_rows(job, general, gradient, draw, label="Hubble")
    return Graph(*general, training_campaigns(job, general))


def graph_gradient(
    user_slots: tuple[int, ...], small_fields: tuple[int, ...] = ()
) -> Callable[[Any, Batch, Batch], tuple[Any, PlainInfo]]:
    """``gradient(params, support, query)`` of the cross-entropy of both sets, each by the other.

    A query example is predicted by the campaigns that the support set's seeds make, and the other
    way round. So no user hears itself, and what a user hears does not depend on its label: leaving
    out the user alone would give it away, for only seeds have something to be left out.

    Args:
      user_slots: slots of each user field.
      small_fields: as `fields.user_fields` takes it.
    """

    def loss(params: Any, support: Batch, query: Batch) -> Array:
        both = jax.tree.map(lambda a, b: jnp.stack([a, b]), support, query)
        apply = functools.partial(_apply, params["network"])
        fields = field_vectors(params["table"], both.user, user_slots, small_fields=small_fields)
        users = apply(fields, method="user")
        seeds = both.label * both.weight
        campaigns = apply(users, seeds, method="campaign")[::-1]

        def side(users: Array, campaigns: Array) -> tuple[Array, Array]:
            heard = jnp.ones((users.shape[0] * users.shape[1], campaigns.shape[0]), bool)
            flat = users.reshape(-1, users.shape[-1])
            told = apply(flat, campaigns, heard, method="represent")
            own = jnp.repeat(campaigns, users.shape[1], axis=0)
            output = apply(told, own, method="predict")
            return output.log_p, output.log_not_p

        log_p, log_not_p = jax.vmap(side)(users, campaigns)
        label, weight = (side.reshape(log_p.shape) for side in (both.label, both.weight))
        return masked(cross_entropy(log_p, log_not_p, label), weight, "mean")

    def gradient(params: Any, support: Batch, query: Batch) -> tuple[Any, PlainInfo]:
        value, grads = jax.value_and_grad(loss)(params, support, query)
        return grads, PlainInfo(value)

    return gradient


def training_campaigns(job: Job, general: General) -> np.ndarray:
    """(C, h) the training campaigns, each from all its seeds, in ascending order."""
    dataset, campaigns = job.dataset, np.sort(job.campaigns)
    node = functools.partial(user_nodes, *general, user_slots=dataset.schema.user_slots)
    made = []
    for campaign in campaigns:
        examples = campaign_examples(dataset, campaign)
        users = over_chunks(node, examples.user[examples.label == 1])
        made.append(campaign_nodes(general.network, users, np.zeros(len(users), int), 1)[0])
    return np.stack(made)


@functools.partial(jax.jit, static_argnames="user_slots")
def user_nodes(params: Any, table: Array, users: Array, *, user_slots: tuple[int, ...]) -> Array:
    """(B, S) table rows -> (B, h) users as nobody has told them anything."""
    return _apply(params, field_vectors(table, users, user_slots), method="user")


def campaign_nodes(params: Any, seeds: np.ndarray, fold: np.ndarray, folds: int) -> np.ndarray:
    """(s, h) seeds -> (folds, h) the campaign without the seeds of each fold, or with all of them.

    Args:
      params: of the graph network.
      seeds: (s, h) from `user_nodes`.
      fold: (s,) of each seed.
      folds: 1 for the campaign with all its seeds.
    """
    kept = fold != np.arange(folds)[:, None] if folds > 1 else np.ones((1, len(seeds)), bool)
    # Means by hand, for each campaign has its own number of seeds, and would compile anew.
    means = kept @ seeds / np.maximum(kept.sum(axis=1, keepdims=True), 1)
    return np.asarray(_campaign_from_mean(params, np.asarray(means, np.float32)))


@jax.jit
def _campaign_from_mean(params: Any, means: Array) -> Array:
    return _apply(params, means[:, None], jnp.ones((len(means), 1)), method="campaign")


@jax.jit
def represent(params: Any, campaigns: Array, users: Array, heard: Array) -> Array:
    """(C, h) campaigns, (B, h) users and (B, C), whom they hear -> (B, h) representations."""
    return _apply(params, users, campaigns, heard, method="represent")


def spread(label: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """(n,) a fold of each example: seeds, and non-seeds, in turn.

    There are as many folds as seeds if those are fewer than ``folds``, but two at least: a fold
    without a seed would tell that who is in it is none.
    """
    seed = label == 1
    folds = max(2, min(folds, int(seed.sum())))
    return np.where(seed, np.cumsum(seed) - 1, np.cumsum(~seed) - 1) % folds


class NewCampaign(NamedTuple):
    """What the online stage makes of a campaign before any training.

    Attributes:
      campaigns: (C + 1, h) the training campaigns and the new one from all its seeds, which the
        users of a pool hear.
      examples: (n, h) representations of its stage 1.
    """

    campaigns: np.ndarray
    examples: np.ndarray


def join(graph: Graph, examples: Batch, user_slots: tuple[int, ...]) -> NewCampaign:
    """Joins a new campaign and its examples to the graph.

    An example's user hears the training campaigns and the new one without the seeds of the fold
    that the user is in, be it a seed or not.

    Args:
      graph: the general model.
      examples: D_c, ids are table rows.
      user_slots: slots of each user field.
    """
    fold, seed = spread(examples.label), examples.label == 1
    node = functools.partial(user_nodes, graph.network, graph.table, user_slots=user_slots)
    users = over_chunks(node, examples.user)
    without = campaign_nodes(graph.network, users[seed], fold[seed], FOLDS)
    whole = campaign_nodes(graph.network, users[seed], fold[seed], 1)
    heard = np.ones((len(users), len(graph.campaigns) + FOLDS), bool)
    heard[:, len(graph.campaigns) :] = fold[:, None] == np.arange(FOLDS)
    known = np.concatenate([graph.campaigns, without])
    told = functools.partial(represent, graph.network, known)
    return NewCampaign(np.concatenate([graph.campaigns, whole]), over_chunks(told, users, heard))


def fit_heads(
    job: Job, graph: Graph, campaigns: np.ndarray, watch: Watch | None = None
) -> list[Scorer]:
    """A new MLP of each campaign, learned from nothing on its examples' representations.

    The graph network stays as it is. All MLPs start at the same values.
    """
    preset, dataset = job.preset, job.dataset
    user_slots = dataset.schema.user_slots
    # Not the key of the offline stage, as for any MLP that starts from nothing.
    head = new_head(jax.random.fold_in(jax.random.key(job.seed), 1))
    customise = compiled_customise(preset.rows)

    def fit(campaign: int) -> Scorer:
        examples = campaign_examples(dataset, campaign)
        new = join(graph, examples, user_slots)
        # A representation is a row of a table of its own: a user with one field in one slot.
        n = len(new.examples)
        table = jnp.asarray(np.pad(new.examples, ((0, -n % TABLE), (0, 0))))
        rows = np.arange(n, dtype=np.int32)[:, None]
        batch = examples._replace(user=rows, campaign=np.empty(0, np.int32))

        def scorer(model: Customised) -> Scorer:
            return _scorer(graph, new, model.network, user_slots)

        def seen(step: int, models: Callable[[], list[Customised]]) -> None:
            if watch is not None:
                watch(step, lambda: list(map(scorer, models())))

        [model] = customise(
            General(head, table),
            [batch],
            seed=job.seed,
            learning_rate=preset.online_learning_rate,
            epochs=preset.online_epochs,
            patience=preset.online_patience,
            progress=silent,
            watch=None if watch is None else seen,
        )
        return scorer(model)

    scorers = []
    job.progress("customise", 0, len(campaigns))
    for campaign in campaigns:
        scorers.append(fit(campaign))
        job.progress("customise", len(scorers), len(campaigns))
    return scorers


def _scorer(graph: Graph, new: NewCampaign, head: Any, user_slots: tuple[int, ...]) -> Scorer:
    score = functools.partial(
        _score, graph.network, head, new.campaigns, graph.table, user_slots=user_slots
    )
    return lambda users: over_chunks(score, users)


def new_head(key: Array) -> Any:
    """Parameters of an MLP that has learned nothing; consumes the key."""
    width = _GRAPH.features
    return jax.jit(_HEAD.init)(key, jnp.zeros((1, 1, width)), jnp.zeros((0, width)))


@functools.cache
def compiled_customise(rows: int) -> Callable[..., list[Customised]]:
    """``customise`` of the MLP on a table of representations, which it leaves as they are."""
    return build_customise(_HEAD, (1,), rows=rows)


@functools.partial(jax.jit, static_argnames="user_slots")
def _score(
    params: Any,
    head: Any,
    campaigns: Array,
    table: Array,
    users: Array,
    *,
    user_slots: tuple[int, ...],
) -> Array:
    nodes = user_nodes(params, table, users, user_slots=user_slots)
    heard = jnp.ones((len(nodes), len(campaigns)), bool)
    told = represent(params, campaigns, nodes, heard)
    output = _HEAD.apply(head, told[:, None], jnp.zeros((0, told.shape[-1])))
    return output.log_p - output.log_not_p


METHODS = {
    "hubble": Method(
        label="Hubble",
        offline=train_graph,
        online=fit_heads,
        # As the other MLPs that are learned from nothing, MLP_one-stage and MLP+emb.
        settings=FROM_NOTHING,
        tuned=TUNED,
        steps=True,
        work=(5 / 8, 1 / 16),  # online the MLP alone runs, on vectors of its own width
    ),
}
