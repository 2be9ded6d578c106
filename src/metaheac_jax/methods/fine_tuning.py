"""Methods whose online stage fine-tunes a whole network on the examples of a campaign."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.serialization import from_state_dict, to_state_dict
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.sharding import Mesh

from metaheac_jax.customise.customiser import Customiser
from metaheac_jax.customise.heads import HeadCustomiser
from metaheac_jax.customise.kept import KeptCampaigns
from metaheac_jax.customise.score import AdaptedScorer, PoolScorer
from metaheac_jax.data.batches import (
    Batch,
    CampaignBatch,
    CampaignSampler,
    ExampleSampler,
    GroupSampler,
    campaign_examples,
)
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.list_lengths import Lengths, with_lengths
from metaheac_jax.methods.method import Adapt, Method, Restore, Run, Train, Trained, epoch_steps
from metaheac_jax.model import (
    AdaptedWeights,
    General,
    Scorer,
    State,
    Watch,
    Weights,
    initialise,
)
from metaheac_jax.networks.base import Network, SplitNetwork
from metaheac_jax.networks.metaheac import MetaHeac
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.processes import is_first
from metaheac_jax.settings import PAPER, Adapts, Reduction, Settings
from metaheac_jax.table.adam import TableOptimizer, TableState, table_adam
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.checkpoint import Checkpoints
from metaheac_jax.training.loop import EarlyStop, train
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta import build_meta_gradient
from metaheac_jax.training.sharding import (
    MeshCheckpoints,
    Placement,
    build_mesh_step,
    own_devices,
)
from metaheac_jax.training.step import (
    Gradient,
    RowState,
    RowStep,
    build_row_step,
    plain_gradient,
)

#: none: no training. plain: plain training on the examples of all campaigns. batches: the campaign
#: batches of the meta-step without an inner step (alpha = 0). meta: Algorithm 1. All kinds but
#: "none" take the same number of steps and draw the same number of examples per step. In "batches"
#: support examples do not affect the gradient.
Offline = Literal["none", "plain", "batches", "meta"]
BuildNetwork = Callable[[Settings], Network]

#: What is tuned in a method with gradient steps in both stages.
TUNED = (
    "outer_learning_rate",  # first, since slow training hides what the others are worth
    "value_dropout",
    "online_learning_rate",
    "table_scale",
    "weight_decay",
)
#: n and m, tuned in a method with several experts and critics.
SIZES = ("num_experts", "num_critics")
#: Judgements per epoch of the offline stage.
_JUDGEMENTS = 4
#: The patience, in epochs, of models that are trained from scratch.
ONE_STAGE_PATIENCE = 3
#: Online settings of an MLP that is trained from scratch.
FROM_SCRATCH: dict[str, Any] = {
    "online_learning_rate": 0.003,
    "online_epochs": 30,
    "online_patience": ONE_STAGE_PATIENCE,
}


def metaheac_network(settings: Settings) -> MetaHeac:
    """MetaHeac's network with these settings."""
    return MetaHeac(
        num_experts=settings.num_experts,
        num_critics=settings.num_critics,
        mixture=settings.mixture,
    )


def mlp_network(settings: Settings) -> MLP:
    """The MLP; it has no settings."""
    del settings
    return MLP()


# The methods ------------------------------------------------------------------------------------


def metaheac(settings: Settings = PAPER, *, lengths: bool = False) -> Method:
    """MetaHeac: Algorithm 1, then fine-tuning (paper section 3)."""
    method = _pre_trained(
        "metaheac", "MetaHeac", settings, metaheac_network, "meta", work=1, lengths=lengths
    )
    return replace(method, tuned=(*TUNED, "inner_learning_rate", *SIZES))


def without_meta(settings: Settings = PAPER, *, lengths: bool = False) -> Method:
    """MetaHeac's network with plain training offline (paper, Table 4)."""
    label = "MetaHeac w/o Meta"
    method = _pre_trained(
        "without-meta", label, settings, metaheac_network, "plain", work=1, lengths=lengths
    )
    return replace(method, tuned=(*TUNED, *SIZES))


def alpha_zero(settings: Settings = PAPER, *, lengths: bool = False) -> Method:
    """The batches of the meta-step without an inner step, as a control."""
    label = "MetaHeac, alpha = 0"
    method = _pre_trained(
        "alpha-0", label, settings, metaheac_network, "batches", work=1, lengths=lengths
    )
    return replace(method, tuned=(*TUNED, *SIZES))


