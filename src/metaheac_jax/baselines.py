"""The networks that MetaHeac is compared with (paper section 4.1).

Axes as in `network`, and C campaigns that have a head each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.fields import UserFields
from metaheac_jax.network import Experts, Network, Output, User, dense, uniform_fan_in


class LogisticRegression(nn.Module):
    """LR: one weight a feature value, that is a table of width k = 1, and a bias."""

    @nn.compact
    def __call__(self, user: User, campaign: Array) -> Output:
        """(B, M, 1) and (N, 1) or (B, N, 1) -> `Output`; campaign weights are a shared offset."""
        bias = self.param("bias", nn.initializers.zeros, ())
        logit = UserFields.of(user).dense().sum(axis=(-2, -1)) + campaign.sum(axis=(-2, -1)) + bias
        return _output(logit)


class MLP(nn.Module):
    """An MLP over all field vectors, user's and campaign's, concatenated: 64-64-1, ReLU."""

    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User, campaign: Array) -> Output:
        """(B, M, k) and (N, k) or (B, N, k) -> `Output`."""
        x = _hidden(self, UserFields.of(user).beside(campaign), self.widths)
        return _output(dense(self, "head", x, 1)[..., 0], x)


class CampaignLayer(nn.Module):
    """An affine layer a campaign: an example goes through its own campaign's.

    All C are computed and one is taken: a product, where gathering a kernel an example would make
    the backward pass a long scatter.
    """

    campaigns: int
    features: int

    @nn.compact
    def __call__(self, x: Array, owner: Array | None) -> Array:
        """(..., a) and owner (...,), see `SharedBottom` -> (..., features)."""
        if owner is None and self.campaigns > 1 and not self.is_initializing():
            raise ValueError(f"{self.campaigns} campaigns have a head; tell each example's owner")
        init = uniform_fan_in(x.shape[-1])
        kernel = self.param("kernel", init, (self.campaigns, x.shape[-1], self.features))
        bias = self.param("bias", init, (self.campaigns, self.features))
        every = jnp.einsum("...a,caf->...cf", x, kernel) + bias
        if owner is None:
            return every[..., 0, :]
        return jnp.take_along_axis(every, owner[..., None, None], axis=-2)[..., 0, :]


class SharedBottom(nn.Module):
    """Shared-Bottom: an MLP over the user's fields for all campaigns, and an affine head for each.

    The head is all that tells campaigns apart: their fields are not read.

    Attributes:
      campaigns: C, the heads.
      head_only: nothing but the heads gets a gradient, so training moves neither bottom nor table.
      widths: widths of the bottom's layers.
    """

    campaigns: int = 1
    head_only: bool = False
    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User, campaign: Array, owner: Array | None = None) -> Output:
        """(B, M, k), unread campaign fields, and (B,) whose head each example goes through.

        ``owner`` may be left out where there is a single head.
        """
        del campaign
        x = _hidden(self, UserFields.of(user), self.widths)
        if self.head_only:
            x = jax.lax.stop_gradient(x)
        return _output(CampaignLayer(self.campaigns, 1, name="heads")(x, owner)[..., 0], x)


class MMoE(nn.Module):
    """MMoE: experts for all campaigns; a gate and an affine head for each (Ma et al., KDD 2018).

    As there, a gate is one affine layer over the experts' own input. Campaign fields are not read.

    Attributes:
      experts: n.
      campaigns: C, the gates and heads.
      widths: widths of an expert's layers.
    """

    experts: int = 8
    campaigns: int = 1
    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, user: User, campaign: Array, owner: Array | None = None) -> Output:
        """As `SharedBottom`."""
        del campaign
        hidden = Experts(self.experts, self.widths, name="expert")(user)
        x = _flat(UserFields.of(user).dense())
        choice = CampaignLayer(self.campaigns, self.experts, name="gates")(x, owner)
        log_weights = jax.nn.log_softmax(choice)
        representation = jnp.einsum("...n,...nh->...h", jnp.exp(log_weights), hidden)
        logit = CampaignLayer(self.campaigns, 1, name="heads")(representation, owner)[..., 0]
        return _output(logit, representation)._replace(expert_log_weights=log_weights)


@dataclass(frozen=True)
class OnFrozenFields:
    """A network whose field vectors get no gradient, so that training leaves the table alone."""

    network: Network

    def init(self, key: Any, user: User, campaign: Array, /) -> Any:
        """The network's own parameters."""
        return self.network.init(key, user, campaign)

    def apply(self, params: Any, user: User, campaign: Array, /) -> Any:
        """The network's own output."""
        return self.network.apply(params, *jax.lax.stop_gradient((user, campaign)))


