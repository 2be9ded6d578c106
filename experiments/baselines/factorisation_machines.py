"""Factorisation machines: plain (Rendle 2010), and field-aware (Juan et al. 2016).

They train on the pooled examples of all campaigns, then fine-tune to each. A field-aware one won
the Tencent competition. None is in the paper.

Axes: B examples, M fields of users and campaigns, k a table row, d factors.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from metaheac_jax.methods import FineTuningConfig, PretrainedMethod, register
from metaheac_jax.networks import User, sigmoid_output
from metaheac_jax.table.pooling import UserFields


class Machine:
    """A bias, a weight of each field, and a product of each two fields.

    The first entry of a field vector is the weight, and the others are its factors.
    """

    def init(self, key: Any, user: User, campaign: Array) -> dict[str, Array]:
        """The bias, zero."""
        del key, user, campaign
        return {"bias": jnp.zeros(())}

    def apply(self, params: dict[str, Any], user: User, campaign: Array) -> Any:
        """See `metaheac_jax.networks.Network`."""
        fields = UserFields.of(user).with_fields(campaign).dense()
        weights = fields[..., 0].sum(axis=-1)
        return sigmoid_output(params["bias"] + weights + self.products(fields[..., 1:]))

    def products(self, factors: Array) -> Array:
        """(B, M, d) -> (B,), the sum over pairs of fields of their factors' inner products."""
        squares = (factors.sum(axis=-2) ** 2 - (factors**2).sum(axis=-2)).sum(axis=-1)
        return squares / 2


class FieldAware(Machine):
    """A machine whose fields have factors of their own for each other field."""

    def products(self, factors: Array) -> Array:
        """(B, M, M d) -> (B,); what does not divide into M parts is left out."""
        *batch, count, width = factors.shape
        each = factors[..., : width // count * count].reshape(*batch, count, count, -1)
        pairs = jnp.einsum("...ijd,...jid->...ij", each, each)
        own = jnp.einsum("...ii->...", pairs)
        return (pairs.sum(axis=(-1, -2)) - own) / 2


#: Initial values are small, as in the inventors' programs; the online rate was chosen on held-out
#: training campaigns of the first split of `people-opinions`.
_DEFAULT = FineTuningConfig(table_scale=0.1, online_learning_rate=0.01)


@register
class FactorisationMachine(PretrainedMethod[FineTuningConfig]):
    """A plain machine."""

    name, label = "factorisation-machine", "Factorisation machine"
    default = _DEFAULT
    network = Machine()


@register
class FieldAwareMachine(PretrainedMethod[FineTuningConfig]):
    """A field-aware machine; with 20 fields, it has 6 factors for each pair."""

    name, label = "field-aware-machine", "Field-aware factorisation machine"
    default = _DEFAULT.changed({"width": 128})
    network = FieldAware()
