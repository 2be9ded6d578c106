"""One set of gradient-boosted trees for all campaigns, which read other models' scores.

The trees learn from the pooled examples of the training campaigns: the values of the user and of
the campaign, and the score of each member, customised to the campaign's other examples (three
folds). For a new campaign only the members are customised. They are not in the paper and need
LightGBM.

Axes: P users, S slots of a user, N campaign fields, E members, R table rows, C campaigns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
from scipy.sparse import csr_matrix, hstack, vstack

from experiments.baselines.similarity import indicators
from experiments.baselines.trees import NUM_PRIOR_TREES, PriorConfig, booster_of, fit_matrix
from metaheac_jax.data.batches import generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset, UserRows
from metaheac_jax.methods import (
    Method,
    Run,
    SolvedHeadConfig,
    SolvedHeadMethod,
    Trained,
    configured,
    register,
)
from metaheac_jax.methods.held_out_campaigns import halve, judge_state
from metaheac_jax.model import FunctionScorer, Scorer, State, on_device
from metaheac_jax.progress import silent

C = TypeVar("C", bound=PriorConfig)
_FOLDS = 3
_MAX_EXAMPLES = 20_000  # of a training campaign
#: Parameters of the trees; they are not tuned. Held-out campaigns determine their number.
TREES = {
    "num_iterations": 1000,
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "lambda_l2": 10.0,
}


class PooledTrees(Method[C]):
    """Trees on the pooled examples of all training campaigns, over the scores of the members."""

    default = PriorConfig(patience=50)

    @property
    @abstractmethod
    def members(self) -> Sequence[Method[Any]]:
        """The methods whose scores the trees read."""

    @property
    def min_campaigns(self) -> int:
        """The number that the members need."""
        return max(member.min_campaigns for member in self.members)

    @property
    def holds_out(self) -> bool:
        """Whether held-out campaigns determine the number of trees."""
        return self.config.patience is not None

    def fit(self, run: Run) -> Trained:
        """Fits the members, and the trees to their scores of examples that they have not seen."""
        states = dict[str, State]()
        halves = [halve(run.dataset, int(c), run.seed) for c in run.held_out]
        for member in self.members:
            own = replace(
                run,
                directory=run.directory and run.directory / member.name,
                label=f"{run.label}: {member.label}",
            )
            judge = partial(judge_state, member.customise, own, halves)
            own = replace(own, judge=judge if len(halves) and member.holds_out else None)
            states[member.name] = on_device(member.fit(own).state)
        training = self._rows_of(run, states, run.campaigns)
        held_out = self._rows_of(run, states, run.held_out) if len(run.held_out) else None
        settings, patience = TREES, self.config.patience
        if patience is None:
            settings, patience = {**TREES, "num_iterations": NUM_PRIOR_TREES}, 0
        trees = fit_matrix(*training, settings, held_out=held_out, patience=patience)
        return Trained({"trees": np.frombuffer(trees.encode(), np.uint8), "members": states})

    def _rows_of(
        self, run: Run, states: Mapping[str, State], campaigns: np.ndarray
    ) -> tuple[csr_matrix, np.ndarray, np.ndarray]:
        """Features, labels and base log-odds of the examples of campaigns.

        The members' scores of a fold of a campaign come from its other folds.
        """
        quiet, parts = replace(run, progress=silent), list[Any]()
        for number, c in enumerate(campaigns.tolist()):
            campaign, rng = run.dataset.campaign(c), generator(run.seed, c)
            kept = rng.permutation(len(campaign.labels))[:_MAX_EXAMPLES]
            campaign = campaign.pick(kept)
            fold = np.empty(len(kept), int)
            for label in (0, 1):  # each fold has both, if there are enough
                of = campaign.labels == label
                fold[of] = np.arange(of.sum()) % _FOLDS
            users = run.dataset.user_rows[campaign.users]
            scores = np.zeros((len(kept), len(self.members)))
            rest = [campaign.pick(fold != own) for own in range(_FOLDS)]
            for column, member in enumerate(self.members):
                models = member.customise(quiet, states[member.name], rest)
                for own, model in enumerate(models):
                    scores[fold == own, column] = model(users[fold == own])
            base = _base(campaign)
            features = _features(run.dataset, users, campaign.rows, scores - base)
            parts.append((features, campaign.labels, np.full(len(kept), base)))
            run.progress(f"{run.label}: scores", number + 1, len(campaigns))
        features, labels, base = zip(*parts, strict=True)
        return csr_matrix(vstack(features)), np.concatenate(labels), np.concatenate(base)

    def customise(self, run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Customises the members to each campaign; the trees are the same for all."""
        booster = booster_of(np.asarray(state["trees"]).tobytes().decode())
        members = [
            member.customise(run, state["members"][member.name], campaigns)
            for member in self.members
        ]

        def scorer(campaign: Campaign, models: Sequence[Scorer]) -> Scorer:
            base = _base(campaign)

            def score(users: UserRows) -> np.ndarray:
                rows = np.asarray(users[:])
                scores = np.stack([model(rows) for model in models], axis=1) - base
                features = _features(run.dataset, rows, campaign.rows, scores)
                return base + np.asarray(booster.predict(features, raw_score=True, num_threads=1))

            return FunctionScorer(score)

        return list(map(scorer, campaigns, zip(*members, strict=True)))


