"""The solved head: a general model whose online stage is a regression, trained through its result.

This is Algorithm 1 with another inner update: instead of a gradient step on all weights, the head
of a campaign is *solved* on the support set, with the rest of the network fixed. The outer
derivative goes through the solution, so the tower learns factors that make few seeds informative.
Online, two regressions on D_c replace fine-tuning; they need no learning rate and no held-out
examples. The first gives the head; the second is on the values themselves, for what the factors do
not explain. The method is not in the paper.

Axes: P users, S slots of a user, F factors, R table rows, k embedding width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.customise.host_table import HostRows, on_host, rows_of
from metaheac_jax.customise.minibatches import GrowingSize, usual_size
from metaheac_jax.customise.score import PoolScorer
from metaheac_jax.data.batches import Batch
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.errors import InputError
from metaheac_jax.methods.fine_tuning import TUNED
from metaheac_jax.methods.linear import fit_regression
from metaheac_jax.methods.list_lengths import with_list_lengths
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.offline import train_on_campaigns, untrained
from metaheac_jax.methods.online import (
    PROGRAMS_KEPT,
    adapt_each,
    build_restore,
    compiled_scorer,
)
from metaheac_jax.methods.stages import Run, Train, Trained
from metaheac_jax.model import AdaptedWeights, Scorer, State, Weights
from metaheac_jax.networks.base import sigmoid_output
from metaheac_jax.networks.solved_head import SolvedHead
from metaheac_jax.settings import PAPER, Settings
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.table.rows import select_rows
from metaheac_jax.table.sparse import full_lists
from metaheac_jax.training.losses import output_loss
from metaheac_jax.training.meta import build_meta_gradient
from metaheac_jax.training.newton import solve_logistic
from metaheac_jax.training.step import Gradient

_NETWORK = SolvedHead()
#: Settings that were chosen on held-out training campaigns.
_CHOSEN: dict[str, Any] = {
    "table_scale": 0.3,
    "value_dropout": 0.5,
    "reduction": "mean",
    "penalty": 100.0,
}
_ONLINE_STEPS = 20  # steps of Newton's method


def solved_head(settings: Settings = PAPER, *, first_order: bool = False) -> Method:
    """A tower that all campaigns share, and a head that is solved for each campaign.

    It has its own table scale, value dropout, reduction and penalty, and disjoint sets, whatever
    the settings say; `Method.with_settings` changes them. For ``first_order`` see
    `solved_gradient`.
    """
    method = Method(
        name="solved-head",
        label="Solved head",
        settings=replace(settings, **_CHOSEN, disjoint=True),  # no head is solved on query examples
        train=_build_head_training(first_order=first_order),
        adapt=solve_heads,
        restore=build_restore(lambda _: _NETWORK),
        tuned=(*(name for name in TUNED if not name.startswith("online_")), "penalty"),
        takes_steps=True,
        splits=True,
        meshes=True,
        work=(1 / 2, 1 / 8),
    )
    return with_list_lengths(method)


def _build_head_training(*, first_order: bool) -> Train:
    """Builds the offline stage, on the query loss of heads that are solved on support sets."""

    def stage(run: Run) -> Trained:
        if run.settings.width < 2:
            raise InputError(
                f"settings: width: expected 2 or more for a solved head, got {run.settings.width}"
            )
        weights = untrained(run, _NETWORK)
        weights = weights._replace(table=weights.table.at[:, -1].set(0))  # the value weights
        gradient = solved_gradient(run.dataset.layout, first_order=first_order)
        return train_on_campaigns(run, weights, gradient, reduction="mean")

    return stage


def solved_gradient(layout: Layout, *, first_order: bool = False) -> Gradient[...]:
    """``gradient(params, support, query, own)`` of the mean query loss over campaigns.

    Args:
      layout: layout of the ids in the batches.
      first_order: whether the derivative treats the solved head as a constant.
    """

    def loss(params: Any, sets: tuple[Batch, Batch]) -> Array:
        support, query = sets
        offset, factors = _of_users(params, layout, support.ids.user)
        head = solve_logistic(factors, offset, support.label, support.weight)
        if first_order:
            head = jax.lax.stop_gradient(head)
        offset, factors = _of_users(params, layout, query.ids.user)
        output = sigmoid_output(offset + factors @ head)
        return output_loss(output, query.label, query.weight, "mean")

    over_pairs = build_meta_gradient(loss, inner_steps=0, reduction="mean", select=select_rows)

    def gradient(params: Any, support: Batch, query: Batch, own: Array) -> tuple[Any, Any]:
        sets = support, query
        return over_pairs(params, sets, sets, own)

    return gradient


def _of_users(params: Any, layout: Layout, users: Any) -> tuple[Array, Array]:
    """(P, S) table rows of users -> offset (P,) and factors (P, F)."""
    first = _NETWORK.first_layer(params["network"], layout.users(params["table"], users))
    return first.sums[..., 0], first.sums[..., 1:]


def solve_heads(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
    """The online stage: solves each campaign's head and value weights on its examples.

    If only heads are adapted, there are no value weights. With 0 online epochs, all models equal
    the general model.

    Raises:
      InputError: a campaign has no examples, or invalid ones.
      Diverged: a head is not finite.
    """
    weights, settings = Weights(**state), run.settings
    pool = compiled_scorer(_NETWORK, run.dataset.layout)
    penalty = settings.penalty if settings.online_adapts == "all" else None
    solve = functools.partial(compiled_solver(pool), weights, penalty=penalty)
    return adapt_each(run, pool, weights, campaigns, solve)


def _adapted(
    weights: Weights, head: Any, rows: Any = (), value_weights: Any = ()
) -> AdaptedWeights:
    """A campaign's own weights; its value weights are the last column of these rows."""
    rows = np.asarray(rows, np.int32)
    values = jnp.asarray(rows_of(weights.table, rows)).at[:, -1].set(jnp.asarray(value_weights))
    return AdaptedWeights({"head": head}, rows, values)