def without_hc(settings: Settings = PAPER) -> Method:
    """MetaHeac with one critic (paper, Table 4)."""
    settings, label = replace(settings, num_critics=1), "MetaHeac w/o HC (one critic)"
    method = _pre_trained("without-hc", label, settings, metaheac_network, "meta", work=1)
    return replace(method, tuned=(*TUNED, "inner_learning_rate", "num_experts"))


def without_he(settings: Settings = PAPER) -> Method:
    """MetaHeac with one expert (paper, Table 4)."""
    settings, label = replace(settings, num_experts=1), "MetaHeac w/o HE (one expert)"
    method = _pre_trained("without-he", label, settings, metaheac_network, "meta", work=1 / 8)
    return replace(method, tuned=(*TUNED, "inner_learning_rate", "num_critics"))


def mlp_pretraining(settings: Settings = PAPER, *, lengths: bool = False) -> Method:
    """MLP+pre-training: plain training offline, then fine-tuning (paper section 4.1)."""
    label = "MLP+pre-training"
    return _pre_trained(
        "mlp-pretraining", label, settings, mlp_network, "plain", work=1 / 8, lengths=lengths
    )


def mlp_one_stage(settings: Settings = PAPER) -> Method:
    """MLP_one-stage: an MLP trained from scratch on the campaign's examples (paper section 4.1)."""
    return Method(
        name="mlp-one-stage",
        label="MLP_one-stage",
        settings=replace(settings, **FROM_SCRATCH),
        train=build_offline(mlp_network, "none", "MLP_one-stage"),
        adapt=build_fine_tuning(mlp_network),
        restore=build_restore(mlp_network),
        tuned=("online_learning_rate",),
        work=(0, 3 / 8),
    )


def _pre_trained(
    name: str,
    label: str,
    settings: Settings,
    build_network: BuildNetwork,
    offline: Offline,
    *,
    work: float,
    lengths: bool = False,
) -> Method:
    """A method that trains a network offline in one of the ways and fine-tunes all of it online.

    ``work`` is the arithmetic of a forward pass per example, as a multiple of MetaHeac's. With
    ``lengths``, the lengths of lists are fields too (see `data.list_lengths`).
    """
    if lengths:
        name, label = f"{name}-lengths", f"{label}, with list lengths"
    passes = {"plain": 3, "batches": 1.5, "meta": 6}[offline]
    return Method(
        name=name,
        label=label,
        settings=settings,
        train=build_offline(build_network, offline, label, lengths=lengths),
        adapt=build_fine_tuning(build_network, lengths=lengths),
        restore=build_restore(build_network, lengths=lengths),
        tuned=TUNED,
        takes_steps=True,
        splits=True,
        meshes=True,
        work=(passes * work, 3 * work),
    )


# The offline stage ------------------------------------------------------------------------------


def build_offline(
    build_network: BuildNetwork, offline: Offline, label: str, *, lengths: bool = False
) -> Train:
    """Builds the offline stage of a network; ``label`` names it in logs.

    With ``lengths``, the lengths of lists are fields too.
    """

    def stage(run: Run) -> Trained:
        if lengths:
            run = replace(run, dataset=with_lengths(run.dataset)[0])
        return train_network(run, build_network(run.settings), offline, label)

    return stage


def train_network(run: Run, network: Network, offline: Offline, label: str) -> Trained:
    """Trains the general weights of a network; they stay untrained if ``offline`` is "none"."""
    settings, layout = run.settings, run.dataset.layout
    weights = untrained(run, network, jax.random.key(run.seed))
    if offline == "none":
        return Trained(weights._asdict())
    if offline == "plain" and run.mesh is None:
        gradient = plain_gradient(build_loss(network, layout))
        return train_rows(run, weights, gradient, plain_sampler(run), label=label)
    if offline == "plain":
        gradient, draw = plain_in_groups(run, network)
        return train_rows(run, weights, gradient, draw, label=label, reduction="sum")
    gradient = build_meta_gradient(
        build_loss(network, layout, reduction=settings.reduction),
        inner_learning_rate=settings.inner_learning_rate,
        inner_steps=1 if offline == "meta" else 0,
        reduction=settings.reduction,
        select=select_rows,
    )
    sampler = campaign_sampler(run)
    campaigns_of = sampler.campaigns_of
    return train_rows(run, weights, gradient, sampler, label=label, campaigns_of=campaigns_of)


