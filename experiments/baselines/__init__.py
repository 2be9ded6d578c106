"""The methods that the paper compares with, and others, on the library's public interface.

To import this package registers them in the library.
"""

from experiments.baselines import (
    ablations,
    from_scratch,
    graph,
    lengths,
    multitask,
    regions,
    seed_aware,
    similarity,
    trees,
)

__all__ = [
    "ablations",
    "from_scratch",
    "graph",
    "lengths",
    "multitask",
    "regions",
    "seed_aware",
    "similarity",
    "trees",
]
