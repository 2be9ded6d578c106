"""The ensemble: a weighted sum of a solved head, a learned prior and the campaign's own LR.

A solved head learns which combinations of values tell users apart, a learned prior reads features
that need no label, and LR learns from nothing but the campaign. Their errors differ, so a mean of
their log-odds can rank better than any of them. The ensemble is not in the paper.

Axes: P users, E members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from metaheac_jax.boundary import Column, Columns
from metaheac_jax.customising.score import sum_scorers
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.config import Config
from metaheac_jax.methods.held_out_campaigns import (
    HeldOut,
    halve_each,
    mean_judgement,
    offline_of,
    quality_of,
    score_halves,
)
from metaheac_jax.methods.learned_prior import LearnedPrior, LearnedPriorConfig
from metaheac_jax.methods.logistic_regression import LogisticRegression, RegressionConfig
from metaheac_jax.methods.method import Method, Offline, Online, Trained, register
from metaheac_jax.methods.solved_head import SolvedHeadConfig, SolvedHeadMethod
from metaheac_jax.model import General, Scorer, State
from metaheac_jax.progress import prefixed
from metaheac_jax.solvers.posterior import Examples, Gaussian, posterior_mode

#: Prior variance of a share. It decides between few held-out seeds and equal shares.
_VARIANCE = 0.02


@dataclass(frozen=True)
class EnsembleConfig(Config):
    """Settings of the members: the solved head, the learned prior and LR."""

    head: SolvedHeadConfig = field(default_factory=SolvedHeadConfig)
    prior: LearnedPriorConfig = field(default_factory=LearnedPriorConfig)
    lr: RegressionConfig = field(default_factory=partial(RegressionConfig, list_lengths=True))


@register
class EnsembleMethod(Method[EnsembleConfig]):
    """The weighted sum of the log-odds of a solved head, a learned prior and LR.

    The shares are the weights of a logistic regression on held-out campaigns, under a prior of
    equal ones. If none are held out, the shares are equal, or those of the model that training
    continues from. Of that model only the solved head is trained further; the prior is learned
    afresh.
    """

    name, label, default = "ensemble", "Ensemble", EnsembleConfig()
    continues = True

    @property
    def members(self) -> tuple[SolvedHeadMethod, LearnedPrior, LogisticRegression]:
        """The methods whose models are added; the one with checkpoints is trained first."""
        config = self.config
        head, prior = SolvedHeadMethod(config.head), LearnedPrior(config.prior)
        return head, prior, LogisticRegression(config.lr)

    @property
    def min_campaigns(self) -> int:
        """The number that the members need."""
        return max(member.min_campaigns for member in self.members)

    @property
    def holds_out(self) -> bool:
        """Whether the solved head holds out campaigns; without any, the others choose nothing."""
        return self.members[0].holds_out

    def train(self, offline: Offline) -> Trained:
        """Trains each member, then chooses the shares on held-out campaigns.

        These teach the learned prior only after that.
        """
        halves, start = halve_each(offline), offline.start
        states, optimizer = dict[str, State](), dict[str, Any]()
        for member in self.members:
            part = _part_of(start, member.name)
            trained = member.fit(offline_of(member, offline, halves, start=part))
            states[member.name] = jax.device_get(trained.state)  # frees device memory for the next
            if trained.optimizer is not None:
                optimizer |= {member.name: trained.optimizer, "count": trained.optimizer["count"]}
        shares = np.full(len(states), 1 / len(states)) if start is None else start.state["shares"]
        trained = Trained({"members": states, "shares": np.asarray(shares)}, optimizer=optimizer)
        return self._with_best_shares(offline, trained, halves) if halves else trained

    def _with_best_shares(
        self, offline: Offline, trained: Trained, halves: Sequence[HeldOut]
    ) -> Trained:
        """The same with the shares that suit the held-out campaigns, and their quality."""
        each = [
            score_halves(member.customise, offline, halves, trained.state["members"][member.name])
            for member in self.members
        ]
        scores = [np.stack(own) for own in zip(*each, strict=True)]
        shares = best_shares(scores, [half.labels for half in halves])
        judged = [quality_of(*pair) for pair in zip(halves, map(shares.dot, scores), strict=True)]
        count = int((trained.optimizer or {})["count"])
        judgement = mean_judgement(count, halves, judged)
        members = dict(trained.state["members"])
        for member in self.members:
            if isinstance(member, LearnedPrior):
                part = offline_of(member, offline, ())
                part = replace(part, campaigns=np.union1d(offline.campaigns, offline.held_out))
                members[member.name] = jax.device_get(member.fit(part).state)
        told = ", ".join(f"{share:.2f}" for share in shares)
        told = f"{offline.label}: shares {told}, held-out AUC {judgement.auc:.4f}"
        offline.progress(told, count, count)
        state = {"members": members, "shares": shares}
        return trained._replace(state=state, judgements=(judgement,))

    def columns(self, online: Online, arrays: Mapping[str, Any]) -> Columns:
        """Says what the states of the members must be, and their shares."""
        columns = {"shares": Column("f4 f8", (len(self.members),))}
        for member in self.members:
            above = f"members/{member.name}/"
            own = {name.removeprefix(above): array for name, array in arrays.items()}
            columns |= {f"{above}{k}": v for k, v in member.columns(online, own).items()}
        return columns

    def adapt(self, online: Online, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Customises each member to all campaigns."""
        return self._scorers(online, state, campaigns, general=False)

    def general_scorers(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[Scorer]:
        """Sums those of the members that have a general model; LR has none."""
        return self._scorers(online, state, campaigns, general=True)

    def _scorers(
        self, online: Online, state: State, campaigns: Sequence[Campaign], *, general: bool
    ) -> list[Scorer]:
        every, shares = list[Any](), list[float]()
        for member, share in zip(self.members, np.asarray(state["shares"]).tolist(), strict=True):
            of_member = replace(online, progress=prefixed(online.progress, f"{member.label} "))
            given = of_member, state["members"][member.name], campaigns
            if scorers := member.customise(*given, general=general):
                every.append(scorers)
                shares.append(share)
        return [*sum_scorers(every, tuple(shares))]


def _part_of(start: General | None, member: str) -> General | None:
    """The model that a member continues from; None if there is none, or it takes no steps."""
    past = None if start is None else (start.optimizer or {}).get(member)
    if start is None or past is None:
        return None
    return replace(start, state=start.state["members"][member], optimizer=past)


def best_shares(scores: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> np.ndarray:
    """(E,) shares of the posterior's mode, given the judged halves of held-out campaigns.

    Args:
      scores: per campaign the members' log-odds, (E, P).
      labels: per campaign (P,).
    """
    features = list[np.ndarray]()
    for members, label in zip(scores, labels, strict=True):
        base = np.log((label.sum() + 1) / ((1 - label).sum() + 1))  # what all members have
        features.append(np.column_stack([(members - base).T, np.full(len(label), base)]))
    count = len(scores[0])
    prior = Gaussian(np.append(np.full(count, 1 / count), 1.0), _VARIANCE * np.eye(count + 1))
    examples = Examples(np.concatenate(features, dtype=np.float32), np.concatenate(labels))
    return posterior_mode(examples, prior)[:count]