def plain_in_groups(run: Run, network: Network) -> tuple[Gradient[...], GroupSampler]:
    """Plain training on a mesh, whose devices take groups of examples in the place of campaigns."""
    placement, sampler = placement_of(run), plain_sampler(run)
    total = build_loss(network, run.dataset.layout, reduction="sum")
    gradient = build_meta_gradient(
        lambda params, examples: total(params, examples) / sampler.batch_size,
        inner_learning_rate=0.0,
        inner_steps=0,
        reduction="sum",
        select=select_rows,
    )
    part = placement.own_campaigns()
    groups = GroupSampler(run.dataset, sampler, num_groups=placement.num_campaigns, part=part)
    return gradient, groups


def campaign_sampler(run: Run) -> CampaignSampler:
    """Samples support and query sets of a few campaigns per step, with the run's settings.

    On a mesh they are those of the campaigns that this process takes.
    """
    settings = run.settings
    return CampaignSampler(
        run.dataset,
        run.campaigns,
        seed=run.seed,
        campaigns_per_step=settings.campaigns_per_step,
        batch_size=settings.batch_size,
        disjoint=settings.disjoint,
        value_dropout=settings.value_dropout,
        part=None if run.mesh is None else placement_of(run).own_campaigns(),
    )


def placement_of(run: Run) -> Placement:
    """Where the arrays of a training live; the run has a mesh."""
    assert run.mesh is not None
    return Placement(run.mesh, run.settings.campaigns_per_step, run.dataset.num_rows)


def plain_sampler(run: Run) -> ExampleSampler:
    """Samples batches for plain training, with as many examples as a meta-step draws."""
    return ExampleSampler(
        run.dataset,
        run.campaigns,
        seed=run.seed,
        batch_size=2 * run.settings.batch_size * run.settings.campaigns_per_step,
        value_dropout=run.settings.value_dropout,
    )


def untrained(run: Run, network: Network, key: Array) -> Weights:
    """Untrained weights for the run's data and settings; consumes the key."""
    start = functools.partial(
        initialise,
        network,
        layout=run.dataset.layout,
        num_rows=run.dataset.num_rows,
        width=run.settings.width,
        scale=run.settings.table_scale,
    )
    if run.mesh is None:
        return start(key)
    # A row's values depend on its number alone, so more rows leave those before as they are.
    placement = placement_of(run)
    on_mesh = functools.partial(start, num_rows=placement.padded_rows)
    lives = Weights(placement.state.network, placement.state.table.table)
    return jax.jit(on_mesh, out_shardings=lives)(key)


