"""Pinterest: one space for all users and campaigns, and the share of seeds in a user's part of it.

After deWet and Ou, *Finding Users Who Act Alike* (KDD 2019), as the paper's section 4.1 has it: one
embedding model across all campaigns, and online nothing but counting.

Axes: B examples, P users of a pool, S slots of a user, h width of an embedding, D draws of
hyperplanes, b bits of a region.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.methods.chunks import over_chunks
from experiments.methods.fine_tuned import plain_sampler, train_rows, untrained
from experiments.methods.method import Job, Method, Scorer, Watch
from metaheac_jax.baselines import Towers
from metaheac_jax.data.sampling import ExampleBatch, campaign_examples, generator
from metaheac_jax.fields import field_vectors
from metaheac_jax.losses import Batch, masked
from metaheac_jax.offline import General, PlainInfo

# What the paper leaves open, chosen beforehand and not tuned.
MARGIN = 0.2  # of cosines, by which a seed's own campaign must be nearer than another one
OTHERS = 8  # campaigns that each seed's own one is compared with
DRAWS = 64  # of hyperplanes; scores are averaged over them
# The more users, the finer the regions: as many as leave each this many users on average, so that
# the four prior users of the score do not outweigh those who are there.
USERS_PER_REGION = 64
MOST_BITS = 12

_QUANTUM = 512  # seeds of a step are filled up to a multiple of this, so that it compiles once
_NETWORK = Towers()
_apply: Callable[..., Any] = _NETWORK.apply


def train_space(job: Job) -> General:
    """Trains both embeddings by `ranking_gradient` on the seeds of plain training's batches."""
    dataset = job.dataset
    gradient = ranking_gradient(dataset.schema.user_slots, dataset.small_fields)
    general, examples = untrained(job, _NETWORK, jax.random.key(job.seed)), plain_sampler(job)
    return train_rows(job, general, gradient, lambda n: seeds_only(examples(n)), label="Pinterest")


def seeds_only(batch: ExampleBatch) -> ExampleBatch:
    """The seeds of a batch, in its order, filled up to a multiple of `_QUANTUM` with weight 0.

    What fills up are seeds again, so that any neighbour of an example is one.
    """
    seeds = np.flatnonzero(batch.examples.label * batch.examples.weight)
    size = -(-max(len(seeds), 1) // _QUANTUM) * _QUANTUM
    pick = np.resize(seeds, size)
    examples = jax.tree.map(lambda leaf: leaf[pick], batch.examples)
    weight = (np.arange(size) < len(seeds)).astype(np.float32)
    return batch._replace(examples=examples._replace(weight=weight))


def ranking_gradient(
    user_slots: tuple[int, ...],
    small_fields: tuple[int, ...] = (),
    *,
    margin: float = MARGIN,
    others: int = OTHERS,
) -> Callable[[Any, Batch], tuple[Any, PlainInfo]]:
    """``gradient(params, batch)`` of max(0, margin - cos(u, c) + cos(u, c')), mean over seeds.

    u is a seed of campaign c, and c' the campaign of a neighbour in the batch, whose order is
    random: large campaigns are met more often. Where c' is c the term is constant. Non-seeds have
    no part, for what they are near to is not known.

    Args:
      user_slots: slots of each user field.
      small_fields: as `fields.user_fields` takes it.
      margin: see above.
      others: campaigns c' of each seed.
    """

    def loss(params: Any, batch: Batch) -> Array:
        table = params["table"]
        fields = table.at[batch.campaign].get(mode="fill", fill_value=0)
        user = field_vectors(table, batch.user, user_slots, small_fields=small_fields)
        user, campaign = _apply(params["network"], user, fields)
        near = (user * campaign).sum(axis=-1)
        far = [
            (user * jnp.roll(campaign, place, axis=0)).sum(axis=-1)
            for place in range(1, others + 1)
        ]
        values = jax.nn.relu(margin - near + jnp.stack(far)).mean(axis=0)
        return masked(values, batch.label * batch.weight, "mean")

    def gradient(params: Any, batch: Batch) -> tuple[Any, PlainInfo]:
        value, grads = jax.value_and_grad(loss)(params, batch)
        return grads, PlainInfo(value)

    return gradient


def region_score(
    seeds: np.ndarray, users: np.ndarray, *, prior_seeds: float = 1, prior_users: float = 4
) -> np.ndarray:
    """(s + a) / (n + b) of regions with s seeds among n users; any shape.

    An empty region scores a / b.
    """
    return (seeds + prior_seeds) / (users + prior_users)


def score_regions(codes: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The score of every region in every draw.

    Args:
      codes: (n, D) from `user_codes`: sides of D draws of `MOST_BITS` hyperplanes.
      label: (n,) 1 for a seed.

    Returns:
      (D, 2^b), b being as many bits as leave `USERS_PER_REGION` users a region, at least 1. A
      region is the lowest b bits of a code.
    """
    users, draws = codes.shape
    bits = np.clip(int(np.log2(max(users / USERS_PER_REGION, 1))), 1, MOST_BITS)
    place = (codes % 2**bits + 2**bits * np.arange(draws)).ravel()
    count = functools.partial(np.bincount, place, minlength=draws * 2**bits)
    seeds = count(weights=np.repeat(label, draws))
    return region_score(seeds, count()).reshape(draws, 2**bits)


def mean_score(scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(D, 2^b) scores and (P, D) codes of users -> (P,) mean score of the users' regions."""
    draws, regions = scores.shape
    return scores[np.arange(draws), codes % regions].mean(axis=-1)


@functools.partial(jax.jit, static_argnames="user_slots")
def user_codes(
    params: Any, table: Array, normals: Array, users: Array, *, user_slots: tuple[int, ...]
) -> Array:
    """On which sides of hyperplanes through the origin users lie.

    Args:
      params: of the network.
      table: (R, k).
      normals: (D, b, h) of the hyperplanes.
      users: (B, S) table rows.
      user_slots: slots of each user field.

    Returns:
      (B, D) int32, one bit a hyperplane.
    """
    user = _apply(params, field_vectors(table, users, user_slots), method="user")
    sides = jnp.einsum("uh,dbh->udb", user, normals) > 0
    return (sides << jnp.arange(normals.shape[1])).sum(axis=-1, dtype=jnp.int32)


def count_seeds(
    job: Job, general: General, campaigns: np.ndarray, watch: Watch | None = None
) -> list[Scorer]:
    """Counts each campaign's seeds and users in the regions of the space; trains nothing.

    The users of a region are those of the campaign's stage 1, seeds and non-seeds: the sample of
    the pool that the online stage has. All campaigns share the hyperplanes.
    """
    del watch
    dataset = job.dataset
    normals = generator(job.seed, 0).normal(size=(DRAWS, MOST_BITS, _NETWORK.features))
    sides = functools.partial(
        user_codes,
        general.network,
        general.table,
        jnp.asarray(normals, jnp.float32),
        user_slots=dataset.schema.user_slots,
    )

    def scorer(campaign: int) -> Scorer:
        examples = campaign_examples(dataset, campaign)
        scores = score_regions(over_chunks(sides, examples.user), examples.label)
        return lambda users: mean_score(scores, over_chunks(sides, users))

    return list(map(scorer, campaigns))


METHODS = {
    "pinterest": Method(
        label="Pinterest",
        offline=train_space,
        online=count_seeds,
        tuned=("outer_learning_rate",),
        steps=True,
        work=(3 / 8, 0),
    ),
}
