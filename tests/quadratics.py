"""Campaigns whose losses are quadratic, so that every meta-gradient has a closed form."""

import jax
import numpy as np

ALPHA = 0.1


def quadratic(w, batch):
    """1/2 (w - a)' A (w - a)."""
    matrix, centre = batch
    return 0.5 * (w - centre) @ matrix @ (w - centre)


def with_memory(w, batch, state):
    """A loss that depends on its state, which depends on the parameters."""
    matrix, centre = batch
    value = quadratic(w, (matrix, centre + state["mean"]))
    mean = 0.9 * state["mean"] + 0.1 * w
    return value, {"mean": mean, "steps": state["steps"] + 1}, w - centre


MEMORY = {"mean": np.linspace(-1, 1, 4), "steps": np.array(5)}


def quadratic_campaigns(*shape, seed=0, size=4):
    """Parameters, and support and query: a symmetric matrix and a centre per entry of ``shape``."""
    rng, dtype = np.random.default_rng(seed), jax.dtypes.canonicalize_dtype(float)
    draw = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731

    def side():
        root = draw(*shape, size, size)
        return root @ root.swapaxes(-1, -2), draw(*shape, size)

    return draw(size), side(), side()


def member(tree, c):
    """Campaign c of a batch of campaigns."""
    return jax.tree.map(lambda leaf: leaf[c], tree)


def signature(w, support, query, steps=1):
    """(I - alpha A)^steps B (w' - b), with w' - a = (I - alpha A)^steps (w - a)."""
    (A, a), (B, b) = support, query
    shrink = np.linalg.matrix_power(np.eye(len(w)) - ALPHA * np.asarray(A), steps)
    adapted = a + shrink @ (w - a)
    return shrink.T @ B @ (adapted - b)
