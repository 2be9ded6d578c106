"""A network with closed forms: one weight per feature value."""

import flax.linen as nn

from metaheac_jax.networks import sigmoid_output
from metaheac_jax.table.pooling import UserFields


class LogisticRegression(nn.Module):
    """Logistic regression: a table of width k = 1, and a bias."""

    @nn.compact
    def __call__(self, user, campaign):
        """(B, M, 1) and (N, 1) or (B, N, 1) -> `Output`; campaign weights are a shared offset."""
        bias = self.param("bias", nn.initializers.zeros, ())
        logit = UserFields.of(user).dense().sum(axis=(-2, -1)) + campaign.sum(axis=(-2, -1)) + bias
        return sigmoid_output(logit)
