"""Reptile (Nichol et al. 2018) built on `inner_update`; the query sets evaluate it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from experiments.examples.tasks import linear_tasks
from metaheac_jax.meta import inner_update


def loss(params: Any, batch: Any) -> Array:
    """Mean squared error of a network with one hidden layer."""
    return jnp.mean((jnp.tanh(batch["x"] @ params["body"]) @ params["head"] - batch["y"]) ** 2)


optimizer = optax.sgd(0.5)
adapt = partial(inner_update, loss, inner_learning_rate=0.1, inner_steps=5)


@jax.jit
def step(params: Any, opt_state: Any, support: Any, query: Any) -> tuple[Any, Any, Array]:
    """Moves the parameters towards the mean of the tasks' adapted parameters."""
    adapted = jax.vmap(adapt, (None, 0))(params, support).params
    gradient = jax.tree.map(lambda own, theirs: own - theirs.mean(0), params, adapted)
    updates, opt_state = optimizer.update(gradient, opt_state)
    return optax.apply_updates(params, updates), opt_state, jax.vmap(loss)(adapted, query).mean()


params = {"body": jax.random.normal(jax.random.key(0), (4, 16)) / 2, "head": jnp.zeros(16)}
support, query = linear_tasks()
opt_state, losses = optimizer.init(params), []
for _ in range(20):
    params, opt_state, mean_loss = step(params, opt_state, support, query)
    losses.append(mean_loss)
