"""The meta-step on a Flax NNX network with a BatchNorm and dropout, which have state.

The key of the dropout is part of the state, so all campaigns of a step leave out the same units.
For masks of their own, put a key per campaign into the batches.
"""

from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from experiments.examples.tasks import linear_tasks
from metaheac_jax.meta import build_meta_step

rngs = nnx.Rngs(0)
layers = nnx.Linear(4, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)
model = nnx.Sequential(*layers[:2], nnx.relu, nnx.Dropout(0.1, rngs=rngs), layers[2])
graph, params, model_state = nnx.split(model, nnx.Param, ...)


def loss(params: Any, batch: Any, model_state: Any) -> tuple[Array, Any]:
    """Mean squared error, and the model's state after the batch."""
    model = nnx.merge(graph, params, model_state, copy=True)
    value = jnp.mean((model(batch["x"])[:, 0] - batch["y"]) ** 2)
    return value, nnx.split(model, nnx.Param, ...)[2]


support, query = linear_tasks()
init, step = build_meta_step(loss, optax.adam(1e-2), inner_learning_rate=0.1, has_state=True)
state, losses = init(params, model_state), []
for _ in range(20):
    state, info = step(state, support, query)
    losses.append(info.loss)
