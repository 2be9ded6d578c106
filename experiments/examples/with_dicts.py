"""The meta-step on a dict of arrays, and a new task at test time."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from experiments.examples.tasks import linear_tasks
from metaheac_jax.meta import build_meta_step, inner_update


def loss(params: Any, batch: Any) -> Array:
    """Mean squared error of a network with one hidden layer."""
    return jnp.mean((jnp.tanh(batch["x"] @ params["body"]) @ params["head"] - batch["y"]) ** 2)


params = {"body": jax.random.normal(jax.random.key(0), (4, 16)) / 2, "head": jnp.zeros(16)}
support, query = linear_tasks()
init, step = build_meta_step(loss, optax.adam(1e-2), inner_learning_rate=0.1)
state, losses = init(params), []
for _ in range(20):
    state, info = step(state, support, query)
    losses.append(info.loss)

new_task = jax.tree.map(lambda leaf: leaf[0], support)
adapt = jax.jit(partial(inner_update, loss, inner_learning_rate=0.1, inner_steps=5))
adapted = adapt(state.params, new_task).params
