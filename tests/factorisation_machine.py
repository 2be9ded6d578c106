"""A factorisation machine (Rendle 2010), as another package would have it; this is all of it."""

import jax.numpy as jnp

from metaheac_jax.methods import FineTuningConfig, PretrainedMethod
from metaheac_jax.networks import sigmoid_output
from metaheac_jax.table.pooling import UserFields


class Network:
    """A bias, a weight of each field, and the inner product of the vectors of each two fields.

    The first column of a field vector is the weight, the others are the vector.
    """

    def init(self, key, user, campaign):
        return {"bias": jnp.zeros(())}

    def apply(self, params, user, campaign):
        fields = UserFields.of(user).with_fields(campaign).dense()
        weights, vectors = fields[..., 0], fields[..., 1:]
        pairs = (vectors.sum(axis=1) ** 2 - (vectors**2).sum(axis=1)).sum(axis=1) / 2
        return sigmoid_output(params["bias"] + weights.sum(axis=1) + pairs)


class FactorisationMachine(PretrainedMethod[FineTuningConfig]):
    """It is trained on all campaigns, then fine-tuned to each."""

    name, label, default = "fm", "Factorisation machine", FineTuningConfig()
    network = Network()