def _base(campaign: Campaign) -> float:
    """Log-odds of a seed among a campaign's examples, counting one more of each label."""
    seeds = campaign.labels.sum()
    return float(np.log((seeds + 1) / (len(campaign.labels) - seeds + 1)))


def _features(
    dataset: Dataset, users: np.ndarray, campaign: np.ndarray, scores: np.ndarray
) -> csr_matrix:
    """(P, S) users, (N,) campaign and (P, E) scores -> (P, E + R + L).

    There are L list lengths, and an indicator of each value.
    """
    starts, slots = dataset.schema.user_starts, [own.slots for own in dataset.schema.user]
    present = users < dataset.num_rows
    lengths = np.add.reduceat(present, starts, axis=1)[:, np.array(slots) > 1]
    rows = np.concatenate([users, np.tile(campaign, (len(users), 1))], axis=1)
    values = indicators(rows, dataset.num_rows)
    return csr_matrix(hstack([scores, lengths.astype(float), values]))


@register
class RegressionTrees(PooledTrees[PriorConfig]):
    """Pooled trees over the scores of LR."""

    name, label = "pooled-trees", "Pooled trees over LR"

    @property
    def members(self) -> Sequence[Method[Any]]:
        """See `PooledTrees.members`."""
        return (configured("lr-lengths"),)


@register
class PriorTrees(PooledTrees[PriorConfig]):
    """Pooled trees over the scores of LR and the learned prior."""

    name, label = "prior-trees", "Pooled trees over LR and the learned prior"

    @property
    def members(self) -> Sequence[Method[Any]]:
        """See `PooledTrees.members`."""
        return configured("lr-lengths"), configured("learned-prior")


@dataclass(frozen=True)
class HeadTreesConfig(PriorConfig):
    """Settings of the trees, and those of the solved head."""

    tuned: ClassVar[tuple[str, ...]] = tuple(f"head.{own}" for own in SolvedHeadConfig.tuned)

    head: SolvedHeadConfig = field(default_factory=SolvedHeadConfig)


@register
class HeadTrees(PooledTrees[HeadTreesConfig]):
    """Pooled trees over the scores of LR and a solved head."""

    name, label = "head-trees", "Pooled trees over LR and a solved head"
    default = HeadTreesConfig(patience=50)

    @property
    def members(self) -> Sequence[Method[Any]]:
        """See `PooledTrees.members`."""
        return configured("lr-lengths"), SolvedHeadMethod(self.config.head)
