"""One model for the examples of all campaigns, which reads the scores of other methods.

The model learns from the pooled examples of the training campaigns: the values of the user and of
the campaign, and the score of an LR that was fitted to the campaign's other examples (three folds).
It may read further scores, of general models that were trained without the campaign and then
customised to its other examples. For a new campaign, LR and general models of all training
campaigns are customised; the pooled model stays the same. Trees need LightGBM. None is in the
paper.

Axes: P users, S slots of a user, N campaign fields, R table rows, L list lengths, E methods besides
LR whose scores are read, F = 1 + E + L + R features.
"""

from __future__ import annotations

import functools
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.sparse import csr_matrix, hstack, vstack

from experiments.baselines.similarity import indicators
from experiments.baselines.trees import booster_of, cross_validate, fit_matrix
from metaheac_jax.data.batches import campaign_examples, generator
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
from metaheac_jax.methods.method import ConfigT
from metaheac_jax.model import Scorer, State, on_device
from metaheac_jax.progress import silent
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.table.sparse import value_counts

#: Customises a general model to campaigns.
Customiser = Callable[[Sequence[Campaign]], Sequence[Scorer]]
#: (P, F) features, (P,) base log-odds -> (P,) log-odds.
Predictor = Callable[[csr_matrix, np.ndarray], np.ndarray]
_FOLDS = 3  # of a campaign's examples, and of the campaigns that other models are trained without
_MAX_EXAMPLES = 20_000  # of a training campaign
#: Parameters of the trees, before tuning.
TREES = {
    "num_iterations": 1000,
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "lambda_l2": 10.0,
}
#: Values that are tried where settings are tuned.
TUNED = {
    "num_leaves": (15, 31, 63),
    "min_data_in_leaf": (20, 100, 500),
    "learning_rate": (0.02, 0.05, 0.1),
}
_PATIENCE = 50  # number of trees without a lower loss on left-out campaigns


class Rows(NamedTuple):
    """Examples of some campaigns.

    Attributes:
      features: (P, F).
      labels: (P,) 1 for a seed, 0 for a non-seed.
      base: (P,) log-odds of a seed in the campaign; scores among the features are relative to it.
      campaigns: (P,) indices.
    """

    features: csr_matrix
    labels: np.ndarray
    base: np.ndarray
    campaigns: np.ndarray

    def pick(self, examples: np.ndarray) -> Rows:
        """Picks examples by position."""
        features: Any = self.features[examples]
        return Rows(features, *(column[examples] for column in self[1:]))

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """Joins the examples of several campaigns."""
        features, *others = zip(*parts, strict=True)
        return cls(csr_matrix(vstack(features)), *map(np.concatenate, others))


