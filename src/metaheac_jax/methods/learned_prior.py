"""The learned prior: a regression per campaign, under a prior that is learned from all campaigns.

    user features -> prior -> posterior of a campaign

The features (`methods.user_features`) need no labels. The weights of a campaign have a Gaussian
prior, whose mean and covariance are learned from the training campaigns (`solvers.posterior`), and
whose mean moves towards the weights of training campaigns with the same attributes. Features that
are linear in values miss what only combinations of values show. So the directions of users in which
campaigns differ most are learned too, and the products of each two of them are further features.
There are no gradient steps, and nothing is random but a choice of examples in very large campaigns.
The method is not in the paper.

Axes: P users, S slots of a user, R table rows, N campaign fields, k coordinates, d directions,
p features, C training campaigns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.boundary import Column, Columns
from metaheac_jax.customising.score import AdaptedScorer
from metaheac_jax.data.batches import Batch, generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.coordinates import sampled_users
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
    coordinates_of,
    factors_of,
    features_of,
    groups_of,
    network_and_features,
    with_indicators,
)
from metaheac_jax.model import AdaptedWeights, Judgement, State, Weights
from metaheac_jax.ranking import auc
from metaheac_jax.solvers.posterior import (
    Examples,
    Gaussian,
    Learned,
    learn_prior,
    posterior_mode,
)

_WIDTHS = (10, 20, 40)  # numbers of coordinates that are tried
_DIRECTIONS = 15  # whose products are tried as features
#: Users whose values give the coordinates, and those whose features give their means and scales.
_USERS_OF_COORDINATES, _USERS_OF_SCALES = 600_000, 1 << 16
#: Maximum number of examples of a training campaign; further ones hardly change its weights.
_MAX_EXAMPLES = 1 << 15
_MIN_VARIANCE = 1e-6  # of a direction, as a fraction of the largest; others are left out
#: Prior variances of the weights of a feature, and of a product, at the start of EM. It is stopped
#: before it converges, so with few campaigns the start decides how much the many products count.
_FIRST_VARIANCE, _FIRST_OF_PRODUCTS = 0.02, 0.0003
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

    num_coordinates: int | None = None
    """k, the number of coordinates of a value. None tries 10, 20 and 40 and keeps the number with
    the highest AUC on held-out training campaigns, or takes 10 without any."""
    sums: bool | None = None
    """Whether features of a list are sums over its values instead of means. None tries both with
    the fewest coordinates on held-out training campaigns, or takes means without any."""
    num_directions: int | None = setting(None, least=0)
    """d, the number of directions whose products are features. None tries 0 and 15 on held-out
    training campaigns, or takes 0 without any."""
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

    @property
    def holds_out(self) -> bool:
        """Says whether features are chosen on held-out campaigns."""
        return None in (self.config.num_coordinates, self.config.sums, self.config.num_directions)

    def fit(self, offline: Offline) -> Trained:
        """Learns coordinates of values, then the prior: the offline stage.

        Held-out campaigns choose the features, and then teach the prior too.
        """
        run = offline.lengthened(self.config.list_lengths)
        dataset, chosen = run.dataset, self.config.num_coordinates
        widths = (_WIDTHS if run.judge else _WIDTHS[:1]) if chosen is None else (chosen,)
        users = sampled_users(dataset.user_rows, _USERS_OF_COORDINATES)
        coordinates = coordinates_of(dataset, users, max(widths))
        users = sampled_users(users, _USERS_OF_SCALES)
        found, judged = list[State](), list[Judgement]()

        def best() -> State:
            return found[int(np.argmax([own.auc for own in judged])) if judged else -1]

        def add(state: State, told: str) -> None:
            found.append(state)
            if run.judge is not None:
                judged.append(run.judge(state, len(judged)))
                told += f", held-out AUC {judged[-1].auc:.4f}"
            run.progress(f"{run.label}: {told}", len(found), len(found))

        lists = any(own.slots > 1 for own in dataset.schema.user)
        sums = [False, True] if run.judge and lists else [False]
        sums = sums if self.config.sums is None else [self.config.sums]
        for width in widths:
            table = with_indicators(dataset, coordinates[:, :width])
            for pooling in sums:
                network = LinearHead(width, pooling)
                features = features_of(network, dataset, {}, table, users)
                state = self._learned(run, network, features, table, {})
                add(state, f"{width} coordinates" + ", summed" * pooling)
            sums = [bool(best()["features"]["sums"])]
        given = self.config.num_directions
        count = (_DIRECTIONS if run.judge else 0) if given is None else given
        if count:
            state = self._with_products(run, best(), count, users)
            add(state, f"products of {count} directions")
        state = found[-1] if given else best()
        if len(run.held_out):
            state = self.learned_from_all(offline, state)
        return Trained(state, tuple(judged))

    def learned_from_all(self, offline: Offline, state: State) -> State:
        """Learns the prior of a state again, from the held-out campaigns too."""
        run = offline.lengthened(self.config.list_lengths)
        run = replace(run, campaigns=np.union1d(run.campaigns, run.held_out))
        network, features = network_and_features(state)
        params = {name: own for name, own in state["network"].items() if name != "head"}
        what = f"{run.label}: learning from all {len(run.campaigns)} campaigns"
        run.progress(what, 0, 1)
        state = self._learned(run, network, features, state["table"], params)
        run.progress(what, 1, 1)
        return state

    def _with_products(
        self, run: Offline, state: State, count: int, users: np.ndarray
    ) -> dict[str, Any]:
        """A state with products of directions, at most so many of them.

        They are the principal components of the log-odds of users (P, S) under the state's prior.
        """
        network, features = network_and_features(state)
        table, scale = state["table"], state["prior"]["scale"]
        known = factors_of(network, run.dataset.layout, {}, jnp.asarray(table), users)
        spread = scale.T @ np.cov(features(known), rowvar=False) @ scale
        variance, components = np.linalg.eigh(spread)
        first = np.flatnonzero(variance > _MIN_VARIANCE * variance[-1])[-count:]
        components = scale @ components[:, first] / np.sqrt(variance[first])
        params = {"directions": features.head(components, 0.0, known.shape[1])}
        features = features_of(network, run.dataset, params, table, users)
        return self._learned(run, network, features, table, params)

    def _learned(
        self,
        run: Offline,
        network: LinearHead,
        features: Features,
        table: np.ndarray,
        params: dict[str, Array],
    ) -> dict[str, Any]:
        """The state with the prior of a table (R, k) that the run's campaigns teach."""
        dataset, stage, campaigns = run.dataset, run.dataset.stage1, list[Examples]()
        num_factors, device_table = 0, jnp.asarray(table)
        for c in run.campaigns.tolist():
            kept = np.arange(*stage.offsets[c : c + 2])
            if len(kept) > _MAX_EXAMPLES:
                kept = np.sort(generator(run.seed, c).permutation(kept)[:_MAX_EXAMPLES])
            users = dataset.user_rows.of_examples(stage.user[kept], c)
            known = factors_of(network, dataset.layout, params, device_table, users)
            campaigns.append(Examples(features(known), stage.label[kept]))
            num_factors = known.shape[1]
        groups = groups_of(features.columns, network, len(dataset.schema.user))
        first = np.where(groups < len(dataset.schema.user), _FIRST_VARIANCE, _FIRST_OF_PRODUCTS)
        learned = learn_prior(campaigns, groups, first, strength=len(groups), passes=_PASSES)
        rows = dataset.campaign_rows[run.campaigns]
        prior = Prior.learned(learned, campaigns, rows, dataset.num_rows)
        head = features.head(prior.mean, 0.0, num_factors)
        return {
            "network": {"head": head, **params},
            "table": table,
            "features": {**features._asdict(), "sums": np.array(network.sums)},
            "prior": prior._asdict(),
        }

    def columns(self, online: Online, arrays: Mapping[str, Any]) -> Columns:
        """Says what the arrays must be, for p features and C training campaigns."""
        dataset = online.lengthened(self.config.list_lengths, ())[0].dataset
        num_rows, attributes = dataset.num_rows, len(dataset.schema.campaign)
        width, count = (
            np.shape(arrays.get(name, 0))[-1] if np.ndim(arrays.get(name, 0)) == 2 else 0
            for name in ("table", "network/directions")
        )
        linear = len(dataset.schema.user) * width + 1
        num_factors = linear + count * (count + 1) // 2
        directions = {"network/directions": Column("f4", (linear, count))}
        every = {"mean": ("p",), "scale": ("p", "p"), "correlation": (attributes,)}
        every |= {"inverse": ("C", "C"), "pull": ("C", "p")}
        return {
            **(directions if "network/directions" in arrays else {}),
            "network/head": Column("f4", (num_factors,)),
            "table": Column("f4 f8", (num_rows, width)),
            "features/columns": Column("i4 i8", ("p",), 0, num_factors),
            "features/centre": Column("f4", ("p",)),
            "features/deviation": Column("f4", ("p",), 0),
            "features/sums": Column("b1", ()),
            "prior/rows": Column("i4", ("C", attributes), 0, num_rows + 1),
            **{f"prior/{name}": Column("f4 f8", shape) for name, shape in every.items()},
        }

    def customise(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[AdaptedScorer]:
        """Finds the mode of the posterior of each campaign's weights: the online stage."""
        return self._scorers(online, state, campaigns, learns=True)

    def general_scorers(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> list[AdaptedScorer]:
        """Returns scorers by the mean of each campaign's prior, which its attributes set."""
        return self._scorers(online, state, campaigns, learns=False)

    def _scorers(
        self, online: Online, state: State, campaigns: Sequence[Campaign], *, learns: bool
    ) -> list[AdaptedScorer]:
        online, campaigns = online.lengthened(self.config.list_lengths, campaigns)
        layout, weights = online.dataset.layout, Weights(state["network"], state["table"])
        network, features = network_and_features(state)
        prior = Prior(**jax.device_get(state["prior"]))
        num_factors = len(weights.network["head"])
        factors = partial(factors_of, network, layout, weights.network, weights.table)

        def adapt(examples: Batch) -> AdaptedWeights:
            own = prior.of(examples.ids.campaign, online.dataset.num_rows)
            mode = np.append(own.mean, 0.0)
            if learns:
                x = features(factors(examples.ids.user))
                mode = posterior_mode(Examples(x, examples.label), own)
            head = features.head(mode[:-1], mode[-1], num_factors)
            return AdaptedWeights({"head": head}, np.empty(0, np.int32), weights.table[:0])

        return adapt_each(online, network, weights, campaigns, adapt)


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
    steps = [max(1, -(-len(own.label) // _SAMPLE)) for own in campaigns]
    some = [(own.features[::n], own.label[::n]) for own, n in zip(campaigns, steps, strict=True)]
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
