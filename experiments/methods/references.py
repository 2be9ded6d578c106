"""What practitioners would reach for first: trees, a similarity, and the user's own prior.

None of them is in the paper. None takes a gradient step on a network, and none learns across
campaigns what tells one campaign's converts from another's.

Axes: P users, S slots of a user, R table rows (of the vocabulary, pad id R).
"""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
from scipy.sparse import csr_matrix

from experiments.methods.method import Job, Method, Scorer, Watch
from metaheac_jax.data.sampling import campaign_examples

#: Of the trees of a single campaign, which has 100 to 20,000 examples and as few as five seeds.
#: Chosen beforehand and not tuned: few leaves, slow steps, and leaves that hold enough seeds to
#: tell something. No stopping on a held-out part, which would be a handful of seeds.
CAMPAIGN_TREES = {
    "num_iterations": 100,
    "learning_rate": 0.05,
    "num_leaves": 8,
    "min_data_in_leaf": 10,
    "min_sum_hessian_in_leaf": 0.5,
    "lambda_l2": 10.0,
}
#: Of the trees of all training campaigns' examples.
PRIOR_TREES = {
    "num_iterations": 200,
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "lambda_l2": 10.0,
}
#: Of as many examples on, trees are grown by all cores; with fewer, threads cost more than they
#: give.
MANY = 50_000
_COMMON = {
    "objective": "binary",
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}


def features(users: np.ndarray, rows: int) -> csr_matrix:
    """(P, S) table rows of users -> (P, R), 1 where a user has the row and 0 elsewhere."""
    user, slot = np.nonzero(users < rows)
    shape = (len(users), rows)
    matrix = csr_matrix((np.ones(len(user), np.float32), (user, users[user, slot])), shape)
    matrix.data[:] = 1  # a value that a user has twice has been summed
    return matrix


def fit_trees(users: np.ndarray, label: np.ndarray, rows: int, settings: dict[str, Any]) -> Scorer:
    """Gradient-boosted trees on what users have; their scorer gives log-odds.

    Args:
      users: (P, S) table rows.
      label: (P,) 1 for a seed, 0 for a non-seed.
      rows: R.
      settings: of LightGBM.
    """
    threads = {"num_threads": 1 if len(users) < MANY else 0}  # 0: one a core
    data = lgb.Dataset(features(users, rows), label)
    trees = lgb.train({**_COMMON, **threads, **settings}, data)
    return lambda users: np.asarray(
        trees.predict(features(users, rows), raw_score=True, num_threads=1)
    )


def fit_campaigns(
    job: Job, general: None, campaigns: np.ndarray, watch: Watch | None = None
) -> list[Scorer]:
    """Trees for each campaign, on its own stage 1 alone, from nothing."""
    del general, watch
    models = []
    for number, campaign in enumerate(campaigns):
        examples = campaign_examples(job.dataset, campaign)
        models.append(fit_trees(examples.user, examples.label, job.dataset.rows, CAMPAIGN_TREES))
        job.progress("customise", number + 1, len(campaigns))
    return models


def inverse_frequencies(job: Job) -> np.ndarray:
    """(R,) log((1 + n) / (1 + d)) + 1: d of the training campaigns' n users have the row."""
    stage = job.dataset.stage1
    users = np.unique(np.concatenate([stage.user[stage.of(c)] for c in job.campaigns]))
    having = features(job.dataset.user_rows[users], job.dataset.rows).sum(axis=0)
    return np.log((1 + len(users)) / (1 + np.asarray(having).ravel())) + 1


def unit_vectors(users: np.ndarray, idf: np.ndarray) -> csr_matrix:
    """(P, R) tf-idf vectors of length 1; of length 0 for a user without any value."""
    matrix = features(users, len(idf)).multiply(idf).tocsr()
    length = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    return matrix.multiply(1 / np.maximum(length, 1e-12)).tocsr()


def compare_with_seeds(
    job: Job, idf: np.ndarray, campaigns: np.ndarray, watch: Watch | None = None
) -> list[Scorer]:
    """The cosine of a user's vector and the mean of the seeds' vectors, all of length 1 before."""
    del watch

    def scorer(campaign: int) -> Scorer:
        examples = campaign_examples(job.dataset, campaign)
        mean = unit_vectors(examples.user[examples.label == 1], idf).mean(axis=0)
        mean = np.asarray(mean).ravel()
        mean /= max(float(np.linalg.norm(mean)), 1e-12)
        return lambda users: unit_vectors(users, idf) @ mean

    return list(map(scorer, campaigns))


def fit_prior(job: Job) -> Scorer:
    """Trees on all examples of the training campaigns, which are not told whose an example is."""
    stage = job.dataset.stage1
    examples = np.concatenate([np.arange(*stage.offsets[c : c + 2]) for c in job.campaigns])
    users = job.dataset.user_rows[stage.user[examples]]
    return fit_trees(users, stage.label[examples], job.dataset.rows, PRIOR_TREES)


def same_for_all(
    job: Job, prior: Scorer, campaigns: np.ndarray, watch: Watch | None = None
) -> list[Scorer]:
    """The prior for every campaign, whatever its seeds."""
    del job, watch
    return [prior] * len(campaigns)


def _nothing(job: Job) -> None:
    del job


METHODS = {
    "lightgbm": Method(label="LightGBM", offline=_nothing, online=fit_campaigns),
    "cosine": Method(
        label="cosine to the mean seed", offline=inverse_frequencies, online=compare_with_seeds
    ),
    "prior": Method(label="user prior (no campaign)", offline=fit_prior, online=same_for_all),
}