class Pooled(Method[ConfigT]):
    """One model of the pooled examples of all training campaigns, over the scores of LR."""

    @property
    def others(self) -> Sequence[Method[Any]]:
        """The methods besides LR whose scores are read."""
        return ()

    @abstractmethod
    def learn(self, offline: Offline, rows: Rows, held_out: Rows | None) -> State:
        """Learns from examples of the training campaigns, judged by those of held-out ones."""

    @abstractmethod
    def predictor(self, online: Online, state: State, campaigns: Sequence[Campaign]) -> Predictor:
        """The model that `learn` has learned, for new campaigns."""

    def train(self, offline: Offline) -> Trained:
        """Learns from scores of examples that neither LR nor another model has seen.

        Raises:
          InputError: other models' scores are read, and users have histories, which would show
            these models the campaigns that they are trained without.
        """
        parts = [offline.campaigns]
        if self.others:
            if offline.dataset.user_rows.history is not None:
                raise InputError(
                    f"{offline.dataset.where}: users have histories, which {self.name!r} cannot "
                    "leave out of its models; choose 'pooled-trees', or prepare without histories"
                )
            order = generator(offline.seed, 0).permutation(offline.campaigns)
            parts = [np.sort(part) for part in np.array_split(order, _FOLDS)]
        each, online = list[Rows](), Online(offline.dataset, offline.seed)
        for number, part in enumerate(parts):
            states = self._states(offline, np.setdiff1d(offline.campaigns, part), number)
            each.append(rows_of(offline, part, self._customisers(online, states)))
        states, held_out = self._states(offline, offline.campaigns, len(parts)), None
        if len(offline.held_out):
            held_out = rows_of(offline, offline.held_out, self._customisers(online, states))
        return Trained({"pooled": self.learn(offline, Rows.join(each), held_out), **states})

    def _states(self, offline: Offline, campaigns: np.ndarray, number: int) -> dict[str, State]:
        """The general models of the other methods, trained on these campaigns.

        Held-out campaigns choose but teach nothing: they judge the pooled model.
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
        """Fits LR, and customises the other models, to each campaign; all share one model."""
        predict = self.predictor(online, state["pooled"], campaigns)

        def scorer(campaign: Campaign, *models: Scorer) -> Scorer:
            base = base_of(campaign)

            def score(users: UserRows) -> np.ndarray:
                rows = np.asarray(users[:])
                scores = np.column_stack([model(rows) for model in models]) - base
                features = features_of(online.dataset, rows, campaign.rows, scores)
                return predict(features, np.full(len(rows), base))

            return score

        method = configured("lr-lengths")
        state_of = method.fit(Offline(online.dataset, np.empty(0, int), online.seed)).state
        each = [method.customise(online, state_of, campaigns)]
        each += [own(campaigns) for own in self._customisers(online, state)]
        return list(map(scorer, campaigns, *each))


@register
class PooledTrees(Pooled[ConfigT]):
    """Trees on the pooled examples, with the same settings on all data."""

    name, label, default = "pooled-trees", "Pooled trees over LR", Config()

    @property
    def holds_out(self) -> bool:
        """Held-out campaigns determine the number of trees."""
        return True

    def learn(self, offline: Offline, rows: Rows, held_out: Rows | None) -> State:
        """Fits trees until their loss on held-out campaigns no longer falls."""
        del offline
        judged = None if held_out is None else held_out[:3]
        return _as_bytes(fit_matrix(*rows[:3], TREES, held_out=judged, patience=_PATIENCE))

    def predictor(self, online: Online, state: State, campaigns: Sequence[Campaign]) -> Predictor:
        """The trees, which are the same for all campaigns."""
        del online, campaigns
        return _predictor(np.asarray(state["trees"]).tobytes().decode())


@dataclass(frozen=True)
class TunedTreesConfig(Config):
    """Settings of the tuned trees."""

    tuning_examples: int = 150_000
    """Number of examples that settings are tuned on, at random if there are more."""


@register
class TunedTrees(PooledTrees[TunedTreesConfig]):
    """Trees on the pooled examples, with settings chosen by cross-validation over campaigns.

    Each third of the training campaigns judges trees of the others. One setting after another takes
    the value with the lowest mean loss, until none changes. The trees of all training campaigns are
    those that are used, as many as had the lowest loss; if settings were tuned on some examples,
    then on the first third, by trees of all examples of the others.
    """

    name, label = "pooled-trees-tuned", "Pooled trees over LR, tuned"
    default = TunedTreesConfig()

    @property
    def holds_out(self) -> bool:
        """Cross-validation takes all training campaigns."""
        return False

    def learn(self, offline: Offline, rows: Rows, held_out: Rows | None) -> State:
        """Chooses settings, then fits trees with them to all training campaigns."""
        del held_out
        return _as_bytes(fit_matrix(*rows[:3], self.choose(offline, rows)))

    def choose(self, offline: Offline, rows: Rows) -> dict[str, Any]:
        """Chooses settings by cross-validation over the training campaigns."""
        rng = generator(offline.seed, 0)
        order = rng.permutation(offline.campaigns)
        parts = [np.isin(rows.campaigns, part) for part in np.array_split(order, _FOLDS)]
        size = len(rows.labels)
        some = np.sort(rng.permutation(size)[: self.config.tuning_examples])
        sample, own = rows.pick(some), [part[some] for part in parts]

        @functools.cache
        def judge(*values: Any) -> tuple[float, int]:
            settings = dict(zip(TUNED, values, strict=True))
            judged = cross_validate(*sample[:3], TREES | settings, own, _PATIENCE)
            offline.progress(f"{offline.label}: loss {judged[0]:.5f} with {settings}", 1, 1)
            return judged

        chosen, before = dict[str, Any](TREES), None
        while chosen != before:
            before = dict(chosen)
            for name, values in TUNED.items():
                tried = [chosen | {name: value} for value in values]
                chosen = min(tried, key=lambda these: judge(*map(these.get, TUNED)))
        _, number = judge(*map(chosen.get, TUNED))
        if size > len(some):  # more examples carry more trees
            _, number = cross_validate(*rows[:3], chosen, parts[:1], _PATIENCE)
        chosen |= {"num_iterations": number}
        offline.progress(f"{offline.label}: {chosen}", 1, 1)
        return chosen


@register
class TreesOfAllCampaigns(TunedTrees):
    """Tuned trees that are fitted anew to the examples of training campaigns and of all new ones.

    So their models depend on which campaigns they are customised to at a time, all in the data.
    """

    name, label = "pooled-trees-all", "Pooled trees over LR, tuned, of new campaigns too"

    def learn(self, offline: Offline, rows: Rows, held_out: Rows | None) -> State:
        """Keeps the settings and the examples."""
        del held_out
        settings = json.dumps(self.choose(offline, rows)).encode()
        matrix = {name: getattr(rows.features, name) for name in ("data", "indices", "indptr")}
        others = {"labels": rows.labels, "base": rows.base}
        return {**matrix, **others, "settings": np.frombuffer(settings, np.uint8)}

    def predictor(self, online: Online, state: State, campaigns: Sequence[Campaign]) -> Predictor:
        """Fits the trees; a new campaign's scores are of examples that LR has not seen."""
        index = np.array([online.dataset.index_of(str(own.id)) for own in campaigns])
        new = rows_of(Offline(online.dataset, index, online.seed), index)
        data, indices, indptr, labels, base = (
            np.asarray(state[name]) for name in ("data", "indices", "indptr", "labels", "base")
        )
        matrix = csr_matrix((data, indices, indptr), (len(labels), new.features.shape[1]))
        rows = Rows.join([Rows(matrix, labels, base, np.full(len(labels), -1)), new])
        settings = json.loads(np.asarray(state["settings"]).tobytes())
        return _predictor(fit_matrix(*rows[:3], settings))


