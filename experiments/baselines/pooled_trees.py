"""One set of gradient-boosted trees for all campaigns, which read the scores of other methods.

The trees learn from the pooled examples of the training campaigns: the values of the user and of
the campaign, and the score of an LR that was fitted to the campaign's other examples (three folds).
They may read further scores, of general models that were trained without the campaign and then
customised to its other examples. For a new campaign, LR and general models of all training
campaigns are customised; the trees stay the same. They are not in the paper and need LightGBM.

Axes: P users, S slots of a user, N campaign fields, R table rows, L list lengths, E methods besides
LR whose scores are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from scipy.sparse import csr_matrix, hstack, vstack

from experiments.baselines.similarity import indicators
from experiments.baselines.trees import booster_of, fit_matrix
from metaheac_jax.data.batches import generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.folds import folds
from metaheac_jax.data.views import UserRows
from metaheac_jax.errors import InputError
from metaheac_jax.methods import (
    Config,
    LearnedPrior,
    LearnedPriorConfig,
    Method,
    Offline,
    Online,
    SolvedHeadConfig,
    SolvedHeadMethod,
    Trained,
    configured,
    register,
)
from metaheac_jax.methods.held_out_campaigns import halve_each, offline_of
from metaheac_jax.model import Scorer, State, on_device
from metaheac_jax.progress import silent
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.table.sparse import value_counts

#: Customises a general model to campaigns.
Customiser = Callable[[Sequence[Campaign]], Sequence[Scorer]]
_FOLDS = 3  # of a campaign's examples, and of the campaigns that other models are trained without
_MAX_EXAMPLES = 20_000  # of a training campaign
#: Parameters of the trees; they are not tuned. Held-out campaigns determine their number.
TREES = {
    "num_iterations": 1000,
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "lambda_l2": 10.0,
}


#: Number of trees if no campaigns are held out.
NUM_TREES = 200


@dataclass(frozen=True)
class TreesConfig(Config):
    """Settings of the trees."""

    patience: int | None = 50
    """Number of trees without a lower loss on held-out campaigns after which training stops; None
    holds none out, and there are `NUM_TREES` trees."""


TreesConfigT = TypeVar("TreesConfigT", bound=TreesConfig)


@register
class PooledTrees(Method[TreesConfigT]):
    """Trees on the pooled examples of all training campaigns, over the scores of LR."""

    name, label, default = "pooled-trees", "Pooled trees over LR", TreesConfig()

    @property
    def holds_out(self) -> bool:
        """Whether held-out campaigns determine the number of trees."""
        return self.config.patience is not None

    @property
    def others(self) -> Sequence[Method[Any]]:
        """The methods besides LR whose scores are read."""
        return ()

    def train(self, offline: Offline) -> Trained:
        """Fits the trees to scores of examples that neither LR nor another model has seen.

        Raises:
          InputError: other models' scores are read, and users have histories, which would show
            these models the campaigns that they are trained without.
        """
        parts = [offline.campaigns]
        if self.others:
            if offline.dataset.schema.lists:
                raise InputError(
                    f"{offline.dataset.where}: users have histories, which {self.name!r} cannot "
                    "leave out of its models; choose 'pooled-trees', or prepare without histories"
                )
            order = generator(offline.seed, 0).permutation(offline.campaigns)
            parts = [np.sort(part) for part in np.array_split(order, _FOLDS)]
        each, online = [], Online(offline.dataset, offline.seed)
        for number, part in enumerate(parts):
            states = self._states(offline, np.setdiff1d(offline.campaigns, part), number)
            each.append(rows_of(offline, part, self._customisers(online, states)))
        features, labels, base = zip(*each, strict=True)
        training = csr_matrix(vstack(features)), np.concatenate(labels), np.concatenate(base)
        states, held_out = self._states(offline, offline.campaigns, len(parts)), None
        if len(offline.held_out):
            held_out = rows_of(offline, offline.held_out, self._customisers(online, states))
        settings, patience = TREES, self.config.patience
        if patience is None:
            settings, patience = {**TREES, "num_iterations": NUM_TREES}, 0
        trees = fit_matrix(*training, settings, held_out=held_out, patience=patience)
        return Trained({"trees": np.frombuffer(trees.encode(), np.uint8), **states})

    def _states(self, offline: Offline, campaigns: np.ndarray, number: int) -> dict[str, State]:
        """The general models of the other methods, trained on these campaigns.

        Held-out campaigns choose but teach nothing: they determine the number of trees.
        """
        folder = offline.directory and offline.directory / str(number)
        part = replace(offline, campaigns=campaigns, directory=folder)
        part, halves = replace(part, label=f"{offline.label} {number}"), halve_each(offline)
        return {
            own.name: jax.device_get(own.fit(offline_of(own, part, halves)).state)
            for own in self.others
        }

    def _customisers(self, online: Online, states: State) -> list[Customiser]:
        quiet = replace(online, progress=silent)
        return [partial(own.customise, quiet, on_device(states[own.name])) for own in self.others]

    def adapt(self, online: Online, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Fits LR, and customises the other models, to each campaign; all have the same trees."""
        booster = booster_of(np.asarray(state["trees"]).tobytes().decode())

        def scorer(campaign: Campaign, *models: Scorer) -> Scorer:
            base = _base(campaign)

            def score(users: UserRows) -> np.ndarray:
                rows = np.asarray(users[:])
                scores = np.column_stack([model(rows) for model in models]) - base
                features = _features(online.dataset, rows, campaign.rows, scores)
                return base + np.asarray(booster.predict(features, raw_score=True, num_threads=1))

            return score

        method = configured("lr-lengths")
        state_of = method.fit(Offline(online.dataset, np.empty(0, int), online.seed)).state
        each = [method.customise(online, state_of, campaigns)]
        each += [own(campaigns) for own in self._customisers(online, state)]
        return list(map(scorer, campaigns, *each))


