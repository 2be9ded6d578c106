"""The learned prior: a regression per campaign, under a prior that is learned from all campaigns.

    user features -> prior -> posterior of a campaign

The features (`methods.user_features`) need no labels. The weights of a campaign have a Gaussian
prior, whose mean and covariance are learned from the training campaigns (`solvers.posterior`), and
whose mean moves towards the weights of training campaigns with the same attributes. There are no
gradient steps, and nothing is random but a choice of examples in very large campaigns. The method
is not in the paper.

Axes: R table rows, N campaign fields, k columns of a field's vector, p features, C training
campaigns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaheac_jax.boundary import Column, Columns
from metaheac_jax.customising.score import ProgramScorer
from metaheac_jax.data.batches import Batch
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.config import Config, setting
from metaheac_jax.methods.linear_head import LinearHead
from metaheac_jax.methods.method import (
    Method,
    Offline,
    Online,
    Trained,
    adapt_each,
    register,
)
from metaheac_jax.methods.user_features import (
    Features,
    examples_of,
    learn_features,
    vectors_of,
)
from metaheac_jax.model import AdaptedWeights, State, Weights
from metaheac_jax.ranking import auc
from metaheac_jax.solvers.posterior import (
    Examples,
    Gaussian,
    Learned,
    learn_prior,
    posterior_mode,
)

_FIRST_VARIANCE = 0.02  # prior variance of a weight at the start of EM
_PASSES = 5  # over the examples of training campaigns
#: Correlations of campaigns that share an attribute that are tried, and their maximum sum.
_CORRELATIONS, _MAX_CORRELATION = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5), 0.9
_SAMPLE = 4096  # maximum number of a campaign's examples that choose correlations
#: Variance, relative to the prior's, of the difference between a campaign's mode and its weights.
_NOISE = 0.15
_MIN_LEFT = 0.2  # minimum fraction of the covariance that remains when attributes are known


@dataclass(frozen=True)
class LearnedPriorConfig(Config):
    """Settings of the learned prior."""

    num_factors: int = setting(10, least=0)
    """Maximum number of joint factors of users; see `data.factors`."""
    list_lengths: bool = setting(True, shapes=True)
    """Whether list lengths are user fields too; see `data.list_lengths`."""


class Prior(NamedTuple):
    """The prior of campaigns' weights; a state has it under ``prior``.

    Weights are a Gaussian process over campaigns, with the same correlations for each weight.

    Attributes:
      mean: (p,) mean weights.
      scale: (p, p) lower triangular; times its transpose it is the covariance.
      rows: (C, N) table rows of the attributes of the training campaigns.
      correlation: (N,) correlation of campaigns that share an attribute.
      inverse: (C, C) inverse of the correlations of the training campaigns.
      pull: (C, p) the inverse times the differences of their weights from the mean.
    """

    mean: np.ndarray
    scale: np.ndarray
    rows: np.ndarray
    correlation: np.ndarray
    inverse: np.ndarray
    pull: np.ndarray

    @staticmethod
    def learned(
        learned: Learned, campaigns: Sequence[Examples], rows: np.ndarray, num_rows: int
    ) -> Prior:
        """The prior, with the correlations that suit the training campaigns.

        Args:
          learned: learned from these campaigns.
          campaigns: C.
          rows: (C, N) table rows of their attributes, below R if they are known.
          num_rows: R.
        """
        (mean, covariance), modes = learned
        shared = _shared(rows, rows, num_rows)
        correlation = choose_correlations(shared, learned, campaigns)
        inverse = np.linalg.inv(_correlations(shared, correlation))
        scale = np.linalg.cholesky(covariance)
        return Prior(mean, scale, rows, correlation, inverse, inverse @ (modes - mean))

    def of(self, campaign: np.ndarray, num_rows: int) -> Gaussian:
        """The prior of a campaign with these attributes, (N,) table rows.

        The mean is moved to campaigns with the same attributes, and the covariance shrinks.
        """
        own = self.correlation @ _shared(self.rows, campaign[None], num_rows)[..., 0]
        left = max(1 - own @ self.inverse @ own, _MIN_LEFT)
        return Gaussian(self.mean + own @ self.pull, left * self.scale @ self.scale.T)


@register
class LearnedPrior(Method[LearnedPriorConfig]):
    """A regression per campaign under a learned prior."""

    name, label, default = "learned-prior", "Learned prior", LearnedPriorConfig()

    @property
    def min_campaigns(self) -> int:
        """Returns two, whose difference shows how much weights vary."""
        return 2

    def train(self, offline: Offline) -> Trained:
        """Learns features of users, then the prior: the offline stage."""
        dataset, count = offline.dataset, len(offline.campaigns)
        offline.progress(f"{offline.label}: features of users", 0, 2)
        table, features = learn_features(offline, self.config.num_factors)
        offline.progress(f"{offline.label}: a prior from {count} campaigns", 1, 2)
        vectors = partial(vectors_of, dataset, jnp.asarray(table))
        read = examples_of(offline)
        campaigns = [Examples(features(vectors(users)), *rest) for users, rest in read]
        strength, first = len(features.groups), np.full(len(features.groups), _FIRST_VARIANCE)
        learned = learn_prior(campaigns, features.groups, first, strength=strength, passes=_PASSES)
        rows = dataset.campaign_rows[offline.campaigns]
        prior = Prior.learned(learned, campaigns, rows, dataset.num_rows)
        offline.progress(f"{offline.label}: a prior from {count} campaigns", 2, 2)
        return Trained(
            {
                "network": {"head": features.head(prior.mean, 0.0)},
                "table": table,
                "features": features._asdict(),
                "prior": prior._asdict(),
            }
        )

    def columns(self, online: Online, arrays: Mapping[str, Any]) -> Columns:
        """Says what the arrays must be, for p features and C training campaigns."""
        dataset = online.lengthened(self.config.list_lengths, ())[0].dataset
        num_rows, attributes = dataset.num_rows, len(dataset.schema.campaign)
        width = np.shape(arrays.get("table", np.zeros((0, 0))))[-1]
        num_factors = len(dataset.schema.user) * width + 1
        every = {"mean": ("p",), "scale": ("p", "p"), "correlation": (attributes,)}
        every |= {"inverse": ("C", "C"), "pull": ("C", "p")}
        return {
            "network/head": Column("f4", (num_factors,)),
            "table": Column("f4", (num_rows, width)),
            "features/weights": Column("f4", (num_factors, "p")),
            "features/groups": Column("i4 i8", ("p",), 0),
            "prior/rows": Column("i4", ("C", attributes), 0, num_rows + 1),
            **{f"prior/{name}": Column("f4 f8", shape) for name, shape in every.items()},
        }

    def adapt(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[ProgramScorer]:
        """Finds the mode of the posterior of each campaign's weights: the online stage."""
        return self._scorers(online, state, campaigns, learns=True)

    def general_scorers(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[ProgramScorer]:
        """Returns scorers by the mean of each campaign's prior, which its attributes set."""
        return self._scorers(online, state, campaigns, learns=False)

    def _scorers(
        self, online: Online, state: State, campaigns: Sequence[Campaign], *, learns: bool
    ) -> list[ProgramScorer]:
        weights = Weights(state["network"], state["table"])
        features = Features(**jax.device_get(state["features"]))
        prior = Prior(**jax.device_get(state["prior"]))

        def adapt(examples: Batch) -> AdaptedWeights:
            own = prior.of(examples.ids.campaign, online.dataset.num_rows)
            mode = np.append(own.mean, 0.0)
            if learns:
                x = features(vectors_of(online.dataset, weights.table, examples.ids.user))
                mode = posterior_mode(Examples(x, examples.label, examples.weight), own)
            head = features.head(mode[:-1], mode[-1])
            return AdaptedWeights({"head": head}, np.empty(0, np.int32), weights.table[:0])

        return adapt_each(online, LinearHead(), weights, campaigns, adapt)


def _shared(rows: np.ndarray, others: np.ndarray, num_rows: int) -> np.ndarray:
    """(C, N) and (D, N) table rows of attributes -> (N, C, D) bool, whether they are the same.

    An unknown value, which has the pad id, is the same as no other.
    """
    return ((rows[:, None] == others) & (rows[:, None] < num_rows)).transpose(2, 0, 1)


def _correlations(shared: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """(N, C, C) shared attributes and their correlations (N,) -> (C, C), with the modes' noise."""
    matrix = np.tensordot(correlation, shared, axes=1)
    np.fill_diagonal(matrix, 1 + _NOISE)
    return matrix


def choose_correlations(
    shared: np.ndarray, learned: Learned, campaigns: Sequence[Examples]
) -> np.ndarray:
    """(N,) the correlations with which the other campaigns tell most about each campaign.

    They have the highest mean AUC of the means of priors that leave out the campaign itself
    (Rasmussen and Williams 2006, equation 5.12), on some of its examples. One attribute is chosen
    after the other, twice.

    Args:
      shared: (N, C, C) whether campaigns share an attribute.
      learned: the prior and the modes of the campaigns.
      campaigns: C.
    """
    (mean, _), modes = learned
    steps = [max(1, -(-len(campaign.label) // _SAMPLE)) for campaign in campaigns]
    some = [
        (examples.features[::n], examples.label[::n])
        for examples, n in zip(campaigns, steps, strict=True)
    ]
    both = np.flatnonzero([0 < label.sum() < len(label) for _, label in some])
    tried = dict[bytes, float]()

    def quality(correlation: np.ndarray) -> float:
        key = correlation.tobytes()
        if key not in tried:
            inverse = np.linalg.inv(_correlations(shared, correlation))
            left_out = modes - inverse @ (modes - mean) / np.diag(inverse)[:, None]
            tried[key] = sum(auc(some[c][0] @ left_out[c], some[c][1]) for c in both.tolist())
        return tried[key]

    correlation = np.zeros(len(shared))
    for attribute in [*range(len(shared))] * 2:
        every = np.tile(correlation, (len(_CORRELATIONS), 1))
        every[:, attribute] = _CORRELATIONS
        correlation = max(every[every.sum(axis=1) <= _MAX_CORRELATION], key=quality)
    return correlation
