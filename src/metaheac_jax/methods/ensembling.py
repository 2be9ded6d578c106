"""An ensemble of a solved head, MetaHeac's network with plain training, and the campaign's own LR.

A solved head has few parameters, so it is stable if a campaign has few seeds; a whole network
adapts further if there are many; and LR learns from nothing but the campaign. Their errors differ,
so a mean of their log-odds can rank better than any of them. How far LR is behind the others
depends on the data, so its share is chosen on held-out campaigns. The ensemble is not in the paper.

Axes: B examples, M user fields, N campaign fields, R table rows, E members, K columns of all
members together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.customising.score import AdaptedScorer
from metaheac_jax.customising.sizes import padded_rows
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.errors import InputError
from metaheac_jax.methods.config import Config
from metaheac_jax.methods.fine_tuning import WithoutMeta, WithoutMetaConfig
from metaheac_jax.methods.held_out_campaigns import HeldOut, halve, judge_state
from metaheac_jax.methods.logistic_regression import (
    LINEAR,
    LINEAR_WIDTH,
    LogisticRegression,
    RegressionConfig,
)
from metaheac_jax.methods.method import (
    NetworkMethod,
    Run,
    Trained,
    compiled_scorer,
    lengthened,
    register,
)
from metaheac_jax.methods.solved_heads import SolvedHeadConfig, SolvedHeadMethod
from metaheac_jax.model import AdaptedWeights, General, State, Weights, on_device
from metaheac_jax.networks import Network, Output, User, sigmoid_output
from metaheac_jax.progress import prefixed
from metaheac_jax.table.pooling import UserFields
from metaheac_jax.table.rows import rows_of
from metaheac_jax.training.loop import Quality

#: The shares of LR that are tried; the other members have equal parts of the rest.
_SHARES_OF_LR = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
Members = tuple[SolvedHeadMethod, WithoutMeta[WithoutMetaConfig], LogisticRegression]


class Member(NamedTuple):
    """A network of an ensemble: the key of its parameters, and its number of columns."""

    name: str
    network: Network
    width: int


@dataclass(frozen=True)
class Ensemble:
    """A `Network` of several networks side by side, whose log-odds are averaged.

    Each reads its own columns of the table, so weights, adapted weights and scorers have the form
    of those of one network. The parameters are those of each member under its name, and ``shares``
    (E,): the weights of the mean.
    """

    members: tuple[Member, ...]

    @property
    def columns(self) -> dict[str, slice]:
        """The columns of the table that each member reads, by name."""
        ends = accumulate(member.width for member in self.members)
        return {
            m.name: slice(end - m.width, end) for m, end in zip(self.members, ends, strict=True)
        }

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Any]:
        """Parameters, drawn with the key, for (B, M, K) user and (N, K) fields; equal shares."""
        keys = jax.random.split(key, len(self.members))
        drawn = {
            member.name: member.network.init(own, *fields)
            for own, (member, fields) in zip(keys, self._inputs(user, campaign), strict=True)
        }
        return drawn | {"shares": jnp.full(len(self.members), 1 / len(self.members))}

    def apply(self, params: dict[str, Any], user: User, campaign: Array, /) -> Output:
        """(B, M, K) user fields and (N, K) or (B, N, K) campaign fields -> `Output`."""
        log_odds = [
            member.network.apply(params[member.name], *fields).log_odds
            for member, fields in self._inputs(user, campaign)
        ]
        # No matrix product, which accelerators round.
        return sigmoid_output((params["shares"][:, None] * jnp.stack(log_odds)).sum(axis=0))

    def _inputs(
        self, user: User, campaign: Array
    ) -> Iterator[tuple[Member, tuple[UserFields, Array]]]:
        """Each member, with its user and campaign fields."""
        user = UserFields.of(user)
        for member, own in zip(self.members, self.columns.values(), strict=True):
            yield member, (user.columns(own), campaign[..., own])


@dataclass(frozen=True)
class EnsembleConfig(Config):
    """Settings of the members: the solved head, MetaHeac's network and LR.

    All have list lengths, or none.
    """

    head: SolvedHeadConfig = field(default_factory=SolvedHeadConfig)
    network: WithoutMetaConfig = field(
        default_factory=partial(WithoutMetaConfig, list_lengths=True)
    )
    lr: RegressionConfig = field(default_factory=partial(RegressionConfig, list_lengths=True))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len({own["list_lengths"] for own in self.parts.values()}) > 1:
            raise InputError("settings: list_lengths: expected the same for all members")


@register
class EnsembleMethod(NetworkMethod[EnsembleConfig]):
    """The weighted mean log-odds of a solved head, MetaHeac w/o Meta and LR.

    The share of LR, from 0 to .5, is the one with the highest mean AUC on held-out campaigns; the
    other two have equal shares. A training that holds out none (``offline_patience`` None) keeps
    the shares of the model that it continues from, or gives LR a share of 0. Both trained members
    use the same random seed.
    """

    name, label, default = "ensemble", "Ensemble", EnsembleConfig()

    @property
    def members(self) -> Members:
        """The methods whose models are averaged; LR is the last."""
        config = self.config
        head, network = SolvedHeadMethod(config.head), WithoutMeta(config.network)
        return head, network, LogisticRegression(config.lr)

    @property
    def network(self) -> Ensemble:
        """The ensemble's network, which contains the members' networks."""
        head, network, regression = self.members
        return Ensemble(
            (
                Member(head.name, head.network, head.config.width),
                Member(network.name, network.network, network.config.width),
                Member(regression.name, LINEAR, LINEAR_WIDTH),
            )
        )

    def fit(self, run: Run) -> Trained:
        """Trains each member, then chooses the shares on held-out campaigns.

        The optimiser's state contains that of each member that takes steps, and its number of steps
        is the sum of theirs.
        """
        halves = [halve(run.dataset, int(c), run.seed) for c in run.held_out]
        states, optimizers = dict[str, State](), dict[str, State]()
        for member in self.members:
            own = replace(
                run,
                directory=run.directory and run.directory / member.name,
                label=f"{run.label}: {member.label}",
                start=run.start and self._start_of(member.name, run.start),
            )
            if run.judge is not None and member.holds_out:
                own = replace(own, judge=partial(judge_state, member.customise, own, halves))
            trained = member.fit(own)
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
        state, quality = self._with_best_shares(run, trained.state, halves)
        chosen = f"share of LR {state['network']['shares'][-1]:g}, held-out AUC {quality.auc:.4f}"
        run.progress(f"{run.label}: {chosen}", num_steps, num_steps)
        return trained._replace(state=state, judgements=np.array([[num_steps, *quality]]))

    def _start_of(self, member: str, start: General) -> General:
        """A member's part of the model that training continues from."""
        optimizer = (start.optimizer or {}).get(member)
        return replace(start, state=self._state_of(member, start.state), optimizer=optimizer)

    def _state_of(self, member: str, state: State) -> State:
        """A member's part of the ensemble's state."""
        table = state["table"][:, self.network.columns[member]]
        return {"network": state["network"][member], "table": table}

    def _with_best_shares(
        self, run: Run, state: State, halves: Sequence[HeldOut]
    ) -> tuple[State, Quality]:
        """The state with the shares of the highest mean AUC on held-out campaigns, and its quality.

        The members are customised once, since their weights do not depend on the shares.
        """
        state, adapted = on_device(state), list[AdaptedScorer]()

        def customise(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[AdaptedScorer]:
            if not adapted:
                adapted.extend(self.customise(run, state, campaigns))
            return [replace(own, weights=Weights(**state)) for own in adapted]

        tried = [
            {**state, "network": {**state["network"], "shares": jnp.asarray(_shares(share))}}
            for share in _SHARES_OF_LR
        ]
        judged = [judge_state(customise, run, halves, some) for some in tried]
        best = int(np.argmax([quality.auc for quality in judged]))  # of equals, LR's smallest share
        return tried[best], judged[best]

    def customise(
        self, run: Run, state: State, campaigns: Sequence[Campaign]
    ) -> list[AdaptedScorer]:
        """Customises each member to all campaigns."""
        adapted: dict[str, deque[AdaptedWeights]] = {}
        for member in self.members:
            own = replace(run, progress=prefixed(run.progress, f"{member.label} "))
            scorers = member.customise(own, self._state_of(member.name, state), campaigns)
            adapted[member.name] = deque(scorer.adapted for scorer in scorers)
        run, campaigns = lengthened(run, self.config["list_lengths"], campaigns)
        network, models = self.network, list[AdaptedScorer]()
        pool, weights = compiled_scorer(network, run.dataset.layout), Weights(**state)
        for campaign in campaigns:
            # Those of a campaign are dropped as soon as they are combined.
            own = {name: of.popleft() for name, of in adapted.items()}
            together = _together(weights.table, own, network.columns)
            models.append(AdaptedScorer(pool, weights, together, campaign.rows, run.lengths))
        return models


def _shares(lr: float) -> np.ndarray:
    """(3,) shares of the members in the mean, by that of LR."""
    return np.array([(1 - lr) / 2, (1 - lr) / 2, lr], np.float32)


def _together(
    table: Any, parts: Mapping[str, AdaptedWeights], columns: Mapping[str, slice]
) -> AdaptedWeights:
    """Combines the weights of all members, by name, for one campaign into those of one network."""
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
