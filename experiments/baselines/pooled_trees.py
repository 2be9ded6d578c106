"""One set of gradient-boosted trees for all campaigns, which read the scores of LR.

The trees learn from the pooled examples of the training campaigns: the values of the user and of
the campaign, and the score of an LR that was fitted to the campaign's other examples (three folds).
For a new campaign only LR is fitted. They are not in the paper and need LightGBM.

Axes: P users, S slots of a user, N campaign fields, R table rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack, vstack

from experiments.baselines.cross_validated import folds_of
from experiments.baselines.similarity import indicators
from experiments.baselines.trees import booster_of, fit_matrix
from metaheac_jax.data.batches import generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset, UserRows
from metaheac_jax.data.regression import fit_regression
from metaheac_jax.methods import Config, Method, Run, Trained, configured, register
from metaheac_jax.methods.method import lengthened
from metaheac_jax.model import Scorer, State
from metaheac_jax.table.sparse import value_counts

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


#: Number of trees if no campaigns are held out.
NUM_TREES = 200


@dataclass(frozen=True)
class TreesConfig(Config):
    """Settings of the trees.

    Attributes:
      patience: number of trees without a lower loss on held-out campaigns after which training
        stops; None holds none out, and there are `NUM_TREES` trees.
    """

    patience: int | None = 50


@register
class PooledTrees(Method[TreesConfig]):
    """Trees on the pooled examples of all training campaigns, over the scores of LR."""

    name, label, default = "pooled-trees", "Pooled trees over LR", TreesConfig()

    @property
    def holds_out(self) -> bool:
        """Whether held-out campaigns determine the number of trees."""
        return self.config.patience is not None

    def fit(self, run: Run) -> Trained:
        """Fits the trees to scores of examples that LR has not seen."""
        training = rows_of(run, run.campaigns)
        held_out = rows_of(run, run.held_out) if len(run.held_out) else None
        settings, patience = TREES, self.config.patience
        if patience is None:
            settings, patience = {**TREES, "num_iterations": NUM_TREES}, 0
        trees = fit_matrix(*training, settings, held_out=held_out, patience=patience)
        return Trained({"trees": np.frombuffer(trees.encode(), np.uint8)})

    def customise(self, run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Fits LR to each campaign; the trees are the same for all."""
        booster = booster_of(np.asarray(state["trees"]).tobytes().decode())

        def scorer(campaign: Campaign, regression: Scorer) -> Scorer:
            base = _base(campaign)

            def score(users: UserRows) -> np.ndarray:
                rows = np.asarray(users[:])
                features = _features(run.dataset, rows, campaign.rows, regression(rows) - base)
                return base + np.asarray(booster.predict(features, raw_score=True, num_threads=1))

            return score

        method = configured("lr-lengths")
        regressions = method.customise(run, method.fit(run).state, campaigns)
        return list(map(scorer, campaigns, regressions))


def rows_of(run: Run, campaigns: np.ndarray) -> tuple[csr_matrix, np.ndarray, np.ndarray]:
    """Features, labels and base log-odds of the examples of campaigns, given by index.

    LR's scores of a fold of a campaign come from its other folds.
    """
    (own, _), parts = lengthened(run, wanted=True), list[Any]()
    penalty = configured("lr-lengths").config.penalty
    for number, c in enumerate(campaigns.tolist()):
        campaign, rng = run.dataset.campaign(c), generator(run.seed, c)
        campaign = campaign.pick(rng.permutation(len(campaign.labels))[:_MAX_EXAMPLES])
        fold = folds_of(campaign.labels, _FOLDS)
        counts = value_counts(own.dataset.rows_of(campaign.users, c), own.dataset.num_rows)
        base, scores = _base(campaign), np.zeros(len(fold))
        for left_out in range(_FOLDS):
            out = fold == left_out
            weights, bias = fit_regression(csr_matrix(counts[~out]), campaign.labels[~out], penalty)
            scores[out] = counts[out] @ weights + bias - base
        users = run.dataset.rows_of(campaign.users, c)
        features = _features(run.dataset, users, campaign.rows, scores)
        parts.append((features, campaign.labels, np.full(len(fold), base)))
        run.progress(f"{run.label}: scores", number + 1, len(campaigns))
    features, labels, base = zip(*parts, strict=True)
    return csr_matrix(vstack(features)), np.concatenate(labels), np.concatenate(base)


def _base(campaign: Campaign) -> float:
    """Log-odds of a seed among a campaign's examples, counting one more of each label."""
    seeds = campaign.labels.sum()
    return float(np.log((seeds + 1) / (len(campaign.labels) - seeds + 1)))


def _features(
    dataset: Dataset, users: np.ndarray, campaign: np.ndarray, scores: np.ndarray
) -> csr_matrix:
    """(P, S) users, (N,) campaign and (P,) scores -> (P, 1 + L + R).

    There are L list lengths, and an indicator of each value.
    """
    starts, slots = dataset.schema.user_starts, [own.slots for own in dataset.schema.user]
    present = users < dataset.num_rows
    lengths = np.add.reduceat(present, starts, axis=1)[:, np.array(slots) > 1]
    rows = np.concatenate([users, np.tile(campaign, (len(users), 1))], axis=1)
    values = indicators(rows, dataset.num_rows)
    return csr_matrix(hstack([scores[:, None], lengths.astype(float), values]))
