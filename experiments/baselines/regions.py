"""Pinterest: an embedding of users and campaigns, and the fraction of seeds in a user's region.

This follows the paper's section 4.1 after deWet and Ou, *Finding Users Who Act Alike* (KDD 2019):
one embedding model for all campaigns. The online stage only counts.

Axes: B examples, n examples of a campaign, P users of a pool, S slots of a user, R table rows, k
embedding width, h width of the space, D draws of hyperplanes, b bits of a region.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.baselines.towers import Towers
from metaheac_jax.customising.score import over_chunks
from metaheac_jax.data.batches import Batch, ExampleBatch, campaign_examples, generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import UserRows
from metaheac_jax.methods import Run, Trained, register
from metaheac_jax.methods.config import GradientConfig
from metaheac_jax.methods.method import GradientMethod
from metaheac_jax.methods.offline import plain_sampler, train_rows, untrained
from metaheac_jax.model import FunctionScorer, Scorer, State, Weights
from metaheac_jax.table.layout import Layout
from metaheac_jax.training.losses import masked
from metaheac_jax.training.step import Gradient, plain_gradient

# The paper does not state these; they are not tuned.
MARGIN = 0.2  # between the cosines to a seed's own campaign and to another one
NUM_OTHERS = 8  # other campaigns per seed
DRAWS = 512  # draws of hyperplanes; scores are averaged over them
#: Average users per region. They must outweigh the prior users that `region_score` adds.
USERS_PER_REGION = 64
MAX_BITS = 12

_QUANTUM = 512  # seeds of a step are padded to a multiple of it, so steps rarely recompile
_NETWORK = Towers()


def seeds_only(batch: ExampleBatch) -> ExampleBatch:
    """The seeds of a batch, in the same order, padded to a multiple of `_QUANTUM` with weight 0.

    The padding repeats seeds, so that every neighbour of an example is a seed.
    """
    seeds = np.flatnonzero(batch.examples.label * batch.examples.weight)
    size = -(-max(len(seeds), 1) // _QUANTUM) * _QUANTUM
    pick = np.resize(seeds, size)
    examples = jax.tree.map(lambda leaf: leaf[pick], batch.examples)
    weight = (np.arange(size) < len(seeds)).astype(np.float32)
    return batch._replace(examples=examples._replace(weight=weight))


def ranking_gradient(
    layout: Layout, *, margin: float = MARGIN, num_others: int = NUM_OTHERS
) -> Gradient[Batch]:
    """``gradient(params, batch)`` of max(0, margin - cos(u, c) + cos(u, c')), mean over seeds.

    u is a seed of campaign c, and c' is the campaign of a neighbour in the batch. The order of the
    batch is random, so large campaigns occur more often. The term is constant if c' is c. Non-seeds
    are not used, since the campaigns close to them are unknown.

    Args:
      layout: layout of the ids.
      margin: margin between the cosines.
      num_others: number of campaigns c' per seed.
    """

    def loss(params: Any, batch: Batch) -> Array:
        fields, campaigns = layout.inputs(params["table"], batch.ids)
        output: Any = _NETWORK.apply(params["network"], fields.dense(), campaigns)
        user, campaign = output
        near = (user * campaign).sum(axis=-1)
        far = [
            (user * jnp.roll(campaign, shift, axis=0)).sum(axis=-1)
            for shift in range(1, num_others + 1)
        ]
        values = jax.nn.relu(margin - near + jnp.stack(far)).mean(axis=0)
        return masked(values, batch.label * batch.weight, "mean")

    return plain_gradient(loss)


def region_score(seeds: np.ndarray, users: np.ndarray) -> np.ndarray:
    """(s + 1) / (n + 4) for regions with s seeds among n users; an empty region scores 1/4."""
    return (seeds + 1) / (users + 4)


def score_regions(codes: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The score of every region in every draw.

    Args:
      codes: (n, D) from `user_codes`, with `MAX_BITS` bits.
      label: (n,) 1 for a seed.

    Returns:
      (D, 2^b) scores. A region is the lowest b bits of a code, and b is the largest number, from 1
      to `MAX_BITS`, that leaves `USERS_PER_REGION` users per region on average.
    """
    users, draws = codes.shape
    bits = np.clip(int(np.log2(max(users / USERS_PER_REGION, 1))), 1, MAX_BITS)
    regions = np.ascontiguousarray(codes.T) % 2**bits
    is_seed = np.asarray(label, np.int32)
    both = np.stack([np.bincount(2 * own + is_seed, minlength=2 * 2**bits) for own in regions])
    non_seeds, seeds = both.reshape(draws, 2**bits, 2).transpose(2, 0, 1)
    return region_score(seeds, seeds + non_seeds)


def mean_score(scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(D, 2^b) scores and (P, D) codes of users -> (P,) mean score of the users' regions."""
    draws, regions = scores.shape
    return scores[np.arange(draws), codes % regions].mean(axis=-1)


@functools.partial(jax.jit, static_argnames="layout")
def user_codes(params: Any, table: Array, normals: Array, users: Array, *, layout: Layout) -> Array:
    """Codes of the sides of hyperplanes through the origin on which users lie.

    Args:
      params: parameters of the network.
      table: (R, k).
      normals: (D, b, h) normals of the hyperplanes.
      users: (B, S) table rows.
      layout: layout of the users' table rows.

    Returns:
      (B, D) int32, one bit per hyperplane.
    """
    fields = layout.users(table, users).dense()
    user: Any = _NETWORK.apply(params, fields, method="user")
    sides = jnp.einsum("uh,dbh->udb", user, normals) > 0
    return (sides << jnp.arange(normals.shape[1])).sum(axis=-1, dtype=jnp.int32)


@dataclass(frozen=True)
class PinterestConfig(GradientConfig):
    """Settings of Pinterest's method."""

    tuned: ClassVar[tuple[str, ...]] = ("outer_learning_rate",)


@register
class Pinterest(GradientMethod[PinterestConfig]):
    """Pinterest's method: a ranking loss offline, counts online (paper section 4.1)."""

    name, label, default = "pinterest", "Pinterest", PinterestConfig()

    def fit(self, run: Run) -> Trained:
        """Trains both embeddings with `ranking_gradient` on the seeds of plain batches."""
        gradient = ranking_gradient(run.dataset.layout)
        weights = untrained(run, self.config, _NETWORK)
        examples = plain_sampler(run, self.config)
        draw = lambda step: seeds_only(examples(step))  # noqa: E731
        return train_rows(run, self.config, weights, gradient, draw)

    def customise(self, run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Counts each campaign's seeds and users in the regions of the space, without training.

        The users of a region are those of the campaign's examples, seeds and non-seeds. All
        campaigns share the hyperplanes.
        """
        weights, dataset = Weights(**state), run.dataset
        normals = generator(run.seed, 0).normal(size=(DRAWS, MAX_BITS, _NETWORK.features))
        sides = functools.partial(
            user_codes, *weights, jnp.asarray(normals, jnp.float32), layout=dataset.layout
        )

        def scorer(campaign: Campaign) -> Scorer:
            examples = campaign_examples(dataset, campaign)
            scores = score_regions(over_chunks(sides, examples.ids.user), examples.label)

            def score(users: UserRows) -> np.ndarray:
                return over_chunks(lambda part: mean_score(scores, np.asarray(sides(part))), users)

            return FunctionScorer(score, log_odds=False)

        return list(map(scorer, campaigns))
