"""Tasks for the examples: each is a different linear function of four numbers."""

import jax
import jax.numpy as jnp
from jax import Array


def linear_tasks(num_tasks: int = 8, num_examples: int = 10) -> list[dict[str, Array]]:
    """Support and query: ``x`` (tasks, examples, 4) and ``y`` (tasks, examples)."""
    keys = jax.random.split(jax.random.key(1), 3)
    weights = jax.random.normal(keys[0], (num_tasks, 4))
    xs = [jax.random.normal(key, (num_tasks, num_examples, 4)) for key in keys[1:]]
    return [{"x": x, "y": jnp.einsum("tnk,tk->tn", x, weights)} for x in xs]
