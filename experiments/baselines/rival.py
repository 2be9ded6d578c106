"""A classifier with scikit-learn's interface, fitted to the examples of each campaign.

So models of tables, which learn from a new campaign's examples alone, can be compared: those of
scikit-learn, TabPFN, TabICL and others. Their features are indicators of users' values and list
lengths, chosen by an F-test on the same examples, and scores of LR that has not seen them.

Axes: P examples or users of a campaign, F features that are chosen, L list lengths, R table rows.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from experiments.baselines.pooled_trees import base_of, features_of, unseen_scores
from metaheac_jax.data.batches import campaign_examples, generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.views import UserRows
from metaheac_jax.errors import InputError
from metaheac_jax.methods import Config, Method, Offline, Online, Trained, configured, register
from metaheac_jax.methods.config import setting
from metaheac_jax.model import Scorer, State

_LEAST = 1e-9  # probability of a seed


@dataclass(frozen=True)
class RivalConfig(Config):
    """Settings of the rival."""

    classifier: str = "sklearn.linear_model:LogisticRegression"
    """Its module and class, as MODULE:CLASS."""
    arguments: str = ""
    """Its arguments, NAME=VALUE with spaces between."""
    columns: int = 100
    """Number of indicators and list lengths that it sees: those with the largest F."""
    scores: bool = True
    """Whether it sees scores of LR, too."""
    most: int = setting(10_000, least=2)
    """Number of examples that it sees; of a campaign with more, random ones."""


@register
class Rival(Method[RivalConfig]):
    """A classifier of another library."""

    name, default = "rival", RivalConfig()

    @property
    def label(self) -> str:  # pyrefly: ignore
        """Names the class."""
        return f"{self.config.classifier.rpartition(':')[2]} per campaign"

    def train(self, offline: Offline) -> Trained:
        """Learns nothing."""
        del offline
        self.classifier()
        return Trained({})

    def classifier(self) -> Any:
        """Makes the classifier.

        Raises:
          InputError: there is no such class, or it does not take the arguments.
        """
        module, _, name = self.config.classifier.partition(":")
        try:
            kind = getattr(import_module(module), name)
            pairs = (own.partition("=") for own in self.config.arguments.split())
            return kind(**{key: _value(text) for key, _, text in pairs})
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(
                f"--rival: {self.config.classifier}: {told}; give MODULE:CLASS of an installed "
                "package, then its arguments as NAME=VALUE"
            ) from error

    def adapt(self, online: Online, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Fits a classifier to each campaign, on its examples only."""
        del state
        lr, dataset = configured("lr-lengths"), online.dataset
        fitted = lr.fit(Offline(dataset, np.empty(0, int), online.seed)).state
        models = list[Scorer]()
        for number, campaign in enumerate(campaigns):
            order = generator(online.seed, 0).permutation(len(campaign.labels))
            campaign = campaign.pick(np.sort(order[: self.config.most]))
            [own] = lr.customise(Online(dataset, online.seed), fitted, [campaign])
            models.append(self._fitted(online, campaign, own))
            online.progress("customise", number + 1, len(campaigns))
        return models

    def _fitted(self, online: Online, campaign: Campaign, lr: Scorer) -> Scorer:
        from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_classif

        dataset, base = online.dataset, base_of(campaign)

        def split(users: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, Any]:
            every: Any = csr_matrix(features_of(dataset, users, campaign.rows, scores))
            return scores if self.config.scores else scores[:, :0], every[:, 1:]

        users, labels = campaign_examples(dataset, campaign).ids.user, campaign.labels
        scores, columns = split(users, unseen_scores(dataset, campaign, users))
        vary = VarianceThreshold().fit(columns)
        columns = vary.transform(columns)
        with np.errstate(divide="ignore"):  # a column that tells seeds apart has an infinite F
            best = SelectKBest(f_classif, k=min(self.config.columns, columns.shape[1]))
            columns: Any = best.fit(columns, labels).transform(columns)
        model = self.classifier().fit(np.hstack([scores, columns.toarray()]), labels)

        def score(users: UserRows) -> np.ndarray:
            rows = np.asarray(users[:])
            scores, columns = split(rows, (np.asarray(lr(rows)) - base)[:, None])
            columns: Any = best.transform(vary.transform(columns))
            seeds = model.predict_proba(np.hstack([scores, columns.toarray()]))[:, 1]
            seeds = np.clip(seeds, _LEAST, 1 - _LEAST)
            return np.log(seeds) - np.log1p(-seeds)

        return score


def _value(text: str) -> Any:
    """A Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