def fit_value_weights(
    examples: Batch, log_odds: np.ndarray, layout: Layout, num_rows: int, penalty: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """A campaign's value weights, and the number to add to its intercept.

    The penalty applies to a value's share of a full list: its weight / number of slots. So a value
    in a list is penalised like a value of any other field.

    Args:
      examples: the examples of the campaign.
      log_odds: (P,) log-odds of their users, which the weights are added to.
      layout: layout of the users' ids.
      num_rows: R.
      penalty: L2 penalty on the weights.

    Returns:
      The rows that have weights (U,), the weights (U,), and the number to add to the intercept.
    """
    features, num_slots = full_lists(layout, examples.ids.user, num_rows)
    weights, bias = fit_regression(features, examples.label, penalty, offset=log_odds)
    weights *= num_slots
    rows = np.flatnonzero(weights).astype(np.int32)
    return rows, weights[rows], bias


class Solver:
    """Customises to campaigns; build it once, so that all campaigns share compiled programs."""

    def __init__(self, pool_scorer: PoolScorer) -> None:
        """Args:
        pool_scorer: applies the tower to the users of examples.
        """
        layout, self._pool_scorer = pool_scorer.layout, pool_scorer
        self._host_rows, self._num_rows = HostRows(layout), GrowingSize(4096)
        self._tower = jax.jit(
            lambda network, table, users: jnp.column_stack(
                _of_users({"network": network, "table": table}, layout, users)
            )
        )
        self._solve = jax.jit(functools.partial(solve_logistic, num_steps=_ONLINE_STEPS))

    def __call__(
        self, weights: Weights, examples: Batch, *, penalty: float | None
    ) -> AdaptedWeights:
        """Solves a campaign's head, and its value weights unless the penalty is None."""
        sums = self._sums(weights, examples.ids.user)
        missing = usual_size(len(sums)) - len(sums)
        padded = np.pad(sums, ((0, missing), (0, 0)))
        label, weight = (np.pad(a, (0, missing)) for a in (examples.label, examples.weight))
        head = self._solve(padded[:, 1:], padded[:, 0], label, weight)
        if penalty is None or not np.isfinite(head).all() or np.ptp(examples.label) == 0:
            return _adapted(weights, head)  # examples of one label determine no value weights
        log_odds, num_rows = sums[:, 0] + sums[:, 1:] @ np.asarray(head), len(weights.table)
        rows, own, bias = fit_value_weights(
            examples, log_odds, self._pool_scorer.layout, num_rows, penalty
        )
        missing = self._num_rows.holding(len(rows)) - len(rows)
        rows, own = np.pad(rows, (0, missing), constant_values=num_rows), np.pad(own, (0, missing))
        return _adapted(weights, head.at[-1].add(bias), rows, own)

    def _sums(self, weights: Weights, users: np.ndarray) -> np.ndarray:
        """(P, S) table rows of users -> (P, 1 + F) sums; see `SolvedHead`."""
        (network, table), ids = weights, Ids(users, np.empty(0, np.int32))
        if on_host(table):
            table, ids = self._host_rows.cut(table, ids)
        tower = functools.partial(self._tower, network, table)
        return self._pool_scorer.over_users(tower, ids.user, len(table))


@functools.lru_cache(PROGRAMS_KEPT)
def compiled_solver(pool: PoolScorer) -> Solver:
    """The solver of a pool scorer's network, which all its models share."""
    return Solver(pool)
