"""Seed features: by user field, how much more a user resembles a campaign's seeds than non-seeds.

    s_f(u) = x_f(u) . d_f / |d_f|,    f = 1..M
    d_f = mean of x_f over the seeds - mean of x_f over the non-seeds

with x_f the vector of user field f, and |d_f| taken for a constant. They are fed to the experts
beside the user, so that much of what fine-tuning would have to learn about a campaign is known
before it starts. Not in the paper.

The means are taken over a *reference set*: some of the campaign's seeds and non-seeds. Nobody of it
may be an example of the loss. (To leave each user out of its own means is not enough: of two users
alike, the seed's feature lacks itself, which tells its label.) So half of a campaign's examples, or
as many as there is room for, are the reference set of the others: of the support set in meta-
training, of D_c online. Those of a query set or a pool are compared with all of them. (A campaign
with a single seed thus adapts with features of 0, and has features in its pool.) The reference set
travels as table rows behind the campaign's own fields, in `Batch.campaign`, so samplers, row-local
steps and the online stage take it along without knowing of it. All of it is differentiable, the
means included. Once a model is customised d / |d| is a fixed (M, k) *direction*, and scoring a pool
costs M dot products a user more.

Axes: C campaigns, B examples, Q seeds (and as many non-seeds) of a reference set, S slots of a
user, M user fields, N campaign fields, k embedding width, R rows of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.data.sampling import CampaignBatch
from metaheac_jax.fields import UserFields, user_fields
from metaheac_jax.losses import Batch, Loss, Reduction, cross_entropy, masked
from metaheac_jax.network import Output, User
from metaheac_jax.offline import General
from metaheac_jax.online import Customised


class SeedNetwork(NamedTuple):
    """A network that takes seed features, as a `Network` for one campaign.

    Its parameters are those of the network inside, and the campaign's direction, which is zero in a
    general model: of no campaign it knows the seeds.

    Attributes:
      inside: its ``init`` and ``apply`` take ``features``, (B, M), as the last argument, as
        `network.MetaHeac` does.
    """

    inside: Any

    def init(self, key: Any, user: User, campaign: Array) -> dict[str, Any]:
        """Parameters, drawn with the key; (B, M, k) and (N, k)."""
        fields = UserFields.of(user).dense()
        inside = self.inside.init(key, user, campaign, jnp.zeros(fields.shape[:-1]))
        return {"inside": inside, "direction": jnp.zeros(fields.shape[-2:])}

    def apply(
        self, params: dict[str, Any], user: User, campaign: Array, features: Array | None = None
    ) -> Output:
        """(B, M, k) user and (N, k) campaign fields, (B, M) features -> `Output`.

        Without ``features`` they are those of the parameters' direction.
        """
        if features is None:
            features = seed_features(user, params["direction"])
        return self.inside.apply(params["inside"], user, campaign, features)


def reference_rows(examples: Batch, size: int, pad: int) -> np.ndarray:
    """The users of a reference set, (2 Q S,) rows: seeds, then non-seeds.

    Args:
      examples: one campaign's; leaves (B, ...). Those of weight 0 are not taken.
      size: Q. Where there are more seeds or non-seeds, evenly spaced ones are taken.
      pad: the id that counts for nothing.
    """
    sides = []
    for kind in (1, 0):
        users = examples.user[(examples.label == kind) & (examples.weight > 0)]
        users = _evenly(users, size)
        missing = ((0, size - len(users)), (0, 0))
        sides.append(np.pad(users, missing, constant_values=pad).ravel())
    return np.concatenate(sides).astype(np.int32)


def _evenly(array: np.ndarray, size: int) -> np.ndarray:
    """At most so many members of an array, evenly spaced."""
    if len(array) <= size:
        return array
    return array[np.linspace(0, len(array) - 1, size).astype(int)]


def with_reference(examples: Batch, size: int, pad: int) -> Batch:
    """One campaign's examples, some of them made the reference set of the others.

    Args:
      examples: leaves (B, ...), and (N,) for the campaign.
      size: Q. Of the seeds, and of the non-seeds, every second one up to so many.
      pad: the id that counts for nothing.

    Returns:
      The same with ``campaign`` (N + 2 Q S,), and weight 0 for who is in the reference set.
    """
    taken = np.zeros(len(examples.label), bool)
    for kind in (1, 0):
        members = np.flatnonzero((examples.label == kind) & (examples.weight > 0))
        taken[_evenly(members[1::2], size)] = True
    rows = reference_rows(examples._replace(weight=examples.weight * taken), size, pad)
    campaign = np.concatenate([examples.campaign, rows]).astype(np.int32)
    return examples._replace(campaign=campaign, weight=examples.weight * ~taken)


class ReferenceSampler:
    """Support and query sets with reference sets: half of the support set, and all of it."""

    def __init__(self, sampler: Callable[[int], CampaignBatch], *, size: int) -> None:
        """Args:
        sampler: of support and query sets that share no user, for example `CampaignSampler`.
        size: Q, see `reference_rows`.
        """
        self._sampler, self._size = sampler, size

    def __call__(self, step: int) -> CampaignBatch:
        """The batch of one step; ``campaign`` of its sets is (C, N + 2 Q S)."""
        batch = self._sampler(step)
        pad, size = batch.own.shape[1], self._size
        members = [Batch(*leaves) for leaves in zip(*batch.support, strict=True)]
        split = [with_reference(m, size, pad) for m in members]
        everyone = [np.concatenate([m.campaign, reference_rows(m, size, pad)]) for m in members]
        return batch._replace(
            support=Batch(*(np.stack(leaves) for leaves in zip(*split, strict=True))),
            query=batch.query._replace(campaign=np.stack(everyone)),
        )


#: Keeps a difference that is nearly nothing from being blown up.
_LEAST = 1e-3


def seed_features(user: User, direction: Array) -> Array:
    """(B, M, k) field vectors of users and (M, k) -> (B, M)."""
    return jnp.einsum("bmk,mk->bm", UserFields.of(user).dense(), direction)


def direction(reference: User, present: Array) -> Array:
    """d / |d|, (M, k); 0 where there is no seed, or no non-seed, to compare with.

    The lengths are constants to a derivative. Without them features would be as small as the square
    of the table's scale, and ignored.

    Args:
      reference: (2, Q, M, k) field vectors of seeds and of non-seeds, zero where padded.
      present: (2, Q), 1 for a user of the reference set and 0 for padding.
    """
    count = present.sum(axis=-1)
    mean = UserFields.of(reference).sum_over_users() / jnp.maximum(count, 1)[:, None, None]
    difference = jnp.where((count > 0).all(), mean[0] - mean[1], 0)
    length = jnp.sqrt((jax.lax.stop_gradient(difference) ** 2).sum(axis=-1, keepdims=True))
    return difference / (length + _LEAST)


def _direction_of(
    table: Array, ids: Array, slots: tuple[int, ...], small: tuple[int, ...]
) -> Array:
    """The direction of a reference set given as rows, (2 Q S,)."""
    users = ids.reshape(2, -1, sum(slots))
    present = (users < table.shape[0]).any(axis=-1)
    return direction(user_fields(table, users, slots, small_fields=small), present)


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
      apply: as `SeedNetwork.apply`; features are given, so its direction is not used.
      user_slots: slots of each of the M user fields.
      campaign_fields: N.
      small_fields: as `fields.user_fields` takes it.
      reduction: over the minibatch.

    Returns:
      A function of ``params = {"network": ..., "table": (R, k)}`` and a `Batch` whose ``campaign``
      is (N + 2 Q S,), as from `with_reference`.
    """
    slots = tuple(user_slots)

    def loss(params: Any, batch: Batch) -> Array:
        table = params["table"]
        towards = _direction_of(table, batch.campaign[campaign_fields:], slots, small_fields)
        user = user_fields(table, batch.user, slots, small_fields=small_fields)
        campaign = table.at[batch.campaign[:campaign_fields]].get(mode="fill", fill_value=0)
        output = apply(params["network"], user, campaign, seed_features(user, towards))
        values = cross_entropy(output.log_p, output.log_not_p, batch.label)
        return masked(values, batch.weight, reduction)

    return loss


def build_direct(
    user_slots: Sequence[int],
    *,
    small_fields: tuple[int, ...] = (),
) -> Callable[[General, Customised, Any], Customised]:
    """Builds ``direct``, jitted: it gives a customised model the direction that scoring needs."""
    slots = tuple(user_slots)

    @jax.jit
    def found(table: Array, rows: Any, values: Array, ids: Any) -> Array:
        return _direction_of(table.at[rows].set(values, mode="drop"), ids, slots, small_fields)

    def direct(general: General, model: Customised, reference: Any) -> Customised:
        """The model with the direction of its adapted rows.

        Args:
          general: what was customised.
          model: by `online.build_customise`.
          reference: (2 Q S,) from `reference_rows`.
        """
        towards = found(general.table, model.rows, model.values, reference)
        return model._replace(network={**model.network, "direction": towards})

    return direct
