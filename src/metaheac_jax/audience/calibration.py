"""Probabilities of converting: Platt scaling on examples that a campaign holds out.

Platt, "Probabilistic outputs for support vector machines", 1999. The examples are a case-control
sample of the pool, whose base rate is given. Non-seeds are drawn from the pool, so some of them
would convert: Steinberg and Cardell, "Estimating logistic regression models when the dependent
variable has no variance", 1992, have the likelihood.

Axes: n held-out examples, G campaigns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metaheac_jax.audience.held_out import FOLDS, MIN_SEEDS
from metaheac_jax.data.batches import rows_of_examples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.folds import hold_out
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.methods import customise
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, silent


def line(scores: np.ndarray, labels: np.ndarray, base_rate: float) -> tuple[float, float]:
    """Slope and intercept of the log-odds of converting, as a linear function of the score.

    They maximise the likelihood of the labels. With p the probability of converting, pi the
    fraction of seeds among the examples and b the base rate, the odds that an example is a seed are
    ``pi / (1 - pi)`` times ``p / b``. As in Platt's paper, the target of a label is the fraction of
    seeds in its class after adding one example of each label. Since the odds are bounded, this does
    not keep the slope finite if the scores separate the labels; one user who does not convert is
    added as well, in equal parts at the seeds. The slope is not negative, so a better rank never
    has a lower probability.

    Args:
      scores: (n,) scores of examples that the model has not learned from.
      labels: (n,) 1 for a seed and 0 for a non-seed, a random user of the pool; both occur.
      base_rate: fraction of the pool that converts, between 0 and 1; the pool has all users but the
        seeds, and converts are like the seeds.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit

    seeds = int((labels == 1).sum())
    others = len(labels) - seeds
    shift = np.log(seeds / others) - np.log(base_rate)
    target = np.where(labels == 1, (seeds + 1) / (seeds + 2), 1 / (others + 2))
    added = (labels == 1) / (seeds + 2)
    scores = scores.astype(float)
    centre, spread = scores.mean(), scores.std() or 1.0
    unit = (scores - centre) / spread

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        log_odds = line[0] * unit + line[1]  # log-odds of converting
        odds = shift + log_expit(log_odds)  # log-odds of being a seed
        error = (expit(odds) - target) * expit(-log_odds) + added * expit(log_odds)
        value = (np.logaddexp(0, odds) - target * odds + added * np.logaddexp(0, log_odds)).mean()
        return value, np.array([(error * unit).mean(), error.mean()])

    start = np.array([1.0, 0.0])
    bounds = [(0, None), (None, None)]
    options = {"ftol": 1e-15, "gtol": 1e-9}
    slope, intercept = minimize(loss, start, jac=True, bounds=bounds, options=options).x
    slope = slope / spread
    return float(slope), float(intercept - slope * centre)


def calibrate(
    general: General,
    data: Dataset,
    campaigns: Sequence[Campaign],
    base_rates: Sequence[float],
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> list[tuple[float, float]]:
    """The `line` of each campaign, fitted to a fifth of its seeds and non-seeds.

    Users in `Campaign.found` are not held out, since they were chosen by their scores. The general
    model is customised once more, to the rest, and scores the held-out fifth. The line is meant for
    the scores of the model that is customised to all examples.

    Args:
      campaigns: G campaigns; their non-seeds outside `Campaign.found` are drawn from the pool at
        random, as `Dataset.new_campaign` draws them.
      base_rates: (G,) as in `line`.
      seed: random seed for the choice of held-out examples and for customising.

    Raises:
      InputError: a campaign has too few seeds or non-seeds to hold some out.
      Diverged: weights or scores are not finite.
    """
    check_whole("seed", seed, 0)
    kept, held = [], []
    for campaign in campaigns:
        rng = np.random.Generator(np.random.Philox(seed))
        able = np.flatnonzero(~campaign.is_found)
        out = able[hold_out(campaign.labels[able], 1 / FOLDS, rng)[1]]
        if campaign.num_given_seeds < MIN_SEEDS or not len(out):
            raise InputError(
                f"{campaign.name}: {campaign.num_given_seeds} seeds that are not from audiences; "
                f"calibrating takes {MIN_SEEDS} and two non-seeds; omit probability"
            )
        held.append(out)
        kept.append(campaign.pick(np.setdiff1d(np.arange(len(campaign.users)), out)))
    models = customise(general, data, kept, seed=seed, progress=progress)
    others = [campaign.pick(out) for campaign, out in zip(campaigns, held, strict=True)]
    rows = (rows_of_examples(data, part) for part in others)
    return [
        line(model.score(users), campaign.labels, rate)
        for campaign, model, users, rate in zip(others, models, rows, base_rates, strict=True)
    ]
