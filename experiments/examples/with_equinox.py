"""The meta-step on an Equinox module: its arrays are the parameters."""

from typing import Any

import equinox as eqx  # pyrefly: ignore
import jax
import jax.numpy as jnp
import optax
from jax import Array

from experiments.examples.tasks import linear_tasks
from metaheac_jax.meta import build_meta_step

model = eqx.nn.MLP(4, "scalar", 16, 2, key=jax.random.key(0))
params, static = eqx.partition(model, eqx.is_inexact_array)


def loss(params: Any, batch: Any) -> Array:
    """Mean squared error."""
    return jnp.mean((jax.vmap(eqx.combine(params, static))(batch["x"]) - batch["y"]) ** 2)


support, query = linear_tasks()
init, step = build_meta_step(loss, optax.adam(1e-2), inner_learning_rate=0.1)
state, losses = init(params), []
for _ in range(20):
    state, info = step(state, support, query)
    losses.append(info.loss)
