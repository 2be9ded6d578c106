"""Gradient-boosted trees on the examples of one campaign. They are not in the paper.

They need LightGBM (``pip install 'metaheac-jax[experiments]'``).

Axes: P users, S slots of a user, R table rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from experiments.baselines.similarity import indicators
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.views import UserRows
from metaheac_jax.methods import Config, Method, Offline, Online, Trained, register
from metaheac_jax.model import Scorer, State

#: Parameters of the trees of a single campaign; they are not tuned. A campaign can have very few
#: seeds, so trees have few leaves, a low learning rate and enough examples per leaf. There is no
#: early stopping, since held-out examples would contain hardly any seeds.
CAMPAIGN_TREES = {
    "num_iterations": 100,
    "learning_rate": 0.05,
    "num_leaves": 8,
    "min_data_in_leaf": 10,
    "min_sum_hessian_in_leaf": 0.5,
    "lambda_l2": 10.0,
}
#: Minimum fraction of the examples in a leaf. No tree can split on a value that fewer examples
#: have, so these values are left out, which bounds the time if there are many examples.
MIN_LEAF_FRACTION = 1 / 2000
_COMMON = {
    "objective": "binary",
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,  # LightGBM's threads spin while they wait, which is slow on busy cores
}


def fit_trees(
    users: UserRows,
    label: np.ndarray,
    num_rows: int,
    settings: dict[str, Any],
) -> str:
    """Fits gradient-boosted trees to users' indicators; returns them in LightGBM's text format.

    Args:
      users: (P, S) table rows.
      label: (P,) 1 for a seed, 0 for a non-seed.
      num_rows: R.
      settings: LightGBM's parameters; `MIN_LEAF_FRACTION` may raise ``min_data_in_leaf``.
    """
    users = np.asarray(users[:])
    least = max(settings["min_data_in_leaf"], int(len(users) * MIN_LEAF_FRACTION))
    rare = np.bincount(users.ravel(), minlength=num_rows + 1) < least
    features = indicators(np.where(rare[users], num_rows, users), num_rows)
    settings = {**settings, "min_data_in_leaf": least}
    return fit_matrix(features, label, None, settings)


def fit_matrix(
    features: csr_matrix,
    label: np.ndarray,
    start: np.ndarray | None,
    settings: dict[str, Any],
    *,
    held_out: tuple[csr_matrix, np.ndarray, np.ndarray | None] | None = None,
    patience: int = 0,
) -> str:
    """Fits gradient-boosted trees to features; returns them in LightGBM's text format.

    Args:
      features: (P, features).
      label: (P,) 1 for a seed, 0 for a non-seed.
      start: (P,) log-odds to which the trees add; None for one constant.
      settings: LightGBM's parameters.
      held_out: other features, labels and starts; training stops when their loss has not fallen
        for as many trees as the patience, and the trees up to the lowest loss are kept.
      patience: see ``held_out``.
    """
    import lightgbm as lgb  # which takes seconds

    data, parameters = lgb.Dataset(features, label, init_score=start), {**_COMMON, **settings}
    if held_out is None:
        return lgb.train(parameters, data).model_to_string()
    judged = lgb.Dataset(*held_out[:2], init_score=held_out[2], reference=data)
    stop = lgb.early_stopping(patience, verbose=False)
    return lgb.train(parameters, data, valid_sets=[judged], callbacks=[stop]).model_to_string()


def cross_validate(
    features: csr_matrix,
    label: np.ndarray,
    start: np.ndarray,
    settings: dict[str, Any],
    parts: Sequence[np.ndarray],
    patience: int,
) -> tuple[float, int]:
    """The lowest mean loss on the parts, by trees of the other parts, and their number of trees.

    Args:
      features, label, start, settings, patience: as in `fit_matrix`.
      parts: (P,) masks of the examples that are judged; the trees have seen all others.
    """
    import lightgbm as lgb

    data = lgb.Dataset(features, label, init_score=start)
    pairs = [(np.flatnonzero(~part), np.flatnonzero(part)) for part in parts]
    stop = lgb.early_stopping(patience, verbose=False)
    parameters = {**_COMMON, **settings, "metric": "binary_logloss"}
    found: dict[str, Any] = lgb.cv(parameters, data, folds=pairs, callbacks=[stop])
    losses = found["valid binary_logloss-mean"]
    return float(losses[-1]), len(losses)  # up to the best


def booster_of(trees: str) -> Any:
    """The trees in LightGBM's text format, for predictions."""
    import lightgbm as lgb

    return lgb.Booster(model_str=trees)


def trees_scorer(trees: str, num_rows: int) -> Scorer:
    """A scorer with the log-odds of trees from `fit_trees`; ``num_rows`` is R."""
    booster = booster_of(trees)

    def score(users: UserRows) -> np.ndarray:
        features = indicators(users, num_rows)
        return np.asarray(booster.predict(features, raw_score=True, num_threads=1))

    return score


@register
class CampaignTrees(Method[Config]):
    """Trees on the examples of each campaign only."""

    name, label, default = "lightgbm", "LightGBM", Config()

    def train(self, offline: Offline) -> Trained:
        """The offline stage, which has nothing to learn."""
        del offline
        return Trained({})

    def adapt(self, online: Online, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Fits trees for each campaign, on its examples only."""
        del state
        models, num_rows = list[Scorer](), online.dataset.num_rows
        for number, campaign in enumerate(campaigns):
            examples = campaign_examples(online.dataset, campaign)
            trees = fit_trees(examples.ids.user, examples.label, num_rows, CAMPAIGN_TREES)
            models.append(trees_scorer(trees, num_rows))
            online.progress("customise", number + 1, len(campaigns))
        return models
