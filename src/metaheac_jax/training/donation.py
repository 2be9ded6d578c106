"""States whose memory a jitted step reuses: it gets a copy, and refuses what it has consumed."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

T = TypeVar("T")


def copied(state: T) -> T:
    """Copies all arrays, so that a step may consume them even if one occurs twice in ``state``.

    The copies have no weak types, as what a step returns, so that it is compiled once; see
    `placed_together`.
    """
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf)), state)


def placed_together(state: T) -> T:
    """Puts arrays without a place of their own where the others are: on all devices of their mesh.

    A step returns all of its state in a place, and would be compiled again for it.
    """
    leaves = jax.tree.leaves(state)
    if any(isinstance(leaf, Tracer) for leaf in leaves):  # jit places them
        return state
    places = [leaf.sharding for leaf in leaves if _has_place(leaf)]
    if not places:
        return state
    meshes = [place.mesh for place in places if isinstance(place, NamedSharding)]
    where = NamedSharding(meshes[0], PartitionSpec()) if meshes else places[0]
    return jax.tree.map(
        lambda leaf: leaf if _has_place(leaf) else jax.device_put(leaf, where), state
    )


def _has_place(leaf: Array | np.ndarray) -> bool:
    return isinstance(leaf, Array) and leaf.committed


def refusing_consumed(step: jax.stages.Wrapped) -> Any:
    """Wraps a jitted step that donates its first argument, so that it refuses a consumed state.

    The result can be called and has ``lower``, ``trace`` and ``eval_shape``, as what ``jax.jit``
    returns.

    Raises:
      ValueError: at a call, if an earlier step consumed the state.
    """

    @functools.wraps(step)
    def checked(state: Any, *batches: Any, **named: Any) -> Any:
        for leaf in jax.tree.leaves(state):
            if isinstance(leaf, Array) and not isinstance(leaf, Tracer) and leaf.is_deleted():
                raise ValueError(
                    "an array of the state was consumed by an earlier step; continue from the "
                    "state that step returned, or copy it first with "
                    "jax.tree.map(jax.numpy.copy, state)"
                )
        return step(state, *batches, **named)

    for name in ("lower", "trace", "eval_shape"):
        setattr(checked, name, getattr(step, name))
    return checked