class Affine(nn.Module):
    """An affine layer (..., a) -> (..., features) with the authors' initial values."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., a) -> (..., features)."""
        return dense(self, "affine", x, self.features)


class Towers(nn.Module):
    """Pinterest: users and campaigns in one space, each by an affine layer over its fields.

    Embeddings have length one, for what is compared are cosines.
    """

    features: int = 64

    def setup(self) -> None:
        """Names the layers."""
        self.users, self.campaigns = Affine(self.features), Affine(self.features)

    def __call__(self, user: Array, campaign: Array) -> tuple[Array, Array]:
        """(..., M, k) and (..., N, k) -> both embeddings, (..., features) each."""
        return self.user(user), self.campaign(campaign)

    def user(self, fields: Array) -> Array:
        """(..., M, k) -> (..., features)."""
        return _unit(self.users(_flat(fields)))

    def campaign(self, fields: Array) -> Array:
        """(..., N, k) -> (..., features)."""
        return _unit(self.campaigns(_flat(fields)))


class CampaignGraph(nn.Module):
    """Hubble: a graph network between campaigns and users, whoever they are.

    A user starts as its fields; a campaign hears the mean of its seeds; a user hears campaigns and
    joins what it hears to what it is. So features of seeds reach a user over two hops, and neither
    a user nor a campaign has parameters of its own. A user hears campaigns by attention, those most
    that suit its features: a user of a pool has no edge that tells which.
    """

    features: int = 64

    def setup(self) -> None:
        """Names the layers."""
        layers = (Affine(self.features) for _ in range(6))
        self.fields, self.seeds, self.asks, self.answers, self.joined, self.target = layers

    def __call__(self, user: Array, campaign: Array) -> Output:
        """(B, M, k) seeds of a campaign -> their own `Output`: a pass through all parameters."""
        del campaign  # its fields are not read, here or elsewhere
        users = self.user(user)
        campaigns = self.campaign(users, jnp.ones(users.shape[:-1]))[None]
        heard = jnp.ones((*users.shape[:-1], 1), bool)
        return self.predict(self.represent(users, campaigns, heard), campaigns)

    def user(self, fields: Array) -> Array:
        """(..., M, k) -> (..., h): a user as nobody has told it anything."""
        return nn.relu(self.fields(_flat(fields)))

    def campaign(self, users: Array, seed: Array) -> Array:
        """(..., B, h) users and (..., B), 1 for its seeds -> (..., h) the campaign."""
        count = jnp.maximum(seed.sum(axis=-1, keepdims=True), 1)
        return nn.relu(self.seeds(jnp.einsum("...bh,...b->...h", users, seed) / count))

    def represent(self, users: Array, campaigns: Array, heard: Array) -> Array:
        """(B, h) users, (C, h) campaigns and (B, C), which of them a user hears -> (B, h).

        The same layer joins what a user is and what it hears, however many campaigns there are.
        """
        odds = self.asks(users) @ self.answers(campaigns).T / self.features**0.5
        weights = jax.nn.softmax(jnp.where(heard, odds, -jnp.inf))
        return nn.relu(self.joined(jnp.concatenate([users, weights @ campaigns], axis=-1)))

    def predict(self, representations: Array, campaign: Array) -> Output:
        """(B, h) users and (h,) or (B, h) of their campaign -> `Output`."""
        logit = (representations * self.target(campaign)).sum(axis=-1)
        return _output(logit, representations)


def _hidden(module: nn.Module, fields: UserFields, widths: Sequence[int]) -> Array:
    """(..., h) the last of layers with ReLU."""
    x = nn.relu(dense(module, "layer_0", fields, widths[0]))
    for layer, width in enumerate(widths[1:], start=1):
        x = nn.relu(dense(module, f"layer_{layer}", x, width))
    return x


def _flat(fields: Array) -> Array:
    return fields.reshape(*fields.shape[:-2], -1)


def _unit(x: Array) -> Array:
    return x / jnp.sqrt((x**2).sum(axis=-1, keepdims=True) + 1e-12)


def _output(logit: Array, representation: Array | None = None) -> Output:
    return Output(jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit), representation)
