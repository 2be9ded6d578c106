"""An ensemble of a solved head and MetaHeac's network with plain training.

A solved head has few parameters, so it is stable if a campaign has few seeds; a whole network
adapts further if there are many. Their errors differ, so the mean of their log-odds can rank better
than either. The ensemble is not in the paper.

Axes: R table rows, k embedding width of a member, K = 2 k embedding width of both members together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from metaheac_jax.customise.host_table import rows_of
from metaheac_jax.customise.minibatches import usual_size
from metaheac_jax.customise.score import AdaptedScorer
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.fine_tuning import metaheac_network, without_meta
from metaheac_jax.methods.held_out_campaigns import HeldOut, halve
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.online import build_restore, compiled_scorer, lengthened
from metaheac_jax.methods.solved_heads import solved_head
from metaheac_jax.methods.stages import Run, Trained
from metaheac_jax.model import AdaptedWeights, General, Scorer, State, Weights
from metaheac_jax.networks.ensemble import Ensemble, columns
from metaheac_jax.networks.solved_head import SolvedHead
from metaheac_jax.progress import prefixed
from metaheac_jax.settings import PAPER, Settings
from metaheac_jax.training.loop import Quality

_LABEL = "Ensemble"


def ensemble(settings: Settings = PAPER) -> Method:
    """The mean log-odds of a solved head and MetaHeac w/o Meta, both with list lengths.

    The solved head has its own settings, whatever the settings here say (see `solved_head`); of
    these, `Method.with_settings` changes the penalty alone. Both members use the same random seed.
    """
    head, network = member_methods(settings)
    return Method(
        name="ensemble",
        label=_LABEL,
        settings=replace(settings, penalty=solved_head(settings).settings.penalty),
        train=train_members,
        adapt=adapt_members,
        restore=build_restore(ensemble_network, lengths=True),
        tuned=(*network.tuned, "penalty"),
        takes_steps=True,
        meshes=True,
        work=(head.work[0] + network.work[0], head.work[1] + network.work[1]),
    )


def member_methods(settings: Settings) -> tuple[Method, Method]:
    """The methods whose models are averaged."""
    head = solved_head(settings).with_settings(penalty=settings.penalty)
    return head, without_meta(settings, lengths=True)


def ensemble_network(settings: Settings) -> Ensemble:
    """The ensemble's network, which contains the members' networks."""
    head, network = (member.name for member in member_methods(settings))
    return Ensemble(((head, SolvedHead()), (network, metaheac_network(settings))))


def train_members(run: Run) -> Trained:
    """The offline stage: trains each member, then judges the ensemble if campaigns are held out.

    The optimiser's state contains that of each member, and its number of steps is the sum of
    theirs.

    Raises:
      InputError: the width is below 2, which is too small for a solved head.
    """
    halves = [halve(run.dataset, int(c), run.seed) for c in run.held_out]
    states, optimizers = dict[str, State](), dict[str, State]()
    for number, member in enumerate(member_methods(run.settings)):
        own = replace(
            run,
            settings=member.settings,
            directory=run.directory and run.directory / member.name,
            prefix=f"{_LABEL}: ",
            start=run.start and _start_of(number, member, run.start),
        )
        if run.judge is not None:
            own = replace(own, judge=_judge_of(member, own, halves))
        state, _, optimizer = member.train(own)
        states[member.name] = jax.device_get(state)  # frees device memory for the next member
        assert optimizer is not None  # both take steps
        optimizers[member.name] = optimizer
    num_steps = sum(int(optimizer["count"]) for optimizer in optimizers.values())
    trained = Trained(
        {
            "network": {name: state["network"] for name, state in states.items()},
            "table": np.concatenate([state["table"] for state in states.values()], axis=1),
        },
        optimizer={**optimizers, "count": np.array(num_steps)},
    )
    if run.judge is None:
        return trained
    return trained._replace(judgements=np.array([[num_steps, *run.judge(trained.state)]]))


def _start_of(number: int, member: Method, start: General) -> General:
    """A member's part of the model that training continues from."""
    assert start.optimizer is not None  # checked by `Method.check_start`
    state = _state_of(number, member, start.state)
    return replace(start, state=state, optimizer=start.optimizer[member.name])


def _state_of(number: int, member: Method, state: State) -> State:
    """A member's part of the ensemble's state."""
    table = state["table"][:, columns(number, member.settings.width)]
    return {"network": state["network"][member.name], "table": table}


def _judge_of(member: Method, run: Run, halves: Sequence[HeldOut]) -> Callable[[State], Quality]:
    return lambda state: member.judge_state(run, state, halves)


def adapt_members(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
    """The online stage: customises each member to all campaigns."""
    adapted: dict[str, deque[AdaptedWeights]] = {}
    for number, member in enumerate(member_methods(run.settings)):
        own = replace(
            run,
            settings=member.settings,
            kept=run.kept and run.kept / member.name,
            progress=prefixed(run.progress, f"{member.label} "),
            watch=None,  # the members have no steps in common
        )
        own_state = _state_of(number, member, state)
        adapted[member.name] = deque(
            scorer.adapted
            for scorer in cast(list[AdaptedScorer], member.adapt(own, own_state, campaigns))
        )
    run, campaigns, lengths = lengthened(run, campaigns)
    weights, network = Weights(**state), ensemble_network(run.settings)
    pool, models = compiled_scorer(network, run.dataset.layout), list[Scorer]()
    for campaign in campaigns:
        # Those of a campaign are dropped as soon as they are combined.
        own = {name: of.popleft() for name, of in adapted.items()}
        together = _together(weights.table, own)
        models.append(AdaptedScorer(pool, weights, together, campaign.rows, lengths))
    return models


def _together(table: Any, parts: Mapping[str, AdaptedWeights]) -> AdaptedWeights:
    """Combines the weights of all members for one campaign into those of one network.

    Args:
      table: (R, K) table of the general model.
      parts: the adapted weights by member name, in the order of the members.
    """
    real = [part.rows < len(table) for part in parts.values()]
    owned = [part.rows[own] for part, own in zip(parts.values(), real, strict=True)]
    rows = np.unique(np.concatenate(owned)).astype(np.int32)
    missing = usual_size(len(rows)) - len(rows)
    padded = np.pad(rows, (0, missing), constant_values=len(table))
    values = np.array(rows_of(table, padded))
    width = values.shape[1] // len(parts)
    for number, (part, own) in enumerate(zip(parts.values(), real, strict=True)):
        places = np.searchsorted(rows, part.rows[own])
        values[places, columns(number, width)] = np.asarray(part.values)[own]
    networks = {name: part.network for name, part in parts.items()}
    return AdaptedWeights(networks, padded, jnp.asarray(values))
