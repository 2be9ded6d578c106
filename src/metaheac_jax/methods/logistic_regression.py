"""LR: logistic regression on a campaign's own examples (paper section 4.1).

There is one weight per table row and an L2 penalty, so the minimum is unique. It is found by
L-BFGS, instead of steps of the customiser.

Axes: B examples, M user fields, N campaign fields, R table rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.boundary import Column, Columns
from metaheac_jax.customising.score import ProgramScorer
from metaheac_jax.customising.sizes import padded_rows
from metaheac_jax.data.batches import Batch
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.config import Config, setting
from metaheac_jax.methods.method import (
    Method,
    Offline,
    Online,
    Trained,
    adapt_each,
    register,
)
from metaheac_jax.model import AdaptedWeights, State, Weights
from metaheac_jax.networks import HeadNetwork, User
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.table.pooling import UserFields
from metaheac_jax.table.sparse import value_counts


@dataclass(frozen=True)
class Linear(HeadNetwork):
    """A `Network` whose log-odds are the sum of the weights of a user's values, and a bias.

    The weights are a table of width 1. They are not averaged over the values of a field, so a list
    counts by its length too. The bias is the head.
    """

    averages = False

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Array]:
        """The bias, zero."""
        del key, user, campaign
        return {"head": jnp.zeros(1)}

    def offset_and_factors(self, params: dict[str, Any], user: User) -> tuple[Array, Array]:
        """(B, M, 1) user fields -> the sums (B,) of the values' weights, and 1 for each user."""
        del params
        user = UserFields.of(user)
        sums = (user.counts * user.dense()[..., 0]).sum(axis=-1)
        return sums, jnp.ones_like(sums)[:, None]


LINEAR = Linear()
LINEAR_WIDTH = 1  # of its table


@dataclass(frozen=True)
class RegressionConfig(Config):
    """Settings of LR."""

    penalty: float = setting(30.0, above=0)
    """L2 penalty on the weights, without which there may be no minimum. The paper does not state
    one; this was chosen on a simulated world."""
    list_lengths: bool = setting(False, shapes=True)
    """Whether list lengths are values too; see `data.list_lengths`."""


@register
class LogisticRegression(Method[RegressionConfig]):
    """LR with an L2 penalty."""

    name, label, default = "lr", "LR", RegressionConfig()

    def train(self, offline: Offline) -> Trained:
        """Learns nothing: all weights are 0."""
        table = jnp.zeros((offline.dataset.num_rows, LINEAR_WIDTH))
        return Trained({"network": {"head": jnp.zeros(1)}, "table": table})

    def columns(self, online: Online, arrays: Mapping[str, Any]) -> Columns:
        """Says what the weights must be."""
        del arrays
        dataset = online.lengthened(self.config.list_lengths, ())[0].dataset
        table = Column("f4", (dataset.num_rows, LINEAR_WIDTH))
        return {"network/head": Column("f4", (1,)), "table": table}

    def adapt(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[ProgramScorer]:
        """Fits a regression to each campaign, on its examples only."""
        num_rows = online.dataset.num_rows

        def fit(examples: Batch) -> AdaptedWeights:
            counts = value_counts(online.dataset.layout, examples.ids.user, num_rows)
            weights, bias = fit_regression(
                counts, examples.label, self.config.penalty, weights=examples.weight
            )
            rows = padded_rows(np.flatnonzero(weights), num_rows)
            values = np.append(weights, 0.0)[rows, None].astype(np.float32)
            own = {"head": jnp.asarray([bias], jnp.float32)}
            return AdaptedWeights(own, rows, jnp.asarray(values))

        return adapt_each(online, LINEAR, Weights(**state), campaigns, fit)
