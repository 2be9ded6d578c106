"""Probabilities of converting: Platt scaling on examples that a campaign holds out.

Platt, "Probabilistic outputs for support vector machines", 1999. The examples are a case-control
sample of the pool, whose base rate is given. Non-seeds are drawn from the pool, so some of them
would convert: Steinberg and Cardell, "Estimating logistic regression models when the dependent
variable has no variance", 1992, have the likelihood.

Axes: n held-out examples, P users, G campaigns, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from metaheac_jax.audience.held_out_seeds import HELD_OUT, MIN_SEEDS_TO_HOLD_OUT
from metaheac_jax.customise.early_stopping import hold_out
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, about, check_whole
from metaheac_jax.methods import Method
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, silent


@dataclass(frozen=True, eq=False)
class Calibration:
    """Turns the scores of a campaign's model into probabilities.

    Attributes:
      scores: (n,) scores of examples that the model has not learned from.
      labels: (n,) 1 for a seed and 0 for a non-seed, a random user of the pool; both occur.
    """

    scores: np.ndarray
    labels: np.ndarray

    def probability(self, scores: np.ndarray, base_rate: float) -> np.ndarray:
        """(P,) probabilities that users with these (P,) scores convert.

        Args:
          scores: (P,) scores by the campaign's model.
          base_rate: fraction of the pool that converts, where the pool has all users but the seeds;
            converts are like the seeds.

        Raises:
          InputError: the base rate is not between 0 and 1.
        """
        slope, intercept = self.line(base_rate)
        return expit(slope * scores.astype(float) + intercept)

    def line(self, base_rate: float) -> tuple[float, float]:
        """Slope and intercept of the log-odds of converting, as a linear function of the score.

        They maximise the likelihood of the labels. With p the probability of converting, pi the
        fraction of seeds among the examples and b the base rate, the odds that an example is a seed
        are ``pi / (1 - pi)`` times ``p / b``. As in Platt's paper, the target of a label is the
        fraction of seeds in its class after adding one example of each label. Since the odds are
        bounded, this does not keep the slope finite if the scores separate the labels; one user who
        does not convert is added as well, in equal parts at the seeds. The slope is not negative,
        so a better rank never has a lower probability.

        Raises:
          InputError: the base rate is not between 0 and 1.
        """
        check_base_rate(base_rate)
        seeds = int((self.labels == 1).sum())
        others = len(self.labels) - seeds
        shift = np.log(seeds / others) - np.log(base_rate)
        target = np.where(self.labels == 1, (seeds + 1) / (seeds + 2), 1 / (others + 2))
        added = (self.labels == 1) / (seeds + 2)
        scores = self.scores.astype(float)
        centre, spread = scores.mean(), scores.std() or 1.0
        unit = (scores - centre) / spread

        def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
            own = line[0] * unit + line[1]  # log-odds of converting
            odds = shift + log_expit(own)  # log-odds of being a seed
            error = (expit(odds) - target) * expit(-own) + added * expit(own)
            value = (np.logaddexp(0, odds) - target * odds + added * np.logaddexp(0, own)).mean()
            return value, np.array([(error * unit).mean(), error.mean()])

        start = np.array([1.0, 0.0])
        bounds = [(0, None), (None, None)]
        options = {"ftol": 1e-15, "gtol": 1e-9}
        slope, intercept = minimize(loss, start, jac=True, bounds=bounds, options=options).x
        slope = slope / spread
        return float(slope), float(intercept - slope * centre)


def check_base_rate(base_rate: float) -> None:
    """Refuses a base rate that is not between 0 and 1.

    Raises:
      InputError: the rate is out of range; the message names it.
    """
    if isinstance(base_rate, bool) or not isinstance(base_rate, Real) or not 0 < base_rate < 1:
        raise InputError(f"base rate: expected more than 0 and less than 1, got {base_rate!r}")


def calibrate(
    method: Method,
    general: General,
    data: Dataset,
    campaigns: Sequence[Campaign],
    *,
    seed: int = 0,
    mesh: Mesh | None = None,
    directory: Path | None = None,
    progress: Progress = silent,
) -> list[Calibration]:
    """Calibrates each campaign's scores on a fifth of its seeds and non-seeds.

    Users in `Campaign.found` are not held out, since they were chosen by their scores. The general
    model is customised once more, to the rest, and scores the held-out fifth. The calibration is
    meant for the scores of the model that is customised to all examples.

    Args:
      method: the method that trained the general model.
      general: the general model.
      data: the data with the campaigns' users.
      campaigns: G campaigns; their non-seeds outside `Campaign.found` are drawn from the pool at
        random, as `Dataset.new_campaign` draws them.
      seed: random seed for the choice of held-out examples and for customising.
      mesh: several devices, see `methods.Method.customise`.
      directory: folder in which customised campaigns are kept, see there.
      progress: receives the progress of customising.

    Raises:
      InputError: a campaign has too few seeds or non-seeds to hold some out.
      Diverged: weights or scores are not finite.
    """
    check_whole("seed", seed, 0)
    kept, held = [], []
    for campaign in campaigns:
        with about(campaign.name):
            held.append(examples_to_calibrate_on(campaign, seed))
        kept.append(campaign.pick(np.setdiff1d(np.arange(len(campaign.users)), held[-1])))
    models = method.customise(
        general, data, kept, seed=seed, mesh=mesh, directory=directory, progress=progress
    )
    return [
        Calibration(model.score(data.user_rows[campaign.users[out]]), campaign.labels[out])
        for campaign, model, out in zip(campaigns, models, held, strict=True)
    ]


def examples_to_calibrate_on(campaign: Campaign, seed: int) -> np.ndarray:
    """Positions of a fifth of a campaign's examples; see `calibrate`.

    Raises:
      InputError: the campaign has too few seeds or non-seeds to hold some out.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    able = np.flatnonzero(~campaign.is_found)
    out = able[hold_out(campaign.labels[able], HELD_OUT, rng)[1]]
    count = campaign.num_given_seeds
    if count < MIN_SEEDS_TO_HOLD_OUT:
        besides = " besides those from feedback" if len(campaign.found) else ""
        raise InputError(
            f"{count} seeds{besides}, too few to calibrate probabilities on a "
            f"fifth of them; give {MIN_SEEDS_TO_HOLD_OUT}"
        )
    if not len(out):
        raise InputError("fewer than two non-seeds; use a larger pool")
    return out


@dataclass(frozen=True)
class CalibrationBin:
    """Users of similar probability: a row of a calibration table.

    Attributes:
      users: number of users.
      predicted: their mean probability.
      observed: the fraction of them who convert.
    """

    users: int
    predicted: float
    observed: float


def calibration_table(
    probabilities: np.ndarray, labels: np.ndarray, *, num_bins: int = 10
) -> list[CalibrationBin]:
    """Predicted and observed rates in B bins of equally many users, in ascending order.

    Args:
      probabilities: (P,) predicted probabilities.
      labels: (P,) 1 for converts and 0 for others, or true probabilities where they are known.
      num_bins: B; there are fewer bins if there are fewer users.
    """
    order = np.argsort(probabilities, kind="stable")
    return [
        CalibrationBin(len(users), float(probabilities[users].mean()), float(labels[users].mean()))
        for users in np.array_split(order, num_bins)
        if len(users)
    ]


def expected_calibration_error(table: Sequence[CalibrationBin]) -> float:
    """The mean over users of |predicted - observed| of their bin."""
    users = sum(row.users for row in table)
    return sum(row.users * abs(row.predicted - row.observed) for row in table) / users
