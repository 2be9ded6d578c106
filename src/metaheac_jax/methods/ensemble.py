"""An ensemble of a solved head, MetaHeac's network with plain training, and the campaign's own LR.

A solved head has few parameters, so it is stable if a campaign has few seeds; a whole network
adapts further if there are many; and LR learns from nothing but the campaign. Their errors differ,
so a mean of their log-odds can rank better than any of them. How far LR is behind the others
depends on the data, so its share is chosen on held-out campaigns. The ensemble is not in the paper.

Axes: R table rows, K columns of all members together.
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
from metaheac_jax.customise.minibatches import padded_rows
from metaheac_jax.customise.score import AdaptedScorer
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.errors import InputError
from metaheac_jax.methods.fine_tuning import metaheac_network, without_meta
from metaheac_jax.methods.held_out_campaigns import HeldOut, halve
from metaheac_jax.methods.linear import LINEAR, LINEAR_WIDTH, logistic_regression
from metaheac_jax.methods.list_lengths import restore_with_lengths
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.online import build_restore
from metaheac_jax.methods.solved_heads import solved_head
from metaheac_jax.methods.stages import Run, Trained
from metaheac_jax.model import AdaptedWeights, General, Scorer, State, Weights, on_device
from metaheac_jax.networks.ensemble import Ensemble, Member
from metaheac_jax.networks.solved_head import SolvedHead
from metaheac_jax.progress import prefixed
from metaheac_jax.settings import PAPER, Settings
from metaheac_jax.training.loop import Quality

#: The shares of LR that are tried; the other members have equal parts of the rest.
_SHARES_OF_LR = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
#: LR's penalty, which a saved share depends on, so it does not follow the default.
_PENALTY_OF_LR = 30.0


def ensemble(settings: Settings = PAPER) -> Method:
    """The weighted mean log-odds of a solved head, MetaHeac w/o Meta and LR, with list lengths.

    The share of LR, from 0 to .5, is the one with the highest mean AUC on held-out campaigns; the
    other two have equal shares. A training that holds out none (``offline_patience`` None) keeps
    the shares of the model that it continues from, or gives LR a share of 0.

    The solved head has its own settings, whatever the settings here say (see `solved_head`); of
    these, `Method.with_settings` changes the penalty alone. LR's penalty is always 30. Both
    trained members use the same random seed.
    """
    members = member_methods(settings)
    _, network, _ = members
    return Method(
        name="ensemble",
        label="Ensemble",
        settings=replace(settings, penalty=solved_head(settings).settings.penalty),
        train=train_members,
        adapt=adapt_members,
        restore=restore_together,
        tuned=(*network.tuned, "penalty"),
        takes_steps=True,
        meshes=True,
        work=(sum(own.work[0] for own in members), sum(own.work[1] for own in members)),
    )


def member_methods(settings: Settings) -> tuple[Method, Method, Method]:
    """The methods whose models are averaged; LR is the last."""
    head = solved_head(settings).with_settings(penalty=settings.penalty)
    own = replace(settings, penalty=_PENALTY_OF_LR, online_adapts="all")  # LR has no heads
    return head, without_meta(settings, lengths=True), logistic_regression(own, lengths=True)


def ensemble_network(settings: Settings) -> Ensemble:
    """The ensemble's network, which contains the members' networks."""
    head, network, regression = (member.name for member in member_methods(settings))
    return Ensemble(
        (
            Member(head, SolvedHead(), settings.width),
            Member(network, metaheac_network(settings), settings.width),
            Member(regression, LINEAR, LINEAR_WIDTH),
        )
    )


def train_members(run: Run) -> Trained:
    """The offline stage: trains each member, then chooses the shares on held-out campaigns.

    The optimiser's state contains that of each member that takes steps, and its number of steps is
    the sum of theirs.

    Raises:
      InputError: the width is below 2, which is too small for a solved head, or the model that
        training continues from has no LR.
    """
    if run.start is not None:
        _check_state(run.start.state)
    halves = [halve(run.dataset, int(c), run.seed) for c in run.held_out]
    states, optimizers = dict[str, State](), dict[str, State]()
    for member in member_methods(run.settings):
        own = replace(
            run,
            settings=member.settings,
            directory=run.directory and run.directory / member.name,
            label=f"{run.label}: {member.label}",
            start=run.start and _start_of(member, run),
        )
        if run.judge is not None:
            own = replace(own, judge=_judge_of(member, own, halves))
        trained = member.train(own)
        states[member.name] = jax.device_get(trained.state)  # frees device memory for the next
        if trained.optimizer is not None:
            optimizers[member.name] = trained.optimizer
    num_steps = sum(int(optimizer["count"]) for optimizer in optimizers.values())
    shares = _shares(0.0) if run.start is None else run.start.state["network"]["shares"]
    network = {name: state["network"] for name, state in states.items()}
    trained = Trained(
        {
            "network": {**network, "shares": np.asarray(shares)},
            "table": np.concatenate([state["table"] for state in states.values()], axis=1),
        },
        optimizer={**optimizers, "count": np.array(num_steps)},
    )
    if run.judge is None:
        return trained
    state, quality = _with_best_shares(run, trained.state, halves)
    chosen = f"share of LR {state['network']['shares'][-1]:g}, held-out AUC {quality.auc:.4f}"
    run.progress(f"{run.label}: {chosen}", num_steps, num_steps)
    return trained._replace(state=state, judgements=np.array([[num_steps, *quality]]))


def _start_of(member: Method, run: Run) -> General:
    """A member's part of the model that training continues from."""
    start = run.start
    assert start is not None
    assert start.optimizer is not None  # checked by `Method.check_start`
    state = _state_of(member, run.settings, start.state)
    return replace(start, state=state, optimizer=start.optimizer.get(member.name))


