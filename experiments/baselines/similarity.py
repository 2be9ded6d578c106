"""Cosine similarity to a campaign's seeds, which is not in the paper.

Axes: P users, S slots of a user, R table rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.views import UserRows
from metaheac_jax.methods import Config, Method, Offline, Online, Trained, register
from metaheac_jax.model import Scorer, State


def indicators(users: UserRows, num_rows: int) -> csr_matrix:
    """(P, S) table rows of users without vectors -> (P, R), 1 where a user has the row, else 0."""
    rows = np.asarray(users[:])
    user, slot = np.nonzero(rows < num_rows)
    matrix = csr_matrix(
        (np.ones(len(user), np.float32), (user, rows[user, slot])), (len(rows), num_rows)
    )
    matrix.data[:] = 1
    return matrix


def unit_vectors(users: UserRows, idf: np.ndarray) -> csr_matrix:
    """(P, S) users, (R,) idf -> (P, R) tf-idf vectors of length 1; 0 for users without values."""
    matrix = indicators(users, len(idf)).multiply(idf).tocsr()
    length = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    return matrix.multiply(1 / np.maximum(length, 1e-12)).tocsr()


@register
class Cosine(Method[Config]):
    """Cosine similarity between a user's tf-idf vector and the mean of the seeds' vectors."""

    name, label, default = "cosine", "cosine to the mean seed", Config()

    def train(self, offline: Offline) -> Trained:
        """``{"idf": (R,)}``, log((1 + n) / (1 + d)) + 1; d of n training users have the row."""
        stage, dataset = offline.dataset.stage1, offline.dataset
        users = np.unique(np.concatenate([stage.user[stage.of(c)] for c in offline.campaigns]))
        rows = indicators(dataset.user_rows[users], dataset.num_rows).indices
        having = np.bincount(rows, minlength=dataset.num_rows)
        return Trained({"idf": np.log((1 + len(users)) / (1 + having)) + 1})

    def adapt(self, online: Online, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Scores users by their cosine similarity to the mean of the seeds' unit vectors."""
        idf = np.asarray(state["idf"])

        def scorer(campaign: Campaign) -> Scorer:
            examples = campaign_examples(online.dataset, campaign)
            mean = unit_vectors(examples.ids.user[examples.label == 1], idf).mean(axis=0)
            mean = np.asarray(mean).ravel()
            mean /= max(float(np.linalg.norm(mean)), 1e-12)
            return lambda users: unit_vectors(users, idf) @ mean

        return list(map(scorer, campaigns))
