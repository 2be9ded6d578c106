"""MAML for any loss and any pytree, with second derivatives; it imports jax and optax alone.

>>> from metaheac_jax.meta import build_meta_step, inner_update
>>> init, step = build_meta_step(loss, optax.adam(1e-3), inner_learning_rate=1e-2)
"""

from metaheac_jax.training.implicit import Implicit
from metaheac_jax.training.inner import Adapted, InnerOptions, Masked, inner_update
from metaheac_jax.training.meta_step import (
    MetaInfo,
    MetaOptions,
    MetaState,
    MetaStep,
    build_meta_gradient,
    build_meta_step,
)

__all__ = [
    "Adapted",
    "Implicit",
    "InnerOptions",
    "Masked",
    "MetaInfo",
    "MetaOptions",
    "MetaState",
    "MetaStep",
    "build_meta_gradient",
    "build_meta_step",
    "inner_update",
]