def train_rows(
    run: Run,
    weights: Weights,
    gradient: Gradient[...],
    sampler: Callable[[int], Any],
    *,
    label: str,
    finish: Callable[[Weights], State] = Weights._asdict,
    campaigns_of: Callable[[int], np.ndarray] | None = None,
    reduction: Reduction | None = None,
) -> Trained:
    """Trains network and table by row-local Adam steps, with the run's checkpoints and log.

    Args:
      run: has the learning rate, number of steps, checkpoints, log, progress, judge and start.
      weights: initial values.
      gradient: see `training.step.build_row_step`.
      sampler: ``sampler(step) -> (rows, *batches)``.
      label: name in logs and progress.
      finish: makes the method's state of trained weights.
      campaigns_of: see `training.loop.train`.
      reduction: of the gradient, over campaigns; that of the settings by default.
    """
    reduction = reduction or run.settings.reduction
    steps, table_optimizer = epoch_steps(run), table_adam(run.settings.outer_learning_rate)
    placement = None if run.mesh is None else placement_of(run)
    step = _build_step(run, gradient, table_optimizer, placement, reduction)

    def whole(state: RowState) -> RowState:
        if placement is None:
            return state._replace(table=table_optimizer.flush(state.table))
        return placement.fetch(placement.flush(state, table_optimizer))

    def finished(state: RowState) -> State:
        return finish(Weights(state.network, state.table.table))

    judge, early_stop = run.judge, None
    if judge is not None:
        early_stop = EarlyStop(
            judge=lambda state: judge(finished(whole(state))),
            every=max(1, steps // _JUDGEMENTS),
            patience=run.settings.offline_patience or 1,
            judge_start=run.start is not None,
        )
    state = step.init(*weights)
    if run.start is not None:
        state = resumed(run.start, run.dataset, state, placement)
    first = int(state.table.count)
    writes, options = run.mesh is None or is_first(), dict[str, Any]()
    with Checkpoints.at(run.directory if writes else None) as checkpoints:
        options["checkpoints"] = checkpoints
        if placement is not None and run.directory is not None:
            options["checkpoints"] = MeshCheckpoints(checkpoints, run.directory, placement)
            if jax.process_count() > 1:  # by steps, since clocks differ
                options |= {"save_every": 100, "save_seconds": math.inf}
        state, judgements = train(
            step,
            state,
            sampler,
            num_steps=first + run.settings.offline_epochs * steps,
            first_step=first,
            early_stop=early_stop,
            name=label,
            campaigns_of=campaigns_of,
            skip_nonfinite=run.skip_nonfinite,
            log=run.log,
            progress=run.progress,
            **options,
        )
    state = whole(state)
    optimizer_state = {
        "network": to_state_dict(state.opt_state),
        "table": {"mu": state.table.mu, "nu": state.table.nu},
        "count": state.table.count,
    }
    return Trained(finished(state), judgements, jax.device_get(optimizer_state))


def _build_step(
    run: Run,
    gradient: Gradient[...],
    table_optimizer: TableOptimizer,
    placement: Placement | None,
    reduction: Reduction,
) -> RowStep:
    """The training step, on one device or on a mesh, for the batches of the sampler."""
    settings = run.settings
    optimizer = optax.adamw(settings.outer_learning_rate, weight_decay=settings.weight_decay)
    if placement is None:
        return build_row_step(gradient, optimizer, table_optimizer, checked=True)
    init, on_mesh = build_mesh_step(
        gradient,
        optimizer,
        table_optimizer,
        placement,
        reduction=reduction,
        checked=True,
    )

    def step(state: RowState, rows: Any, *batches: Any) -> tuple[RowState, Any]:
        return on_mesh(state, *placement.place_batch(CampaignBatch(rows, *batches)))

    return RowStep(init, step)


def resumed(
    start: General, data: Dataset, fresh: RowState, placement: Placement | None = None
) -> RowState:
    """The state of a general model's training, on data that have its values and perhaps others.

    Args:
      start: a general model with its optimiser's state.
      data: of the training that goes on; with the lengths of lists, if the network takes them.
      fresh: an initial state on the data. The rows of new values remain as they are there.
      placement: of both states, if they are on a mesh.
    """
    if placement is not None:
        fresh = placement.fetch(fresh)
    # The lengths of lists are no fields of the model, and have the same values in all data.
    known = dict(zip((f.name for f in start.schema.fields), start.vocabulary.values, strict=True))
    places = [
        data.vocabulary.encode(number, known.get(field.name, data.vocabulary.values[number]))
        for number, field in enumerate(data.schema.fields)
    ]
    rows, optimizer = np.concatenate(places), start.optimizer or {}
    count = np.array(optimizer["count"])
    old = (start.state["table"], optimizer["table"]["mu"], optimizer["table"]["nu"])
    new = [np.array(array) for array in (fresh.table.table, fresh.table.mu, fresh.table.nu)]
    for mine, theirs in zip(new, old, strict=True):
        mine[rows] = theirs
    parts = flatten_dict(to_state_dict(fresh.opt_state), keep_empty_nodes=True)
    parts |= flatten_dict(dict(optimizer["network"]))  # on disk, empty parts are not kept
    table: list[Any] = [*new, np.full(fresh.table.last.shape, count), count]
    state = RowState(
        network=start.state["network"],
        opt_state=from_state_dict(fresh.opt_state, unflatten_dict(parts)),
        table=TableState(*table),
    )
    # As copies, since a step consumes them.
    return jax.tree.map(jnp.array, state) if placement is None else placement.place(state)


# The online stage -------------------------------------------------------------------------------


def build_fine_tuning(build_network: BuildNetwork, *, lengths: bool = False) -> Adapt:
    """Builds the online stage of a network; with ``lengths``, those of lists are fields too."""

    def stage(
        run: Run, state: State, campaigns: Sequence[Campaign], watch: Watch[Scorer] | None
    ) -> list[Scorer]:
        added = None
        if lengths:
            run, campaigns, added = lengthened(run, campaigns)
        network = build_network(run.settings)
        return fine_tune(run, network, Weights(**state), campaigns, watch, lengths=added)

    return stage


def build_restore(build_network: BuildNetwork, *, lengths: bool = False) -> Restore:
    """Builds the scorers of a network from saved weights; arguments as `build_fine_tuning`."""

    def restore(run: Run, state: State, campaign: Campaign, adapted: AdaptedWeights) -> Scorer:
        campaigns, added = [campaign], None
        if lengths:
            run, campaigns, added = lengthened(run, campaigns)
        network, layout = build_network(run.settings), run.dataset.layout
        _, score = compiled_online(network, layout, run.settings.batch_size)
        return AdaptedScorer(score, Weights(**state), adapted, campaigns[0].rows, added)

    return restore


def lengthened(run: Run, campaigns: Sequence[Campaign]) -> tuple[Run, list[Campaign], Lengths]:
    """A run and campaigns with the lengths of lists as fields, and what adds them to users."""
    dataset, lengths = with_lengths(run.dataset)
    moved = [replace(c, rows=lengths.campaigns(c.rows)) for c in campaigns]
    return replace(run, dataset=dataset), moved, lengths


def fine_tune(
    run: Run,
    network: Network,
    weights: Weights,
    campaigns: Sequence[Campaign],
    watch: Watch[Scorer] | None,
    *,
    lengths: Lengths | None = None,
) -> list[Scorer]:
    """Adapts general weights to each campaign; see `customise.customiser.Customiser`.

    ``lengths`` are added to the users of a pool, if the network takes them.
    """
    layout = run.dataset.layout
    customiser, score = compiled_online(
        network, layout, run.settings.batch_size, run.settings.online_adapts, run.mesh
    )

    def scorer(campaign: Campaign, adapted: AdaptedWeights) -> Scorer:
        return AdaptedScorer(score, weights, adapted, campaign.rows, lengths)

    return adapt_weights(
        run,
        customiser,
        weights,
        [campaign_examples(run.dataset, campaign) for campaign in campaigns],
        lambda adapted: list(map(scorer, campaigns, adapted)),
        watch,
        names=[campaign.name for campaign in campaigns],
    )


def adapt_weights(
    run: Run,
    customiser: Customiser | HeadCustomiser,
    weights: Weights,
    examples: Sequence[Batch],
    scorers: Callable[[list[AdaptedWeights]], list[Scorer]],
    watch: Watch[Scorer] | None,
    *,
    names: Sequence[str],
) -> list[Scorer]:
    """Adapts weights to each campaign's examples with the run's online settings.

    Args:
      run: has the settings, seed and progress.
      customiser: of the network.
      weights: general weights.
      examples: of each campaign.
      scorers: turns the adapted weights of all campaigns into models.
      watch: follows the fine-tuning steps.
      names: of the campaigns, for messages.
    """

    def on_step(step: int, adapted: Callable[[], list[AdaptedWeights]]) -> None:
        if watch is not None:
            watch(step, lambda: scorers(adapted()))

    kept = None
    if run.kept is not None and watch is None:
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
        numbers=run.numbers,
        watch=None if watch is None else on_step,
        kept=kept,
    )
    return scorers(adapted)


def compiled_online(
    network: Network,
    layout: Layout,
    batch_size: int,
    adapts: Adapts = "all",
    mesh: Mesh | None = None,
) -> tuple[Customiser | HeadCustomiser, PoolScorer]:
    """The customiser and the pool scorer of a network.

    Of a mesh, this process's devices divide the campaigns among them.
    """
    own = None if mesh is None else own_devices(mesh)
    customiser = _compiled_customiser(network, layout, batch_size, adapts, own)
    return customiser, _compiled_scorer(network, layout)


@functools.cache  # methods with the same network share its compiled programs
def _compiled_customiser(
    network: Network, layout: Layout, batch_size: int, adapts: Adapts, mesh: Mesh | None
) -> Customiser | HeadCustomiser:
    if adapts == "all":
        return Customiser(network, layout, batch_size=batch_size, mesh=mesh)
    if not isinstance(network, SplitNetwork):
        raise TypeError(f"{network} does not split behind its first layer")
    return HeadCustomiser(network, layout, batch_size=batch_size)


@functools.cache
def _compiled_scorer(network: Network, layout: Layout) -> PoolScorer:
    return PoolScorer(network, layout)
