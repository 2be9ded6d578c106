"""States whose memory a jitted step reuses: it gets a copy, and refuses what it has consumed."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

T = TypeVar("T")


def copied(state: T) -> T:
    """Copies all arrays, so that a step may consume them even if one occurs twice in ``state``.

    The copies are typed and placed as a step returns them, so that it is compiled once: they have
    no weak types, and if some are on a mesh, those without a place are on all of its devices.
    """
    copies = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf)), state)
    leaves = jax.tree.leaves(copies)
    if any(isinstance(leaf, Tracer) for leaf in leaves):  # jit places them
        return copies
    meshes = [leaf.sharding.mesh for leaf in leaves if isinstance(leaf.sharding, NamedSharding)]
    if not meshes:
        return copies
    everywhere = NamedSharding(meshes[0], PartitionSpec())
    return jax.tree.map(
        lambda leaf: leaf if leaf.committed else jax.device_put(leaf, everywhere), copies
    )


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
