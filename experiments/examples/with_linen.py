"""The meta-step on a Flax linen network with a BatchNorm, whose averages are the model's state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from experiments.examples.tasks import linear_tasks
from metaheac_jax.meta import build_meta_step

network = nn.Sequential([nn.Dense(16), nn.BatchNorm(False), nn.relu, nn.Dense(1)])


def loss(params: Any, batch: Any, model_state: Any) -> tuple[Array, Any]:
    """Mean squared error, and the averages after the batch."""
    variables = {"params": params, "batch_stats": model_state}
    y, changed = network.apply(variables, batch["x"], mutable=["batch_stats"])
    return jnp.mean((y[:, 0] - batch["y"]) ** 2), changed["batch_stats"]


support, query = linear_tasks()
variables = network.init(jax.random.key(0), support["x"][0])
init, step = build_meta_step(loss, optax.adam(1e-2), inner_learning_rate=0.1, has_state=True)
state, losses = init(variables["params"], variables["batch_stats"]), []
for _ in range(20):
    state, info = step(state, support, query)
    losses.append(info.loss)
