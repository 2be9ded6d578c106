"""The methods that the paper compares with, and others, on the library's public interface.

To import this package registers them in the library.
"""

from experiments.baselines import (
    ablations,
    adapting,
    averages,
    cross_validated,
    factorisation_machines,
    from_scratch,
    lengths,
    mixed_models,
    multitask,
    pooled_trees,
    rival,
    similarity,
    trees,
)
from metaheac_jax.methods import METHODS

__all__ = [
    "METHODS",
    "ablations",
    "adapting",
    "averages",
    "cross_validated",
    "factorisation_machines",
    "from_scratch",
    "lengths",
    "mixed_models",
    "multitask",
    "pooled_trees",
    "rival",
    "similarity",
    "trees",
]
