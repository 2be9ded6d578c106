"""Which unconverted audience members become non-seeds.

The other examples of a campaign are seeds and users of the pool, so in them the odds of being a
seed are a user's relative rate of converting times the number of seeds per non-seed. Among users
who were shown an audience they are the odds of converting, which are far lower where few users
convert. If all of them became non-seeds, users like those in an audience would sink below users who
were never shown the campaign. So a random part of those who did not convert becomes non-seeds, so
large that both samples agree on how many convert (King and Zeng, "Logistic regression in rare
events data", 2001, on the odds of such samples). The others are in no stage.

Axes: F users of a campaign's audiences, n other examples of the campaign.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from metaheac_jax.data.campaign import draw_by_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.folds import folds
from metaheac_jax.errors import InputError
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.table.sparse import value_counts

_FOLDS = 5  # parts of the other examples, each scored by a regression on the rest
_PENALTY = 30.0  # of this regression
_LEAST = 10  # seeds, and non-seeds, among the other examples; with fewer there is no regression
_MOST = 20_000  # other examples that are used, drawn at random
_CERTAIN = 50.0  # log-odds whose probability is 1 in double precision


def leave_out_shown(data: Dataset, campaigns: Iterable[int]) -> Dataset:
    """The data in which the users of audiences who did not convert count by a share.

    Such a user of a campaign stays in stage 1 if the user's own draw is below the campaign's share;
    see `share_to_keep`. The others move to `Dataset.left_out`, and so do all of a control group,
    who might have converted if they had been shown the campaign.

    Args:
      data: has all examples of these campaigns in stage 1 or stage 2.
      campaigns: the campaigns, by index.
    """
    stage, left_out = data.stage1, data.left_out
    if stage.audience is None and stage.control is None:
        return data
    moves = np.zeros(len(stage.user), bool)
    for c in campaigns:
        of = stage.of(c)
        others = stage.label[of] == 0
        control, without = stage.in_control[of], stage.in_audience[of] & others
        if (without & ~control).any():
            draws = draw_by_id(data.user_ids[stage.user[of][without]])
            moves[of][without] = draws >= _share_of(data, c)
        moves[of] |= control & others
    if not moves.any():
        return data
    out = stage.pick(moves)
    if left_out is not None:
        out = left_out.with_others(out)
    return replace(data, stage1=stage.pick(~moves), left_out=out)


def _share_of(data: Dataset, index: int) -> float:
    """The share of a campaign; 1 if it has too few other examples for a regression."""
    try:
        campaign = data.campaign(index)
    except InputError:  # nobody is left to draw
        return 1.0
    of, stage = data.stage1.of(index), data.stage1
    was_shown = stage.in_audience[of] & ~stage.in_control[of]
    shown, converted = stage.user[of][was_shown], stage.label[of][was_shown] == 1
    others = campaign.pick(~campaign.is_found)
    # Neither the order of examples nor, beyond some, their number matters.
    order = np.argsort(draw_by_id(data.user_ids[others.users], b"share"), kind="stable")
    users, labels = others.users[order[:_MOST]], others.labels[order[:_MOST]]
    if min(np.bincount(labels, minlength=2)) < _LEAST:
        return 1.0
    features = value_counts(data.layout, np.asarray(data.user_rows[users]), data.num_rows)
    of_shown = value_counts(data.layout, np.asarray(data.user_rows[shown]), data.num_rows)
    order = np.argsort(draw_by_id(data.user_ids[users], b"fold"), kind="stable")
    fold = folds(labels, _FOLDS, order)
    scores, held_out = np.zeros(len(shown)), np.empty(len(users))
    for number in range(_FOLDS):
        out = fold == number
        weights, bias = fit_regression(csr_matrix(features[~out]), labels[~out], _PENALTY)
        held_out[out] = features[out] @ weights + bias
        scores += (of_shown @ weights + bias) / _FOLDS
    return share_to_keep(scores, converted, held_out, labels)


def share_to_keep(
    scores: np.ndarray, converted: np.ndarray, held_out: np.ndarray, labels: np.ndarray
) -> float:
    """The fraction of the users without conversion who become non-seeds, at most 1.

    With this fraction, the converts are as many as the model expects among the users who are kept.
    Whether users who were shown the campaign convert more often than others is then as the model
    has it; who of them does is learned from the feedback.

    Args:
      scores: (F,) finite scores by a model that has not learned from these users, which differ from
        log-odds at the ratio of its examples by a constant at most.
      converted: (F,) bool.
      held_out: (n,) its scores of examples that it has not learned from, at the same ratio. They
        give the constant; a model has remembered those that it has learned from.
      labels: (n,) 1 for a seed and 0 for a non-seed; both occur.
    """
    constant = _shift(held_out, float(labels.sum()))
    # Half a convert more, so that some users remain where nobody has converted.
    expected = min(converted.sum() + 0.5, len(scores) - 0.5)
    return float(min(1.0, np.exp(_shift(scores + constant, expected))))


def _shift(scores: np.ndarray, total: float) -> float:
    """The constant that, added to (n,) log-odds, makes their probabilities add up to ``total``."""
    from scipy.optimize import root_scalar
    from scipy.special import expit

    log_odds = scores.astype(float)
    bounds = -_CERTAIN - log_odds.max(), _CERTAIN - log_odds.min()
    return root_scalar(
        lambda constant: expit(log_odds + constant).sum() - total, bracket=bounds
    ).root
