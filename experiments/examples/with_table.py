"""The meta-step with a large embedding table: a step computes on the rows that its batch uses.

Each task rates items, and its ratings are linear in hidden vectors of the items.

Axes: R items, C tasks, n items per task, U rows touched by a step, k embedding width.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from metaheac_jax.meta import build_meta_gradient
from metaheac_jax.table.adam import table_adam
from metaheac_jax.table.rows import RowIndex
from metaheac_jax.training.step import build_row_step

R, C, n, k = 100_000, 8, 10, 4
U = 2 * C * n  # no batch touches more rows

rng = np.random.default_rng(0)
items, tastes = rng.normal(size=(R, k)), rng.normal(size=(C, k))
popular = rng.choice(R, 200)


def draw() -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Rows (U,) that the batch touches; support and query, whose items (C, n) point into them."""
    several = [rng.choice(popular, (C, n)) for _ in range(2)]
    rows, local = index.renumber(index.distinct(several), U, several)
    ratings = [np.einsum("cnk,ck->cn", items[ids], tastes) for ids in several]
    return rows, [{"item": i, "rating": r} for i, r in zip(local, ratings, strict=True)]


def loss(params: Any, batch: Any) -> Array:
    """Mean squared error of ratings, for the touched rows (U, k) as the table."""
    predicted = params["table"][batch["item"]] @ params["network"]
    return jnp.mean((predicted - batch["rating"]) ** 2)


index = RowIndex(R)
table = jax.random.normal(jax.random.key(0), (R, k))
adam = table_adam(1e-2)
gradient = build_meta_gradient(loss, inner_learning_rate=0.1)
init, step = build_row_step(gradient, optax.adam(1e-2), adam)
state, losses = init(jnp.ones(k), table), []
for _ in range(200):
    rows, (support, query) = draw()
    state, info = step(state, rows, support, query)
    losses.append(info.loss)
table = adam.flush(state.table).table  # as dense Adam leaves it: rows move without a gradient, too
