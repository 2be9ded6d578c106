"""The solved head: logistic regression on factors that all campaigns share, trained through it.

    logit(u) = o(u) + f(u) . w_c + sum over fields of the mean of d_c over the field's values

One tower over the user fields gives the offset o, which is common to all campaigns, and the
*factors* f; the last factor is 1, for the intercept. A campaign has a head w_c, and *value weights*
d_c for what the factors do not explain.

Training is Algorithm 1 with another inner update: instead of a gradient step on all weights, the
head of a campaign is *solved* on the support set, with the rest of the network fixed. The outer
derivative goes through the solution, so the tower learns factors that make few seeds informative.
Online, two regressions on D_c replace fine-tuning; they need no learning rate and no held-out
examples. The first gives the head, the second the value weights. The method is not in the paper.

Axes: B examples, P users, S slots of a user, M user fields, N campaign fields, F factors, R table
rows, k embedding width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.backend import jit
from metaheac_jax.customising.score import PROGRAMS_KEPT, ProgramScorer, over_users
from metaheac_jax.customising.sizes import padded_rows, usual_size
from metaheac_jax.data.batches import Batch
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.config import GradientConfig, setting
from metaheac_jax.methods.method import (
    NetworkMethod,
    Offline,
    Online,
    Trained,
    adapt_each,
    register,
)
from metaheac_jax.methods.offline import campaign_sampler, train_rows, untrained
from metaheac_jax.model import AdaptedWeights, State, Weights
from metaheac_jax.networks import HeadNetwork, User, dense, hidden_layers, sigmoid_output
from metaheac_jax.solvers.newton import INTERCEPT_PRECISION, Regression, newton
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.pooling import UserFields
from metaheac_jax.table.rows import rows_of, select_rows
from metaheac_jax.table.sparse import full_lists
from metaheac_jax.training.losses import output_loss
from metaheac_jax.training.meta_step import build_meta_gradient
from metaheac_jax.training.step import Gradient

_STEPS, _ONLINE_STEPS = 8, 20  # of Newton's method, in training and for a new campaign
_WIDTHS = (64, 64)  # of the hidden layers
_NUM_HIDDEN, _NUM_LINEAR = 8, 32  # factors from the hidden layers, and linear in the fields
NUM_FACTORS = _NUM_HIDDEN + _NUM_LINEAR + 1  # F, with the intercept's


class UserTower(nn.Module):
    """The offset and the factors of users."""

    @nn.compact
    def __call__(self, user: User) -> Array:
        """(B, M, k) user fields -> (B, 1 + F): the offset and the factors."""
        fields = UserFields.of(user)
        x = hidden_layers(self, dense(self, "layer_0", fields, _WIDTHS[0]), _WIDTHS)
        hidden = dense(self, "hidden", x, 1 + _NUM_HIDDEN)
        linear = dense(self, "linear", fields, _NUM_LINEAR)
        return jnp.concatenate([hidden, linear, jnp.ones_like(hidden[..., :1])], axis=-1)


_TOWER = UserTower()


@dataclass(frozen=True)
class SolvedHead(HeadNetwork):
    """A `Network` of a tower and a campaign's head.

    Value weights are the last column of the table, which gets no gradient. They and the head are
    zero in a general model, which belongs to no campaign.
    """

    def init(self, key: Any, user: User, campaign: Array, /) -> dict[str, Any]:
        """Parameters, drawn with the key, for (B, M, k) user and (N, k) campaign fields."""
        del campaign
        fields = UserFields.of(user).columns(slice(None, -1))
        return {"tower": _TOWER.init(key, fields), "head": jnp.zeros(NUM_FACTORS)}

    def offset_and_factors(self, params: dict[str, Any], user: User) -> tuple[Array, Array]:
        """(B, M, k) user fields -> offset (B,) with the value weights, and factors (B, F)."""
        user = UserFields.of(user)
        shared, own = user.columns(slice(None, -1)), user.columns(slice(-1, None))
        value_weights = jax.lax.stop_gradient(own.dense().sum(axis=(-2, -1)))
        sums: Any = _TOWER.apply(params["tower"], shared)
        sums = sums.at[..., 0].add(value_weights)
        return sums[..., 0], sums[..., 1:]


_NETWORK = SolvedHead()


@dataclass(frozen=True)
class SolvedHeadConfig(GradientConfig):
    """Settings of a solved head; its own defaults were chosen on held-out training campaigns."""

    width: int = setting(16, least=2, shapes=True, official=64)
    """k, the width of an embedding; one of the columns has the value weights."""
    table_scale: float = 0.3
    """Standard deviation of the table's initial values."""
    value_dropout: float = setting(0.5, below=1)
    """See `GradientConfig`."""
    penalty: float = setting(100.0, above=0)
    """L2 penalty of a campaign's regression on the weights of values."""
    list_lengths: bool = setting(True, shapes=True)
    """See `GradientConfig`."""


