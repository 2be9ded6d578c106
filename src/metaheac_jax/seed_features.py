"""Seed features: by user field, how much more a user resembles a campaign's seeds than non-seeds.

    s_f(u) = x_f(u) . d_f / |d_f|,    f = 1..M
    d_f = mean of x_f over the seeds - mean of x_f over the non-seeds

with x_f the vector of user field f, and |d_f| taken for a constant. They are fed to the experts
beside the user, so that much of what fine-tuning would have to learn about a campaign is known
before it starts. Not in the paper.

The means are taken over a *reference set*: some of the campaign's seeds and non-seeds, with the
user itself left out. (That tells its label: of two users alike, the seed's feature lacks itself.
Users outside the reference set, as those of a query set or a pool, are not concerned.) In
meta-training it comes from the support set, for support and query alike; online from D_c. It
travels as table rows behind the campaign's own fields, in `Batch.campaign`, so samplers, row-local
steps and the online stage take it along without knowing of it. All of it is differentiable, the
means included. Once a model is customised d / |d| is a fixed (M, k) *direction*, and scoring a pool
costs M dot products a user more.

Axes: C campaigns, B examples, Q seeds (and as many non-seeds) of a reference set, S slots of a
user, M user fields, N campaign fields, k embedding width, R rows of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.data.sampling import CampaignBatch
from metaheac_jax.losses import Batch, Loss, Reduction, cross_entropy, masked
from metaheac_jax.network import Output
from metaheac_jax.offline import General
from metaheac_jax.online import Customised
from metaheac_jax.rows import field_vectors


class SeedNetwork(NamedTuple):
    """A network that takes seed features, as a `Network` for one campaign.

    Its parameters are those of the network inside, and the campaign's direction, which is zero in a
    general model: of no campaign it knows the seeds.

    Attributes:
      inside: its ``init`` and ``apply`` take ``features``, (B, M), as the last argument, as
        `network.MetaHeac` does.
    """

    inside: Any

    def init(self, key: Any, user: Array, campaign: Array) -> dict[str, Any]:
        """Parameters, drawn with the key; (B, M, k) and (N, k)."""
        inside = self.inside.init(key, user, campaign, jnp.zeros(user.shape[:-1]))
        return {"inside": inside, "direction": jnp.zeros(user.shape[-2:])}

    def apply(
        self, params: dict[str, Any], user: Array, campaign: Array, features: Array | None = None
    ) -> Output:
        """(B, M, k) user and (N, k) campaign fields, (B, M) features -> `Output`.

        Without ``features`` they are those of the parameters' direction.
        """
        if features is None:
            features = jnp.einsum("bmk,mk->bm", user, params["direction"])
        return self.inside.apply(params["inside"], user, campaign, features)


def with_reference(examples: Batch, size: int, pad: int) -> Batch:
    """One campaign's examples, with a reference set drawn from them behind the campaign's fields.

    Args:
      examples: leaves (B, ...), and (N,) for the campaign.
      size: Q. Where there are more seeds or non-seeds, evenly spaced ones are taken.
      pad: the id that counts for nothing.

    Returns:
      The same with ``campaign`` (N + 2 Q S,): fields, seeds, non-seeds.
    """
    campaign = [examples.campaign]
    for kind in (1, 0):
        users = examples.user[(examples.label == kind) & (examples.weight > 0)]
        if len(users) > size:
            users = users[np.linspace(0, len(users) - 1, size).astype(int)]
        missing = ((0, size - len(users)), (0, 0))
        campaign.append(np.pad(users, missing, constant_values=pad).ravel())
    return examples._replace(campaign=np.concatenate(campaign).astype(np.int32))


class ReferenceSampler:
    """Support and query sets, both with a reference set from the support set."""

    def __init__(self, sampler: Callable[[int], CampaignBatch], *, size: int) -> None:
        """Args:
        sampler: of support and query sets, for example `CampaignSampler`.
        size: Q, see `with_reference`.
        """
        self._sampler, self._size = sampler, size

    def __call__(self, step: int) -> CampaignBatch:
        """The batch of one step; ``campaign`` of its sets is (C, N + 2 Q S)."""
        batch = self._sampler(step)
        pad, size = batch.own.shape[1], self._size
        members = [Batch(*leaves) for leaves in zip(*batch.support, strict=True)]
        campaign = np.stack([with_reference(m, size, pad).campaign for m in members])
        return batch._replace(
            support=batch.support._replace(campaign=campaign),
            query=batch.query._replace(campaign=campaign),
        )


#: Keeps a difference that is nearly nothing from being blown up.
_LEAST = 1e-3


def _length(difference: Array) -> Array:
    """(M,) lengths of (M, k) differences of means, as constants.

    Without them features would be as small as the square of the table's scale, and ignored.
    """
    return jnp.sqrt((jax.lax.stop_gradient(difference) ** 2).sum(axis=-1)) + _LEAST


def _difference(reference: Array, present: Array) -> Array:
    """(M, k): mean of the seeds less mean of the non-seeds; 0 where one side has no user."""
    count = present.sum(axis=-1)
    mean = reference.sum(axis=1) / jnp.maximum(count, 1)[:, None, None]
    return jnp.where((count > 0).all(), mean[0] - mean[1], 0)


def seed_features(user: Array, reference: Array, present: Array, own: Array) -> Array:
    """The seed features of users, each left out of the means where it is in the reference set.

    Where that leaves no seed, or no non-seed, there is nothing to compare with: 0. The lengths
    |d_f| are the reference set's, for all users alike.

    Args:
      user: (B, M, k) field vectors.
      reference: (2, Q, M, k) field vectors of seeds and of non-seeds, zero where padded.
      present: (2, Q), 1 for a user of the reference set and 0 for padding.
      own: (B, 2), how often the user is among the seeds, and among the non-seeds.

    Returns:
      (B, M).
    """
    left = present.sum(axis=-1) - own
    itself = own[..., None] * (user**2).sum(axis=-1)[:, None]
    dot = jnp.einsum("bmk,smk->bsm", user, reference.sum(axis=1)) - itself
    mean = dot / jnp.maximum(left, 1)[..., None]
    known = (left > 0).all(axis=-1)
    length = _length(_difference(reference, present))
    return jnp.where(known[:, None], (mean[:, 0] - mean[:, 1]) / length, 0)


def build_seed_loss(
    apply: Callable[..., Output],
    user_slots: Sequence[int],
    *,
    campaign_fields: int,
    small_fields: tuple[int, ...] = (),
    reduction: Reduction = "mean",
) -> Loss:
    """The loss of a network that takes seed features; like `losses.build_loss`.

    Args:
      apply: as `SeedNetwork.apply`; features are given, so the direction is not used.
      user_slots: slots of each of the M user fields.
      campaign_fields: N.
      small_fields: as `rows.field_vectors` takes it.
      reduction: over the minibatch.

    Returns:
      A function of ``params = {"network": ..., "table": (R, k)}`` and a `Batch` whose ``campaign``
      is (N + 2 Q S,). A user is taken to be in the reference set if all its values are the same
      as there: left out with it are users that nothing tells apart from it.
    """
    slots = tuple(user_slots)
    vectors = partial(field_vectors, slots=slots, small_fields=small_fields)

    def loss(params: Any, batch: Batch) -> Array:
        table = params["table"]
        ids = batch.campaign[campaign_fields:].reshape(2, -1, sum(slots))
        present = (ids < table.shape[0]).any(axis=-1)
        own = _count_same(batch.user, ids, present)
        user = vectors(table, batch.user)
        features = seed_features(user, vectors(table, ids), present, own)
        campaign = table.at[batch.campaign[:campaign_fields]].get(mode="fill", fill_value=0)
        output = apply(params["network"], user, campaign, features)
        values = cross_entropy(output.log_p, output.log_not_p, batch.label)
        return masked(values, batch.weight, reduction)

    return loss


def _count_same(user: Array, ids: Array, present: Array) -> Array:
    """(B, 2): as whom of the (2, Q, S) reference users each of (B, S) users has the same ids."""

    def narrow(same: Array, slot: tuple[Array, Array]) -> tuple[Array, None]:
        of_user, of_reference = slot
        return same & (of_user[:, None, None] == of_reference), None

    # A slot at a time: reducing over the last axis took six times as long on a CPU.
    start = jnp.broadcast_to(present, (len(user), *present.shape))
    same, _ = jax.lax.scan(narrow, start, (user.T, jnp.moveaxis(ids, -1, 0)))
    return same.sum(axis=-1)


def build_direct(
    user_slots: Sequence[int],
    *,
    campaign_fields: int,
    small_fields: tuple[int, ...] = (),
) -> Callable[[General, Customised, Any], Customised]:
    """Builds ``direct``, jitted: it gives a customised model the direction that scoring needs."""
    slots = tuple(user_slots)
    vectors = partial(field_vectors, slots=slots, small_fields=small_fields)

    @jax.jit
    def direction(table: Array, rows: Any, values: Array, ids: Any) -> Array:
        table = table.at[rows].set(values, mode="drop")
        present = (ids < table.shape[0]).any(axis=-1)
        difference = _difference(vectors(table, ids), present)
        return difference / _length(difference)[:, None]

    def direct(general: General, model: Customised, campaign: Any) -> Customised:
        """The model with the direction of its adapted rows.

        Args:
          general: what was customised.
          model: by `online.build_customise`.
          campaign: (N + 2 Q S,) from `with_reference`.
        """
        ids = campaign[campaign_fields:].reshape(2, -1, sum(slots))
        found = direction(general.table, model.rows, model.values, ids)
        return model._replace(network={**model.network, "direction": found})

    return direct
