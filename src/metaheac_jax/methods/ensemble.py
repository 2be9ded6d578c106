"""An ensemble of a solved head and MetaHeac's network with plain training.

A head of few numbers, solved on the seeds, is steady where there are few of them; a whole network
moves further where there are many. The mean of their log-odds is better than both. The members are
trained and customised apart, as they are alone. It is not in the paper.

Axes: R table rows, k embedding width of a member, U rows that a campaign has adapted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from metaheac_jax.customise.host_table import on_host, rows_of
from metaheac_jax.customise.score import AdaptedScorer
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.fine_tuning import metaheac_network, without_meta
from metaheac_jax.methods.held_out import HeldOut, halve
from metaheac_jax.methods.method import Method, Run, Trained
from metaheac_jax.methods.online import build_restore, compiled_scorer, lengthened
from metaheac_jax.methods.solved_heads import solved_head
from metaheac_jax.model import AdaptedWeights, Scorer, State, Watch, Weights
from metaheac_jax.networks.ensemble import Ensemble, columns
from metaheac_jax.networks.solved_head import SolvedHead
from metaheac_jax.settings import PAPER, Settings
from metaheac_jax.training.loop import Quality


def ensemble(settings: Settings = PAPER) -> Method:
    """A solved head and MetaHeac w/o Meta, both with the lengths of lists.

    The solved head has its own value dropout, table scale and penalty, see `solved_head`.
    """
    head, network = member_methods(settings)
    return Method(
        name="ensemble",
        label="Ensemble of solved head and MetaHeac w/o Meta",
        settings=settings,
        train=train_members,
        adapt=adapt_members,
        restore=build_restore(ensemble_network, lengths=True),
        tuned=network.tuned,
        takes_steps=True,
        meshes=True,
        work=(head.work[0] + network.work[0], head.work[1] + network.work[1]),
    )


def member_methods(settings: Settings) -> tuple[Method, Method]:
    """The methods whose models are averaged."""
    return solved_head(settings), without_meta(settings, lengths=True)


def ensemble_network(settings: Settings) -> Ensemble:
    """Their networks."""
    head, network = (member.name for member in member_methods(settings))
    return Ensemble(((head, SolvedHead()), (network, metaheac_network(settings))))


def train_members(run: Run) -> Trained:
    """The offline stage: trains each, and judges both together where campaigns are held out."""
    halves = [halve(run.dataset, int(c), run.seed) for c in run.held_out]
    states, num_steps = dict[str, State](), 0.0
    for member in member_methods(run.settings):
        directory = run.directory and run.directory / member.name
        own = replace(run, settings=member.settings, directory=directory)
        if run.judge is not None:
            own = replace(own, judge=_judge_of(member, own, halves))
        trained = member.train(own)
        states[member.name] = trained.state
        num_steps += trained.judgements[-1:, 0].sum()
    tables = [state["table"] for state in states.values()]
    join = np.concatenate if any(map(on_host, tables)) else jnp.concatenate
    networks = {name: state["network"] for name, state in states.items()}
    state = {"network": networks, "table": join(tables, axis=1)}
    if run.judge is None:
        return Trained(state)
    return Trained(state, np.array([[num_steps, *run.judge(state)]]))


def _judge_of(member: Method, run: Run, halves: Sequence[HeldOut]) -> Callable[[State], Quality]:
    return lambda state: member.judge_state(run, state, halves)


def adapt_members(
    run: Run, state: State, campaigns: Sequence[Campaign], watch: Watch[Scorer] | None
) -> list[Scorer]:
    """The online stage: customises each to all campaigns."""
    del watch  # the members have no steps in common
    each: dict[str, list[AdaptedWeights]] = {}
    for member, own_state in _apart(state, run.settings):
        kept = run.kept and run.kept / member.name
        own = replace(run, settings=member.settings, kept=kept)
        scorers = member.adapt(own, own_state, campaigns, None)
        each[member.name] = [s.adapted for s in scorers if isinstance(s, AdaptedScorer)]
    run, campaigns, lengths = lengthened(run, campaigns)
    weights, network = Weights(**state), ensemble_network(run.settings)
    pool, scorers = compiled_scorer(network, run.dataset.layout), list[Scorer]()
    for campaign, own in zip(campaigns, zip(*each.values(), strict=True), strict=True):
        adapted = _together(weights.table, dict(zip(each, own, strict=True)))
        scorers.append(AdaptedScorer(pool, weights, adapted, campaign.rows, lengths))
    return scorers


def _apart(state: State, settings: Settings) -> Iterator[tuple[Method, State]]:
    """Each member and its state."""
    for number, member in enumerate(member_methods(settings)):
        table = state["table"][:, columns(number, settings.width)]
        yield member, {"network": state["network"][member.name], "table": table}


def _together(table: Any, parts: Mapping[str, AdaptedWeights]) -> AdaptedWeights:
    """A campaign's weights of all members as those of one network.

    Args:
      table: (R, ...) of the general model.
      parts: of each member, in their order.
    """
    real = [part.rows < len(table) for part in parts.values()]
    rows = np.unique(np.concatenate([p.rows[r] for p, r in zip(parts.values(), real, strict=True)]))
    values = np.array(rows_of(table, rows))
    width = values.shape[1] // len(parts)
    for number, (part, own) in enumerate(zip(parts.values(), real, strict=True)):
        places = np.searchsorted(rows, part.rows[own])
        values[places, columns(number, width)] = np.asarray(part.values)[own]
    # To a power of two, so that few programs overlay them.
    missing = max(4096, 1 << max(len(rows) - 1, 0).bit_length()) - len(rows)
    rows = np.pad(rows, (0, missing), constant_values=len(table)).astype(np.int32)
    values = jnp.asarray(np.pad(values, ((0, missing), (0, 0))))
    return AdaptedWeights({name: part.network for name, part in parts.items()}, rows, values)