def _state_of(member: Method, settings: Settings, state: State) -> State:
    """A member's part of the ensemble's state."""
    table = state["table"][:, ensemble_network(settings).columns[member.name]]
    return {"network": state["network"][member.name], "table": table}


def _judge_of(member: Method, run: Run, halves: Sequence[HeldOut]) -> Callable[[State], Quality]:
    return lambda state: member.judge_state(run, state, halves)


def _shares(lr: float) -> np.ndarray:
    """(3,) shares of the members in the mean, by that of LR."""
    return np.array([(1 - lr) / 2, (1 - lr) / 2, lr], np.float32)


def _with_best_shares(run: Run, state: State, halves: Sequence[HeldOut]) -> tuple[State, Quality]:
    """The state with the shares whose mean AUC on held-out campaigns is highest, and its quality.

    The members are customised once, since their weights do not depend on the shares.
    """
    state, adapted = on_device(state), list[Scorer]()

    def adapt(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        if not adapted:
            adapted.extend(adapt_members(run, state, campaigns))
        return [replace(cast(AdaptedScorer, own), weights=Weights(**state)) for own in adapted]

    method = replace(ensemble(run.settings), adapt=adapt)
    tried = [
        {**state, "network": {**state["network"], "shares": jnp.asarray(_shares(share))}}
        for share in _SHARES_OF_LR
    ]
    judged = [method.judge_state(run, some, halves) for some in tried]
    best = int(np.argmax([quality.auc for quality in judged]))  # of equals, LR's smallest share
    return tried[best], judged[best]


def _check_state(state: State) -> None:
    """Refuses the state of an ensemble without LR, which earlier versions trained."""
    if "shares" not in state["network"]:
        raise InputError(
            "the general model is an ensemble without LR, of an earlier version; fit it again"
        )


_restore = restore_with_lengths(build_restore(ensemble_network))


def restore_together(run: Run, state: State, campaign: Campaign, adapted: AdaptedWeights) -> Scorer:
    """The scorer that `adapt_members` made with these weights.

    Raises:
      InputError: the general model has no LR.
    """
    _check_state(state)
    return _restore(run, state, campaign, adapted)


def adapt_members(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
    """The online stage: customises each member to all campaigns.

    Raises:
      InputError: the general model has no LR.
    """
    _check_state(state)
    adapted: dict[str, deque[AdaptedWeights]] = {}
    for member in member_methods(run.settings):
        own = replace(
            run,
            settings=member.settings,
            kept=run.kept and run.kept / member.name,
            progress=prefixed(run.progress, f"{member.label} "),
            watch=None,  # the members have no steps in common
        )
        own_state = _state_of(member, run.settings, state)
        adapted[member.name] = deque(
            scorer.adapted
            for scorer in cast(list[AdaptedScorer], member.adapt(own, own_state, campaigns))
        )
    columns, models = ensemble_network(run.settings).columns, list[Scorer]()
    for campaign in campaigns:
        # Those of a campaign are dropped as soon as they are combined.
        own = {name: of.popleft() for name, of in adapted.items()}
        together = _together(state["table"], own, columns)
        models.append(restore_together(run, state, campaign, together))
    return models


def _together(
    table: Any, parts: Mapping[str, AdaptedWeights], columns: Mapping[str, slice]
) -> AdaptedWeights:
    """Combines the weights of all members for one campaign into those of one network.

    Args:
      table: (R, K) table of the general model.
      parts: the adapted weights by member name.
      columns: the columns of the table by member name.
    """
    owned = [part.rows[part.rows < len(table)] for part in parts.values()]
    rows = np.unique(np.concatenate(owned))
    padded = padded_rows(rows, len(table))
    values = np.array(rows_of(table, padded))
    for name, part in parts.items():
        real = part.rows < len(table)
        places = np.searchsorted(rows, part.rows[real])
        values[places, columns[name]] = np.asarray(part.values)[real]
    networks = {name: part.network for name, part in parts.items()}
    return AdaptedWeights(networks, padded, jnp.asarray(values))