@register
class SolvedHeadMethod(NetworkMethod[SolvedHeadConfig]):
    """A tower that all campaigns share, and a head that is solved for each campaign."""

    name, label, default = "solved-head", "Solved head", SolvedHeadConfig()
    network = _NETWORK

    def train(self, offline: Offline) -> Trained:
        """Trains on the query loss of heads that are solved on support sets."""
        weights = untrained(offline, self.config, _NETWORK)
        weights = weights._replace(table=weights.table.at[:, -1].set(0))  # the value weights
        gradient = self.gradient(offline.dataset.layout)
        sampler = campaign_sampler(offline, self.config)
        return train_rows(offline, self.config, weights, gradient, sampler)

    def gradient(self, layout: Layout) -> Gradient[...]:
        """Builds the gradient of the query loss."""
        return solved_gradient(layout)

    def adapt(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[ProgramScorer]:
        """Solves each campaign's head and value weights on its examples."""
        weights, solver = Weights(**state), compiled_solver(online.dataset.layout)
        solve = functools.partial(solver, weights, penalty=self.config.penalty)
        return adapt_each(online, _NETWORK, weights, campaigns, solve)


def solved_gradient(layout: Layout, *, first_order: bool = False) -> Gradient[...]:
    """``gradient(params, support, query, own)`` of the mean query loss over campaigns.

    Args:
      layout: layout of the ids in the batches.
      first_order: whether the derivative treats the solved head as a constant.
    """

    def loss(params: Any, sets: tuple[Batch, Batch]) -> Array:
        support, query = sets
        offset, factors = _of_users(params, layout, support.ids.user)
        head = solve_head(factors, offset, support.label, support.weight)
        if first_order:
            head = jax.lax.stop_gradient(head)
        offset, factors = _of_users(params, layout, query.ids.user)
        output = sigmoid_output(offset + factors @ head)
        return output_loss(output, query.label, query.weight, "mean")

    over_pairs = build_meta_gradient(loss, inner_steps=0, reduction="mean", select=select_rows)

    def gradient(params: Any, support: Batch, query: Batch, rows: Array) -> tuple[Any, Any]:
        sets = support, query
        return over_pairs(params, sets, sets, rows)

    return gradient


def solve_head(
    factors: Array, offset: Array, label: Array, weight: Array, *, num_steps: int = _STEPS
) -> Array:
    """Solves a campaign's head (F,) on (B, F) factors, under the prior N(0, 1) of its weights.

    The other arguments are those of a `Regression`.
    """
    precision = jnp.ones(factors.shape[-1]).at[-1].set(INTERCEPT_PRECISION)
    mean = jnp.zeros_like(precision)
    given = Regression(factors, offset, label, weight, mean, precision)
    return newton(given, num_steps=num_steps)


def _of_users(params: Any, layout: Layout, users: Any) -> tuple[Array, Array]:
    """(P, S) table rows of users -> offset (P,) and factors (P, F)."""
    return _NETWORK.offset_and_factors(params["network"], layout.users(params["table"], users))


@functools.lru_cache(PROGRAMS_KEPT)
def compiled_solver(layout: Layout) -> Callable[..., AdaptedWeights]:
    """Builds ``solver(weights, examples, *, penalty)``; all models of a layout share its programs.

    It solves a campaign's head, and its value weights, which have the penalty. The penalty applies
    to a value's share of a full list: its weight / number of slots. So a value in a list is
    penalised like a value of any other field.
    """
    tower = jit(
        lambda network, table, users: jnp.column_stack(
            _of_users({"network": network, "table": table}, layout, users)
        )
    )
    solve = jit(functools.partial(solve_head, num_steps=_ONLINE_STEPS))

    def solver(weights: Weights, examples: Batch, *, penalty: float) -> AdaptedWeights:
        users, num_rows = examples.ids.user, len(weights.table)
        of_users = functools.partial(tower, *weights)
        sizes = layout.num_slots, num_rows
        sums = over_users(of_users, users, *sizes)  # (P, 1 + F)
        missing = usual_size(len(sums)) - len(sums)
        padded = np.pad(sums, ((0, missing), (0, 0)))
        label, weight = (np.pad(a, (0, missing)) for a in (examples.label, examples.weight))
        head = solve(padded[:, 1:], padded[:, 0], label, weight)
        rows, own = np.empty(0, np.int32), np.empty(0)
        # Examples of one label determine no value weights.
        if np.isfinite(head).all() and np.ptp(examples.label):
            log_odds = sums[:, 0] + sums[:, 1:] @ np.asarray(head)
            features, num_slots = full_lists(layout, users, num_rows)
            given = {"offset": log_odds, "weights": examples.weight}
            own, bias = fit_regression(features, examples.label, penalty, **given)
            own *= num_slots
            rows = padded_rows(np.flatnonzero(own), num_rows)
            own, head = np.append(own, 0.0)[rows], head.at[-1].add(bias)
        # Value weights are the last column of the rows.
        values = rows_of(weights.table, rows).at[:, -1].set(jnp.asarray(own))
        return AdaptedWeights({"head": head}, rows, values)

    return solver
