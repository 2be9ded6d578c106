"""Gradient-boosted trees: per campaign, or for all campaigns. They are not in the paper.

They need LightGBM (``pip install 'metaheac-jax[experiments]'``).

Axes: P users, S slots of a user, R table rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from experiments.baselines.similarity import indicators
from metaheac_jax.data.batches import campaign_examples, generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import UserRows
from metaheac_jax.methods import Config, Method, Run, Trained, register
from metaheac_jax.model import FunctionScorer, Scorer, State

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
#: Parameters of the trees on the examples of all training campaigns. Trees are added until the
#: held-out campaigns no longer improve, or to this number of iterations.
PRIOR_TREES = {
    "num_iterations": 1000,
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "lambda_l2": 10.0,
}
#: Number of trees if no campaigns are held out.
NUM_PRIOR_TREES = 200
#: Maximum number of examples of the prior, which are drawn at random.
MAX_PRIOR_EXAMPLES = 1_000_000
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
    held_out: tuple[UserRows, np.ndarray] | None = None,
    patience: int = 20,
) -> str:
    """Fits gradient-boosted trees to users' indicators; returns them in LightGBM's text format.

    Args:
      users: (P, S) table rows.
      label: (P,) 1 for a seed, 0 for a non-seed.
      num_rows: R.
      settings: LightGBM's parameters; `MIN_LEAF_FRACTION` may raise ``min_data_in_leaf``.
      held_out: other users and labels; training stops when their loss has not fallen for
        as many trees as the patience, and the trees up to the lowest loss are kept.
      patience: see ``held_out``.
    """
    users = np.asarray(users[:])
    least = max(settings["min_data_in_leaf"], int(len(users) * MIN_LEAF_FRACTION))
    rare = np.bincount(users.ravel(), minlength=num_rows + 1) < least
    features = indicators(np.where(rare[users], num_rows, users), num_rows)
    judged = held_out and (indicators(held_out[0], num_rows), held_out[1], None)
    settings = {**settings, "min_data_in_leaf": least}
    return fit_matrix(features, label, None, settings, held_out=judged, patience=patience)


def fit_matrix(
    features: csr_matrix,
    label: np.ndarray,
    start: np.ndarray | None,
    settings: dict[str, Any],
    *,
    held_out: tuple[csr_matrix, np.ndarray, np.ndarray | None] | None = None,
    patience: int = 20,
) -> str:
    """Fits gradient-boosted trees to features; returns them in LightGBM's text format.

    Args:
      features: (P, features).
      label: (P,) 1 for a seed, 0 for a non-seed.
      start: (P,) log-odds to which the trees add; None for one constant.
      settings: LightGBM's parameters.
      held_out: other features, labels and starts; see `fit_trees`.
      patience: see `fit_trees`.
    """
    import lightgbm as lgb  # which takes seconds

    data, parameters = lgb.Dataset(features, label, init_score=start), {**_COMMON, **settings}
    if held_out is None:
        return lgb.train(parameters, data).model_to_string()
    judged = lgb.Dataset(*held_out[:2], init_score=held_out[2], reference=data)
    stop = lgb.early_stopping(patience, verbose=False)
    return lgb.train(parameters, data, valid_sets=[judged], callbacks=[stop]).model_to_string()


def booster_of(trees: str) -> Any:
    """The trees in LightGBM's text format, for predictions."""
    import lightgbm as lgb

    return lgb.Booster(model_str=trees)


def trees_scorer(trees: str, num_rows: int, *, log_odds: bool = True) -> Scorer:
    """A scorer with the log-odds of trees from `fit_trees`; ``num_rows`` is R."""
    booster = booster_of(trees)

    def score(users: UserRows) -> np.ndarray:
        features = indicators(users, num_rows)
        return np.asarray(booster.predict(features, raw_score=True, num_threads=1))

    return FunctionScorer(score, log_odds=log_odds)


@register
class CampaignTrees(Method[Config]):
    """Trees on the examples of each campaign only."""

    name, label, default = "lightgbm", "LightGBM", Config()

    def fit(self, run: Run) -> Trained:
        """The offline stage, which has nothing to learn."""
        del run
        return Trained({})

    def customise(self, run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Fits trees for each campaign, on its examples only."""
        del state
        models, num_rows = list[Scorer](), run.dataset.num_rows
        for number, campaign in enumerate(campaigns):
            examples = campaign_examples(run.dataset, campaign)
            trees = fit_trees(examples.ids.user, examples.label, num_rows, CAMPAIGN_TREES)
            models.append(trees_scorer(trees, num_rows))
            run.progress("customise", number + 1, len(campaigns))
        return models


@dataclass(frozen=True)
class PriorConfig(Config):
    """Settings of the user prior.

    Attributes:
      patience: number of trees without a lower loss on held-out campaigns after which
        training stops; None holds none out, and there are `NUM_PRIOR_TREES` trees.
    """

    patience: int | None = 20


@register
class UserPrior(Method[PriorConfig]):
    """Trees on the examples of all training campaigns: one score per user for all campaigns."""

    name, label, default = "prior", "user prior (no campaign)", PriorConfig()

    @property
    def holds_out(self) -> bool:
        """See `Method.holds_out`."""
        return self.config.patience is not None

    def fit(self, run: Run) -> Trained:
        """Fits trees on the examples of all training campaigns, without campaign fields.

        Examples beyond `MAX_PRIOR_EXAMPLES` are left out at random.
        """
        dataset, stage = run.dataset, run.dataset.stage1
        rng = generator(run.seed, 0)

        def drawn(campaigns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            of = np.concatenate([np.arange(*stage.offsets[c : c + 2]) for c in campaigns])
            if len(of) > MAX_PRIOR_EXAMPLES:
                of = np.sort(rng.choice(of, MAX_PRIOR_EXAMPLES, replace=False))
            return np.asarray(dataset.user_rows[stage.user[of]]), np.asarray(stage.label[of])

        own, num_rows = drawn(run.campaigns), dataset.num_rows
        patience = self.config.patience
        if patience is not None:
            held_out = drawn(run.held_out)
            trees = fit_trees(*own, num_rows, PRIOR_TREES, held_out=held_out, patience=patience)
        else:
            fixed = {**PRIOR_TREES, "num_iterations": NUM_PRIOR_TREES}
            trees = fit_trees(*own, num_rows, fixed)
        return Trained({"trees": np.frombuffer(trees.encode(), np.uint8)})

    def customise(self, run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Returns the same prior for every campaign; its log-odds are at the ratio of them all."""
        trees = np.asarray(state["trees"]).tobytes().decode()
        return [trees_scorer(trees, run.dataset.num_rows, log_odds=False)] * len(campaigns)