@dataclass(frozen=True)
class TreesOverModelsConfig(TreesConfig):
    """Settings of the trees, and of the methods whose scores they read."""

    head: SolvedHeadConfig = field(default_factory=SolvedHeadConfig)
    prior: LearnedPriorConfig = field(default_factory=LearnedPriorConfig)


@register
class TreesOverHead(PooledTrees[TreesOverModelsConfig]):
    """Trees on the pooled examples, over the scores of LR and of a solved head.

    The settings of the prior are not used.
    """

    name, label = "pooled-trees-head", "Pooled trees over LR and a solved head"
    default = TreesOverModelsConfig()

    @property
    def others(self) -> Sequence[Method[Any]]:
        """The solved head."""
        return (SolvedHeadMethod(self.config.head),)


@register
class TreesOverModels(TreesOverHead):
    """Trees on the pooled examples, over the scores of all members of the ensemble."""

    name, label = "pooled-trees-models", "Pooled trees over the members of the ensemble"

    @property
    def others(self) -> Sequence[Method[Any]]:
        """The solved head and the learned prior."""
        return (*super().others, LearnedPrior(self.config.prior))


def rows_of(
    offline: Offline, campaigns: np.ndarray, customisers: Sequence[Customiser] = ()
) -> tuple[csr_matrix, np.ndarray, np.ndarray]:
    """Features, labels and base log-odds of the examples of campaigns, given by index.

    The scores of a fold of a campaign come from its other folds, by LR and by each customiser.
    """
    own, parts = offline.lengthened(True), list[Any]()
    penalty = configured("lr-lengths").config.penalty
    for number, c in enumerate(campaigns.tolist()):
        campaign, rng = offline.dataset.campaign(c), generator(offline.seed, c)
        campaign = campaign.pick(rng.permutation(len(campaign.labels))[:_MAX_EXAMPLES])
        fold = folds(campaign.labels, _FOLDS, np.arange(len(campaign.labels)))
        longer = own.dataset.user_rows.of_examples(campaign.users, c)
        counts = value_counts(longer, own.dataset.num_rows)
        users, base = offline.dataset.user_rows.of_examples(campaign.users, c), _base(campaign)
        scores = np.zeros((len(fold), 1 + len(customisers)))
        others = [campaign.pick(fold != n) for n in range(_FOLDS)]
        each = [customiser(others) for customiser in customisers]
        for left_out in range(_FOLDS):
            out = fold == left_out
            weights, bias = fit_regression(csr_matrix(counts[~out]), campaign.labels[~out], penalty)
            scores[out, 0] = counts[out] @ weights + bias - base
            for column, models in enumerate(each, start=1):
                scores[out, column] = models[left_out](users[out]) - base
        features = _features(offline.dataset, users, campaign.rows, scores)
        parts.append((features, campaign.labels, np.full(len(fold), base)))
        offline.progress(f"{offline.label}: scores", number + 1, len(campaigns))
    features, labels, base = zip(*parts, strict=True)
    return csr_matrix(vstack(features)), np.concatenate(labels), np.concatenate(base)


def _base(campaign: Campaign) -> float:
    """Log-odds of a seed among a campaign's examples, counting one more of each label."""
    seeds = campaign.labels.sum()
    return float(np.log((seeds + 1) / (len(campaign.labels) - seeds + 1)))


def _features(
    dataset: Dataset, users: np.ndarray, campaign: np.ndarray, scores: np.ndarray
) -> csr_matrix:
    """(P, S) users, (N,) campaign and (P, 1 + E) scores -> (P, 1 + E + L + R).

    There are L list lengths, and an indicator of each value.
    """
    starts, slots = dataset.schema.user_starts, [own.slots for own in dataset.schema.user]
    present = users < dataset.num_rows
    lengths = np.add.reduceat(present, starts, axis=1)[:, np.array(slots) > 1]
    rows = np.concatenate([users, np.tile(campaign, (len(users), 1))], axis=1)
    values = indicators(rows, dataset.num_rows)
    return csr_matrix(hstack([scores, lengths.astype(float), values]))