def _as_bytes(trees: str) -> State:
    return {"trees": np.frombuffer(trees.encode(), np.uint8)}


def _predictor(trees: str) -> Predictor:
    booster = booster_of(trees)

    def predict(features: csr_matrix, base: np.ndarray) -> np.ndarray:
        return base + np.asarray(booster.predict(features, raw_score=True, num_threads=1))

    return predict


@dataclass(frozen=True)
class TreesOverModelsConfig(Config):
    """Settings of the methods whose scores the trees read."""

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
) -> Rows:
    """The examples of campaigns, given by index.

    The scores of a fold of a campaign come from its other folds, by LR and by each customiser.
    """
    parts = list[Rows]()
    for number, c in enumerate(campaigns.tolist()):
        campaign, rng = offline.dataset.campaign(c), generator(offline.seed, c)
        campaign = campaign.pick(rng.permutation(len(campaign.labels))[:_MAX_EXAMPLES])
        users, base = campaign_examples(offline.dataset, campaign).ids.user, base_of(campaign)
        scores = unseen_scores(offline.dataset, campaign, users, customisers)
        features, size = features_of(offline.dataset, users, campaign.rows, scores), len(users)
        parts.append(Rows(features, campaign.labels, np.full(size, base), np.full(size, c)))
        offline.progress(f"{offline.label}: scores", number + 1, len(campaigns))
    return Rows.join(parts)


def unseen_scores(
    dataset: Dataset,
    campaign: Campaign,
    users: np.ndarray,
    customisers: Sequence[Customiser] = (),
) -> np.ndarray:
    """(P, S) users of a campaign's examples -> (P, 1 + E) scores relative to its log-odds.

    Those of a fold come from the other folds, by LR with list lengths and by each customiser.
    """
    penalty, base = configured("lr-lengths").config.penalty, base_of(campaign)
    longer, lengths = dataset.lengthened()
    counts = value_counts(longer.layout, lengths(users), longer.num_rows)
    fold = folds(campaign.labels, _FOLDS, np.arange(len(users)))
    scores = np.zeros((len(fold), 1 + len(customisers)))
    others = [campaign.pick(fold != n) for n in range(_FOLDS)]
    each = [customiser(others) for customiser in customisers]
    for left_out in range(_FOLDS):
        out = fold == left_out
        weights, bias = fit_regression(csr_matrix(counts[~out]), campaign.labels[~out], penalty)
        scores[out, 0] = counts[out] @ weights + bias - base
        for column, models in enumerate(each, start=1):
            scores[out, column] = models[left_out](users[out]) - base
    return scores


def base_of(campaign: Campaign) -> float:
    """Log-odds of a seed among a campaign's examples, counting one more of each label."""
    seeds = campaign.labels.sum()
    return float(np.log((seeds + 1) / (len(campaign.labels) - seeds + 1)))


def features_of(
    dataset: Dataset, users: np.ndarray, campaign: np.ndarray, scores: np.ndarray
) -> csr_matrix:
    """(P, S) users, (N,) campaign and (P, 1 + E) scores -> (P, F).

    There are L list lengths, the numbers of vectors, and an indicator of each value.
    """
    layout = dataset.layout
    numbers = layout.numbers(users)
    users = layout.only([not own.vector for own in dataset.schema.user], users, dataset.num_rows)
    starts, slots = dataset.schema.user_starts, [own.slots for own in dataset.schema.user]
    present = users < dataset.num_rows
    lengths = np.add.reduceat(present, starts, axis=1)[:, np.array(slots) > 1]
    rows = np.concatenate([users, np.tile(campaign, (len(users), 1))], axis=1)
    values = indicators(rows, dataset.num_rows)
    return csr_matrix(hstack([scores, lengths.astype(float), numbers, values]))
